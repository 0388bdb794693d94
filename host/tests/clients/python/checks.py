"""What the programs of the three Python clients share.

A program is given the gate before it in the environment variable GATE, as JSON: `url`, `admin` (where its
metrics are), `keys` by what they are for, and `max_body` in bytes. It says `cancelled` on stdout once it has left a stream,
and then waits for its stdin to end.
"""

import json
import os
import sys
import traceback

GATE = json.loads(os.environ["GATE"])
URL = GATE["url"]
KEYS = GATE["keys"]

# What the backends behind the gate have, and do when they are asked.
MODEL = "llama3"  # answers, with these words first
WORDS = "This is a simulated answer from "
BROKEN = "broken"  # breaks off within its first stream, and never ends its second
GONE = "gone"  # was there, and is down
UNKNOWN = "no-such-model"
VECTOR = [0.25, -0.5, 0.75]

TOO_LARGE = "a" * (GATE["max_body"] + 1)


def run(*checks):
    """Runs every check, and fails with all that went wrong."""
    failed = 0
    for check in checks:
        try:
            check()
        except Exception:
            failed += 1
            print(f"\n== {check.__name__}", file=sys.stderr)
            traceback.print_exc(chain=False)
        else:
            print(f"ok {check.__name__}", flush=True)
    if failed:
        sys.exit(f"{failed} of {len(checks)} checks failed")


def equal(found, expected):
    if found != expected:
        raise AssertionError(f"{found!r} is not {expected!r}")


def simulated(text):
    """The backend's words came whole."""
    if not (text.startswith(WORDS) and text.endswith(".")):
        raise AssertionError(f"not the backend's words: {text!r}")


def raised(kind, call):
    """The error of exactly this class that a call must end in."""
    try:
        call()
    except Exception as error:
        if type(error) is not kind:
            raise AssertionError(f"{type(error).__mro__} instead of {kind}") from error
        return error
    raise AssertionError(f"{kind} was not raised")


def wait_time(headers):
    """Retry-After tells a time within the minute that a limit is for, and the second by which it is rounded up."""
    seconds = int(headers["retry-after"])
    if not 1 <= seconds <= 61:
        raise AssertionError(f"retry-after: {seconds}")
    return seconds


def says(message, *parts):
    """A person who reads the message finds these words in it."""
    for part in parts:
        if part not in message:
            raise AssertionError(f"nothing of {part!r} in {message!r}")


def cancelled():
    """The stream was left; this program stays, so that nothing but the leaving tells the backend."""
    print("cancelled", flush=True)
    sys.stdin.read()
