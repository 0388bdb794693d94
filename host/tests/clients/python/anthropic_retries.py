"""The Python client `anthropic`, with its own retries, against the gate's limits."""

import anthropic
from anthropic import Anthropic

import retries
from checks import KEYS, MODEL, URL, run


def connect(key, http, attempts):
    return Anthropic(base_url=URL, api_key=KEYS[key], max_retries=attempts, http_client=http)


def text_of(client, headers):
    message = client.messages.create(
        model=MODEL,
        max_tokens=100,
        messages=[{"role": "user", "content": "hello"}],
        extra_headers=headers,
    )
    return message.content[0].text


def it_comes_again_when_it_may():
    retries.comes_again_when_it_may(connect, text_of)


def it_stays_away_when_told():
    retries.stays_away_when_told(connect, text_of, anthropic.RateLimitError)


run(it_comes_again_when_it_may, it_stays_away_when_told)
