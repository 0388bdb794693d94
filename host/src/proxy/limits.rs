//! What a call of a key would be charged now, for operators. A dry run: the policies are asked as for a chat, and nothing is
//! charged. What they write in their state is dropped, and neither a breaker nor a metric learns of it.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use http::HeaderMap;
use serde_json::json;

use super::{Parts, admit::wanted};
use crate::{
    clock::moment,
    llm::{
        model_name::ModelName,
        operations::{self, Row},
    },
    policy::{
        AdmitVerdict, Call, Caller, Charge, Exchange, ExchangeHead, Fault, NotRehearsed, Principal, Rejection,
        RequestBody, TokenKind, Untold,
    },
    ports::{
        control::{LimitList, LimitStatus},
        keys::{Attributes, KeyRecord, Proof},
    },
    quota::{self, Moment, Refused, Standing, Unit},
};

/// Why it can't be told what a call would be charged.
#[derive(Debug, thiserror::Error)]
pub enum NotTold {
    /// A call would fail as well.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// A policy can't be asked without a trace.
    #[error(transparent)]
    NotRehearsed(#[from] NotRehearsed),
    /// A call would be refused before it is charged.
    #[error("a policy refuses such calls ({}): {}", .0.code, .0.message)]
    Rejected(Rejection),
    /// The key's scope leaves this model out.
    #[error("this key may not use this model: leave the model out, or name another")]
    OutOfScope,
    /// The policies' charges make no sense.
    #[error(transparent)]
    BadAnswer(#[from] Refused),
}

impl Parts {
    /// What a chat of this key with this model would be charged, and where those counters stand. Takes long, for instances of
    /// all policies are made: never on a worker that serves calls.
    ///
    /// # Errors
    /// [`NotTold`] says what becomes of such a call instead.
    pub async fn limits_of(&self, key: &Arc<KeyRecord>, model: Option<&ModelName>) -> Result<LimitList, NotTold> {
        if model.is_some_and(|model| !key.scope.allows(model.canonical())) {
            return Err(NotTold::OutOfScope);
        }
        let (exchange, call, principal) = self.made_up(key, model);
        let charges = match self.chains.load_full().rehearsal()?.admit(&exchange, &call, &principal, &mut Untold)? {
            AdmitVerdict::Reject(rejection) => return Err(NotTold::Rejected(rejection)),
            AdmitVerdict::Admit { charges, edited } => {
                let model = edited.as_ref().and_then(|edited| edited.model.as_ref());
                if model.is_some_and(|model| !key.scope.allows(model.canonical())) {
                    return Err(NotTold::OutOfScope);
                }
                charges
            }
        };
        let wanted: Vec<quota::Charge<'_>> = charges.iter().map(wanted).collect();
        let at = Moment::now(&self.clock);
        let (sharing, standings) = self.limits.look(at, &wanted).await?;
        let status = |((policy, _), standing): (&(Arc<str>, Charge), _)| status(policy, standing, at.unix_us);
        Ok(LimitList {
            key: key.id.to_string(),
            state: key.standing(at.unix_us / 1_000).as_str().to_owned(),
            model: model.map(|model| model.canonical().to_owned()),
            source: sharing.source().to_owned(),
            limits: charges.iter().zip(standings).map(status).collect(),
        })
    }

    /// A chat of this key that says nothing.
    fn made_up(&self, key: &Arc<KeyRecord>, model: Option<&ModelName>) -> (Arc<Exchange>, Call, Principal) {
        let row: &'static Row = &operations::CHAT;
        let canonical = model.map_or("", |model| model.canonical());
        let exchange = Exchange::new(ExchangeHead {
            request_id: "limits-show".into(),
            row,
            seed: 0,
            peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
            path: "/api/chat".into(),
            headers: HeaderMap::new(),
            credential: None,
            proof: Proof::Proven(Arc::clone(key)),
        });
        let principal = Principal { subject: key.id.clone(), user: key.user_name().map(Into::into) };
        let attributes = Attributes::default();
        exchange.note_caller(Caller { principal: principal.clone(), key: Some(Arc::clone(key)), attributes });
        let bytes = json!({ "model": canonical, "messages": [] }).to_string().into();
        exchange.note_body(RequestBody { bytes, cap: self.bounds.max_body, buffers: self.buffers.clone() });
        let call = Call { streaming: false, ..Call::of(row, model, None, 0) };
        (Arc::new(exchange), call, principal)
    }
}

/// Where a counter stands, as operators read it.
pub(super) fn status(policy: &str, (standing, used): (Standing, u64), now_us: u64) -> LimitStatus {
    let Standing { limit, unit, capacity, remaining, reserved, reset_after_us, .. } = standing;
    let reset_after_us = reset_after_us.filter(|after| *after > 0);
    LimitStatus {
        policy: policy.to_owned(),
        limit: limit.to_string(),
        unit: word(unit).to_owned(),
        capacity,
        spent: used.saturating_sub(reserved),
        reserved,
        remaining,
        resets_at: reset_after_us.map(|after| moment(now_us.saturating_add(after).div_ceil(1_000_000) * 1_000)),
    }
}

fn word(unit: Unit) -> &'static str {
    match unit {
        Unit::Requests => "requests",
        Unit::Tokens(TokenKind::Input) => "input-tokens",
        Unit::Tokens(TokenKind::Output) => "output-tokens",
        Unit::Tokens(TokenKind::All) => "tokens",
        Unit::Calls => "calls",
    }
}
