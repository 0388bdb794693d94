"""The Python client `ollama` against the gate."""

import tempfile

import httpx
from ollama import Client, ResponseError

from checks import BROKEN, GONE, KEYS, MODEL, TOO_LARGE, UNKNOWN, URL, VECTOR
from checks import cancelled, equal, raised, run, says, simulated

HELLO = [{"role": "user", "content": "hello"}]


def client(key, **headers):
    credential = {"Authorization": f"Bearer {KEYS[key]}"} if key else {}
    return Client(host=URL, headers={**credential, **headers}, timeout=20)


good = client("good")


def ask(model=MODEL, by=good, **more):
    return by.chat(**{"model": model, "messages": HELLO, **more})


# What is served.


def a_chat_comes_whole():
    answer = ask()
    simulated(answer.message.content)
    equal((answer.message.role, answer.done, answer.done_reason), ("assistant", True, "stop"))
    assert answer.prompt_eval_count > 0 and answer.eval_count > 0 and answer.total_duration > 0


def a_chat_comes_in_pieces():
    pieces = list(ask(stream=True))
    simulated("".join(piece.message.content for piece in pieces))
    assert len(pieces) > 5, "it comes in pieces"
    equal([piece.done for piece in pieces], [False] * (len(pieces) - 1) + [True])
    equal(pieces[-1].eval_count, len(pieces) - 1)


def an_answer_is_as_short_as_asked():
    answer = ask(options={"num_predict": 3})
    equal((answer.message.content, answer.done_reason), ("This is a ", "length"))


def a_text_is_generated_whole_and_in_pieces():
    simulated(good.generate(model=MODEL, prompt="hello").response)
    pieces = list(good.generate(model=MODEL, prompt="hello", stream=True))
    simulated("".join(piece.response for piece in pieces))
    equal(pieces[-1].done_reason, "stop")


def texts_are_embedded():
    equal(good.embed(model=MODEL, input=["a", "b"]).embeddings, [VECTOR, VECTOR])
    equal(good.embeddings(model=MODEL, prompt="a").embedding, VECTOR)


def models_are_listed_and_shown():
    listed = {model.model: model for model in good.list().models}
    equal(listed["llama3:latest"].details.quantization_level, "Q4_K_M")
    assert listed["llama3:latest"].digest and listed["llama3:latest"].size > 0
    assert [model.model for model in good.ps().models], "something is loaded"
    shown = good.show(MODEL)
    equal((shown.capabilities, shown.details.format), (["completion"], "gguf"))
    assert shown.modelinfo, "it comes with what the model is"


def models_are_changed_by_a_key_that_may():
    manager = client("manager", **{"x-tollgate-backend": "sim-1"})
    progress = list(manager.pull("fresh", stream=True))
    equal(progress[-1].status, "success")
    assert [line for line in progress if line.total and line.completed == line.total], progress
    simulated(ask("fresh").message.content)
    equal(manager.pull("fresh").status, "success")
    equal(manager.push("fresh").status, "success")
    equal(manager.copy("fresh", "copied").status, "success")
    with tempfile.NamedTemporaryFile() as blob:
        blob.write(b"a blob")
        blob.flush()
        digest = manager.create_blob(blob.name)
    equal(manager.create("made", files={"made.gguf": digest}).status, "success")
    for model in ["fresh", "copied", "made"]:
        equal(manager.delete(model).status, "success")
    refused(lambda: ask("fresh"), 404, "model 'fresh' not found")


# What is refused.


def refused(call, status, *parts):
    """The error with everything that the client reads out of an answer."""
    error = raised(ResponseError, call)
    equal(error.status_code, status)
    equal(str(error), f"{error.error} (status code: {status})")
    assert "{" not in error.error, f"the text alone, not its JSON: {error.error}"
    says(error.error, *parts)
    return error


def a_call_without_a_key():
    refused(lambda: ask(by=client(None)), 401, "a key is needed")
    refused(lambda: list(ask(by=client(None), stream=True)), 401, "a key is needed")
    refused(lambda: client(None).list(), 401, "a key is needed")


def a_wrong_key():
    error = refused(lambda: ask(by=client("wrong")), 401, "not valid")
    assert KEYS["wrong"] not in str(error), "the key is not repeated"


def a_disabled_key():
    refused(lambda: ask(by=client("disabled")), 403, "disabled")


def an_unknown_model():
    expected = f"model '{UNKNOWN}' not found"
    refused(lambda: ask(UNKNOWN), 404, expected)
    refused(lambda: list(ask(UNKNOWN, stream=True)), 404, expected)
    refused(lambda: good.generate(model=UNKNOWN, prompt="hello"), 404, expected)
    refused(lambda: good.embed(model=UNKNOWN, input="hello"), 404, expected)
    refused(lambda: good.show(UNKNOWN), 404, expected)


def changing_models_by_a_key_that_may_not():
    refused(lambda: good.pull(UNKNOWN), 403, "may not")
    refused(lambda: list(good.pull(UNKNOWN, stream=True)), 403, "may not")
    refused(lambda: good.delete(MODEL), 403, "may not")


def changing_models_of_any_backend():
    refused(lambda: client("manager").pull(UNKNOWN), 400, "x-tollgate-backend", "sim-1")


def one_call_too_many():
    limited = client("limited")
    simulated(ask(by=limited).message.content)
    refused(lambda: ask(by=limited), 429, "try again in", "seconds")
    refused(lambda: list(ask(by=limited, stream=True)), 429, "try again in", "seconds")


def a_bad_body():
    refused(lambda: ask(options={"num_ctx": 1, "NUM_CTX": 2}), 400, "NUM_CTX")


def a_body_that_is_too_large():
    refused(lambda: ask(messages=[{"role": "user", "content": TOO_LARGE}]), 413, "bytes")


def a_model_whose_backend_is_down():
    refused(lambda: ask(GONE), 503, GONE, "try again")


# What goes wrong on the way.


def a_stream_that_breaks_off_is_an_error():
    raised(httpx.RemoteProtocolError, lambda: list(ask(BROKEN, stream=True)))


def leaving_a_stream():
    stream = ask(BROKEN, stream=True)
    equal(next(stream).message.content, "first")
    stream.close()
    cancelled()


run(
    a_chat_comes_whole,
    a_chat_comes_in_pieces,
    an_answer_is_as_short_as_asked,
    a_text_is_generated_whole_and_in_pieces,
    texts_are_embedded,
    models_are_listed_and_shown,
    models_are_changed_by_a_key_that_may,
    a_call_without_a_key,
    a_wrong_key,
    a_disabled_key,
    an_unknown_model,
    changing_models_by_a_key_that_may_not,
    changing_models_of_any_backend,
    one_call_too_many,
    a_bad_body,
    a_body_that_is_too_large,
    a_model_whose_backend_is_down,
    a_stream_that_breaks_off_is_an_error,
    leaving_a_stream,
)
