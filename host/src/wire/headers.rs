//! Which headers pass. What isn't listed here doesn't: credentials, cookies, hop-by-hop and forwarding headers among them.

use http::{HeaderMap, HeaderName, header};

/// Of a caller's headers, those that a backend may see.
const TO_BACKEND: [HeaderName; 2] = [header::ACCEPT, HeaderName::from_static("traceparent")];

/// Of a backend's headers, those that a caller may see. The length comes from the body itself.
const TO_CALLER: [HeaderName; 4] =
    [header::CONTENT_TYPE, header::CACHE_CONTROL, header::RETRY_AFTER, HeaderName::from_static("openai-processing-ms")];

/// The id of a call, in requests and answers.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Which backend answered.
pub const BACKEND: HeaderName = HeaderName::from_static("x-tollgate-backend");

/// Tells a proxy in front not to hold a stream back.
pub const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What a backend sees of a caller's headers.
pub fn to_backend(headers: &HeaderMap) -> HeaderMap {
    passed(headers, &TO_BACKEND)
}

/// What a caller sees of a backend's headers.
pub fn to_caller(headers: &HeaderMap) -> HeaderMap {
    passed(headers, &TO_CALLER)
}

fn passed(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let mut passed = HeaderMap::with_capacity(8);
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
        ] {
            headers.insert(name, "secret".parse().unwrap());
        }
        headers.insert("accept", "text/event-stream".parse().unwrap());
        headers.insert("content-type", "application/json".parse().unwrap());
        assert_eq!(to_backend(&headers).keys().collect::<Vec<_>>(), ["accept"]);
        assert_eq!(to_caller(&headers).keys().collect::<Vec<_>>(), ["content-type"]);
    }
}
