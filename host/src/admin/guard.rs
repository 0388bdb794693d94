//! Who may ask: requests by a name of this listener only, and of the API with the admin token only.
//!
//! The check of the name keeps out web pages whose own name points here (DNS rebinding): what a browser sends for them
//! has their name in `host`. There are no CORS headers, so other pages can neither read an answer nor send the token.

use std::{
    error::Error,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body_util::LengthLimitError;
use tokio::{task::spawn_blocking, time::timeout};

use super::{Operations, Shared, problem::Problem};
use crate::{identity::AdminToken, usage::admin::AdminRefusal, wire::causes::causes};

/// Largest body: what the API takes is a few fields.
const MAX_BODY_BYTES: usize = 64 << 10;
/// Largest body where a whole call stands in it, to be tried.
const MAX_CALL_BYTES: usize = 1 << 20;
/// Where that is.
const TRIES_A_CALL: &str = "/v1/explain";
/// Time for a body of that size, from this machine.
const BODY: Duration = Duration::from_secs(10);

/// Wrong tokens that are looked at with care in one [`WINDOW`]; more are refused with 429. The right token passes whatever
/// others do: nobody can lock the operator out, and its 256 bits can't be guessed at any rate.
const MOST_WRONG: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);

/// Wrong tokens in the current stretch of time.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<Window>);

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    began: Duration,
    wrong: u32,
}

/// What becomes of a wrong token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    /// The first in this stretch: worth a line in the log.
    First,
    /// One of a few.
    Another,
    /// One too many; so long until they are looked at again.
    TooMany(Duration),
}

impl Attempts {
    fn note(&self, now: Duration) -> Attempt {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let age = now.saturating_sub(window.began);
        if age >= WINDOW || window.wrong == 0 {
            *window = Window { began: now, wrong: 1 };
            return Attempt::First;
        }
        if window.wrong >= MOST_WRONG {
            return Attempt::TooMany(WINDOW.saturating_sub(age));
        }
        window.wrong += 1;
        Attempt::Another
    }
}

/// Every request: addressed to this listener, with a body that is not too large; every answer: kept by nobody.
pub(super) async fn addressed(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    const NO_SNIFF: (HeaderName, HeaderValue) = (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let metrics = shared.operations.metrics.admin();
    let mut response = if !is_addressed(request.uri(), request.headers(), &shared.operations.hosts) {
        metrics.refused(AdminRefusal::Host);
        let detail = "this listener is not known by the name in `host`: ask it as localhost, 127.0.0.1 or [::1], or add \
                      the name to admin.hosts";
        closing(Problem::new(StatusCode::MISDIRECTED_REQUEST, "wrong_host", detail).into_response())
    } else if is_too_large(request.headers(), most_bytes(request.uri())) {
        metrics.refused(AdminRefusal::BodySize);
        too_large(most_bytes(request.uri()))
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(NO_SNIFF.0, NO_SNIFF.1);
    response
}

/// Every request to the API: from who has the admin token; its body is whole from here on.
pub(super) async fn operator(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    if let Err(refusal) = prove(&shared, request.headers()).await {
        return refusal;
    }
    let (head, body) = request.into_parts();
    let most = most_bytes(&head.uri);
    let metrics = shared.operations.metrics.admin();
    match timeout(BODY, to_bytes(body, most)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(head, Body::from(body))).await,
        Ok(Err(error)) if error.source().is_some_and(|cause| cause.is::<LengthLimitError>()) => {
            metrics.refused(AdminRefusal::BodySize);
            too_large(most)
        }
        Ok(Err(_)) => {
            let detail = "the body broke off: send it whole";
            closing(Problem::new(StatusCode::BAD_REQUEST, "broken_body", detail).into_response())
        }
        Err(_) => {
            metrics.refused(AdminRefusal::BodyTime);
            let detail = format!("the body did not come within {} seconds: send it at once", BODY.as_secs());
            closing(Problem::new(StatusCode::REQUEST_TIMEOUT, "slow_body", detail).into_response())
        }
    }
}

/// Whether every name that the request has for this listener is one of its own; it needs one.
fn is_addressed(uri: &Uri, headers: &HeaderMap, hosts: &[String]) -> bool {
    let mut named = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (named.next(), named.next()) else { return false };
    let host = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    let is_own = |authority: &Authority| {
        // What stands before an `@` is no name; who writes it means to mislead.
        !authority.as_str().contains('@') && is_own_name(authority.host(), hosts)
    };
    host.is_some_and(|host| is_own(&host)) && uri.authority().is_none_or(is_own)
}

fn is_own_name(name: &str, hosts: &[String]) -> bool {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    // An address can't be rebound: a page at it comes from this machine.
    bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
        || name.eq_ignore_ascii_case("localhost")
        || hosts.iter().any(|host| name.eq_ignore_ascii_case(host))
}

/// Most bytes that a body may have at this path, of which routers may have taken the beginning.
fn most_bytes(uri: &Uri) -> usize {
    if uri.path().ends_with(TRIES_A_CALL) { MAX_CALL_BYTES } else { MAX_BODY_BYTES }
}

fn is_too_large(headers: &HeaderMap, most: usize) -> bool {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    length.is_some_and(|length| length.parse::<usize>().map_or(true, |length| length > most))
}

fn too_large(most: usize) -> Response {
    let detail = format!("the body is larger than {most} bytes: send less");
    closing(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail).into_response())
}

/// Whether the admin token is presented; otherwise the answer that refuses.
async fn prove(shared: &Shared, headers: &HeaderMap) -> Result<(), Response> {
    let operations = &shared.operations;
    let Some(presented) = presented(headers) else {
        operations.metrics.admin().refused(AdminRefusal::NoToken);
        let detail = "send `Authorization: Bearer TOKEN` with the token in `admin.token` of the gate's state folder";
        return Err(unauthorized("no_token", detail));
    };
    let state_dir = operations.state_dir.clone();
    let proof = spawn_blocking(move || AdminToken::load(&state_dir).map(|token| token.is(&presented))).await;
    match proof {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(wrong(shared)),
        Ok(Err(error)) => {
            let problem = causes(&error);
            tracing::error!(problem, "nobody can use the admin API");
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no_admin_token", problem).into_response())
        }
        Err(error) => {
            tracing::error!(%error, "the admin token could not be looked at");
            let detail = "the admin token could not be looked at: try again";
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no_admin_token", detail).into_response())
        }
    }
}

/// The one bearer token of a request.
fn presented(headers: &HeaderMap) -> Option<Box<[u8]>> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.into())
}

fn wrong(shared: &Shared) -> Response {
    let Operations { metrics, clock, .. } = &shared.operations;
    let attempt = shared.attempts.note(clock.monotonic());
    if attempt == Attempt::First {
        tracing::warn!("somebody presented a wrong token to the admin API");
    }
    let Attempt::TooMany(wait) = attempt else {
        metrics.admin().refused(AdminRefusal::WrongToken);
        let detail = "this is not the admin token: it stands in `admin.token` of the gate's state folder";
        return unauthorized("wrong_token", detail);
    };
    metrics.admin().refused(AdminRefusal::TooManyAttempts);
    let wait = wait.as_secs().max(1);
    let detail = format!("wrong tokens came too often: try again in {wait} seconds, or present the right one");
    let mut response = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts", detail).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait));
    closing(response)
}

fn unauthorized(code: &'static str, detail: &'static str) -> Response {
    let mut response = Problem::new(StatusCode::UNAUTHORIZED, code, detail).into_response();
    let scheme = HeaderValue::from_static("Bearer realm=\"tollgate admin\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    closing(response)
}

/// Each attempt costs a connection, and what was not read is not taken for a request.
fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_loopback_and_configured_ones_are_its_own() {
        let hosts = ["gate.example.com".to_owned()];
        let check = |host: &str, is_own: bool| {
            let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_str(host).unwrap())]);
            assert_eq!(is_addressed(&Uri::from_static("/"), &headers, &hosts), is_own, "{host}");
        };
        for own in [
            "localhost",
            "LOCALHOST:8081",
            "127.0.0.1",
            "127.0.0.1:1",
            "127.0.0.2:8081",
            "[::1]",
            "[::1]:8081",
            "[::ffff:127.0.0.1]:8081",
            "gate.example.com",
            "Gate.Example.com:443",
        ] {
            check(own, true);
        }
        for other in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil.example:8081",
            "localhost@evil.example",
            "evil.example@localhost",
            "localhost evil.example",
            "10.0.0.1",
            "[::2]",
            "0.0.0.0:8081",
            "127.1",
            "2130706433",
            "0x7f000001",
            "localhost.",
            "sub.gate.example.com",
        ] {
            check(other, false);
        }
    }

    #[test]
    fn a_request_needs_exactly_one_host_and_no_other_name_in_its_target() {
        let own = HeaderValue::from_static("localhost");
        let mut headers = HeaderMap::new();
        let target = |uri: &'static str| Uri::from_static(uri);
        assert!(!is_addressed(&target("/"), &headers, &[]), "no host");
        headers.append(header::HOST, own.clone());
        assert!(is_addressed(&target("http://127.0.0.1:8081/"), &headers, &[]));
        assert!(!is_addressed(&target("http://evil.example/"), &headers, &[]));
        headers.append(header::HOST, own);
        assert!(!is_addressed(&target("/"), &headers, &[]), "two hosts");
    }

    #[test]
    fn a_few_wrong_tokens_a_minute_are_looked_at() {
        let attempts = Attempts::default();
        let at = |seconds| attempts.note(Duration::from_secs(seconds));
        assert_eq!(at(100), Attempt::First);
        for _ in 1..MOST_WRONG {
            assert_eq!(at(101), Attempt::Another);
        }
        assert_eq!(at(110), Attempt::TooMany(Duration::from_secs(50)));
        assert_eq!(at(159), Attempt::TooMany(Duration::from_secs(1)));
        assert_eq!(at(160), Attempt::First);
    }

    #[test]
    fn a_bearer_token_stands_once_and_alone() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            presented(&headers)
        };
        assert_eq!(of(&["Bearer abc"]).as_deref(), Some(&b"abc"[..]));
        assert_eq!(of(&["bEaReR abc"]).as_deref(), Some(&b"abc"[..]));
        for none in [&[][..], &["abc"], &["Basic abc"], &["Bearerabc"], &["Bearer a", "Bearer a"]] {
            assert_eq!(of(none), None, "{none:?}");
        }
    }
}
