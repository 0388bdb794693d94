//! `[policies]`: where policies are found, what they may cost, and when one that fails is left alone.

use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytesize::{GIB, MIB};

use super::error::Complaint;
use super::reader::{Reader, Section};
use super::sections::{BreakerRules, Policies};
use super::values;

pub(super) const CPU_BUDGETS: RangeInclusive<Duration> = Duration::from_micros(100)..=Duration::from_millis(100);
pub(super) const MEMORIES: RangeInclusive<u64> = MIB..=GIB;
const MAX_CPU_BUDGET: Duration = Duration::from_millis(20);
const MAX_MEMORY: u64 = 256 * MIB;
const RECHECK_EVERY: u32 = 1000;
const RECHECK_EVERY_MAX: u64 = 1_000_000_000;
const SETTLE_QUEUE: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
const SETTLE_QUEUE_MAX: u64 = 100_000;
const MASKED_HEADERS_MAX: usize = 64;
const HOUR: Duration = Duration::from_secs(60 * 60);

pub(super) fn policies(keys: &mut Section<'_>) -> Policies {
    let folder = keys.optional("folder", values::path).map(|path| keys.resolve("folder", &path));
    if let Some(folder) = folder.as_deref().filter(|folder| !folder.is_dir()) {
        let complaint = Complaint::new(format!("{} is not a folder", folder.display()));
        keys.complain("folder", complaint.with_hint("create it, or leave the key out for the built-in policies"));
    }
    let cpu_budget = keys.or("cpu_budget", Duration::from_millis(2), values::duration(CPU_BUDGETS));
    let memory = keys.or("memory", 64 * MIB, values::size(MEMORIES));
    Policies {
        folder,
        cpu_budget,
        max_cpu_budget: keys.or("max_cpu_budget", MAX_CPU_BUDGET.max(cpu_budget), values::duration(CPU_BUDGETS)),
        memory,
        max_memory: keys.or("max_memory", MAX_MEMORY.max(memory), values::size(MEMORIES)),
        recheck_every: keys.or("recheck_every", RECHECK_EVERY, values::whole(0..=RECHECK_EVERY_MAX)),
        breaker: keys.table("breaker", breaker),
        settle_queue: keys.or("settle_queue", SETTLE_QUEUE, values::count(SETTLE_QUEUE_MAX)),
        masked_headers: keys.list("masked_headers", MASKED_HEADERS_MAX, values::header_name),
    }
}

fn breaker(keys: &mut Section<'_>) -> BreakerRules {
    let times = |from_ms, to| values::duration(Duration::from_millis(from_ms)..=to);
    let pause = keys.or("pause", Duration::from_secs(1), times(10, HOUR));
    BreakerRules {
        faults: keys.or("faults", 20, values::whole(0..=1_000_000)),
        window: keys.or("window", Duration::from_secs(10), times(100, HOUR)),
        percent: keys.or("percent", 50, values::whole(1..=100)),
        pause,
        max_pause: keys.or("max_pause", Duration::from_secs(60).max(pause), times(10, 24 * HOUR)),
        quarantine_after: keys.or("quarantine_after", 8, values::whole(1..=1000)),
    }
}

/// What must hold between the keys of the section.
pub(super) fn bounds_fit(reader: &Reader, policies: &Policies) {
    let breaker = &policies.breaker;
    for (is_wrong, most, least) in [
        (policies.max_cpu_budget < policies.cpu_budget, "policies.max_cpu_budget", "policies.cpu_budget"),
        (policies.max_memory < policies.memory, "policies.max_memory", "policies.memory"),
        (breaker.max_pause < breaker.pause, "policies.breaker.max_pause", "policies.breaker.pause"),
    ] {
        if is_wrong {
            let complaint = Complaint::new(format!("is less than {least}"));
            reader.complain_between(&[most, least], complaint.with_hint("raise it, or lower the other"));
        }
    }
}
