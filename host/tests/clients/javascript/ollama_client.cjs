// The JavaScript client `ollama` against the gate.
'use strict';

const assert = require('node:assert/strict');
const { Ollama } = require('ollama');
const { run, simulated, raised, all, cancelled, ...given } = require('./checks.cjs');
const { model, broken, gone, unknown, vector } = given;

const messages = [{ role: 'user', content: 'hello' }];

function client(key, headers) {
  const credential = key ? { Authorization: `Bearer ${given.keys[key]}` } : {};
  return new Ollama({ host: given.url, headers: { ...credential, ...headers } });
}

const good = client('good');
const ask = (more, by = good) => by.chat({ model, messages, ...more });

// What is served.

async function aChatComesWhole() {
  const answer = await ask();
  simulated(answer.message.content);
  assert.deepEqual([answer.message.role, answer.done, answer.done_reason], ['assistant', true, 'stop']);
  assert.ok(answer.prompt_eval_count > 0 && answer.eval_count > 0 && answer.total_duration > 0);
}

async function aChatComesInPieces() {
  const pieces = await all(ask({ stream: true }));
  simulated(pieces.map(({ message }) => message.content).join(''));
  assert.ok(pieces.length > 5, 'it comes in pieces');
  assert.equal(pieces.findIndex(({ done }) => done), pieces.length - 1);
  assert.equal(pieces.at(-1).eval_count, pieces.length - 1);
}

async function anAnswerIsAsShortAsAsked() {
  const answer = await ask({ options: { num_predict: 3 } });
  assert.deepEqual([answer.message.content, answer.done_reason], ['This is a ', 'length']);
}

async function aTextIsGeneratedWholeAndInPieces() {
  simulated((await good.generate({ model, prompt: 'hello' })).response);
  const pieces = await all(good.generate({ model, prompt: 'hello', stream: true }));
  simulated(pieces.map(({ response }) => response).join(''));
  assert.equal(pieces.at(-1).done_reason, 'stop');
}

async function textsAreEmbedded() {
  assert.deepEqual((await good.embed({ model, input: ['a', 'b'] })).embeddings, [vector, vector]);
  assert.deepEqual((await good.embeddings({ model, prompt: 'a' })).embedding, vector);
}

async function modelsAreListedAndShown() {
  const { models } = await good.list();
  const listed = models.find(({ name }) => name === 'llama3:latest');
  assert.equal(listed.details.quantization_level, 'Q4_K_M');
  assert.ok(listed.digest && listed.size > 0);
  assert.ok((await good.ps()).models.length > 0, 'something is loaded');
  const shown = await good.show({ model });
  assert.deepEqual([shown.capabilities, shown.details.format], [['completion'], 'gguf']);
  assert.ok((await good.version()).version);
}

async function modelsAreChangedByAKeyThatMay() {
  const manager = client('manager', { 'x-tollgate-backend': 'sim-1' });
  const progress = await all(manager.pull({ model: 'fresh', stream: true }));
  assert.equal(progress.at(-1).status, 'success');
  assert.ok(progress.some(({ total, completed }) => total && total === completed));
  simulated((await ask({ model: 'fresh' })).message.content);
  assert.equal((await manager.push({ model: 'fresh' })).status, 'success');
  assert.equal((await manager.copy({ source: 'fresh', destination: 'copied' })).status, 'success');
  assert.equal((await manager.create({ model: 'made', from: 'fresh' })).status, 'success');
  for (const name of ['fresh', 'copied', 'made']) {
    assert.equal((await manager.delete({ model: name })).status, 'success');
  }
  await refused(() => ask({ model: 'fresh' }), 404, 'model \'fresh\' not found');
}

// What is refused.

/** The error with everything that the client reads out of an answer. */
async function refused(call, status, ...parts) {
  const error = await raised('ResponseError', call);
  assert.deepEqual([error.name, error.status_code], ['ResponseError', status]);
  assert.equal(error.message, error.error);
  assert.ok(!error.error.includes('{'), `the text alone, not its JSON: ${error.error}`);
  for (const part of parts) {
    assert.ok(error.error.includes(part), `nothing of '${part}' in '${error.error}'`);
  }
  return error;
}

async function aCallWithoutAKey() {
  const without = client();
  for (const call of [() => ask({}, without), () => ask({ stream: true }, without), () => without.list()]) {
    await refused(call, 401, 'a key is needed');
  }
}

async function aWrongKey() {
  const error = await refused(() => ask({}, client('wrong')), 401, 'not valid');
  assert.ok(!error.message.includes(given.keys.wrong), 'the key is not repeated');
}

async function aDisabledKey() {
  await refused(() => ask({}, client('disabled')), 403, 'disabled');
}

async function anUnknownModel() {
  const calls = [
    () => ask({ model: unknown }),
    () => ask({ model: unknown, stream: true }),
    () => good.generate({ model: unknown, prompt: 'hello' }),
    () => good.embed({ model: unknown, input: 'hello' }),
    () => good.show({ model: unknown }),
  ];
  for (const call of calls) {
    await refused(call, 404, `model '${unknown}' not found`);
  }
}

async function changingModelsByAKeyThatMayNot() {
  for (const call of [() => good.pull({ model: unknown }), () => good.pull({ model: unknown, stream: true })]) {
    await refused(call, 403, 'may not');
  }
  await refused(() => good.delete({ model }), 403, 'may not');
}

async function changingModelsOfAnyBackend() {
  await refused(() => client('manager').pull({ model: unknown }), 400, 'x-tollgate-backend', 'sim-1');
}

async function oneCallTooMany() {
  const limited = client('limited');
  simulated((await ask({}, limited)).message.content);
  for (const more of [{}, { stream: true }]) {
    await refused(() => ask(more, limited), 429, 'try again in', 'seconds');
  }
}

async function aBadBody() {
  await refused(() => ask({ options: { num_ctx: 1, NUM_CTX: 2 } }), 400, 'NUM_CTX');
}

async function aBodyThatIsTooLarge() {
  await refused(() => ask({ messages: [{ role: 'user', content: given.tooLarge }] }), 413, 'bytes');
}

async function aModelWhoseBackendIsDown() {
  await refused(() => ask({ model: gone }), 503, gone, 'try again');
}

// What goes wrong on the way.

async function aStreamThatBreaksOffIsAnError() {
  const stream = await ask({ model: broken, stream: true });
  // The client passes on what the runtime says of a body that ends too early.
  await assert.rejects(all(stream), TypeError);
}

async function leavingAStream() {
  const stream = await ask({ model: broken, stream: true });
  const left = assert.rejects(async () => {
    for await (const piece of stream) {
      assert.equal(piece.message.content, 'first');
      stream.abort();
    }
  }, { name: 'AbortError' });
  await left;
  await cancelled();
}

run(
  aChatComesWhole,
  aChatComesInPieces,
  anAnswerIsAsShortAsAsked,
  aTextIsGeneratedWholeAndInPieces,
  textsAreEmbedded,
  modelsAreListedAndShown,
  modelsAreChangedByAKeyThatMay,
  aCallWithoutAKey,
  aWrongKey,
  aDisabledKey,
  anUnknownModel,
  changingModelsByAKeyThatMayNot,
  changingModelsOfAnyBackend,
  oneCallTooMany,
  aBadBody,
  aBodyThatIsTooLarge,
  aModelWhoseBackendIsDown,
  aStreamThatBreaksOffIsAnError,
  leavingAStream,
);
