// The JavaScript client `openai` against the gate.
'use strict';

const assert = require('node:assert/strict');
const OpenAI = require('openai');
const { run, simulated, raised, waitTime, all, cancelled, ...given } = require('./checks.cjs');
const { model, broken, gone, unknown, vector } = given;

const messages = [{ role: 'user', content: 'hello' }];

function client(key, more) {
  return new OpenAI({
    baseURL: `${given.url}/v1`, apiKey: given.keys[key], maxRetries: 0, timeout: 20_000, ...more,
  });
}

const good = client('good');
const ask = (more, by = good, options) => by.chat.completions.create({ model, messages, ...more }, options);

// What is served.

async function aChatComesWhole() {
  const answer = await ask();
  simulated(answer.choices[0].message.content);
  assert.equal(answer.object, 'chat.completion');
  assert.equal(answer.choices[0].finish_reason, 'stop');
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
  assert.ok(answer._request_id, 'the answer has its request\'s id');
}

async function aChatComesInPiecesAndWithoutABillThatNobodyAskedFor() {
  const chunks = await all(ask({ stream: true }));
  simulated(chunks.map((chunk) => chunk.choices[0].delta.content ?? '').join(''));
  assert.ok(chunks.length > 5, 'it comes in pieces');
  assert.equal(chunks.at(-1).choices[0].finish_reason, 'stop');
  assert.ok(chunks.every((chunk) => !chunk.usage));
}

async function aChatInPiecesEndsWithItsBillOnRequest() {
  const chunks = await all(ask({ stream: true, stream_options: { include_usage: true } }));
  const last = chunks.pop();
  assert.deepEqual(last.choices, []);
  assert.equal(last.usage.completion_tokens, chunks.filter((chunk) => chunk.choices[0].delta.content).length);
}

async function anAnswerIsAsShortAsAsked() {
  const [choice] = (await ask({ max_completion_tokens: 3 })).choices;
  assert.deepEqual([choice.message.content, choice.finish_reason], ['This is a ', 'length']);
}

async function aCompletionComesWholeAndInPieces() {
  const asked = { model, prompt: 'hello' };
  simulated((await good.completions.create(asked)).choices[0].text);
  const chunks = await all(good.completions.create({ ...asked, stream: true }));
  simulated(chunks.map((chunk) => chunk.choices[0].text).join(''));
}

async function aResponseComesWhole() {
  const answer = await good.responses.create({ model, input: 'hello', instructions: 'Be kind.' });
  simulated(answer.output_text);
  assert.deepEqual([answer.status, answer.output[0].type], ['completed', 'message']);
  assert.equal(answer.usage.total_tokens, answer.usage.input_tokens + answer.usage.output_tokens);
}

async function aResponseComesInPieces() {
  const stream = good.responses.stream({ model, input: 'hello' });
  const events = await all(stream);
  simulated(events.filter(({ type }) => type === 'response.output_text.delta').map(({ delta }) => delta).join(''));
  assert.equal(events.at(-1).type, 'response.completed');
  simulated((await stream.finalResponse()).output_text);
}

async function textsAreEmbedded() {
  // The client asks for base64 and decodes it; a list of numbers must pass as well.
  for (const more of [{}, { encoding_format: 'float' }]) {
    const answer = await good.embeddings.create({ model, input: ['a', 'b'], ...more });
    assert.deepEqual(answer.data.map(({ embedding }) => [...embedding]), [vector, vector]);
  }
}

async function modelsAreListedAndShown() {
  const models = await all(good.models.list());
  assert.ok(models.some(({ id }) => id === 'llama3:latest'));
  assert.equal((await good.models.retrieve(model)).object, 'model');
}

// What is refused.

/** The error with everything that the client reads out of an answer. */
async function refused(kind, call, status, code, type) {
  const error = await raised(kind, call);
  assert.ok(error instanceof OpenAI.APIError);
  assert.deepEqual([error.status, error.code, error.type, error.param], [status, code, type, null]);
  assert.deepEqual(Object.keys(error.error).sort(), ['code', 'message', 'param', 'type']);
  assert.equal(error.message, `${status} ${error.error.message}`);
  assert.ok(error.requestID, 'the error has its request\'s id');
  assert.equal(error.requestID, error.headers.get('x-request-id'));
  return error;
}

async function aCallWithoutAKey() {
  const call = () => ask({}, client('good', { defaultHeaders: { Authorization: null } }));
  const error = await refused('AuthenticationError', call, 401, 'invalid_api_key', 'authentication_error');
  assert.match(error.message, /a key is needed/);
}

async function aWrongKey() {
  const call = () => ask({}, client('wrong'));
  const error = await refused('AuthenticationError', call, 401, 'invalid_api_key', 'authentication_error');
  assert.match(error.message, /not valid/);
  assert.ok(!error.message.includes(given.keys.wrong), 'the key is not repeated');
}

async function aDisabledKey() {
  await refused('PermissionDeniedError', () => ask({}, client('disabled')), 403, 'key_disabled', 'permission_error');
}

async function anUnknownModel() {
  const calls = [
    () => ask({ model: unknown }),
    () => ask({ model: unknown, stream: true }),
    () => good.completions.create({ model: unknown, prompt: 'hello' }),
    () => good.responses.create({ model: unknown, input: 'hello' }),
    () => good.embeddings.create({ model: unknown, input: 'hello' }),
    () => good.models.retrieve(unknown),
  ];
  for (const call of calls) {
    const error = await refused('NotFoundError', call, 404, 'model_not_found', 'invalid_request_error');
    assert.match(error.message, new RegExp(unknown));
  }
}

async function anUnknownPath() {
  await refused('NotFoundError', () => good.files.list(), 404, 'unknown_path', 'invalid_request_error');
}

async function oneCallTooMany() {
  const limited = client('limited');
  simulated((await ask({}, limited)).choices[0].message.content);
  for (const more of [{}, { stream: true }]) {
    const call = () => ask(more, limited);
    const error = await refused('RateLimitError', call, 429, 'rate_limit_exceeded', 'rate_limit_error');
    assert.match(error.message, new RegExp(`try again in ${waitTime(error.headers)} seconds`));
  }
}

async function aBadBody() {
  const call = () => ask({ Model: 'another' });
  const error = await refused('BadRequestError', call, 400, 'bad_body', 'invalid_request_error');
  assert.match(error.message, /Model/);
}

async function aBodyThatIsTooLarge() {
  const call = () => ask({ messages: [{ role: 'user', content: given.tooLarge }] });
  await refused('APIError', call, 413, 'body_too_large', 'invalid_request_error');
}

async function aModelWhoseBackendIsDown() {
  const call = () => ask({ model: gone });
  const error = await refused('InternalServerError', call, 503, 'no_backend', 'server_error');
  waitTime(error.headers);
}

// What goes wrong on the way.

async function aStreamThatBreaksOffIsAnError() {
  const stream = await ask({ model: broken, stream: true });
  // The client passes on what the runtime says of a body that ends too early.
  await assert.rejects(all(stream), TypeError);
}

async function leavingAStream() {
  const stream = await ask({ model: broken, stream: true });
  for await (const chunk of stream) {
    assert.equal(chunk.choices[0].delta.content, 'first');
    stream.controller.abort();
    break;
  }
  await cancelled();
}

run(
  aChatComesWhole,
  aChatComesInPiecesAndWithoutABillThatNobodyAskedFor,
  aChatInPiecesEndsWithItsBillOnRequest,
  anAnswerIsAsShortAsAsked,
  aCompletionComesWholeAndInPieces,
  aResponseComesWhole,
  aResponseComesInPieces,
  textsAreEmbedded,
  modelsAreListedAndShown,
  aCallWithoutAKey,
  aWrongKey,
  aDisabledKey,
  anUnknownModel,
  anUnknownPath,
  oneCallTooMany,
  aBadBody,
  aBodyThatIsTooLarge,
  aModelWhoseBackendIsDown,
  aStreamThatBreaksOffIsAnError,
  leavingAStream,
);
