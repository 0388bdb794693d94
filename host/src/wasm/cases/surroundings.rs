//! What surrounds a policy in a case: its facts, the call in progress, and what the ports answer.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::format::{self, Case, HeldLimit, Holder};
use crate::{
    clock::Clock,
    llm::{
        Operation, Surface,
        model_name::ModelName,
        operations::{self, Match, Pattern, ROWS, Row},
    },
    policy::{
        Backend, Call, Caller, End, Exchange, ExchangeHead, Head, Hook, Outcome, Presented, Principal, RequestBody,
    },
    ports::{
        catalogue::Catalogue,
        keys::{Attributes, KeyRecord, KeyState, Proof, Scope, Standing, User, UserState},
        limits::{LimitChange, LimitSet, Limits},
    },
    wasm::{GuestPolicy, Terms, budget::NO_WALL_CAP, host_state::Shared, log::GuestLog, shared_state::SharedState},
    wire::bounded::BufferBudget,
};

/// When a case says nothing of the time: Thursday, 1 January 2026, noon UTC.
const NOON_MS: u64 = 1_767_268_800_000;
const DEFAULT_MODEL: &str = "llama3:latest";
const DEFAULT_SUBJECT: &str = "k1";
/// What a policy may make of the body by edits, and room for a few of such bodies, in bytes.
const MOST_BODY: usize = 16 << 20;
const ROOM_FOR_EDITS: u64 = 64 << 20;

/// All that a hook is told and may ask in one case.
#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) head: Head,
    pub(super) presented: Option<Presented>,
    pub(super) call: Call,
    pub(super) caller: Caller,
    pub(super) backends: Vec<Backend>,
    pub(super) outcome: Outcome,
    now_ms: u64,
    headers: HeaderMap,
    body: Option<Bytes>,
    peer: IpAddr,
    row: &'static Row,
    path: Box<str>,
    credential: Option<Box<str>>,
    settings: Option<String>,
    seed: u64,
    proof: Proof,
    catalogue: Arc<CaseCatalogue>,
    counters: BTreeMap<String, i64>,
    values: BTreeMap<String, String>,
}

impl Surroundings {
    pub(super) fn of(case: &Case) -> Self {
        let now_ms = case.clock.map_or(NOON_MS, |clock| u64::try_from(clock.as_millisecond()).unwrap_or(0));
        let body = case.request.body.as_ref().map(|body| Bytes::from(body.to_string()));
        let head = head(case.head.as_ref().unwrap_or(&format::Head::default()));
        let call = call(case.call.as_ref().unwrap_or(&format::Call::default()), body.as_ref());
        let facts = match case.hook {
            Hook::Authenticate => (head.surface, head.operation),
            Hook::Admit | Hook::Route | Hook::Settle => (call.surface, call.operation),
        };
        let (row, path) = place(facts, &call.model, case.request.path.as_deref());
        let header = |(name, value): (&String, &String)| {
            Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
        };
        let catalogue = CaseCatalogue {
            models: case.catalogue.models.iter().map(|(name, model)| (canonical(name), *model)).collect(),
            names: case.catalogue.backend_names.iter().map(|(id, name)| (*id, name.as_str().into())).collect(),
        };
        Self {
            head,
            presented: case
                .presented
                .as_ref()
                .map(|presented| Presented { scheme: presented.scheme, key_id: presented.key_id.clone() }),
            caller: caller(case, &call.model),
            call,
            backends: case.backends.as_ref().map_or_else(two_backends, |all| all.iter().map(backend).collect()),
            outcome: outcome(case.outcome.as_ref().unwrap_or(&format::Outcome::default())),
            now_ms,
            headers: case.request.headers.iter().filter_map(header).collect(),
            body,
            peer: case.request.peer.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            row,
            path,
            credential: case.presented.as_ref().and_then(|presented| presented.credential.clone()),
            settings: case.settings_text(),
            seed: case.env.seed,
            proof: case
                .keys
                .verify
                .as_ref()
                .map_or(Proof::Unproven, |key| Proof::Proven(Arc::new(proven(key, now_ms)))),
            catalogue: Arc::new(catalogue),
            counters: case.state.counters.clone(),
            values: case.state.values.clone(),
        }
    }

    /// What the instances of a policy share in this case, in place of what its real ones do.
    pub(super) fn shared(&self, policy: &GuestPolicy) -> Arc<Shared> {
        let (clock, _) = Clock::manual(self.now_ms);
        let state = SharedState::default();
        for (key, value) in &self.counters {
            state.add(key, *value, 0, 0);
        }
        for (key, value) in &self.values {
            state.put(key, value.as_bytes().to_vec(), 0, 0);
        }
        let real = policy.shared();
        let settings = self.settings.as_deref().unwrap_or(&real.terms.settings).into();
        // An instance for each call would leave none to look at.
        let terms = Terms { settings, is_per_call: false, ..real.terms.clone() };
        Arc::new(Shared {
            name: Arc::clone(&real.name),
            log: GuestLog::keeping(clock.clone(), terms.log_lines),
            clock,
            catalogue: Arc::<CaseCatalogue>::clone(&self.catalogue),
            state: Arc::new(state),
            masked_headers: Arc::clone(&real.masked_headers),
            default_limits: LimitSet::default(),
            stream: real.stream,
            wall_ticks: NO_WALL_CAP,
            terms,
        })
    }

    /// The call in progress, as it would be at the hook.
    pub(super) fn exchange(&self) -> Arc<Exchange> {
        let exchange = Exchange::new(ExchangeHead {
            request_id: "case".into(),
            row: self.row,
            seed: self.seed,
            peer: self.peer,
            path: self.path.clone(),
            headers: self.headers.clone(),
            credential: self.credential.clone(),
            proof: self.proof.clone(),
        });
        exchange.note_caller(self.caller.clone());
        if let Some(body) = &self.body {
            let buffers = BufferBudget::new(ROOM_FOR_EDITS);
            exchange.note_body(RequestBody { bytes: body.clone(), cap: MOST_BODY, buffers });
        }
        Arc::new(exchange)
    }
}

/// The operation of these facts and its path, or that of this path. What no row has is a chat.
fn place((surface, operation): (Surface, Operation), model: &str, path: Option<&str>) -> (&'static Row, Box<str>) {
    let fits = |row: &Row| row.surface == surface && row.operation == operation;
    let by_facts = || ROWS.iter().find(|row| fits(row)).unwrap_or(&operations::CHAT);
    let Some(path) = path else {
        let row = by_facts();
        let path = match row.pattern {
            Pattern::Exact(path) | Pattern::Segment(path) | Pattern::Digest(path) => path.into(),
            Pattern::Rest(prefix) => format!("{prefix}{model}").into(),
        };
        return (row, path);
    };
    match operations::find(&Method::POST, path) {
        Match::Row(row, _) if fits(row) => (row, path.into()),
        _ => (by_facts(), path.into()),
    }
}

fn head(given: &format::Head) -> Head {
    Head {
        surface: given.surface.unwrap_or(Surface::Ollama),
        operation: given.operation.unwrap_or(Operation::Chat),
        body_bytes: given.body_bytes,
    }
}

fn call(given: &format::Call, body: Option<&Bytes>) -> Call {
    let read = body.map_or(0, |body| u64::try_from(body.len()).unwrap_or(u64::MAX));
    Call {
        surface: given.surface.unwrap_or(Surface::Ollama),
        operation: given.operation.unwrap_or(Operation::Chat),
        model: given.model.as_deref().map_or_else(|| DEFAULT_MODEL.into(), canonical),
        body_bytes: given.body_bytes.unwrap_or(read),
        input_tokens: given.input_tokens.unwrap_or(0),
        output_cap: given.output_cap,
        streaming: given.streaming,
    }
}

/// As facts have it; a name that can't be read stays as it is written.
fn canonical(name: &str) -> Box<str> {
    ModelName::parse(name).map_or_else(|_| name.into(), |name| name.canonical().into())
}

fn two_backends() -> Vec<Backend> {
    (0..2).map(|id| Backend { id, weight: 1, ..NO_FACTS }).collect()
}

const NO_FACTS: Backend = Backend {
    id: 0,
    weight: 1,
    in_flight: 0,
    model_in_flight: 0,
    capacity: None,
    queued: 0,
    first_token_us: None,
    tokens_per_second_milli: None,
    errors_permille: 0,
    resident: false,
};

fn backend(given: &format::Backend) -> Backend {
    Backend {
        id: given.id,
        weight: given.weight.unwrap_or(1),
        in_flight: given.in_flight,
        model_in_flight: given.model_in_flight,
        capacity: given.capacity,
        queued: given.queued,
        first_token_us: given.first_token_us,
        tokens_per_second_milli: given.tokens_per_second_milli,
        errors_permille: given.errors_permille,
        resident: given.resident,
    }
}

fn outcome(given: &format::Outcome) -> Outcome {
    Outcome {
        end: given.end.unwrap_or(End::Complete),
        status: given.status.unwrap_or(200),
        backend: given.backend,
        input_tokens: given.input_tokens,
        output_tokens: given.output_tokens,
        is_estimated: given.estimated,
        first_token_us: given.first_token_us,
        total_us: given.total_us,
    }
}

/// Who calls, with limits and attributes on the records from which real calls take them.
fn caller(case: &Case, model: &str) -> Caller {
    let subject: Box<str> = case.principal.as_ref().map_or(DEFAULT_SUBJECT.into(), |given| given.subject.clone());
    let user = case.principal.as_ref().and_then(|given| given.user.clone());
    let limits = |holder| limits(&case.principals.limits, holder, model);
    let of_user = limits(Holder::User);
    let owner = user.clone().or_else(|| (!of_user.is_empty()).then(|| "user".into()));
    let key = KeyRecord {
        user: owner.map(|name| Arc::new(User { limits: of_user, ..of_name(name) })),
        limits: limits(Holder::Key),
        attributes: case.principals.attributes.iter().map(|(name, all)| (name.clone(), all.clone().into())).collect(),
        ..active(subject.clone())
    };
    Caller { principal: Principal { subject, user }, key: Some(Arc::new(key)), attributes: Attributes::default() }
}

fn limits(held: &[HeldLimit], holder: Holder, model: &str) -> Limits {
    let mut limits = Limits::default();
    for limit in held.iter().filter(|limit| limit.holder == holder) {
        let model = limit.of_model.then(|| model.to_owned());
        limits.apply(&LimitChange { model, name: limit.name, limit: Some(limit.value) });
    }
    limits
}

fn of_name(name: Box<str>) -> User {
    User { name, state: UserState::Active, attributes: Box::default(), limits: Limits::default(), created_at_ms: 0 }
}

fn active(id: Box<str>) -> KeyRecord {
    KeyRecord {
        name: id.clone(),
        id,
        user: None,
        state: KeyState::Active,
        expires_at_ms: None,
        limits: Limits::default(),
        scope: Scope::AllModels,
        may_manage: false,
        attributes: Box::default(),
        created_at_ms: 0,
    }
}

/// A record that `keys.verify` answers as the case says.
fn proven(given: &format::Key, now_ms: u64) -> KeyRecord {
    let (state, expires_at_ms) = match given.standing {
        Standing::Active => (KeyState::Active, given.expires_at_ms),
        Standing::Disabled => (KeyState::Disabled, given.expires_at_ms),
        Standing::Revoked => (KeyState::Revoked, given.expires_at_ms),
        Standing::Expired => (KeyState::Active, Some(given.expires_at_ms.unwrap_or(now_ms).min(now_ms))),
    };
    let user = given.user.clone().map(|name| Arc::new(of_name(name)));
    KeyRecord { state, expires_at_ms, user, ..active(given.id.clone()) }
}

/// The models and backends of a case.
#[derive(Debug)]
struct CaseCatalogue {
    models: BTreeMap<Box<str>, format::Model>,
    names: BTreeMap<u32, Arc<str>>,
}

impl CaseCatalogue {
    fn model(&self, name: &str) -> format::Model {
        self.models.get(&canonical(name)).copied().unwrap_or_default()
    }
}

impl Catalogue for CaseCatalogue {
    fn candidates(&self, model: &str, _: Surface, _: &Scope) -> u32 {
        self.model(model).candidates
    }

    fn size_bytes(&self, model: &str) -> Option<u64> {
        self.model(model).size_bytes
    }

    fn parameters(&self, model: &str) -> Option<u64> {
        self.model(model).parameters
    }

    fn backend_name(&self, id: u32) -> Option<Arc<str>> {
        self.names.get(&id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        ports::catalogue::NoBackends,
        wasm::{BUILT_IN, Cases, Runtime, RuntimeConfig, budget::WALL_CAP_TICKS},
    };

    #[test]
    fn the_terms_of_callers_calls_have_a_wall_cap_and_those_of_warm_up_dry_runs_and_cases_have_none() {
        let config = RuntimeConfig {
            cpu_budget: Duration::from_millis(2),
            memory_bytes: 64 << 20,
            masked_headers: Vec::new(),
            default_limits: LimitSet::default(),
            ready_instances: 1,
            recheck_every: 0,
            cache: None,
        };
        let runtime = Runtime::start(config, Clock::system(), Arc::new(NoBackends)).unwrap();
        let [built_in, ..] = BUILT_IN;
        let (compiled, terms) = (runtime.compile(built_in.bytes).unwrap(), runtime.terms.clone());
        let started = runtime.start_policy(&built_in.name.into(), &compiled, &terms).unwrap();
        let cases = Cases::parse(br#"[{"name":"any","hook":"route","expect":"abstain"}]"#).unwrap();

        let calls = started.policy().shared();
        assert_eq!(calls.wall_ticks, WALL_CAP_TICKS, "calls of callers");
        let in_a_case = Surroundings::of(&cases.0[0]).shared(started.policy());
        let others = [("warm-up", &*started.scratch), ("a dry run", &calls.rehearsing()), ("a case", &in_a_case)];
        for (what, shared) in others {
            assert_eq!(shared.wall_ticks, NO_WALL_CAP, "{what}");
        }
    }
}
