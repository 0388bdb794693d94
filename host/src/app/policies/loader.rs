//! From files to a version that can be asked, step by step: each has a name, and a failure says at which it stopped.
//!
//! Takes long, and never happens on a request's path. Nothing here changes what is in force.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    thread,
};

use tokio::sync::Notify;

use super::{
    book::Book,
    slot::{Key, Loaded, Slot},
};
use crate::{
    app::{
        approvals::Approvals,
        cases,
        folder::{self, Digest},
    },
    clock::Clock,
    config::{self, Config, OnFault, PolicyFile},
    policy::{BreakerRules, Capability, Decisions, Guard, GuardTerms, Hook, Origin},
    ports::control::{LoadStep, PolicySource},
    wasm::{BUILT_IN, Compiled, LoadError, Runtime, Terms},
};

/// Why a version doesn't come into force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) step: LoadStep,
    pub(super) reason: String,
    /// What has to be approved first.
    pub(super) waits_for: Vec<Capability>,
    /// The same files may load the next time.
    pub(super) may_pass: bool,
}

impl Failed {
    pub(super) fn at(step: LoadStep, reason: impl Into<String>) -> Self {
        Self { step, reason: reason.into(), waits_for: Vec::new(), may_pass: false }
    }

    /// What has nothing to do with the policy's own files.
    pub(super) fn for_now(step: LoadStep, reason: impl Into<String>) -> Self {
        Self { may_pass: true, ..Self::at(step, reason) }
    }
}

impl From<LoadError> for Failed {
    fn from(error: LoadError) -> Self {
        Self::at(error.step(), error.to_string())
    }
}

/// The component of a version to be.
#[derive(Debug)]
pub(super) enum Code {
    BuiltIn(Digest),
    File(folder::Content),
}

impl Code {
    pub(super) fn digest(&self) -> Digest {
        match self {
            Self::BuiltIn(digest) => *digest,
            Self::File(content) => content.digest,
        }
    }

    /// Which file it is, by device and number.
    pub(super) fn identity(&self) -> Option<(u64, u64)> {
        match self {
            Self::BuiltIn(_) => None,
            Self::File(content) => Some(content.identity),
        }
    }
}

/// A version to be, as its files have it.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) code: Code,
    /// Its `.toml`: where it lies, its text and the hash of that.
    pub(super) terms: Option<(PathBuf, String, Digest)>,
    /// Its cases: where they lie, and what is written there.
    pub(super) cases: Option<(PathBuf, folder::Content)>,
}

impl Wanted {
    pub(super) fn key(&self) -> Key {
        Key {
            component: self.code.digest(),
            terms: self.terms.as_ref().map(|(_, _, digest)| *digest),
            cases: self.cases.as_ref().map(|(_, content)| content.digest),
        }
    }
}

/// What a version takes over from others of its name. Looked up before it is loaded: the loader gives way, and is not to hold a
/// lock that others want.
#[derive(Debug)]
pub(super) struct Inherited {
    code: Option<Compiled>,
    decisions: Arc<Decisions>,
    openings: Arc<AtomicU64>,
}

/// A policy inside the binary.
#[derive(Debug)]
pub(super) struct BuiltInCode {
    pub(super) name: &'static str,
    pub(super) digest: Digest,
    pub(super) compiled: Compiled,
}

/// Makes versions.
#[derive(Debug)]
pub(super) struct Loader {
    runtime: Runtime,
    gate: config::Policies,
    /// None: nobody needs to approve anything.
    approvals: Option<Approvals>,
    clock: Clock,
    book: Arc<Book>,
    changed: Arc<Notify>,
    built_in: Vec<BuiltInCode>,
}

impl Loader {
    /// Compiles the built-in policies, all at once: nothing is in the cache the first time.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn new(
        runtime: Runtime,
        config: &Config,
        clock: Clock,
        book: Arc<Book>,
        changed: Arc<Notify>,
    ) -> Result<Self, Vec<String>> {
        let compiled: Vec<Result<Compiled, LoadError>> = thread::scope(|scope| {
            let compiling = BUILT_IN.map(|built_in| scope.spawn(|| runtime.compile(built_in.bytes)));
            let gone = |_| Err(LoadError::Start("its loader panicked".to_owned()));
            compiling.into_iter().map(|thread| thread.join().unwrap_or_else(gone)).collect()
        });
        let mut built_in = Vec::new();
        for (compiled, code) in compiled.into_iter().zip(BUILT_IN) {
            let compiled = compiled.map_err(|error| vec![format!("built-in policy '{}': {error}", code.name)])?;
            built_in.push(BuiltInCode { name: code.name, digest: folder::digest(code.bytes), compiled });
        }
        let (gate, approvals) = (config.policies.clone(), Approvals::asked_by(config));
        Ok(Self { runtime, gate, approvals, clock, book, changed, built_in })
    }

    /// The policies inside the binary, in the order in which they are asked.
    pub(super) fn built_in(&self) -> &[BuiltInCode] {
        &self.built_in
    }

    /// The built-in policy of this name.
    pub(super) fn built_in_code(&self, name: &str) -> Option<Code> {
        self.built_in.iter().find(|built_in| built_in.name == name).map(|built_in| Code::BuiltIn(built_in.digest))
    }

    /// Makes a version.
    ///
    /// # Errors
    /// At which step it stopped, and why.
    pub(super) fn load(&self, name: &str, wanted: &Wanted, inherited: Inherited) -> Result<Loaded, Failed> {
        let Inherited { code, decisions, openings } = inherited;
        let file = self.terms(name, wanted)?;
        let source = match &wanted.code {
            Code::BuiltIn(_) => PolicySource::BuiltIn,
            Code::File(_) => PolicySource::File,
        };
        let hits = self.runtime.cache_hits();
        let (compiled, code_is) = match code {
            Some(compiled) => (compiled, "known"),
            None => match &wanted.code {
                Code::File(content) => (self.runtime.compile(&content.bytes)?, "compiled"),
                Code::BuiltIn(_) => return Err(Failed::at(LoadStep::File, "there is no built-in policy of this name")),
            },
        };
        let code_is = if self.runtime.cache_hits() > hits { "cached" } else { code_is };
        self.refuse_less_than_built_in(name, &compiled)?;
        if matches!(wanted.code, Code::File(_)) {
            self.refuse_unapproved(name, &compiled)?;
        }
        let shared_name: Arc<str> = name.into();
        let started = self.runtime.start_policy(&shared_name, &compiled, &Terms::from(&file))?;
        if let Some((path, content)) = &wanted.cases {
            let prove = || cases::prove(&self.runtime, started.policy(), (path, &content.bytes));
            let proven = catch_unwind(AssertUnwindSafe(prove))
                .unwrap_or_else(|_| Err("the gate panicked over its cases".to_owned()));
            proven.map_err(|reason| Failed::at(LoadStep::Cases, reason))?;
        }
        let policy = Arc::new(started.warm()?);
        let version = folder::version(&wanted.code.digest());
        let origin = Origin::new(Arc::clone(&shared_name), version, decisions);
        let guard = Guard::new(shared_name, self.clock.clone(), self.guard_terms(openings, &file));
        Ok(Loaded {
            key: wanted.key(),
            source,
            identity: wanted.code.identity(),
            compiled,
            code_is,
            file,
            policy,
            guard: Arc::new(guard),
            origin: Arc::new(origin),
            in_force: None,
        })
    }

    fn terms(&self, name: &str, wanted: &Wanted) -> Result<PolicyFile, Failed> {
        let Some((path, text, _)) = &wanted.terms else { return Ok(PolicyFile::defaults(&self.gate)) };
        let label = path.display().to_string();
        let file = PolicyFile::parse(text, &label, &self.gate).map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Failed::at(LoadStep::Terms, lines.join("; and "))
        })?;
        let misplaced = file.misplaced_order(&label, self.built_in_code(name).is_some());
        misplaced.map_or(Ok(file), |text| Err(Failed::at(LoadStep::Terms, text)))
    }

    /// What a version takes over. Its code is known if it is built in, or one of this slot was made from it.
    pub(super) fn inherited(&self, name: &str, code: &Code, slot: Option<&Slot>) -> Inherited {
        let (decisions, openings) = (self.book.decisions(name), self.book.openings(name));
        Inherited { code: self.known(name, &code.digest(), slot), decisions, openings }
    }

    fn known(&self, name: &str, digest: &Digest, slot: Option<&Slot>) -> Option<Compiled> {
        let built_in = self.built_in.iter().find(|built_in| built_in.name == name && built_in.digest == *digest);
        let compiled = built_in.map(|built_in| &built_in.compiled);
        compiled.or_else(|| slot.and_then(|slot| slot.compiled(digest))).cloned()
    }

    /// One that takes a built-in's place must decide all that the built-in decides: what nobody decides would pass.
    fn refuse_less_than_built_in(&self, name: &str, compiled: &Compiled) -> Result<(), Failed> {
        let Some(built_in) = self.built_in.iter().find(|built_in| built_in.name == name) else { return Ok(()) };
        let found = &compiled.inspection().hooks;
        let missing: Option<&Hook> = built_in.compiled.inspection().hooks.iter().find(|hook| !found.contains(hook));
        missing.map_or(Ok(()), |hook| {
            let hook = hook.as_str();
            let text = format!("it takes the place of a built-in policy, and must export the hook `{hook}`");
            Err(Failed::at(LoadStep::Hooks, text))
        })
    }

    /// One that can do more than the built-in policy of its name, or than was approved, waits.
    fn refuse_unapproved(&self, name: &str, compiled: &Compiled) -> Result<(), Failed> {
        // Approvals that can't be read may be readable at any time.
        let missing = self.unapproved(name, compiled).map_err(|reason| Failed::for_now(LoadStep::Approval, reason))?;
        if missing.is_empty() {
            return Ok(());
        }
        let words: Vec<&str> = missing.iter().map(|capability| capability.as_str()).collect();
        let reason = format!(
            "it waits for approval, for it {}: if it may, run `tollgate policies approve {name}`; if not, remove the file; a gate \
             doesn't start while it waits",
            words.join(", ")
        );
        Err(Failed { waits_for: missing, ..Failed::at(LoadStep::Approval, reason) })
    }

    /// Whether all that it does is approved, as far as that can be known.
    pub(super) fn is_approved(&self, name: &str, compiled: &Compiled) -> bool {
        self.unapproved(name, compiled).is_ok_and(|missing| missing.is_empty())
    }

    /// Whether something of this still waits to be approved.
    pub(super) fn still_waits(&self, name: &str, capabilities: &[Capability]) -> bool {
        let missing = self.approvals.as_ref().map(|approvals| approvals.missing(name, capabilities));
        missing.is_some_and(|missing| missing.is_ok_and(|missing| !missing.is_empty()))
    }

    fn unapproved(&self, name: &str, compiled: &Compiled) -> Result<Vec<Capability>, String> {
        let Some(approvals) = &self.approvals else { return Ok(Vec::new()) };
        let built_in = self.built_in.iter().find(|built_in| built_in.name == name);
        let is_given = |capability: &Capability| {
            let known = |built_in: &BuiltInCode| built_in.compiled.inspection().capabilities.contains(capability);
            *capability == Capability::WritesLog || built_in.is_some_and(known)
        };
        let asked = compiled.inspection().capabilities.iter().copied().filter(|capability| !is_given(capability));
        approvals.missing(name, &asked.collect::<Vec<_>>())
    }

    fn guard_terms(&self, openings: Arc<AtomicU64>, file: &PolicyFile) -> GuardTerms {
        let config::BreakerRules { faults, window, percent, pause, max_pause, quarantine_after } = self.gate.breaker;
        let [_, _, route, _] = file.hooks;
        let changed = Arc::clone(&self.changed);
        GuardTerms {
            rules: BreakerRules { faults, window, percent, pause, max_pause, quarantine_after },
            abstains_at_route: route.on_fault == OnFault::Abstain,
            openings,
            on_change: Arc::new(move || changed.notify_one()),
        }
    }
}
