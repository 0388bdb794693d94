//! How long the default policies take: the three hooks together, warm, with 2, 8 and 32 backends.
//!
//! `cargo bench -p tollgate-benches --bench policy_call`. Prints p50 and p99 in nanoseconds of one pass over `authenticate`, `admit` and
//! `route` through the chain, metrics included, on one thread. With `--passes N` it makes so many passes with 8 backends
//! and prints nothing: for who counts instructions.

use std::{
    net::{IpAddr, Ipv4Addr},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use http::HeaderMap;
use tollgate::{
    clock::Clock,
    llm::{Operation, Surface, operations},
    policy::{
        AdmitVerdict, AuthenticateVerdict, Backend, Call, Caller, Chains, Exchange, ExchangeHead, Grants, Head, Link,
        Policy, Presented, Principal, RouteVerdict, Scheme, Untold,
    },
    ports::{
        catalogue::NoBackends,
        keys::{Attributes, KeyRecord, KeyState, Proof, Scope, User, UserState},
        limits::{LimitName, Limits},
    },
    usage::metrics::Metrics,
    wasm::{BUILT_IN, Runtime, RuntimeConfig},
};
use tollgate_benches::Times;

const WARM_UP: usize = 20_000;
const PASSES: usize = 200_000;

struct Subject {
    _runtime: Runtime,
    chains: Chains,
    key: Arc<KeyRecord>,
    head: Head,
    presented: Presented,
    call: Call,
    backends: Vec<Backend>,
}

impl Subject {
    /// One pass over the three hooks; answers how long they took, without what makes the exchange.
    #[expect(clippy::disallowed_methods, reason = "a benchmark asks the real time")]
    fn pass(&self) -> Duration {
        let exchange = Arc::new(Exchange::new(ExchangeHead {
            request_id: "bench".into(),
            row: &operations::CHAT,
            seed: 1,
            peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
            path: "/api/chat".into(),
            headers: HeaderMap::new(),
            credential: None,
            proof: Proof::Proven(Arc::clone(&self.key)),
        }));
        let start = Instant::now();
        let verdict = self.chains.authenticate(&exchange, &self.head, Some(&self.presented), &mut Untold);
        let Ok(AuthenticateVerdict::Allow { subject, .. }) = verdict else { unreachable!("{verdict:?}") };
        let principal = Principal { subject: subject.into(), user: self.key.user_name().map(Into::into) };
        let caller = exchange.note_caller(Caller {
            principal,
            key: Some(Arc::clone(&self.key)),
            attributes: Attributes::default(),
        });
        let verdict = self.chains.admit(&exchange, &self.call, &caller.principal, &mut Untold);
        assert!(
            matches!(&verdict, Ok(AdmitVerdict::Admit { charges, edited: None }) if charges.len() == 1),
            "{verdict:?}"
        );
        let verdict = self.chains.route(&exchange, &self.call, &caller.principal, &self.backends, &mut Untold);
        let took = start.elapsed();
        assert!(matches!(&verdict, Ok(RouteVerdict::Ranked(ids)) if ids.len() == self.backends.len()), "{verdict:?}");
        took
    }
}

fn backend(id: u32) -> Backend {
    Backend {
        id,
        weight: 1,
        in_flight: 3,
        model_in_flight: 1,
        capacity: None,
        queued: 0,
        first_token_us: Some(120_000),
        tokens_per_second_milli: None,
        errors_permille: 0,
        resident: true,
    }
}

fn subject() -> Subject {
    let clock = Clock::system();
    let config = RuntimeConfig {
        // More than the default, so that a run under callgrind, fifty times slower, is not cut.
        cpu_budget: Duration::from_millis(100),
        memory_bytes: 64 << 20,
        masked_headers: Vec::new(),
        default_limits: [(LimitName::RequestsPerMinute, 100)].into_iter().collect(),
        ready_instances: 1,
        recheck_every: 0,
        cache: None,
    };
    let runtime = Runtime::start(config, clock.clone(), Arc::new(NoBackends)).expect("the runtime starts");
    let links = BUILT_IN
        .iter()
        .map(|built_in| {
            let policy = runtime
                .load(&built_in.name.into(), built_in.bytes, "{}", Grants::default())
                .expect("a default policy loads");
            Link::from(Arc::new(policy) as Arc<dyn Policy>)
        })
        .collect();
    let chains = Chains::new(1, links, clock, Arc::new(Metrics::default()));
    Subject {
        _runtime: runtime,
        chains,
        key: Arc::new(KeyRecord {
            id: "kQ3v9ZpL0a".into(),
            name: "bench".into(),
            user: Some(Arc::new(User {
                name: "ann".into(),
                state: UserState::Active,
                attributes: Box::default(),
                limits: Limits::default(),
                created_at_ms: 0,
            })),
            state: KeyState::Active,
            expires_at_ms: None,
            limits: Limits::default(),
            scope: Scope::AllModels,
            may_manage: false,
            attributes: Box::default(),
            created_at_ms: 0,
        }),
        head: Head { surface: Surface::Ollama, operation: Operation::Chat, body_bytes: Some(1024) },
        presented: Presented { scheme: Scheme::Bearer, key_id: Some("kQ3v9ZpL0a".into()) },
        call: Call {
            surface: Surface::Ollama,
            operation: Operation::Chat,
            model: "llama3:latest".into(),
            body_bytes: 1024,
            input_tokens: 256,
            output_cap: None,
            streaming: true,
        },
        backends: Vec::new(),
    }
}

/// The number after `--passes`; `Err` when what follows is none.
fn passes() -> Result<Option<usize>, ()> {
    let mut words = std::env::args().skip_while(|word| word != "--passes").skip(1);
    words.next().map(|word| word.parse().map_err(|_| ())).transpose()
}

#[expect(clippy::print_stderr, reason = "a mistyped number is for who typed it")]
fn main() -> ExitCode {
    match passes() {
        Ok(None) => print_times(),
        Ok(Some(count)) => {
            let mut subject = subject();
            subject.backends = (0..8).map(backend).collect();
            for _ in 0..count {
                subject.pass();
            }
        }
        Err(()) => {
            eprintln!("--passes takes a number");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn print_times() {
    let mut subject = subject();
    println!("{:>9} {:>9} {:>9}   three hooks together, ns", "backends", "p50", "p99");
    for count in [2, 8, 32] {
        subject.backends = (0..count).map(backend).collect();
        for _ in 0..WARM_UP {
            subject.pass();
        }
        let mut times = Times::default();
        (0..PASSES).for_each(|_| times.note(subject.pass()));
        println!("{count:>9} {:>9} {:>9}", times.ns(50), times.ns(99));
    }
}
