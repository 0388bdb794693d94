"""The Python client `openai`, with its own retries, against the gate's limits."""

import openai
from openai import OpenAI

import retries
from checks import KEYS, MODEL, URL, run


def connect(key, http, attempts):
    return OpenAI(base_url=f"{URL}/v1", api_key=KEYS[key], max_retries=attempts, http_client=http)


def text_of(client, headers):
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "hello"}],
        max_completion_tokens=100,
        extra_headers=headers,
    )
    return answer.choices[0].message.content


def it_comes_again_when_it_may():
    retries.comes_again_when_it_may(connect, text_of)


def it_stays_away_when_told():
    retries.stays_away_when_told(connect, text_of, openai.RateLimitError)


run(it_comes_again_when_it_may, it_stays_away_when_told)
