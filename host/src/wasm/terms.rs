//! Terms: what one policy gets and may use, as its operator and the gate say.

use std::time::Duration;

use super::RuntimeConfig;
use crate::{
    config::{PolicyFile, Reuse},
    policy::{Grants, HeaderGrant, Hook},
};

/// Settings without a key.
pub const NO_SETTINGS: &str = "{}";

/// What one call of a hook may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// CPU time.
    pub cpu: Duration,
    /// Calls to the host.
    pub host_calls: u32,
}

/// When an instance is replaced: what a guest leaks must not stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retirement {
    /// After so many calls.
    pub calls: u32,
    /// At this age, in milliseconds.
    pub age_ms: u64,
    /// When its memory has grown by so many bytes.
    pub growth: usize,
}

/// Terms of one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Its settings, as JSON.
    pub settings: Box<str>,
    /// What it may do beside what every policy may.
    pub grants: Grants,
    /// By hook, in the order in which a call meets them.
    pub hooks: [Allowance; 4],
    /// Memory of one instance, in bytes.
    pub memory_bytes: usize,
    /// Lines in the log in a second.
    pub log_lines: u32,
    /// Whether each call gets an instance of its own.
    pub is_per_call: bool,
    /// When instances are replaced.
    pub retirement: Retirement,
}

impl Terms {
    /// What holds for a policy of which nobody says anything.
    pub(super) fn of_gate(config: &RuntimeConfig) -> Self {
        Self {
            settings: NO_SETTINGS.into(),
            grants: Grants::default(),
            hooks: [Allowance { cpu: config.cpu_budget, host_calls: 10_000 }; 4],
            memory_bytes: config.memory_bytes,
            log_lines: 100,
            is_per_call: false,
            retirement: Retirement { calls: 100_000, age_ms: 3_600_000, growth: 4 << 20 },
        }
    }

    /// What one call of this hook may use.
    pub fn hook(&self, hook: Hook) -> Allowance {
        let [authenticate, admit, route, settle] = self.hooks;
        match hook {
            Hook::Authenticate => authenticate,
            Hook::Admit => admit,
            Hook::Route => route,
            Hook::Settle => settle,
        }
    }
}

impl From<&PolicyFile> for Terms {
    fn from(file: &PolicyFile) -> Self {
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        Self {
            settings: file.settings.as_str().into(),
            grants: Grants {
                raw_credential: file.raw_credential,
                headers: file.headers.as_ref().map_or(HeaderGrant::All, |prefixes| {
                    HeaderGrant::Prefixed(prefixes.iter().map(|prefix| prefix.as_str().into()).collect())
                }),
            },
            hooks: file.hooks.map(|hook| Allowance { cpu: hook.cpu_budget, host_calls: hook.host_calls }),
            memory_bytes: size(file.memory),
            log_lines: file.log_lines,
            is_per_call: file.reuse == Reuse::PerCall,
            retirement: Retirement {
                calls: file.max_calls,
                age_ms: crate::clock::saturating_ms(file.max_age),
                growth: size(file.max_growth),
            },
        }
    }
}
