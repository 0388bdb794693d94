//! `[policies]`: where policies are found, what they may cost, and when one that fails is left alone.

use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytesize::{GIB, MIB};

use super::error::Complaint;
use super::reader::{Reader, Section};
use super::sections::{Approve, BreakerRules, Policies, Provenance};
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
const PROVENANCES: &[(&str, Provenance)] = &[("off", Provenance::Off), ("header", Provenance::Header)];
const APPROVE: &[(&str, Approve)] = &[("none", Approve::None), ("new-capabilities", Approve::NewCapabilities)];
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
        approve: keys.or("approve", Approve::None, values::choice(APPROVE)),
        breaker: keys.table("breaker", breaker),
        settle_queue: keys.or("settle_queue", SETTLE_QUEUE, values::count(SETTLE_QUEUE_MAX)),
        provenance: keys.or("provenance", Provenance::default(), values::choice(PROVENANCES)),
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Config, Sources};

    fn load(sets: &[&str]) -> Result<Config, String> {
        let sets = sets.iter().map(|set| (*set).to_owned()).collect();
        let sources = Sources { sets, directory: Path::new("/nonexistent").to_owned(), ..Sources::default() };
        Config::load(&sources).map_err(|errors| errors.to_string())
    }

    #[test]
    fn the_most_a_policy_may_have_is_at_least_what_it_has_by_default() {
        let policies = load(&["policies.cpu_budget=50ms", "policies.memory=512MiB"]).unwrap().policies;
        assert_eq!((policies.max_cpu_budget, policies.max_memory), (policies.cpu_budget, policies.memory));
        for (set, least) in [
            ("policies.max_cpu_budget=1ms", "policies.cpu_budget"),
            ("policies.max_memory=1MiB", "policies.memory"),
            ("policies.breaker.max_pause=10ms", "policies.breaker.pause"),
        ] {
            let refused = load(&[set]).unwrap_err();
            assert!(refused.contains(&format!("is less than {least}")), "{set}: {refused}");
        }
    }

    #[test]
    fn the_breaker_has_its_own_table() {
        let sets = ["policies.breaker.faults=0", "policies.breaker.percent=100", "policies.recheck_every=0"];
        let policies = load(&sets).unwrap().policies;
        assert_eq!((policies.breaker.faults, policies.breaker.percent, policies.recheck_every), (0, 100, 0));
        assert!(load(&["policies.breaker.percent=101"]).unwrap_err().contains("write a whole number from 1 to 100"));
        assert!(load(&["policies.breaker.fault=1"]).unwrap_err().contains("did you mean `faults`?"));
    }
}
