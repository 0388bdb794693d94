//! The configuration of the proxy: where it is read from, what every key means, and all that is wrong with it at once.
//!
//! `tollgate.toml`, then variables `TOLLGATE__SECTION__KEY`, then `--set` are merged into one tree ([`Sources`]); a
//! reader walks the tree key by key and notes every problem; what comes out is a [`Config`] whose values are all
//! checked. A `Config` never changes once it is made. This module looks at the file system only to read the file and to
//! see whether the policy folder is there; it opens no socket, starts nothing and knows no default that isn't written
//! down in [`sections`].

mod backend_url;
mod check;
mod declared;
mod error;
mod policies;
mod policy_file;
mod reader;
pub mod sections;
mod sharing;
mod sources;
mod values;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use backend_url::{BackendUrl, BackendUrlError, is_link_local};
pub use declared::{BackendProblem, WrittenBackend};
pub use error::{ConfigErrors, Problem};
pub use policy_file::{HookTerms, OnFault, OnRemove, PolicyFile, Reuse};
pub use sections::{
    Admin, Approve, Backend, BackendKind, BreakerRules, Http2, Limits, Log, LogFormat, Models, Policies, Provenance,
    Server, Store, TlsFiles, Upstream,
};
pub use sharing::{Redis, RedisMode, RedisUrl};
pub use sources::Sources;

use self::reader::Reader;
use self::sources::Merged;

/// The whole configuration, checked: what holds here needs no second look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `state_dir`: the folder for what tollgate keeps (store, pepper, admin token, compiled policies). Default
    /// `tollgate-state`.
    pub state_dir: PathBuf,
    /// `[server]`: the port for LLM callers.
    pub server: Server,
    /// `[admin]`: the port for operators.
    pub admin: Admin,
    /// `[store]`: where keys, users and usage are kept.
    pub store: Store,
    /// `[redis]`: through what limits are shared among gates. Default: they hold in this process alone.
    pub redis: Option<Redis>,
    /// `[policies]`: where policies are found and what they may cost.
    pub policies: Policies,
    /// `[limits]`: limits of keys that have none of their own.
    pub limits: Limits,
    /// `[models]`: which models may be asked for at all.
    pub models: Models,
    /// `[upstream]`: how backends are talked to.
    pub upstream: Upstream,
    /// `[[backends]]`: the LLM servers, in the order written; names and URLs are unique. May be empty.
    pub backends: Vec<Backend>,
    /// `[log]`: what is logged, and how.
    pub log: Log,
}

impl Config {
    /// Reads and checks the configuration from all of `sources`.
    ///
    /// # Errors
    /// Every problem there is; a file that can't be read or parsed is a single one.
    pub fn load(sources: &Sources) -> Result<Self, ConfigErrors> {
        let (merged, problems) = Merged::read(sources).map_err(ConfigErrors::from)?;
        let reader = Reader::new(merged, problems);
        let config = check::config(&reader);
        ConfigErrors::of(reader.into_problems()).map_or(Ok(config), Err)
    }

    /// The configuration in which nothing is set, with its state in `directory`.
    pub fn defaults_in(directory: &Path) -> Self {
        check::config(&Reader::new(Merged::empty(directory), Vec::new()))
    }

    /// What is allowed but hardly meant, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.backends.is_empty() {
            warnings.push(
                "no backends are configured: calls to models are refused unless `tollgate backends add` has added some"
                    .to_owned(),
            );
        }
        if self.server.tls.is_none() && !self.server.listen.ip().to_canonical().is_loopback() {
            let warning = "server.listen reaches beyond this machine without TLS, so keys and prompts can be read on the \
                           way: set server.tls = { cert = \"…\", key = \"…\" }, or put something with TLS in front";
            warnings.push(warning.to_owned());
        }
        warnings
    }
}
