"""The Python client `anthropic` against the gate."""

import anthropic
import httpx2
from anthropic import Anthropic

from checks import BROKEN, GONE, KEYS, MODEL, TOO_LARGE, UNKNOWN, URL
from checks import cancelled, equal, raised, run, says, simulated, wait_time

HELLO = [{"role": "user", "content": "hello"}]


def client(key, **more):
    """Its key goes as `x-api-key`."""
    return Anthropic(base_url=URL, api_key=KEYS.get(key, key), max_retries=0, timeout=20, **more)


good = client("good")


def ask(model=MODEL, by=good, max_tokens=100, **more):
    return by.messages.create(**{"model": model, "max_tokens": max_tokens, "messages": HELLO, **more})


# What is served.


def a_message_comes_whole():
    message = ask(system="Be kind.")
    simulated(message.content[0].text)
    equal((message.type, message.role, message.stop_reason), ("message", "assistant", "end_turn"))
    assert message.usage.input_tokens > 0 and message.usage.output_tokens > 0
    assert message._request_id, "the answer has its request's id"


def a_message_comes_with_a_bearer_token():
    bearer = Anthropic(base_url=URL, auth_token=KEYS["good"], max_retries=0, timeout=20)
    simulated(ask(by=bearer).content[0].text)


def a_message_comes_in_pieces():
    with good.messages.stream(model=MODEL, max_tokens=100, messages=HELLO) as stream:
        pieces = list(stream.text_stream)
        message = stream.get_final_message()
    simulated("".join(pieces))
    assert len(pieces) > 5, "it comes in pieces"
    equal((message.content[0].text, message.stop_reason), ("".join(pieces), "end_turn"))
    equal(message.usage.output_tokens, len(pieces))


def its_events_come_in_their_order():
    kinds = []
    for event in ask(stream=True):
        if event.type not in kinds:
            kinds.append(event.type)
    expected = ["message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta"]
    equal([kind for kind in kinds if kind != "ping"], [*expected, "message_stop"])


def an_answer_is_as_short_as_asked():
    message = ask(max_tokens=3)
    equal((message.content[0].text, message.stop_reason), ("This is a ", "max_tokens"))


def models_are_listed_as_openai_lists_them():
    """Both APIs have `/v1/models`; of the one shape this client reads what it knows."""
    assert "llama3:latest" in [model.id for model in good.models.list()]


# What is refused.


def refused(kind, call, status, type):
    """The error with everything that the client reads out of an answer."""
    error = raised(kind, call)
    equal((error.status_code, error.type), (status, type))
    equal(set(error.body), {"type", "error", "request_id"})
    equal((error.body["type"], error.body["error"]["type"]), ("error", type))
    equal(error.body["error"]["message"], error.api_message)
    equal(error.body["request_id"], error.request_id)
    assert error.request_id, "the error has its request's id"
    return error


def a_call_without_a_key():
    without = {"X-Api-Key": anthropic.Omit(), "Authorization": anthropic.Omit()}
    call = lambda: ask(extra_headers=without)  # noqa: E731
    error = refused(anthropic.AuthenticationError, call, 401, "authentication_error")
    says(error.api_message, "a key is needed")


def a_wrong_key():
    error = refused(anthropic.AuthenticationError, lambda: ask(by=client("wrong")), 401, "authentication_error")
    says(error.api_message, "not valid")
    assert KEYS["wrong"] not in str(error), "the key is not repeated"


def a_disabled_key():
    error = refused(anthropic.PermissionDeniedError, lambda: ask(by=client("disabled")), 403, "permission_error")
    says(error.api_message, "disabled")


def an_unknown_model():
    for more in [{}, {"stream": True}]:
        error = refused(anthropic.NotFoundError, lambda: ask(UNKNOWN, **more), 404, "not_found_error")
        says(error.api_message, UNKNOWN)


def tokens_are_not_counted():
    call = lambda: good.messages.count_tokens(model=MODEL, messages=HELLO)  # noqa: E731
    refused(anthropic.NotFoundError, call, 404, "not_found_error")


def one_call_too_many():
    limited = client("limited")
    simulated(ask(by=limited).content[0].text)
    for more in [{}, {"stream": True}]:
        error = refused(anthropic.RateLimitError, lambda: ask(by=limited, **more), 429, "rate_limit_error")
        says(error.api_message, f"try again in {wait_time(error.response.headers)} seconds")


def a_bad_body():
    call = lambda: ask(extra_body={"Model": "another"})  # noqa: E731
    says(refused(anthropic.BadRequestError, call, 400, "invalid_request_error").api_message, "Model")


def a_body_that_the_backend_refuses():
    """The backend's error is passed on as it is: no token at all is not a bound that it takes."""
    error = raised(anthropic.BadRequestError, lambda: ask(max_tokens=0))
    equal((error.status_code, error.type), (400, "invalid_request_error"))
    says(error.api_message, "max_tokens")


def a_body_that_is_too_large():
    large = [{"role": "user", "content": TOO_LARGE}]
    refused(anthropic.ContentTooLargeError, lambda: ask(messages=large), 413, "request_too_large")


def a_model_whose_backend_is_down():
    error = refused(anthropic.ServiceUnavailableError, lambda: ask(GONE), 503, "overloaded_error")
    wait_time(error.response.headers)


# What goes wrong on the way.


def a_stream_that_breaks_off_is_an_error():
    # The client passes on what its HTTP library says of a body that ends too early.
    raised(httpx2.RemoteProtocolError, lambda: list(ask(BROKEN, stream=True)))


def leaving_a_stream():
    stream = ask(BROKEN, stream=True)
    equal(next(stream).type, "message_start")
    stream.close()
    cancelled()


run(
    a_message_comes_whole,
    a_message_comes_with_a_bearer_token,
    a_message_comes_in_pieces,
    its_events_come_in_their_order,
    an_answer_is_as_short_as_asked,
    models_are_listed_as_openai_lists_them,
    a_call_without_a_key,
    a_wrong_key,
    a_disabled_key,
    an_unknown_model,
    tokens_are_not_counted,
    one_call_too_many,
    a_bad_body,
    a_body_that_the_backend_refuses,
    a_body_that_is_too_large,
    a_model_whose_backend_is_down,
    a_stream_that_breaks_off_is_an_error,
    leaving_a_stream,
)
