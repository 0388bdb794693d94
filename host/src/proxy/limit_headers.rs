//! What an answer tells its caller of the limits it counts against: the standard's two headers on every surface, and beside
//! them the ones that the clients of that surface read.
//!
//! `RateLimit-Policy` and `RateLimit` are those of draft-ietf-httpapi-ratelimit-headers-11: whole seconds, never early, and
//! no partition key. The draft registers no unit for tokens, so theirs carry the gate's name.

use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;

use crate::{
    llm::Surface,
    policy::TokenKind,
    quota::{Standing, Unit},
};

const POLICIES: HeaderName = HeaderName::from_static("ratelimit-policy");
const STANDINGS: HeaderName = HeaderName::from_static("ratelimit");

/// The largest integer of a structured field (RFC 9651 §3.3.1).
const MOST: u64 = 999_999_999_999_999;

/// The names under which one unit's figures stand: capacity, what is left, and when all of it is back.
struct Family {
    limit: HeaderName,
    remaining: HeaderName,
    reset: HeaderName,
}

macro_rules! family {
    ($limit:literal, $remaining:literal, $reset:literal) => {
        Family {
            limit: HeaderName::from_static($limit),
            remaining: HeaderName::from_static($remaining),
            reset: HeaderName::from_static($reset),
        }
    };
}

const OPENAI_REQUESTS: Family =
    family!("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests");
const OPENAI_TOKENS: Family =
    family!("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens");
const ANTHROPIC_REQUESTS: Family = family!(
    "anthropic-ratelimit-requests-limit",
    "anthropic-ratelimit-requests-remaining",
    "anthropic-ratelimit-requests-reset"
);
const ANTHROPIC_TOKENS: Family = family!(
    "anthropic-ratelimit-tokens-limit",
    "anthropic-ratelimit-tokens-remaining",
    "anthropic-ratelimit-tokens-reset"
);
const ANTHROPIC_INPUT: Family = family!(
    "anthropic-ratelimit-input-tokens-limit",
    "anthropic-ratelimit-input-tokens-remaining",
    "anthropic-ratelimit-input-tokens-reset"
);
const ANTHROPIC_OUTPUT: Family = family!(
    "anthropic-ratelimit-output-tokens-limit",
    "anthropic-ratelimit-output-tokens-remaining",
    "anthropic-ratelimit-output-tokens-reset"
);

/// Writes where these limits stand at this moment, which is asked for where it is needed. Nothing where there are none.
pub(super) fn stamp(headers: &mut HeaderMap, surface: Surface, standings: &[Standing], unix_us: impl FnOnce() -> u64) {
    if standings.is_empty() {
        return;
    }
    put(headers, POLICIES, joined(standings, policy));
    put(headers, STANDINGS, joined(standings, standing));
    match surface {
        Surface::OpenAi => {
            openai(headers, &OPENAI_REQUESTS, tightest(standings, |unit| unit == Unit::Requests));
            openai(headers, &OPENAI_TOKENS, tightest(standings, |unit| matches!(unit, Unit::Tokens(_))));
        }
        Surface::Anthropic => {
            let unix_us = unix_us();
            for (family, unit) in [
                (&ANTHROPIC_REQUESTS, Unit::Requests),
                (&ANTHROPIC_TOKENS, Unit::Tokens(TokenKind::All)),
                (&ANTHROPIC_INPUT, Unit::Tokens(TokenKind::Input)),
                (&ANTHROPIC_OUTPUT, Unit::Tokens(TokenKind::Output)),
            ] {
                anthropic(headers, family, tightest(standings, |other| other == unit), unix_us);
            }
        }
        Surface::Ollama | Surface::Other => {}
    }
}

/// Of the limits in these units, the one that leaves least.
fn tightest(standings: &[Standing], is_meant: impl Fn(Unit) -> bool) -> Option<&Standing> {
    standings.iter().filter(|standing| is_meant(standing.unit)).min_by_key(|standing| standing.remaining)
}

fn joined(standings: &[Standing], item: fn(&mut String, &Standing)) -> String {
    let mut text = String::with_capacity(standings.len() * 40);
    for standing in standings {
        if !text.is_empty() {
            text.push_str(", ");
        }
        item(&mut text, standing);
    }
    text
}

/// `"requests-per-minute";q=100;w=60`
fn policy(text: &mut String, standing: &Standing) {
    quoted(text, &standing.limit);
    say(text, ";q=", standing.capacity.min(MOST));
    let unit = match standing.unit {
        Unit::Requests => "",
        Unit::Calls => ";qu=\"concurrent-requests\"",
        Unit::Tokens(TokenKind::All) => ";qu=\"tollgate-tokens\"",
        Unit::Tokens(TokenKind::Input) => ";qu=\"tollgate-input-tokens\"",
        Unit::Tokens(TokenKind::Output) => ";qu=\"tollgate-output-tokens\"",
    };
    text.push_str(unit);
    if let Some(window_us) = standing.window_us {
        say(text, ";w=", seconds(window_us).max(1));
    }
}

/// `"requests-per-minute";r=99;t=60`
fn standing(text: &mut String, standing: &Standing) {
    quoted(text, &standing.limit);
    say(text, ";r=", standing.remaining.min(MOST));
    if let Some(reset_us) = standing.reset_after_us {
        say(text, ";t=", seconds(reset_us));
    }
}

fn quoted(text: &mut String, name: &str) {
    text.push('"');
    text.push_str(name);
    text.push('"');
}

fn openai(headers: &mut HeaderMap, family: &Family, standing: Option<&Standing>) {
    let Some(standing) = standing else { return };
    figures(headers, family, standing);
    if let Some(reset_us) = standing.reset_after_us {
        put(headers, family.reset.clone(), short_duration(seconds(reset_us)));
    }
}

fn anthropic(headers: &mut HeaderMap, family: &Family, standing: Option<&Standing>, unix_us: u64) {
    let Some(standing) = standing else { return };
    figures(headers, family, standing);
    let at = standing.reset_after_us.and_then(|reset_us| {
        let at = seconds(unix_us.saturating_add(reset_us));
        Timestamp::from_second(i64::try_from(at).ok()?).ok()
    });
    if let Some(at) = at {
        put(headers, family.reset.clone(), at.to_string());
    }
}

fn figures(headers: &mut HeaderMap, family: &Family, standing: &Standing) {
    headers.insert(family.limit.clone(), HeaderValue::from(standing.capacity));
    headers.insert(family.remaining.clone(), HeaderValue::from(standing.remaining));
}

/// `6m0s`, as OpenAI writes durations.
fn short_duration(seconds: u64) -> String {
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

/// Whole seconds, rounded up: earlier than the truth would be one more refusal.
fn seconds(us: u64) -> u64 {
    us.div_ceil(1_000_000)
}

/// By hand, because formatting costs more than all else here.
fn say(text: &mut String, what: &str, number: u64) {
    const MOST_DIGITS: usize = 20;
    text.push_str(what);
    let (mut digits, mut left) = ([0; MOST_DIGITS], number);
    let mut first = MOST_DIGITS;
    for (place, digit) in digits.iter_mut().enumerate().rev() {
        // A remainder of ten has one byte.
        let [low, ..] = (left % 10).to_le_bytes();
        (*digit, first, left) = (b'0' + low, place, left / 10);
        if left == 0 {
            break;
        }
    }
    let digits = digits.get(first..).unwrap_or_default();
    text.push_str(std::str::from_utf8(digits).unwrap_or_default());
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: String) {
    // A limit's name is of a-z, 0-9 and -, so all of it may stand in a header.
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Half a second before noon.
    const NOON_US: u64 = 1_767_268_799_500_000;

    fn standing(limit: &str, unit: Unit, capacity: u64, remaining: u64) -> Standing {
        Standing {
            limit: limit.into(),
            unit,
            capacity,
            remaining,
            reserved: 0,
            reset_after_us: Some(59_000_001),
            window_us: Some(60_000_000),
        }
    }

    fn stamped(surface: Surface, standings: &[Standing]) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        stamp(&mut headers, surface, standings, || NOON_US);
        let mut all: Vec<_> =
            headers.iter().map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned())).collect();
        all.sort();
        all
    }

    #[track_caller]
    fn check(surface: Surface, standings: &[Standing], expected: &[(&str, &str)]) {
        let expected: Vec<_> = expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(stamped(surface, standings), expected);
    }

    #[test]
    fn without_limits_nothing_is_said() {
        check(Surface::OpenAi, &[], &[]);
    }

    #[test]
    fn ollama_callers_get_the_standard_headers_with_seconds_rounded_up() {
        let calls = Standing { reset_after_us: None, window_us: None, ..standing("concurrent", Unit::Calls, 5, 4) };
        let tokens = standing("tokens-per-minute", Unit::Tokens(TokenKind::All), u64::MAX, 7);
        check(
            Surface::Ollama,
            &[standing("requests-per-minute", Unit::Requests, 100, 99), calls, tokens],
            &[
                ("ratelimit", "\"requests-per-minute\";r=99;t=60, \"concurrent\";r=4, \"tokens-per-minute\";r=7;t=60"),
                (
                    "ratelimit-policy",
                    "\"requests-per-minute\";q=100;w=60, \"concurrent\";q=5;qu=\"concurrent-requests\", \
                     \"tokens-per-minute\";q=999999999999999;qu=\"tollgate-tokens\";w=60",
                ),
            ],
        );
    }

    #[test]
    fn openais_clients_read_the_tightest_limit_of_each_unit() {
        let standings = [
            standing("requests-per-minute", Unit::Requests, 100, 99),
            standing("user-requests-per-minute", Unit::Requests, 10, 3),
            Standing {
                reset_after_us: Some(3_600_000_000),
                ..standing("t", Unit::Tokens(TokenKind::Output), 1_000, 8)
            },
        ];
        let all = stamped(Surface::OpenAi, &standings);
        let of = |name: &str| all.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
        for (name, value) in [
            ("x-ratelimit-limit-requests", "10"),
            ("x-ratelimit-remaining-requests", "3"),
            ("x-ratelimit-reset-requests", "1m0s"),
            ("x-ratelimit-limit-tokens", "1000"),
            ("x-ratelimit-remaining-tokens", "8"),
            ("x-ratelimit-reset-tokens", "1h0m0s"),
        ] {
            assert_eq!(of(name), Some(value), "{name}");
        }
        assert_eq!(all.len(), 8);
    }

    #[test]
    fn anthropics_clients_read_moments() {
        let standings =
            [standing("r", Unit::Requests, 100, 99), standing("t", Unit::Tokens(TokenKind::Input), 1_000, 8)];
        let all = stamped(Surface::Anthropic, &standings);
        let of = |name: &str| all.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
        assert_eq!(of("anthropic-ratelimit-requests-limit"), Some("100"));
        assert_eq!(of("anthropic-ratelimit-requests-remaining"), Some("99"));
        assert_eq!(of("anthropic-ratelimit-requests-reset"), Some("2026-01-01T12:00:59Z"));
        assert_eq!(of("anthropic-ratelimit-input-tokens-remaining"), Some("8"));
        assert_eq!(of("anthropic-ratelimit-tokens-limit"), None);
        assert_eq!(all.len(), 8);
    }

    #[test]
    fn durations_are_short() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (60, "1m0s"), (3_599, "59m59s"), (86_400, "24h0m0s")] {
            assert_eq!(short_duration(seconds), text);
        }
    }
}
