//! Decisions as JSON, in the words of `wit/`, and what tells one from another.

use http::HeaderMap;
use serde_json::{Map, Value, json};

use super::format::EDITED;
use crate::policy::{
    AdmitDecision, Amount, AuthenticateDecision, Charge, Edited, Fault, Period, Reason, Rejection, RouteDecision, Rule,
    Shape, TokenKind,
};

pub(super) fn authenticated(decision: &AuthenticateDecision) -> Value {
    match decision {
        AuthenticateDecision::Allow { subject, attributes } => {
            let attributes: Map<String, Value> =
                attributes.iter().map(|(name, values)| (name.to_string(), json!(values))).collect();
            json!({ "allow": { "subject": subject, "attributes": attributes } })
        }
        AuthenticateDecision::Reject(rejected) => rejection(rejected),
        AuthenticateDecision::Abstain => json!("abstain"),
    }
}

pub(super) fn admitted(decision: &AdmitDecision) -> Value {
    match decision {
        AdmitDecision::Admit(charges) => json!({ "admit": charges.iter().map(charge).collect::<Vec<_>>() }),
        AdmitDecision::Reject(rejected) => rejection(rejected),
        AdmitDecision::Abstain => json!("abstain"),
    }
}

/// What the call is with a policy's edits.
pub(super) fn edited(edited: Option<&Edited>) -> Value {
    let Some(edited) = edited else { return json!("none") };
    let body = edited.exchange.body().and_then(|body| serde_json::from_slice(body).ok()).unwrap_or(Value::Null);
    let [model, body_field, upstream, response] = EDITED;
    json!({
        model: edited.call.model,
        body_field: body,
        upstream: headers(&edited.headers.upstream),
        response: headers(&edited.headers.response),
    })
}

fn headers(headers: &HeaderMap) -> Map<String, Value> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value).into())).collect()
}

pub(super) fn routed(decision: &RouteDecision) -> Value {
    match decision {
        RouteDecision::Pick(id) => json!({ "pick": id }),
        RouteDecision::Ranked(ids) => json!({ "ranked": ids }),
        RouteDecision::Reject(rejected) => rejection(rejected),
        RouteDecision::Abstain => json!("abstain"),
    }
}

pub(super) fn fault(fault: &Fault) -> Value {
    json!({ "fault": fault.kind.as_str(), "detail": fault.detail })
}

fn rejection(rejected: &Rejection) -> Value {
    let reason = match rejected.reason {
        Reason::Unauthorized => "unauthorized",
        Reason::Forbidden => "forbidden",
        Reason::NotFound => "not-found",
        Reason::Invalid => "invalid",
        Reason::TooMany => "too-many",
        Reason::BudgetSpent => "budget-spent",
        Reason::Unavailable => "unavailable",
    };
    json!({ "reject": {
        "reason": reason,
        "code": rejected.code,
        "message": rejected.message,
        "retry-after-ms": rejected.retry_after_ms,
    } })
}

fn charge(charge: &Charge) -> Value {
    let rule = match charge.rule {
        Rule::Metered { amount: of, shape: over } => {
            json!({ "metered": { "amount": amount(of), "shape": shape(over) } })
        }
        Rule::Concurrent(most) => json!({ "concurrent": most }),
    };
    json!({ "limit": charge.limit, "partition": charge.partition, "rule": rule })
}

fn amount(amount: Amount) -> Value {
    match amount {
        Amount::Requests(requests) => json!({ "requests": requests }),
        Amount::Tokens { kind, weight_permille } => {
            let kind = match kind {
                TokenKind::Input => "input",
                TokenKind::Output => "output",
                TokenKind::All => "all",
            };
            json!({ "tokens": { "kind": kind, "weight-permille": weight_permille } })
        }
    }
}

fn shape(shape: Shape) -> Value {
    match shape {
        Shape::Window { capacity, length_ms } => json!({ "window": { "capacity": capacity, "length-ms": length_ms } }),
        Shape::Bucket { burst, refill, every_ms } => {
            json!({ "bucket": { "burst": burst, "refill": refill, "every-ms": every_ms } })
        }
        Shape::Calendar { capacity, period } => {
            let period = match period {
                Period::Hour => "hour",
                Period::Day => "day",
                Period::Week => "week",
                Period::Month => "month",
            };
            json!({ "calendar": { "capacity": capacity, "period": period } })
        }
    }
}

/// Each place at which `got` isn't what was expected. Of an object the fields that are expected must be there and fit; others may
/// be. Everything else must be the same: lists item by item.
pub(super) fn differences(expected: &Value, got: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", expected, got, &mut found);
    found
}

fn compare(at: &str, expected: &Value, got: &Value, found: &mut Vec<String>) {
    match (expected, got) {
        (Value::Object(fields), Value::Object(others)) => {
            for (name, field) in fields {
                let at = format!("{at}/{name}");
                match others.get(name) {
                    Some(other) => compare(&at, field, other, found),
                    None if at.matches('/').count() == 1 => found.push(format!("expected {expected}, got {got}")),
                    None => found.push(format!("at {at}: expected {field}, got nothing of this name")),
                }
            }
        }
        (Value::Array(items), Value::Array(others)) if items.len() == others.len() => {
            for (place, (item, other)) in items.iter().zip(others).enumerate() {
                compare(&format!("{at}/{place}"), item, other, found);
            }
        }
        _ if expected == got => {}
        _ if at.is_empty() => found.push(format!("expected {expected}, got {got}")),
        _ => found.push(format!("at {at}: expected {expected}, got {got}")),
    }
}

/// What is wrong with what a policy changed in the call.
pub(super) fn edit_differences(expected: &Value, got: &Value) -> Vec<String> {
    let in_edits = |difference| format!("in its edits: {difference}");
    differences(expected, got).into_iter().map(in_edits).collect()
}

/// What is wrong with the lines that a policy wrote.
pub(super) fn log_difference(expected: &[String], got: &[String]) -> Option<String> {
    (expected != got).then(|| format!("in its log: expected {}, got {}", json!(expected), json!(got)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_nobody_expects_may_be_there_and_everything_else_must_fit() {
        let check = |expected: Value, got: Value, wrong: &[&str]| {
            assert_eq!(differences(&expected, &got), wrong, "{expected} {got}");
        };
        let no = json!({ "reject": { "reason": "forbidden", "code": "closed", "message": "come back" } });
        check(json!("abstain"), json!("abstain"), &[]);
        check(json!({ "reject": {} }), no.clone(), &[]);
        check(json!({ "reject": { "code": "closed" } }), no.clone(), &[]);
        check(
            json!({ "reject": { "code": "open" } }),
            no.clone(),
            &["at /reject/code: expected \"open\", got \"closed\""],
        );
        check(
            json!({ "reject": { "cod": "a" } }),
            no.clone(),
            &["at /reject/cod: expected \"a\", got nothing of this name"],
        );
        check(json!("abstain"), json!({ "pick": 1 }), &["expected \"abstain\", got {\"pick\":1}"]);
        check(json!({ "pick": 1 }), json!({ "ranked": [1] }), &["expected {\"pick\":1}, got {\"ranked\":[1]}"]);
        check(json!({ "ranked": [1] }), json!({ "ranked": [1, 0] }), &["at /ranked: expected [1], got [1,0]"]);
        check(json!({ "ranked": [0, 1] }), json!({ "ranked": [1, 1] }), &["at /ranked/0: expected 0, got 1"]);
    }

    #[test]
    fn a_decision_reads_as_in_the_interface() {
        let tokens = Amount::Tokens { kind: TokenKind::All, weight_permille: 1500 };
        let rules = [
            Rule::Concurrent(2),
            Rule::Metered { amount: tokens, shape: Shape::Calendar { capacity: 9, period: Period::Day } },
            Rule::Metered { amount: Amount::Requests(1), shape: Shape::Window { capacity: 3, length_ms: 60_000 } },
            Rule::Metered { amount: Amount::Requests(1), shape: Shape::Bucket { burst: 4, refill: 1, every_ms: 10 } },
        ];
        let charges = rules.map(|rule| Charge { limit: "l".to_owned(), partition: "p".to_owned(), rule });
        let requests = json!({ "requests": 1 });
        let rules = [
            json!({ "concurrent": 2 }),
            json!({ "metered": { "amount": { "tokens": { "kind": "all", "weight-permille": 1500 } },
                "shape": { "calendar": { "capacity": 9, "period": "day" } } } }),
            json!({ "metered": { "amount": requests, "shape": { "window": { "capacity": 3, "length-ms": 60_000 } } } }),
            json!({ "metered": { "amount": requests, "shape": { "bucket": { "burst": 4, "refill": 1, "every-ms": 10 } } } }),
        ];
        let expected: Vec<Value> =
            rules.into_iter().map(|rule| json!({ "limit": "l", "partition": "p", "rule": rule })).collect();
        assert_eq!(admitted(&AdmitDecision::Admit(charges.into())), json!({ "admit": expected }));
    }
}
