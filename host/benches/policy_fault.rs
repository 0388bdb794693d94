//! What a failing policy costs: a call to one whose breaker is open, one that loops, and a million traps.
//!
//! A loop ends with a tick of the engine, and ticks come from a thread that sleeps between them. How late this machine wakes
//! such a thread is told by another one that does nothing else.
//!
//! `cargo bench -p tollgate-benches --features guests --bench policy_fault`. In the library, on one thread, at `route` through the chain, metrics included. Fails
//! where memory or descriptors grow with the traps.

#[path = "../tests/it/support/wat.rs"]
#[expect(dead_code, reason = "what other hooks and other faults are made of")]
mod wat;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use http::HeaderMap;
use tollgate::{
    clock::Clock,
    llm::operations::{self, Row},
    policy::{
        Backend, BreakerRules, Call, Chains, Exchange, ExchangeHead, FaultKind, Grants, Guard, GuardTerms, Link,
        Origin, Policy, Principal, Untold,
    },
    ports::{catalogue::NoBackends, keys::Proof, limits::LimitSet},
    usage::metrics::Metrics,
    wasm::{Runtime, RuntimeConfig},
};
use tollgate_benches::Times;

/// The gate's own: what an instance leaves lies in its memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CPU_BUDGET: Duration = Duration::from_millis(2);
const TICK: Duration = Duration::from_millis(1);
const OPEN_CALLS: usize = 1_000_000;
const LOOPS: usize = 500;
/// Traps after which memory is what it is going to be, and all of them.
const SETTLED_AFTER: usize = 20_000;
const TRAPS: usize = 1_000_000;
/// By how much memory may differ after the last, in KiB.
const SLACK_KIB: u64 = 4 << 10;
/// A cap that made-up calls don't have: at others the policy abstains, or it wouldn't be loaded.
const MARKED_CAP: u32 = 13;

struct Subject {
    _runtime: Runtime,
    chains: Chains,
    exchange: Arc<Exchange>,
    call: Call,
    principal: Principal,
    backends: [Backend; 1],
}

impl Subject {
    /// A chain of one router whose `choose` does this. `faults`: after so many its breaker opens for good; 0: it has none.
    fn new(body: &str, faults: u32) -> Self {
        let row: &'static Row = &operations::CHAT;
        let unless =
            format!("(if (i32.ne (local.get 7) (i32.const {MARKED_CAP})) (then {} (return)))", wat::answer(3, &[]));
        let hook = wat::hook(wat::ROUTE, &format!("{unless} {body}"));
        let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
        let component =
            wat::component(&wit, "router", &wat::module("", "(i32.const 1024)", &hook)).expect("the text is right");
        let clock = Clock::system();
        let config = RuntimeConfig {
            cpu_budget: CPU_BUDGET,
            memory_bytes: 64 << 20,
            masked_headers: Vec::new(),
            default_limits: LimitSet::default(),
            ready_instances: 1,
            recheck_every: 0,
            cache: None,
        };
        let runtime = Runtime::start(config, clock.clone(), Arc::new(NoBackends)).expect("the runtime starts");
        let name: Arc<str> = "failing".into();
        let policy = runtime.load(&name, &component, "{}", Grants::default()).expect("it behaves while it is loaded");
        let policy = Arc::new(policy) as Arc<dyn Policy>;
        let link = if faults == 0 { Link::from(policy) } else { guarded(policy, name, &clock, faults) };
        let (surface, operation) = (row.surface, row.operation);
        Self {
            _runtime: runtime,
            chains: Chains::new(1, vec![link], clock, Arc::new(Metrics::default())),
            exchange: Arc::new(Exchange::new(ExchangeHead {
                request_id: "bench".into(),
                row,
                seed: 1,
                peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
                path: "/api/chat".into(),
                headers: HeaderMap::new(),
                credential: None,
                proof: Proof::NotAKey,
            })),
            call: Call {
                surface,
                operation,
                model: "llama3:latest".into(),
                body_bytes: 1024,
                input_tokens: 256,
                output_cap: Some(MARKED_CAP),
                streaming: true,
            },
            principal: Principal { subject: "bench".into(), user: None },
            backends: [idle()],
        }
    }

    /// Asks once, and must be told of this fault; answers how long it took.
    #[expect(clippy::disallowed_methods, reason = "a benchmark asks the real time")]
    fn fail(&self, kind: FaultKind) -> Duration {
        let start = Instant::now();
        let verdict = self.chains.route(&self.exchange, &self.call, &self.principal, &self.backends, &mut Untold);
        let took = start.elapsed();
        assert!(matches!(&verdict, Err(fault) if fault.kind == kind), "{verdict:?}");
        took
    }
}

fn guarded(policy: Arc<dyn Policy>, name: Arc<str>, clock: &Clock, faults: u32) -> Link {
    let hour = Duration::from_secs(3600);
    let rules = BreakerRules { faults, window: hour, percent: 1, pause: hour, max_pause: hour, quarantine_after: 1000 };
    let terms = GuardTerms { rules, abstains_at_route: false, openings: Arc::default(), on_change: Arc::new(|| {}) };
    let origin = Arc::new(Origin::without_version(Arc::clone(&name)));
    Link::guarded(policy, Arc::new(Guard::new(name, clock.clone(), terms)), origin)
}

fn idle() -> Backend {
    Backend {
        id: 0,
        weight: 1,
        in_flight: 0,
        model_in_flight: 0,
        capacity: None,
        queued: 0,
        first_token_us: None,
        tokens_per_second_milli: None,
        errors_permille: 0,
        resident: true,
    }
}

/// Resident memory in KiB, and open descriptors, of this process.
fn held() -> Option<(u64, usize)> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some((resident.trim().trim_end_matches(" kB").parse().ok()?, fs::read_dir("/proc/self/fd").ok()?.count()))
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn open_breaker() {
    let subject = Subject::new("(unreachable)", 1);
    subject.fail(FaultKind::Trap);
    let mut times = Times::default();
    (0..OPEN_CALLS).for_each(|_| times.note(subject.fail(FaultKind::Open)));
    println!("a policy whose breaker is open: {} ns p50, {} ns p99 (target 1000)", times.ns(50), times.ns(99));
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn endless_loop() {
    let subject = Subject::new(wat::ENDLESS_LOOP, 0);
    let sleeper = Sleeper::start();
    let [mut stall, mut overslept] = [Times::default(), Times::default()];
    for _ in 0..LOOPS {
        sleeper.longest();
        stall.note(subject.fail(FaultKind::Budget));
        overslept.note(sleeper.longest().saturating_sub(TICK));
    }
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!("a policy that loops, budget {CPU_BUDGET:?}; ms p50, p99 and at most:");
    println!("  its thread stalls {stall} (target {:.0})", ms(2 * CPU_BUDGET + TICK));
    println!("  the longest that a thread, which sleeps for {TICK:?} at a time, oversleeps in each {overslept}");
}

/// A thread that sleeps a tick at a time, and knows how long its longest sleep was.
struct Sleeper {
    longest_ns: Arc<AtomicU64>,
}

impl Sleeper {
    /// It sleeps for as long as anybody asks.
    #[expect(clippy::disallowed_methods, reason = "a benchmark asks the real time")]
    fn start() -> Self {
        let longest_ns = Arc::<AtomicU64>::default();
        let told = Arc::downgrade(&longest_ns);
        thread::spawn(move || {
            let mut before = Instant::now();
            while let Some(longest) = told.upgrade() {
                thread::sleep(TICK);
                let now = Instant::now();
                longest.fetch_max(u64::try_from((now - before).as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
                before = now;
            }
        });
        Self { longest_ns }
    }

    /// Of the sleeps that ended since this was asked last.
    fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest_ns.swap(0, Ordering::Relaxed))
    }
}

/// Whether nothing is left of a million traps.
#[expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn traps() -> bool {
    let subject = Subject::new("(unreachable)", 0);
    let mut times = Times::default();
    let mut trap = |count: usize| (0..count).for_each(|_| times.note(subject.fail(FaultKind::Trap)));
    trap(SETTLED_AFTER);
    let before = held();
    trap(TRAPS - SETTLED_AFTER);
    let (Some((before_kib, before_fds)), Some((after_kib, after_fds))) = (before, held()) else { return false };
    println!(
        "{TRAPS} traps, no breaker: {} us p50, {} us p99; memory {} MiB after {SETTLED_AFTER}, {} MiB after all; descriptors \
         {before_fds}, {after_fds}",
        times.ns(50) / 1000,
        times.ns(99) / 1000,
        before_kib >> 10,
        after_kib >> 10,
    );
    after_kib <= before_kib + SLACK_KIB && after_fds <= before_fds
}

fn main() -> ExitCode {
    open_breaker();
    endless_loop();
    if traps() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
