//! How long the charges of a call take in memory: reserved and settled, on one thread and on as many as there are cores.
//!
//! `cargo bench -p tollgate-benches --bench reservation`. Prints p50 and p99 in nanoseconds for one request window, and for the charges of a key
//! with every kind of limit, over a thousand keys that are in use and over a hundred thousand that are mostly new.

use std::{sync::Arc, thread, time::Instant};

use tollgate::{
    policy::{Amount, Period, Rule, Shape, TokenKind},
    quota::{Charge, Moment, Outcome, Quota, QuotaBounds, Tokens},
};
use tollgate_benches::Times;

/// The gate's own: counters and what a call holds lie in its memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEYS: [u64; 2] = [1_000, 100_000];
const PASSES: u64 = 400_000;

fn rules() -> [(&'static str, Rule); 5] {
    let all = Amount::Tokens { kind: TokenKind::All, weight_permille: 1_000 };
    let window = |amount| Rule::Metered { amount, shape: Shape::Window { capacity: 1_000_000_000, length_ms: 60_000 } };
    let bucket = Shape::Bucket { burst: 1_000_000_000, refill: 1_000, every_ms: 1_000 };
    let month = Shape::Calendar { capacity: 1_000_000_000_000, period: Period::Month };
    [
        ("requests-per-minute", window(Amount::Requests(1))),
        ("tokens-per-minute", window(all)),
        ("tokens-per-month", Rule::Metered { amount: all, shape: month }),
        ("requests-burst", Rule::Metered { amount: Amount::Requests(1), shape: bucket }),
        ("concurrent", Rule::Concurrent(1_000_000)),
    ]
}

/// What reserving and what settling took, for each pass.
#[expect(clippy::disallowed_methods, reason = "a benchmark asks the real time")]
fn passes(quota: &Arc<Quota>, rules: &[(&str, Rule)], names: &[String], first: u64) -> [Times; 2] {
    let (expected, used) = (Tokens { input: 500, output: 256 }, Tokens { input: 480, output: 300 });
    let [mut reserving, mut settling] = [Times::default(), Times::default()];
    // The names in an order of no pattern.
    let mut key = first;
    for pass in 0..PASSES {
        key = key.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let count = u64::try_from(names.len()).expect("few keys");
        let index = usize::try_from((key >> 33) % count).expect("few keys");
        let partition = names.get(index).expect("a remainder of the number of names");
        let now_us = pass * 20;
        let at = Moment { monotonic_us: now_us, unix_us: 1_781_092_800_000_000 + now_us };
        let charge = |&(limit, rule)| Charge { policy: "rate-limit", limit, partition, rule };
        let charges: Vec<Charge<'_>> = rules.iter().map(charge).collect();
        let start = Instant::now();
        let reserved = quota.reserve(at, partition, &charges, expected).expect("room for all");
        let middle = Instant::now();
        reserved.settle(at, Outcome::Used(used));
        settling.note(middle.elapsed());
        reserving.note(middle - start);
    }
    [reserving, settling]
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn print(what: &str, (keys, threads): (u64, u64), [reserving, settling]: &[Times; 2]) {
    println!(
        "{what:>24} {keys:>8} {threads:>8} {:>9} {:>9} {:>9} {:>9}",
        reserving.ns(50),
        reserving.ns(99),
        settling.ns(50),
        settling.ns(99)
    );
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn main() {
    println!(
        "{:>24} {:>8} {:>8} {:>9} {:>9} {:>9} {:>9}   ns",
        "charges", "keys", "threads", "reserve", "p99", "settle", "p99"
    );
    let cores = thread::available_parallelism().map_or(1, |cores| u64::try_from(cores.get()).unwrap_or(1));
    let every = rules();
    for (what, rules) in [("requests-per-minute", every.get(..1)), ("every kind", Some(every.as_slice()))] {
        let rules = rules.unwrap_or_default();
        for (count, threads) in KEYS.into_iter().flat_map(|count| [(count, 1), (count, cores)]) {
            let names: Vec<String> = (0..count).map(|n| format!("key-{n:06}")).collect();
            let quota = Arc::new(Quota::new(QuotaBounds::default()));
            let times = thread::scope(|scope| {
                let (quota, names) = (&quota, &names);
                let running: Vec<_> =
                    (0..threads).map(|n| scope.spawn(move || passes(quota, rules, names, n))).collect();
                let times = running.into_iter().map(|thread| thread.join().expect("no pass fails"));
                times.fold([Times::default(), Times::default()], |[mut reserving, mut settling], [more, others]| {
                    reserving += more;
                    settling += others;
                    [reserving, settling]
                })
            });
            print(what, (count, threads), &times);
        }
    }
}
