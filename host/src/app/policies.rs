//! The policies in force: the built-in ones, and those of the folder, which replace or join them.

use std::{
    collections::BTreeMap,
    fmt::{Display, Formatter, Result as FmtResult},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use arc_swap::ArcSwap;

use super::{
    cases,
    folder::{self, Digest, PolicyFile},
};
use crate::{
    clock::Clock,
    config,
    policy::{Chains, Hook, Observer, Policy},
    ports::control::{PolicyList, PolicySource, PolicyState, PolicyStatus},
    usage::metrics::Metrics,
    wasm::{BUILT_IN, GuestPolicy, LoadError, Runtime},
};

/// A policy has no settings of its own yet.
const NO_SETTINGS: &str = "{}";

/// Policies that can't be used.
#[derive(Debug)]
pub struct PolicyProblems(Vec<String>);

impl PolicyProblems {
    /// Each of them, and why.
    pub fn list(&self) -> &[String] {
        &self.0
    }
}

impl Display for PolicyProblems {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        write!(formatter, "{}", self.0.join("\n"))
    }
}

impl std::error::Error for PolicyProblems {}

/// One version of a policy, in force.
#[derive(Debug)]
struct Loaded {
    digest: Digest,
    policy: Arc<GuestPolicy>,
    /// The set with which it came into force.
    generation: u64,
}

/// All policies, and the set that calls use.
#[derive(Debug)]
pub struct Policies {
    runtime: Runtime,
    clock: Clock,
    observer: Arc<dyn Observer>,
    chains: Arc<ArcSwap<Chains>>,
    folder: Option<PathBuf>,
    built_in: Vec<Loaded>,
    from_folder: BTreeMap<String, Loaded>,
    /// The last complaint about each file, so that it is made once.
    complaints: BTreeMap<String, String>,
    generation: u64,
}

impl Policies {
    /// Loads the built-in policies and the folder's. A policy that doesn't load stops the start: to serve without it
    /// could let pass what it is there to refuse.
    ///
    /// # Errors
    /// Every policy that doesn't load, and why.
    pub fn load(
        runtime: Runtime,
        config: &config::Policies,
        clock: &Clock,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, PolicyProblems> {
        let built_in = load_built_in(&runtime)?;
        let observer: Arc<dyn Observer> = Arc::<Metrics>::clone(metrics);
        let empty = Chains::new(0, Vec::new(), clock.clone(), Arc::clone(&observer));
        let mut policies = Self {
            runtime,
            clock: clock.clone(),
            observer,
            chains: Arc::new(ArcSwap::from_pointee(empty)),
            folder: config.folder.clone(),
            built_in,
            from_folder: BTreeMap::new(),
            complaints: BTreeMap::new(),
            generation: 0,
        };
        policies.reconcile();
        if !policies.complaints.is_empty() {
            return Err(PolicyProblems(policies.complaints.into_values().collect()));
        }
        policies.swap();
        Ok(policies)
    }

    /// The set in force; swapped as a whole.
    pub fn chains(&self) -> Arc<ArcSwap<Chains>> {
        Arc::clone(&self.chains)
    }

    /// The folder that is watched.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Compares the folder with what is in force, loads what is new, and swaps if anything changed. What doesn't load
    /// changes nothing, and says why, once.
    pub(super) fn follow(&mut self) {
        if self.reconcile() {
            self.swap();
        }
    }

    fn reconcile(&mut self) -> bool {
        let Some(folder) = self.folder.clone() else { return false };
        let files = match folder::scan(&folder) {
            Ok(files) => files,
            Err(complaint) => {
                self.complain(String::new(), complaint);
                return false;
            }
        };
        self.complaints.remove("");
        let mut changed = self.drop_removed(&files);
        for file in files {
            changed |= self.take(&file);
        }
        changed
    }

    /// Takes a file's version if it is new and loads; true when it is in force now.
    fn take(&mut self, file: &PolicyFile) -> bool {
        let name = file.name.clone();
        let content = match file.read() {
            Ok(content) => content,
            Err(reason) => {
                self.complain(name.clone(), format!("policy '{name}' is not used: {reason}"));
                return false;
            }
        };
        if self.from_folder.get(&name).is_some_and(|known| known.digest == content.digest) {
            self.complaints.remove(&name);
            return false;
        }
        match self.load_file(&name, &content.bytes) {
            Ok(policy) => {
                let hooks: Vec<&str> = policy.inspection().hooks.iter().map(|hook| hook.as_str()).collect();
                tracing::info!(policy = name, hooks = hooks.join(","), "the policy is loaded");
                self.complaints.remove(&name);
                let generation = self.generation + 1;
                self.from_folder.insert(name, Loaded { digest: content.digest, policy: Arc::new(policy), generation });
                true
            }
            Err(error) => {
                let serving =
                    if self.from_folder.contains_key(&name) { "; the version before it goes on serving" } else { "" };
                self.complain(name.clone(), format!("policy '{name}' is not used: {error}{serving}"));
                false
            }
        }
    }

    /// Loads a policy. One that takes a built-in's place must decide all that the built-in decides: what nobody decides
    /// would pass.
    fn load_file(&self, name: &str, bytes: &[u8]) -> Result<GuestPolicy, String> {
        let policy = self.runtime.load(&name.into(), bytes, NO_SETTINGS).map_err(|error| error.to_string())?;
        cases::prove(&self.runtime, &policy, self.folder.as_deref())?;
        let replaced = self.built_in.iter().map(|built_in| &built_in.policy).find(|policy| **policy.name() == *name);
        let missing = replaced
            .and_then(|built_in| Hook::ALL.into_iter().find(|hook| built_in.decides(*hook) && !policy.decides(*hook)));
        match missing {
            Some(hook) => {
                Err(format!("it takes the place of a built-in policy, and must export the hook `{}`", hook.as_str()))
            }
            None => Ok(policy),
        }
    }

    /// Takes policies out whose file is gone, save those that authenticate: without them more callers might pass.
    fn drop_removed(&mut self, files: &[PolicyFile]) -> bool {
        let before = self.from_folder.len();
        let mut kept = Vec::new();
        self.from_folder.retain(|name, loaded| {
            let is_there = files.iter().any(|file| file.name == *name);
            let stays = is_there || loaded.policy.decides(Hook::Authenticate);
            if !stays {
                tracing::info!(policy = name, "the policy's file is gone: it is no longer asked");
            } else if !is_there {
                kept.push(name.clone());
            }
            stays
        });
        for name in kept {
            let complaint = format!(
                "the file of policy '{name}' is gone; it authenticates, so it serves on until the gate is restarted"
            );
            self.complain(name, complaint);
        }
        self.complaints.retain(|name, _| {
            name.is_empty() || files.iter().any(|file| file.name == *name) || self.from_folder.contains_key(name)
        });
        self.from_folder.len() != before
    }

    fn complain(&mut self, name: String, complaint: String) {
        if self.complaints.get(&name) != Some(&complaint) {
            tracing::error!(problem = complaint, "a policy is not as it should be");
            self.complaints.insert(name, complaint);
        }
    }

    /// Puts a new set in force.
    fn swap(&mut self) {
        let policies = self.order().map(|(loaded, _)| Arc::clone(&loaded.policy) as Arc<dyn Policy>).collect();
        self.generation += 1;
        let chains = Chains::new(self.generation, policies, self.clock.clone(), Arc::clone(&self.observer));
        self.chains.store(Arc::new(chains));
    }

    /// The folder's own policies by name, then the built-in ones or what replaces them.
    fn order(&self) -> impl Iterator<Item = (&Loaded, PolicySource)> {
        let is_built_in = |name: &str| BUILT_IN.iter().any(|built_in| built_in.name == name);
        let joining = self.from_folder.iter().filter(move |(name, _)| !is_built_in(name)).map(|(_, loaded)| loaded);
        let rest = self.built_in.iter().map(|built_in| match self.from_folder.get(&**built_in.policy.name()) {
            Some(loaded) => (loaded, PolicySource::File),
            None => (built_in, PolicySource::BuiltIn),
        });
        joining.map(|loaded| (loaded, PolicySource::File)).chain(rest)
    }

    /// What an operator sees of them.
    pub fn list(&self) -> PolicyList {
        let in_force = self.order().map(|(loaded, source)| {
            let name = loaded.policy.name();
            // A file that was never used is listed on its own, beside the built-in that it would replace.
            let complaint = self.complaints.get(&**name).filter(|_| source == PolicySource::File).cloned();
            let state = if complaint.is_some() { PolicyState::Outdated } else { PolicyState::InForce };
            PolicyStatus {
                name: name.to_string(),
                source,
                state,
                hooks: loaded.policy.inspection().hooks.iter().map(|hook| hook.as_str().to_owned()).collect(),
                version: Some(folder::version(&loaded.digest)),
                generation: Some(loaded.generation),
                complaint,
            }
        });
        let is_loaded = |name: &str| name.is_empty() || self.from_folder.contains_key(name);
        let refused =
            self.complaints.iter().filter(|(name, _)| !is_loaded(name)).map(|(name, complaint)| PolicyStatus {
                name: name.clone(),
                source: PolicySource::File,
                state: PolicyState::Refused,
                hooks: Vec::new(),
                version: None,
                generation: None,
                complaint: Some(complaint.clone()),
            });
        PolicyList {
            generation: self.generation,
            folder: self.folder.as_ref().map(|folder| folder.display().to_string()),
            complaint: self.complaints.get("").cloned(),
            policies: in_force.chain(refused).collect(),
        }
    }
}

/// All at once: they are compiled from scratch when the cache is cold.
fn load_built_in(runtime: &Runtime) -> Result<Vec<Loaded>, PolicyProblems> {
    let loaded: Vec<Result<GuestPolicy, LoadError>> = thread::scope(|scope| {
        let loading = BUILT_IN
            .map(|built_in| scope.spawn(move || runtime.load(&built_in.name.into(), built_in.bytes, NO_SETTINGS)));
        let gone = |_| Err(LoadError::Start("its loader panicked".to_owned()));
        loading.into_iter().map(|thread| thread.join().unwrap_or_else(gone)).collect()
    });
    let named = loaded.into_iter().zip(BUILT_IN.iter());
    named
        .map(|(policy, built_in)| {
            let problem = |error| PolicyProblems(vec![format!("built-in policy '{}': {error}", built_in.name)]);
            let digest = folder::digest(built_in.bytes);
            policy.map(|policy| Loaded { digest, policy: Arc::new(policy), generation: 1 }).map_err(problem)
        })
        .collect()
}
