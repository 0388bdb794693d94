//! Error bodies in the shape that each API's clients read.
//!
//! Assumes that the message may be shown to the caller: whatever must not be seen was taken out before. All bodies are
//! `application/json`.
//!
//! Never chooses a status or words of its own.

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;

use super::Surface;

/// What went wrong, in no dialect yet.
#[derive(Clone, Copy, Debug)]
pub struct ErrorText<'a> {
    /// The status of the response, 4xx or 5xx.
    pub status: StatusCode,
    /// Which refusal it is, for programs: `[a-z0-9_]{1,64}`. Clients of OpenAI's API know `model_not_found`,
    /// `insufficient_quota` and `rate_limit_exceeded`.
    pub code: &'a str,
    /// What happened and what to do, for people.
    pub message: &'a str,
    /// The request's id, as in the `x-request-id` header.
    pub request_id: &'a str,
}

#[derive(Debug, Serialize)]
struct PlainBody<'a> {
    error: &'a str,
}

#[derive(Debug, Serialize)]
struct OpenAiBody<'a> {
    error: OpenAiError<'a>,
}

#[derive(Debug, Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: &'a str,
}

#[derive(Debug, Serialize)]
struct AnthropicBody<'a> {
    r#type: &'a str,
    error: AnthropicError<'a>,
    request_id: &'a str,
}

#[derive(Debug, Serialize)]
struct AnthropicError<'a> {
    r#type: &'a str,
    message: &'a str,
}

/// The body of an error response for callers of `surface`, as `application/json`.
pub fn error_body(surface: Surface, error: &ErrorText<'_>) -> Bytes {
    let encoded = match surface {
        Surface::Ollama | Surface::Other => serde_json::to_vec(&PlainBody { error: error.message }),
        Surface::OpenAi => serde_json::to_vec(&OpenAiBody {
            error: OpenAiError {
                message: error.message,
                r#type: openai_type(error),
                param: None,
                code: openai_code(error),
            },
        }),
        Surface::Anthropic => serde_json::to_vec(&AnthropicBody {
            r#type: "error",
            error: AnthropicError { r#type: anthropic_type(error.status), message: error.message },
            request_id: error.request_id,
        }),
    };
    Bytes::from(encoded.expect("a struct of strings always encodes"))
}

fn openai_type(error: &ErrorText<'_>) -> &'static str {
    match error.status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        // Clients wait and try again on the one, and give up on the other.
        429 if error.code == "insufficient_quota" => "insufficient_quota",
        429 => "rate_limit_error",
        status if status < 500 => "invalid_request_error",
        _ => "server_error",
    }
}

/// OpenAI has one code for every credential that isn't accepted, and clients look for it.
fn openai_code<'a>(error: &ErrorText<'a>) -> &'a str {
    if error.status == StatusCode::UNAUTHORIZED { "invalid_api_key" } else { error.code }
}

fn anthropic_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        504 => "timeout_error",
        status if status < 500 => "invalid_request_error",
        _ => "api_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(surface: Surface, status: u16, code: &str, message: &str) -> String {
        let status = StatusCode::from_u16(status).unwrap();
        let bytes = error_body(surface, &ErrorText { status, code, message, request_id: "req-1" });
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn ollama_and_unclaimed_paths_get_the_text_alone() {
        for surface in [Surface::Ollama, Surface::Other] {
            let found = body(surface, 404, "model_not_found", "model 'x' not found");
            assert_eq!(found, r#"{"error":"model 'x' not found"}"#);
        }
    }

    #[test]
    fn openai_callers_get_type_param_and_code() {
        let check = |status: u16, code: &str, r#type: &str, shown: &str| {
            let expected = format!(r#"{{"error":{{"message":"no","type":"{type}","param":null,"code":"{shown}"}}}}"#);
            assert_eq!(body(Surface::OpenAi, status, code, "no"), expected);
        };
        for status in [400, 402, 404, 405, 408, 413, 415, 499] {
            check(status, "some_code", "invalid_request_error", "some_code");
        }
        check(404, "model_not_found", "invalid_request_error", "model_not_found");
        check(401, "missing_key", "authentication_error", "invalid_api_key");
        check(403, "key_expired", "permission_error", "key_expired");
        check(429, "rate_limit_exceeded", "rate_limit_error", "rate_limit_exceeded");
        check(429, "insufficient_quota", "insufficient_quota", "insufficient_quota");
        for status in [500, 502, 503, 504, 529] {
            check(status, "no_backend", "server_error", "no_backend");
        }
    }

    #[test]
    fn anthropic_callers_get_their_types_and_the_request_id() {
        let check = |status: u16, r#type: &str| {
            let expected =
                format!(r#"{{"type":"error","error":{{"type":"{type}","message":"no"}},"request_id":"req-1"}}"#);
            assert_eq!(body(Surface::Anthropic, status, "some_code", "no"), expected);
        };
        for status in [400, 405, 408, 415, 499] {
            check(status, "invalid_request_error");
        }
        check(401, "authentication_error");
        check(403, "permission_error");
        check(404, "not_found_error");
        check(413, "request_too_large");
        check(429, "rate_limit_error");
        check(500, "api_error");
        check(502, "api_error");
        check(503, "overloaded_error");
        check(504, "timeout_error");
        check(529, "overloaded_error");
    }

    #[test]
    fn text_cannot_break_out_of_its_string() {
        let hostile = "a\"},\"x\":\"\\\n\u{0}é";
        let escaped = r#"a\"},\"x\":\"\\\n\u0000é"#;
        assert_eq!(body(Surface::Ollama, 400, "c", hostile), format!(r#"{{"error":"{escaped}"}}"#));
        for surface in [Surface::OpenAi, Surface::Anthropic] {
            let parsed: serde_json::Value = serde_json::from_str(&body(surface, 400, hostile, hostile)).unwrap();
            assert_eq!(parsed.pointer("/error/message").and_then(|text| text.as_str()), Some(hostile));
        }
    }
}
