//! Which headers pass. What isn't listed here doesn't: credentials, cookies, hop-by-hop and forwarding headers among them.

use http::{HeaderMap, HeaderName, header};

/// Of a caller's headers, those that a backend may see.
const TO_BACKEND: [HeaderName; 2] = [header::ACCEPT, HeaderName::from_static("traceparent")];

/// Of an Anthropic caller's headers, those that a backend may see besides. Both only say how to read the body, which
/// passes as well: a server that knows them answers wrongly without.
const ANTHROPIC_TO_BACKEND: [HeaderName; 2] =
    [HeaderName::from_static("anthropic-version"), HeaderName::from_static("anthropic-beta")];

/// Of a backend's headers, those that a caller may see. The length comes from the body itself.
const TO_CALLER: [HeaderName; 4] =
    [header::CONTENT_TYPE, header::CACHE_CONTROL, header::RETRY_AFTER, HeaderName::from_static("openai-processing-ms")];

/// The id of a call, in requests and answers.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a call where Anthropic's clients look for it, in answers.
pub const ANTHROPIC_REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// Which backend answered; in a management request, which backend is meant.
pub const BACKEND: HeaderName = HeaderName::from_static("x-tollgate-backend");

/// Says `degraded` while limits that should hold over several gates can't.
pub const LIMITS: HeaderName = HeaderName::from_static("x-tollgate-limits");

/// Which versions of which policies decided on the call.
pub const DECISIONS: HeaderName = HeaderName::from_static("x-tollgate-decisions");

/// Tells a proxy in front not to hold a stream back.
pub const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What no policy sets, in either direction: framing and what belongs to one connection, how a body is encoded or which part
/// of it is meant, credentials and cookies, what a browser rests its trust on, and what the gate says itself.
const NOT_TO_BE_SET: [&str; 48] = [
    "accept-encoding",
    "accept-ranges",
    "alt-svc",
    "api-key",
    "authentication-info",
    "authorization",
    "clear-site-data",
    "connection",
    "cookie",
    "cookie2",
    "date",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "location",
    "max-forwards",
    "origin",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "ratelimit",
    "ratelimit-policy",
    "refresh",
    "request-id",
    "set-cookie",
    "set-cookie2",
    "strict-transport-security",
    "te",
    "timing-allow-origin",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
    "via",
    "www-authenticate",
    "x-accel-buffering",
    "x-api-key",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-real-ip",
    "x-request-id",
    "x-frame-options",
    "x-should-retry",
];

/// The same for all names that begin so.
const NOT_TO_BE_SET_FROM: [&str; 11] = [
    "access-control-",
    "anthropic-ratelimit-",
    "content-",
    "cross-origin-",
    "if-",
    "sec-",
    "x-accel-",
    "x-forwarded-",
    "x-original-",
    "x-ratelimit-",
    "x-tollgate-",
];

/// Whether a policy may set this header, for a backend or for a caller.
pub fn may_be_set(name: &HeaderName) -> bool {
    let name = name.as_str();
    !NOT_TO_BE_SET.contains(&name) && !NOT_TO_BE_SET_FROM.iter().any(|prefix| name.starts_with(prefix))
}

/// What a backend sees of a caller's headers.
pub fn to_backend(headers: &HeaderMap) -> HeaderMap {
    passed(headers, &TO_BACKEND, USUAL_TO_BACKEND)
}

/// What a backend sees of the headers of an Anthropic caller, who may name several betas on several lines.
pub fn anthropic_to_backend(headers: &HeaderMap) -> HeaderMap {
    let mut passed = to_backend(headers);
    for name in &ANTHROPIC_TO_BACKEND {
        for value in headers.get_all(name) {
            passed.append(name, value.clone());
        }
    }
    passed
}

/// What a caller sees of a backend's headers.
pub fn to_caller(headers: &HeaderMap) -> HeaderMap {
    passed(headers, &TO_CALLER, USUAL_TO_CALLER)
}

/// Room for what a request to a backend has in the end, and for what an answer has; one more would double the map's size.
const USUAL_TO_BACKEND: usize = 6;
const USUAL_TO_CALLER: usize = 12;

fn passed(headers: &HeaderMap, names: &[HeaderName], usual: usize) -> HeaderMap {
    let mut passed = HeaderMap::with_capacity(usual);
    for name in names {
        if let Some(value) = headers.get(name) {
            passed.insert(name, value.clone());
        }
    }
    passed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_cookies_and_forwarding_headers_never_pass() {
        let mut headers = HeaderMap::new();
        for name in [
            "authorization",
            "x-api-key",
            "cookie",
            "proxy-authorization",
            "host",
            "origin",
            "referer",
            "forwarded",
            "x-forwarded-for",
            "connection",
            "transfer-encoding",
            "content-length",
            "content-encoding",
            "set-cookie",
            "server",
            "upgrade",
            "te",
            "expect",
            "openai-organization",
            "openai-project",
            "request-id",
            "x-tollgate-backend",
        ] {
            headers.insert(name, "secret".parse().unwrap());
        }
        headers.insert("accept", "text/event-stream".parse().unwrap());
        headers.insert("content-type", "application/json".parse().unwrap());
        assert_eq!(to_backend(&headers).keys().collect::<Vec<_>>(), ["accept"]);
        assert_eq!(anthropic_to_backend(&headers).keys().collect::<Vec<_>>(), ["accept"]);
        assert_eq!(to_caller(&headers).keys().collect::<Vec<_>>(), ["content-type"]);
    }

    #[test]
    fn policies_set_no_header_on_which_framing_trust_or_the_gate_s_own_words_rest() {
        for name in [
            "Connection",
            "TRANSFER-ENCODING",
            "Content-Length",
            "content-type",
            "Host",
            "Authorization",
            "X-Api-Key",
            "Cookie",
            "Set-Cookie",
            "Forwarded",
            "X-Forwarded-For",
            "Access-Control-Allow-Origin",
            "X-Request-Id",
            "X-Tollgate-Backend",
            "x-tollgate-limits",
            "Upgrade",
            "TE",
            "x-ratelimit-remaining-tokens",
            "if-none-match",
            "range",
            "x-http-method-override",
        ] {
            assert!(!may_be_set(&name.parse().unwrap()), "{name}");
        }
        for name in
            ["x-team", "x-priority", "traceparent", "accept", "cache-control", "openai-organization", "user-agent"]
        {
            assert!(may_be_set(&name.parse().unwrap()), "{name}");
        }
    }

    #[test]
    fn anthropics_headers_pass_for_anthropics_callers_only() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("anthropic-version", "2023-06-01"), ("anthropic-beta", "a"), ("anthropic-beta", "b")] {
            headers.append(name, value.parse().unwrap());
        }
        assert!(to_backend(&headers).is_empty());
        assert_eq!(anthropic_to_backend(&headers), headers);
    }
}
