"""The Python client `openai` against the gate."""

import openai
from openai import OpenAI

from checks import BROKEN, GONE, KEYS, MODEL, TOO_LARGE, UNKNOWN, URL, VECTOR
from checks import cancelled, equal, raised, run, says, simulated, wait_time

HELLO = [{"role": "user", "content": "hello"}]


def client(key, **more):
    return OpenAI(base_url=f"{URL}/v1", api_key=KEYS.get(key, key), max_retries=0, timeout=20, **more)


good = client("good")


def ask(model=MODEL, by=good, **more):
    return by.chat.completions.create(model=model, messages=HELLO, **more)


# What is served.


def a_chat_comes_whole():
    answer = ask()
    choice = answer.choices[0]
    simulated(choice.message.content)
    equal((answer.object, choice.message.role, choice.finish_reason), ("chat.completion", "assistant", "stop"))
    equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)
    assert answer._request_id, "the answer has its request's id"


def a_chat_comes_in_pieces_and_without_a_bill_that_nobody_asked_for():
    chunks = list(ask(stream=True))
    simulated("".join(chunk.choices[0].delta.content or "" for chunk in chunks))
    assert len(chunks) > 5, "it comes in pieces"
    equal(chunks[-1].choices[0].finish_reason, "stop")
    equal([chunk.usage for chunk in chunks], [None] * len(chunks))


def a_chat_in_pieces_ends_with_its_bill_on_request():
    *chunks, last = ask(stream=True, stream_options={"include_usage": True})
    equal(last.choices, [])
    equal(last.usage.completion_tokens, sum(1 for chunk in chunks if chunk.choices[0].delta.content))


def an_answer_is_as_short_as_asked():
    choice = ask(max_completion_tokens=3).choices[0]
    equal((choice.message.content, choice.finish_reason), ("This is a ", "length"))


def a_completion_comes_whole():
    answer = good.completions.create(model=MODEL, prompt="hello")
    simulated(answer.choices[0].text)
    equal((answer.object, answer.choices[0].finish_reason), ("text_completion", "stop"))


def a_completion_comes_in_pieces():
    chunks = list(good.completions.create(model=MODEL, prompt="hello", stream=True))
    simulated("".join(chunk.choices[0].text for chunk in chunks))
    equal(chunks[-1].choices[0].finish_reason, "stop")


def a_response_comes_whole():
    answer = good.responses.create(model=MODEL, input="hello", instructions="Be kind.")
    simulated(answer.output_text)
    equal((answer.status, answer.output[0].type, answer.instructions), ("completed", "message", "Be kind."))
    equal(answer.usage.total_tokens, answer.usage.input_tokens + answer.usage.output_tokens)


def a_response_comes_in_pieces():
    events = list(good.responses.create(model=MODEL, input=HELLO, stream=True))
    simulated("".join(event.delta for event in events if event.type == "response.output_text.delta"))
    equal([event.sequence_number for event in events], list(range(len(events))))
    equal(events[-1].type, "response.completed")
    simulated(events[-1].response.output_text)


def texts_are_embedded():
    # The client asks for base64 and decodes it; a list of numbers must pass as well.
    for encoding in [{}, {"encoding_format": "float"}]:
        answer = good.embeddings.create(model=MODEL, input=["a", "b"], **encoding)
        equal([item.embedding for item in answer.data], [VECTOR, VECTOR])


def models_are_listed_and_shown():
    assert "llama3:latest" in [model.id for model in good.models.list()]
    equal(good.models.retrieve(MODEL).object, "model")


# What is refused.


def refused(kind, call, status, code, type):
    """The error with everything that the client reads out of an answer."""
    error = raised(kind, call)
    found = (error.status_code, error.code, error.type, error.param)
    equal(found, (status, code, type, None))
    equal(set(error.body), {"message", "type", "param", "code"})
    equal(error.request_id, error.response.headers["x-request-id"])
    assert error.request_id, "the error has its request's id"
    return error


def a_call_without_a_key():
    without = {"Authorization": openai.Omit()}
    call = lambda: ask(extra_headers=without)  # noqa: E731
    error = refused(openai.AuthenticationError, call, 401, "invalid_api_key", "authentication_error")
    says(error.body["message"], "a key is needed")


def a_wrong_key():
    wrong = client("wrong")
    error = refused(openai.AuthenticationError, lambda: ask(by=wrong), 401, "invalid_api_key", "authentication_error")
    says(error.body["message"], "not valid")
    assert KEYS["wrong"] not in str(error), "the key is not repeated"


def a_disabled_key():
    disabled = client("disabled")
    refused(openai.PermissionDeniedError, lambda: ask(by=disabled), 403, "key_disabled", "permission_error")


def an_unknown_model():
    def check(call):
        error = refused(openai.NotFoundError, call, 404, "model_not_found", "invalid_request_error")
        says(error.body["message"], UNKNOWN)

    check(lambda: ask(UNKNOWN))
    check(lambda: ask(UNKNOWN, stream=True))
    check(lambda: good.completions.create(model=UNKNOWN, prompt="hello"))
    check(lambda: good.responses.create(model=UNKNOWN, input="hello"))
    check(lambda: good.embeddings.create(model=UNKNOWN, input="hello"))
    check(lambda: good.models.retrieve(UNKNOWN))


def an_unknown_path():
    refused(openai.NotFoundError, lambda: good.files.list(), 404, "unknown_path", "invalid_request_error")


def one_call_too_many():
    limited = client("limited")
    simulated(ask(by=limited).choices[0].message.content)
    for more in [{}, {"stream": True}]:
        error = refused(
            openai.RateLimitError, lambda: ask(by=limited, **more), 429, "rate_limit_exceeded", "rate_limit_error"
        )
        says(error.body["message"], f"try again in {wait_time(error.response.headers)} seconds")


def a_bad_body():
    twice = {"Model": "another"}
    error = refused(openai.BadRequestError, lambda: ask(extra_body=twice), 400, "bad_body", "invalid_request_error")
    says(error.body["message"], "Model")


def a_body_that_is_too_large():
    large = [{"role": "user", "content": TOO_LARGE}]
    call = lambda: good.chat.completions.create(model=MODEL, messages=large)  # noqa: E731
    refused(openai.APIStatusError, call, 413, "body_too_large", "invalid_request_error")


def a_model_whose_backend_is_down():
    error = refused(openai.InternalServerError, lambda: ask(GONE), 503, "no_backend", "server_error")
    wait_time(error.response.headers)


# What goes wrong on the way.


def a_stream_that_breaks_off_is_an_error():
    raised(openai.APIConnectionError, lambda: list(ask(BROKEN, stream=True)))


def leaving_a_stream():
    stream = ask(BROKEN, stream=True)
    equal(next(stream).choices[0].delta.content, "first")
    stream.close()
    cancelled()


run(
    a_chat_comes_whole,
    a_chat_comes_in_pieces_and_without_a_bill_that_nobody_asked_for,
    a_chat_in_pieces_ends_with_its_bill_on_request,
    an_answer_is_as_short_as_asked,
    a_completion_comes_whole,
    a_completion_comes_in_pieces,
    a_response_comes_whole,
    a_response_comes_in_pieces,
    texts_are_embedded,
    models_are_listed_and_shown,
    a_call_without_a_key,
    a_wrong_key,
    a_disabled_key,
    an_unknown_model,
    an_unknown_path,
    one_call_too_many,
    a_bad_body,
    a_body_that_is_too_large,
    a_model_whose_backend_is_down,
    a_stream_that_breaks_off_is_an_error,
    leaving_a_stream,
)
