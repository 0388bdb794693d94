//! WIT types to the domain's and back. Every text that a guest answers is checked here, before anything acts on it.

use smallvec::SmallVec;

use super::{
    bindings::{
        asked::{charges, types},
        hooks::{admit, authenticate, route, settle},
    },
    host_state::GivenAttributes,
};
use crate::{
    llm::{Operation, Surface},
    policy::{
        self, AdmitDecision, Amount, AuthenticateDecision, Charge, Exchange, MOST_UNITS, Period, Reason, Rejection,
        RouteDecision, Rule, Shape, TokenKind,
    },
};

/// Charges that one policy may ask for in one call: more than a key and its user have limits for one model.
const MAX_CHARGES: usize = 24;
const MAX_MESSAGE_BYTES: usize = 1024;
const MAX_SUBJECT_BYTES: usize = 128;
/// Lengths of a window: 60 slices of at least a millisecond, at most a day.
const WINDOW_LENGTH_MS: std::ops::RangeInclusive<u32> = 60..=86_400_000;

/// What is wrong with an answer.
pub(super) type Wrong = String;

pub(super) fn head(head: &policy::Head) -> types::Head {
    types::Head { surface: surface(head.surface), operation: operation(head.operation), body_bytes: head.body_bytes }
}

pub(super) fn presented(presented: &policy::Presented) -> types::Presented<'_> {
    let scheme = match presented.scheme {
        policy::Scheme::Bearer => types::Scheme::Bearer,
        policy::Scheme::ApiKeyHeader => types::Scheme::ApiKeyHeader,
        policy::Scheme::Basic => types::Scheme::Basic,
        policy::Scheme::Other => types::Scheme::Other,
    };
    types::Presented { scheme, key_id: presented.key_id.as_deref() }
}

pub(super) fn principal(principal: &policy::Principal) -> types::PrincipalParam<'_> {
    types::PrincipalParam { subject: &principal.subject, user: principal.user.as_deref() }
}

pub(super) fn call(call: &policy::Call) -> types::Call<'_> {
    types::Call {
        surface: surface(call.surface),
        operation: operation(call.operation),
        model: &call.model,
        body_bytes: call.body_bytes,
        input_tokens: call.input_tokens,
        output_cap: call.output_cap,
        streaming: call.streaming,
    }
}

pub(super) fn outcome(outcome: &policy::Outcome) -> settle::Outcome {
    let end = match outcome.end {
        policy::End::Complete => settle::End::Complete,
        policy::End::ClientLeft => settle::End::ClientLeft,
        policy::End::Failed => settle::End::Failed,
    };
    settle::Outcome {
        end,
        status: outcome.status,
        backend: outcome.backend,
        input_tokens: outcome.input_tokens,
        output_tokens: outcome.output_tokens,
        estimated: outcome.is_estimated,
        first_token_us: outcome.first_token_us,
        total_us: outcome.total_us,
    }
}

/// On the stack for as many backends as most people have.
pub(super) fn backends(backends: &[policy::Backend]) -> SmallVec<[types::Backend; 16]> {
    backends
        .iter()
        .map(|backend| types::Backend {
            id: backend.id,
            weight: backend.weight,
            in_flight: backend.in_flight,
            model_in_flight: backend.model_in_flight,
            capacity: backend.capacity,
            queued: backend.queued,
            first_token_us: backend.first_token_us,
            tokens_per_second_milli: backend.tokens_per_second_milli,
            errors_permille: backend.errors_permille,
            resident: backend.resident,
        })
        .collect()
}

fn surface(surface: Surface) -> types::Surface {
    match surface {
        Surface::Ollama => types::Surface::Ollama,
        Surface::OpenAi => types::Surface::Openai,
        Surface::Anthropic => types::Surface::Anthropic,
        Surface::Other => types::Surface::Other,
    }
}

fn operation(operation: Operation) -> types::Operation {
    match operation {
        Operation::Generate => types::Operation::Generate,
        Operation::Chat => types::Operation::Chat,
        Operation::Complete => types::Operation::Complete,
        Operation::Respond => types::Operation::Respond,
        Operation::Embed => types::Operation::Embed,
        Operation::Transcribe => types::Operation::Transcribe,
        Operation::Show => types::Operation::Show,
        Operation::Listing => types::Operation::Listing,
        Operation::Manage => types::Operation::Manage,
        Operation::Other => types::Operation::Other,
    }
}

/// A decision of `authenticate`, with what the policy said of the caller. The presented credential stands in no text that is
/// taken over.
pub(super) fn authenticated(
    decision: authenticate::Decision,
    given: GivenAttributes,
    exchange: &Exchange,
) -> Result<AuthenticateDecision, Wrong> {
    match decision {
        authenticate::Decision::Abstain => Ok(AuthenticateDecision::Abstain),
        authenticate::Decision::Reject(rejected) => Ok(AuthenticateDecision::Reject(rejection(rejected, exchange)?)),
        authenticate::Decision::Allow(principal) => {
            let subject = principal.subject;
            if subject.is_empty() || subject.len() > MAX_SUBJECT_BYTES || subject.chars().any(char::is_control) {
                return Err(format!("a subject has 1 to {MAX_SUBJECT_BYTES} bytes and no control characters"));
            }
            // It would stand in logs and counters.
            without_credential("subject", &subject, exchange)?;
            Ok(AuthenticateDecision::Allow { subject, attributes: given.into() })
        }
    }
}

/// A decision of `admit`.
pub(super) fn admitted(decision: admit::Decision, exchange: &Exchange) -> Result<AdmitDecision, Wrong> {
    match decision {
        admit::Decision::Abstain => Ok(AdmitDecision::Abstain),
        admit::Decision::Reject(rejected) => Ok(AdmitDecision::Reject(rejection(rejected, exchange)?)),
        admit::Decision::Admit(charges) if charges.len() > MAX_CHARGES => {
            Err(format!("it asked for {} charges, at most {MAX_CHARGES} are taken", charges.len()))
        }
        admit::Decision::Admit(charges) => Ok(AdmitDecision::Admit(
            charges.into_iter().map(|asked| charge(asked, exchange)).collect::<Result<_, _>>()?,
        )),
    }
}

/// A decision of `route`; whether its backends were offered is the chain's to check.
pub(super) fn routed(decision: route::Decision, exchange: &Exchange) -> Result<RouteDecision, Wrong> {
    Ok(match decision {
        route::Decision::Abstain => RouteDecision::Abstain,
        route::Decision::Reject(rejected) => RouteDecision::Reject(rejection(rejected, exchange)?),
        route::Decision::Pick(id) => RouteDecision::Pick(id),
        route::Decision::Ranked(ids) => RouteDecision::Ranked(ids),
    })
}

fn without_credential(what: &str, text: &str, exchange: &Exchange) -> Result<(), Wrong> {
    if exchange.holds_credential(text.as_bytes()) {
        return Err(format!("a {what} may not hold the credential"));
    }
    Ok(())
}

fn rejection(rejected: types::Rejection, exchange: &Exchange) -> Result<Rejection, Wrong> {
    let code_fits = matches!(rejected.code.len(), 1..=64)
        && rejected.code.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    if !code_fits {
        return Err("a rejection's code is 1 to 64 of a-z, 0-9 and _".to_owned());
    }
    without_credential("rejection's code", &rejected.code, exchange)?;
    if rejected.message.len() > MAX_MESSAGE_BYTES || rejected.message.chars().any(char::is_control) {
        return Err(format!("a rejection's message has at most {MAX_MESSAGE_BYTES} bytes and no control characters"));
    }
    let reason = match rejected.reason {
        types::Reason::Unauthorized => Reason::Unauthorized,
        types::Reason::Forbidden => Reason::Forbidden,
        types::Reason::NotFound => Reason::NotFound,
        types::Reason::Invalid => Reason::Invalid,
        types::Reason::TooMany => Reason::TooMany,
        types::Reason::BudgetSpent => Reason::BudgetSpent,
        types::Reason::Unavailable => Reason::Unavailable,
    };
    let message = exchange.blanked(rejected.message);
    Ok(Rejection { reason, code: rejected.code, message, retry_after_ms: rejected.retry_after_ms })
}

fn charge(charge: charges::Charge, exchange: &Exchange) -> Result<Charge, Wrong> {
    let limit_fits = matches!(charge.limit.len(), 1..=32)
        && charge.limit.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if !limit_fits {
        return Err("a limit's name is 1 to 32 of a-z, 0-9 and -".to_owned());
    }
    without_credential("limit's name", &charge.limit, exchange)?;
    without_credential("partition", &charge.partition, exchange)?;
    Ok(Charge { limit: charge.limit, partition: charge.partition, rule: rule(charge.rule)? })
}

fn rule(rule: charges::Rule) -> Result<Rule, Wrong> {
    match rule {
        charges::Rule::Metered(metered) => {
            Ok(Rule::Metered { amount: amount(metered.amount)?, shape: shape(metered.shape)? })
        }
        charges::Rule::Concurrent(most) => Ok(Rule::Concurrent(most)),
    }
}

fn amount(amount: charges::Amount) -> Result<Amount, Wrong> {
    match amount {
        charges::Amount::Requests(0) => Err("a charge of no requests".to_owned()),
        charges::Amount::Requests(requests) => Ok(Amount::Requests(requests)),
        charges::Amount::Tokens(tokens) if tokens.weight_permille == 0 => {
            Err("a charge of tokens that weigh nothing".to_owned())
        }
        charges::Amount::Tokens(tokens) => {
            let kind = match tokens.kind {
                charges::TokenKind::Input => TokenKind::Input,
                charges::TokenKind::Output => TokenKind::Output,
                charges::TokenKind::All => TokenKind::All,
            };
            Ok(Amount::Tokens { kind, weight_permille: tokens.weight_permille })
        }
    }
}

fn shape(shape: charges::Shape) -> Result<Shape, Wrong> {
    let (shortest, longest) = (WINDOW_LENGTH_MS.start(), WINDOW_LENGTH_MS.end());
    match shape {
        charges::Shape::Window(window) if !WINDOW_LENGTH_MS.contains(&window.length_ms) => {
            Err(format!("a window is {shortest} to {longest} ms long, not {}", window.length_ms))
        }
        charges::Shape::Window(window) => {
            Ok(Shape::Window { capacity: window.capacity.min(MOST_UNITS), length_ms: window.length_ms })
        }
        charges::Shape::Bucket(bucket) if bucket.refill == 0 || !(1..=*longest).contains(&bucket.every_ms) => {
            Err(format!("a bucket gets at least one unit back, every 1 to {longest} ms"))
        }
        charges::Shape::Bucket(bucket) => Ok(Shape::Bucket {
            burst: bucket.burst.min(MOST_UNITS),
            refill: bucket.refill.min(MOST_UNITS),
            every_ms: bucket.every_ms,
        }),
        charges::Shape::Calendar(calendar) => {
            let period = match calendar.period {
                charges::Period::Hour => Period::Hour,
                charges::Period::Day => Period::Day,
                charges::Period::Week => Period::Week,
                charges::Period::Month => Period::Month,
            };
            Ok(Shape::Calendar { capacity: calendar.capacity.min(MOST_UNITS), period })
        }
    }
}
