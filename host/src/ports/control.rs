//! What an operator sees of a running gate's policies and limits, and asks of them.
//!
//! The data here are also the shapes of the JSON API, and what the command line reads from it: their names are stable.

use std::{fmt::Debug, pin::Pin, sync::Arc};

use serde::{Deserialize, Serialize};

/// All policies of a gate at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyList {
    /// Number of the set in force; a later set has a higher one.
    pub generation: u64,
    /// The folder that is followed, if one is configured.
    pub folder: Option<String>,
    /// Why the folder itself can't be used now.
    pub complaint: Option<String>,
    /// The policies in the order in which they are asked, then those that are not in force.
    pub policies: Vec<PolicyStatus>,
}

/// One policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// The file's name without `.wasm`.
    pub name: String,
    /// Where it comes from.
    pub source: PolicySource,
    /// Whether it decides.
    pub state: PolicyState,
    /// The hooks at which it decides; none when it is not in force.
    pub hooks: Vec<String>,
    /// What it can do, in plain words, told by what it imports; none when it is not in force.
    pub capabilities: Vec<String>,
    /// What is in force, as `sha256:` and the component's hash in hex.
    pub version: Option<String>,
    /// The generation that brought this version into force.
    pub generation: Option<u64>,
    /// Since when, as RFC 3339.
    pub since: Option<String>,
    /// Whether it is asked: `closed` when it is, `open` while it rests because it kept failing, `quarantined` when it isn't
    /// tried any more.
    pub breaker: Option<String>,
    /// What is wrong with its file, and what to do.
    pub complaint: Option<String>,
    /// The last version of its file that didn't come into force.
    pub last_failure: Option<FailedLoad>,
}

/// Where a policy comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicySource {
    /// Inside the binary.
    BuiltIn,
    /// A file of the policy folder.
    File,
}

/// Whether a policy decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyState {
    /// In force, and what its source has.
    InForce,
    /// In force, but no longer what its file has: that is gone or can't be used, and the complaint says why.
    Outdated,
    /// Not in force: its file was never one that can be used.
    Refused,
}

/// A step of a policy's way into force, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadStep {
    /// Its files are there, nobody else can write to them, and they are whole.
    File,
    /// `NAME.toml` can be read.
    Terms,
    /// The component has a size and a format that are taken.
    Format,
    /// It is compiled, or was before.
    Compile,
    /// Its imports are linked, and granted where that is needed.
    Imports,
    /// It was built for this version of the interface.
    Version,
    /// It decides at a hook, and has all that it must.
    Hooks,
    /// It takes its settings.
    Configure,
    /// It decides its cases as they say.
    Cases,
    /// It answers within its budget.
    Warm,
    /// It is in force.
    Swap,
}

impl LoadStep {
    /// The word for it in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Terms => "terms",
            Self::Format => "format",
            Self::Compile => "compile",
            Self::Imports => "imports",
            Self::Version => "version",
            Self::Hooks => "hooks",
            Self::Configure => "configure",
            Self::Cases => "cases",
            Self::Warm => "warm",
            Self::Swap => "swap",
        }
    }
}

/// An attempt to bring a version into force that came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedLoad {
    /// At which step.
    pub step: LoadStep,
    /// Why, and what to do.
    pub reason: String,
    /// When, as RFC 3339.
    pub at: String,
}

/// What a look at the folder came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Number of the set in force now.
    pub generation: u64,
    /// What this look brought into force or took out of it.
    pub changes: Vec<PolicyChange>,
    /// What is not as it should be, whether new or not.
    pub complaints: Vec<PolicyComplaint>,
}

/// A policy that is another than before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyChange {
    /// Which policy.
    pub policy: String,
    /// What became of it.
    pub change: Change,
}

/// What became of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It is asked from now on.
    Added,
    /// Another version is asked.
    Replaced,
    /// It is no longer asked.
    Removed,
}

impl Change {
    /// As the JSON has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Replaced => "replaced",
            Self::Removed => "removed",
        }
    }
}

/// What is wrong with a policy's file, or with the folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyComplaint {
    /// Which policy; none when it is the folder.
    pub policy: Option<String>,
    /// What is wrong, and what to do.
    pub complaint: String,
}

/// Why the folder was not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// No folder is configured.
    #[error("there is no policy folder, only the built-in policies: set policies.folder and restart the gate")]
    NoFolder,
    /// Too many wait for a look already.
    #[error("many wait for a reload already: try again")]
    Busy,
    /// Nobody looks any more.
    #[error("the policy folder is no longer followed: the gate stops, or must be restarted; its log says why")]
    Ended,
}

/// What a call of one key would be charged now, and where those counters stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitList {
    /// The key's id.
    pub key: String,
    /// Whether it may be used: `active`, or why not.
    pub state: String,
    /// The model of the call, by canonical name; none: a call that names no model, to which no model's limits apply.
    pub model: Option<String>,
    /// Where the figures come from: `shared` (Redis, all gates together), `this process`, or `this process, degraded`: its
    /// share alone, while Redis can't be asked.
    pub source: String,
    /// The limits in the order in which policies charge them.
    pub limits: Vec<LimitStatus>,
}

/// Where one limit stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitStatus {
    /// The policy that charges it.
    pub policy: String,
    /// Its name.
    pub limit: String,
    /// What it counts: `requests`, `input-tokens`, `output-tokens`, `tokens` or `calls`.
    pub unit: String,
    /// Units that it admits.
    pub capacity: u64,
    /// Units that calls have used which are over; more than the capacity where they used more than was reserved for them.
    pub spent: u64,
    /// Units that running calls hold. Of shared limits, those of this gate's calls; what calls of other gates hold counts as
    /// spent until they are over. Calls that run at a time are all told.
    pub reserved: u64,
    /// Units that are free.
    pub remaining: u64,
    /// When all of it is free if no more calls come, or the period ends; none where nothing is spent, or nobody knows.
    pub resets_at: Option<String>,
}

/// A promise of a reload's outcome. Dropping it cancels nothing: the look goes on.
pub type Reloading<'a> = Pin<Box<dyn Future<Output = Result<Reloaded, ReloadError>> + Send + 'a>>;

/// Steers the policies of a running gate.
pub trait PolicyControl: Debug + Send + Sync {
    /// The policies now; never waits.
    fn list(&self) -> Arc<PolicyList>;
    /// Looks at the folder now. Those who ask while a look is under way share the one after it, so that each sees what
    /// was in the folder when it asked.
    fn reload(&self) -> Reloading<'_>;
}
