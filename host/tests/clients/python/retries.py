"""What a Python client does by itself when the gate refuses for a limit: it comes again when it may, and only then.

The gate before it has a policy that charges a call as a header of it says, and a key whose budget for the day is spent
after a few answers. Both clients use the same HTTP library, so that one program sees what each of them sends.
"""

import re
import time
import urllib.request

import httpx2

from checks import GATE, equal, simulated

# One call, and another one each two seconds.
PACED = {"x-ask-at": "admit", "x-ask": "rules pace=requests:1/bucket:1:1:2000"}

# How much later than it was told a client may come.
LATE = 3.0
# How often a client may come again.
RETRIES = 2


class Seen:
    """Answers as they came over the wire, each with when its request began and when it was there, in seconds."""

    def __init__(self):
        self.answers = []
        self.began = 0.0
        hooks = {"request": [self.asked], "response": [self.answered]}
        self.http = httpx2.Client(event_hooks=hooks, timeout=20)

    def asked(self, _):
        self.began = time.monotonic()

    def answered(self, response):
        self.answers.append((response.status_code, response.headers, self.began, time.monotonic()))


def refused_by_gate():
    """Calls that the gate has answered with 4xx, by its own count."""
    with urllib.request.urlopen(f"{GATE['admin']}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    lines = re.findall(r'^tollgate_requests_total\{[^}]*status="4xx"[^}]*\} (\d+)$', text, re.MULTILINE)
    return sum(int(count) for count in lines)


def comes_again_when_it_may(connect, text_of):
    """A short wait is waited for, and the call is served: its caller notices nothing but the time."""
    seen = Seen()
    client = connect("good", seen.http, RETRIES)
    before = refused_by_gate()
    # The second one comes too early.
    for _ in range(2):
        simulated(text_of(client, PACED))
    equal([status for status, *_ in seen.answers], [200, 429, 200])
    equal(refused_by_gate() - before, 1)
    _, (_, headers, _, told), (_, _, came, _) = seen.answers
    wait = int(headers["retry-after"])
    assert 1 <= wait <= 2, f"told to wait {wait} s for what comes back in two"
    assert wait <= came - told <= wait + LATE, f"told to wait {wait} s, it came after {came - told:.3f} s"


def stays_away_when_told(connect, text_of, limited):
    """A budget that is spent for today is not asked again, however often the client may."""
    once = connect("spent", Seen().http, 0)
    simulated(text_of(once, {}))
    spend(once, text_of, limited)
    seen = Seen()
    client = connect("spent", seen.http, RETRIES)
    before = refused_by_gate()
    try:
        text_of(client, {})
    except limited as error:
        equal(error.response.headers["x-should-retry"], "false")
        assert int(error.response.headers["retry-after"]) >= 1, "when the next day begins stands there all the same"
    else:
        raise AssertionError("a spent budget served a call")
    equal([status for status, *_ in seen.answers], [429])
    equal(refused_by_gate() - before, 1)


def spend(client, text_of, limited):
    """Calls until the budget is spent."""
    for _ in range(20):
        try:
            text_of(client, {})
        except limited:
            return
    raise AssertionError("the budget is never spent")
