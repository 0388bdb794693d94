//! How decisions fold, by policies that answer what a test says.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::HeaderMap;

use super::*;
use crate::{
    llm::{Operation, Surface, operations},
    policy::{Amount, Draft, ExchangeHead, Reason, RequestBody, Rule, Shape, Untold},
    ports::keys::Proof,
    wire::bounded::BufferBudget,
};

/// A policy that gives the answers it was made with.
#[derive(Clone, Debug)]
struct Scripted {
    name: Arc<str>,
    authenticate: Option<Result<AuthenticateDecision, FaultKind>>,
    admit: Option<AdmitDecision>,
    /// The model that it sets.
    sets: Option<&'static str>,
    /// The models and bodies that it was shown at `admit`.
    shown: Arc<Mutex<Vec<String>>>,
    route: Option<RouteDecision>,
    settles: bool,
    /// Fails at `admit`, `route` and `settle` instead of answering.
    fails: bool,
    asked: Arc<AtomicUsize>,
}

impl Scripted {
    fn named(name: &str) -> Self {
        Self {
            name: name.into(),
            authenticate: None,
            admit: None,
            sets: None,
            shown: Arc::default(),
            route: None,
            settles: false,
            fails: false,
            asked: Arc::default(),
        }
    }

    fn answer<T>(&self, hook: Hook, answer: T) -> Result<T, Fault> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let fault = || Fault { policy: Arc::clone(&self.name), hook, kind: FaultKind::Trap, detail: String::new() };
        if self.fails { Err(fault()) } else { Ok(answer) }
    }
}

impl Policy for Scripted {
    fn name(&self) -> &Arc<str> {
        &self.name
    }
    fn decides(&self, hook: Hook) -> bool {
        match hook {
            Hook::Authenticate => self.authenticate.is_some(),
            Hook::Admit => self.admit.is_some(),
            Hook::Route => self.route.is_some(),
            Hook::Settle => self.settles,
        }
    }
    fn authenticate(&self, _: &Arc<Exchange>, _: &Head, _: Option<&Presented>) -> Result<AuthenticateDecision, Fault> {
        self.authenticate.clone().unwrap().map_err(|kind| Fault {
            policy: Arc::clone(&self.name),
            hook: Hook::Authenticate,
            kind,
            detail: String::new(),
        })
    }
    fn admit(&self, exchange: &Arc<Exchange>, call: &Call, _: &Principal) -> Result<Admission, Fault> {
        let body = exchange.body().map_or_else(String::new, |body| String::from_utf8_lossy(body).into_owned());
        self.shown.lock().unwrap().push(format!("{} {body}", call.model));
        let draft = self.sets.map(|model| {
            let mut draft = Box::<Draft>::default();
            draft.set_model(exchange, model).unwrap();
            draft
        });
        self.answer(Hook::Admit, Admission { decision: self.admit.clone().unwrap(), draft })
    }
    fn route(&self, _: &Arc<Exchange>, _: &Call, _: &Principal, _: &[Backend]) -> Result<RouteDecision, Fault> {
        self.answer(Hook::Route, self.route.clone().unwrap())
    }
    fn settle(&self, _: &Arc<Exchange>, _: &Call, _: &Outcome) -> Result<(), Fault> {
        self.answer(Hook::Settle, ())
    }
    fn rehearsing(&self) -> Result<Arc<dyn Policy>, NotRehearsed> {
        Ok(Arc::new(self.clone()))
    }
}

#[derive(Debug)]
struct Unheard;

impl Observer for Unheard {
    fn asked(&self, _: &str, _: Hook, _: Duration, _: Option<FaultKind>) {}
}

fn chains(policies: Vec<Scripted>) -> Chains {
    let links = policies.into_iter().map(|policy| Link::from(Arc::new(policy) as Arc<dyn Policy>)).collect();
    Chains::new(1, links, Clock::system(), Arc::new(Unheard))
}

fn exchange() -> Arc<Exchange> {
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Arc::new(Exchange::new(ExchangeHead {
        request_id: "r1".into(),
        row: &operations::CHAT,
        seed: 1,
        peer,
        path: "/api/chat".into(),
        headers: HeaderMap::new(),
        credential: None,
        proof: Proof::NotAKey,
    }))
}

fn rejection() -> Rejection {
    Rejection { reason: Reason::Forbidden, code: "no".to_owned(), message: "no".to_owned(), retry_after_ms: None }
}

fn call() -> Call {
    Call {
        surface: Surface::Ollama,
        operation: Operation::Chat,
        model: "llama3:latest".into(),
        body_bytes: 0,
        input_tokens: 0,
        output_cap: None,
        streaming: true,
    }
}

fn principal() -> Principal {
    Principal { subject: "k1".into(), user: None }
}

fn backend(id: u32) -> Backend {
    Backend {
        id,
        weight: 1,
        in_flight: 0,
        model_in_flight: 0,
        capacity: None,
        queued: 0,
        first_token_us: None,
        tokens_per_second_milli: None,
        errors_permille: 0,
        resident: false,
    }
}

fn authenticate(answers: Vec<Result<AuthenticateDecision, FaultKind>>) -> Result<AuthenticateVerdict, Fault> {
    let policies = answers.into_iter().zip(["a", "b", "c"]).map(|(answer, name)| {
        let mut policy = Scripted::named(name);
        policy.authenticate = Some(answer);
        policy
    });
    let head = Head { surface: Surface::Ollama, operation: Operation::Chat, body_bytes: None };
    chains(policies.collect()).authenticate(&exchange(), &head, None, &mut Untold)
}

fn allow(subject: &str) -> Result<AuthenticateDecision, FaultKind> {
    Ok(AuthenticateDecision::Allow { subject: subject.to_owned(), attributes: Attributes::default() })
}

#[test]
fn the_first_that_does_not_abstain_knows_the_caller() {
    let verdict = authenticate(vec![Ok(AuthenticateDecision::Abstain), allow("x"), allow("y")]).unwrap();
    let AuthenticateVerdict::Allow { subject, policy, .. } = verdict else { panic!("{verdict:?}") };
    assert_eq!((subject.as_str(), &*policy), ("x", "b"));
}

#[test]
fn when_all_abstain_or_there_are_none_the_caller_is_unknown() {
    assert!(matches!(authenticate(vec![]), Ok(AuthenticateVerdict::Unknown)));
    assert!(matches!(authenticate(vec![Ok(AuthenticateDecision::Abstain)]), Ok(AuthenticateVerdict::Unknown)));
}

#[test]
fn a_fault_ends_the_chain_even_if_a_later_policy_would_allow() {
    let fault = authenticate(vec![Err(FaultKind::Trap), allow("x")]).unwrap_err();
    assert_eq!((&*fault.policy, fault.kind), ("a", FaultKind::Trap));
}

fn charge(limit: &str) -> Charge {
    let shape = Shape::Window { capacity: 1, length_ms: 1000 };
    let rule = Rule::Metered { amount: Amount::Requests(1), shape };
    Charge { limit: limit.to_owned(), partition: "k1".to_owned(), rule }
}

#[test]
fn charges_add_up_and_a_rejection_ends_them() {
    let policy = |name, decision| {
        let mut policy = Scripted::named(name);
        policy.admit = Some(decision);
        policy
    };
    let paid = || AdmitDecision::Admit(vec![charge("x")]);
    let verdict = chains(vec![policy("a", paid()), policy("b", AdmitDecision::Abstain), policy("c", paid())])
        .admit(&exchange(), &call(), &principal(), &mut Untold)
        .unwrap();
    let AdmitVerdict::Admit { charges, edited: None } = verdict else { panic!("{verdict:?}") };
    let owners: Vec<&str> = charges.iter().map(|(policy, _)| &**policy).collect();
    assert_eq!(owners, ["a", "c"]);

    let last = policy("c", paid());
    let asked = Arc::clone(&last.asked);
    let refusing = chains(vec![policy("a", paid()), policy("b", AdmitDecision::Reject(rejection())), last]);
    assert!(matches!(refusing.admit(&exchange(), &call(), &principal(), &mut Untold), Ok(AdmitVerdict::Reject(_))));
    assert_eq!(asked.load(Ordering::Relaxed), 0, "after a rejection nobody is asked");
}

fn setting(name: &str, model: Option<&'static str>, decision: AdmitDecision) -> Scripted {
    Scripted { admit: Some(decision), sets: model, ..Scripted::named(name) }
}

fn with_body() -> (Arc<Exchange>, BufferBudget) {
    let (exchange, buffers) = (exchange(), BufferBudget::new(1 << 20));
    let bytes = r#"{"model":"a"}"#.into();
    exchange.note_body(RequestBody { bytes, cap: 1000, buffers: buffers.clone() });
    (exchange, buffers)
}

#[test]
fn each_policy_sees_the_call_as_those_before_it_changed_it() {
    let (exchange, buffers) = with_body();
    let last = setting("c", None, AdmitDecision::Admit(vec![charge("x")]));
    let shown = Arc::clone(&last.shown);
    let first = setting("a", Some("b:1"), AdmitDecision::Abstain);
    let second = setting("b", Some("c:2"), AdmitDecision::Admit(vec![]));
    let between = Arc::clone(&second.shown);
    let verdict = chains(vec![first, second, last]).admit(&exchange, &call(), &principal(), &mut Untold).unwrap();
    let AdmitVerdict::Admit { charges, edited: Some(edited) } = verdict else { panic!("{verdict:?}") };
    assert_eq!(*between.lock().unwrap(), [r#"b:1 {"model":"b:1"}"#]);
    assert_eq!(*shown.lock().unwrap(), [r#"c:2 {"model":"c:2"}"#]);
    assert_eq!((charges.len(), &*edited.call.model, edited.model.unwrap().canonical()), (1, "c:2", "c:2"));
    assert_eq!(exchange.body().unwrap(), r#"{"model":"a"}"#, "the call that came is as it was");
    assert_eq!(buffers.held(), 1024, "of the two copies one is kept");
}

#[test]
fn what_was_changed_is_dropped_when_its_policy_or_a_later_one_rejects_or_fails() {
    let refuse = || AdmitDecision::Reject(rejection());
    let (exchange, buffers) = with_body();
    for policies in [
        vec![setting("a", Some("b:1"), refuse())],
        vec![setting("a", Some("b:1"), AdmitDecision::Admit(vec![])), setting("b", None, refuse())],
    ] {
        let verdict = chains(policies).admit(&exchange, &call(), &principal(), &mut Untold);
        assert!(matches!(verdict, Ok(AdmitVerdict::Reject(_))), "{verdict:?}");
        assert_eq!(buffers.held(), 0);
    }
    let failing = Scripted { fails: true, ..setting("b", Some("c:2"), AdmitDecision::Abstain) };
    let chain = chains(vec![setting("a", Some("b:1"), AdmitDecision::Abstain), failing]);
    assert_eq!(&*chain.admit(&exchange, &call(), &principal(), &mut Untold).unwrap_err().policy, "b");
    assert_eq!((exchange.body().unwrap().as_ref(), buffers.held()), (&br#"{"model":"a"}"#[..], 0));
}

fn route(decision: RouteDecision) -> Result<RouteVerdict, Fault> {
    let mut policy = Scripted::named("r");
    policy.route = Some(decision);
    chains(vec![policy]).route(&exchange(), &call(), &principal(), &[backend(1), backend(2)], &mut Untold)
}

#[test]
fn an_order_of_offered_backends_stands() {
    assert!(matches!(route(RouteDecision::Pick(2)), Ok(RouteVerdict::Ranked(ids)) if ids == [2]));
    assert!(matches!(route(RouteDecision::Ranked(vec![2, 1])), Ok(RouteVerdict::Ranked(ids)) if ids == [2, 1]));
    assert!(matches!(route(RouteDecision::Abstain), Ok(RouteVerdict::Undecided)));
    assert!(matches!(route(RouteDecision::Reject(rejection())), Ok(RouteVerdict::Reject(_))));
}

#[test]
fn empty_repeated_and_unknown_backends_are_faults() {
    for (decision, text) in [
        (RouteDecision::Ranked(vec![]), "no backend"),
        (RouteDecision::Ranked(vec![1, 1]), "twice"),
        (RouteDecision::Ranked(vec![1, 3]), "not offered"),
        (RouteDecision::Pick(9), "not offered"),
    ] {
        let fault = route(decision).unwrap_err();
        assert_eq!(fault.kind, FaultKind::BadAnswer);
        assert!(fault.detail.contains(text), "{fault}");
    }
}

#[test]
fn the_first_router_that_has_an_opinion_decides_and_later_ones_are_not_asked() {
    let router = |name, decision| {
        let mut policy = Scripted::named(name);
        policy.route = Some(decision);
        policy
    };
    let last = router("c", RouteDecision::Pick(1));
    let asked = Arc::clone(&last.asked);
    let chain = chains(vec![router("a", RouteDecision::Abstain), router("b", RouteDecision::Pick(2)), last]);
    let verdict = chain.route(&exchange(), &call(), &principal(), &[backend(1), backend(2)], &mut Untold);
    assert!(matches!(verdict, Ok(RouteVerdict::Ranked(ids)) if ids == [2]));
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

#[test]
fn a_fault_ends_admit_and_route_whatever_later_policies_would_say() {
    let policy = |name, fails| {
        let mut policy = Scripted::named(name);
        policy.admit = Some(AdmitDecision::Admit(Vec::new()));
        policy.route = Some(RouteDecision::Pick(1));
        policy.fails = fails;
        policy
    };
    let last = policy("b", false);
    let asked = Arc::clone(&last.asked);
    let chain = chains(vec![policy("a", true), last]);
    let fault = chain.admit(&exchange(), &call(), &principal(), &mut Untold).unwrap_err();
    assert_eq!((&*fault.policy, fault.hook), ("a", Hook::Admit));
    let fault = chain.route(&exchange(), &call(), &principal(), &[backend(1)], &mut Untold).unwrap_err();
    assert_eq!((&*fault.policy, fault.hook), ("a", Hook::Route));
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

/// What a chain tells, a word for each.
#[derive(Debug, Default)]
struct Told(Vec<String>);

impl Trail for Told {
    fn decided(&mut self, by: &Arc<Origin>, hook: Hook, step: Step<'_>) {
        let word = match step {
            Step::Abstained => "abstained".to_owned(),
            Step::Allowed(subject) => format!("allowed {subject}"),
            Step::Admitted(charges) => format!("admitted {}", charges.len()),
            Step::Ranked(ids) => format!("ranked {ids:?}"),
            Step::Rejected(rejection) => format!("rejected {}", rejection.code),
            Step::Failed { fault, is_passed_over } => format!("failed {} {is_passed_over}", fault.kind.as_str()),
        };
        self.0.push(format!("{} {} {word}", by.label(), hook.as_str()));
    }

    fn edited(&mut self, by: &Arc<Origin>, call: &Edited) {
        self.0.push(format!("{} made it {}", by.label(), call.call.model));
    }
}

#[test]
fn a_chain_tells_each_decision_in_order_and_counts_those_of_real_calls_only() {
    let (exchange, _) = with_body();
    let policies = || {
        let first = setting("a", Some("b:1"), AdmitDecision::Abstain);
        let second = setting("b", None, AdmitDecision::Admit(vec![charge("x")]));
        vec![first, second, setting("c", None, AdmitDecision::Reject(rejection()))]
    };
    let code = rejection().code;
    let expected = [
        "a made it b:1".to_owned(),
        "a admit abstained".to_owned(),
        "b admit admitted 1".to_owned(),
        format!("c admit rejected {code}"),
    ];
    let real = chains(policies());
    for (chain, counted) in [(real.rehearsal().unwrap(), 0), (real, 1)] {
        let mut told = Told::default();
        assert!(chain.admit(&exchange, &call(), &principal(), &mut told).is_ok());
        assert_eq!(told.0, expected);
        let counts: Vec<usize> = chain.links.iter().map(|link| link.origin.decisions().counts().len()).collect();
        assert_eq!(counts, [counted; 3]);
    }
    let failing = Scripted { fails: true, ..setting("f", None, AdmitDecision::Abstain) };
    let mut told = Told::default();
    assert!(chains(vec![failing]).admit(&exchange, &call(), &principal(), &mut told).is_err());
    assert_eq!(told.0, ["f admit failed trap false"]);
}
