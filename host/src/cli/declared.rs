//! What the commands that write to the store share: opening it, reading what was typed, and showing what it holds.
//!
//! A running gate follows the store and takes a change within two seconds; nothing here talks to one.

use std::collections::BTreeMap;

use super::{
    output::{self, Failure},
    serve::failure,
};
use crate::{
    app,
    config::Config,
    identity::{Pepper, issue::IssueError},
    ports::store::{NewAttributes, Store, StoreError},
    store::SqliteStore,
    wire::causes::causes,
};

/// When a change is in force.
pub(super) const IN_FORCE: &str = "a running gate takes this within two seconds";

pub(super) async fn open(config: &Config) -> Result<SqliteStore, Failure> {
    app::open_store(config).await.map_err(|error| failure(&error))
}

/// The pepper that proves the keys of the store. A new one is made only where there are no keys yet.
pub(super) async fn pepper(config: &Config, store: &dyn Store) -> Result<Pepper, Failure> {
    app::refuse_lost_pepper(config, store).await.map_err(|error| failure(&error))?;
    Pepper::load_or_create(&config.state_dir).map_err(|error| Failure::configuration(causes(&error)))
}

/// Why there is no key, in words of the command line.
pub(super) fn not_issued(error: &IssueError) -> Failure {
    match error {
        IssueError::Unfit { field, reason } => Failure::usage(format!("--{field} {reason}")),
        IssueError::Store(error) => refused(error),
        IssueError::Id { .. } | IssueError::NoRandomness(_) => Failure::failed(error.to_string()),
    }
}

pub(super) fn refused(error: &StoreError) -> Failure {
    match error {
        StoreError::Database(_) => Failure::try_again(causes(error)),
        StoreError::Unreadable { .. }
        | StoreError::Refused(_)
        | StoreError::NameTaken { .. }
        | StoreError::NoSuchKey { .. }
        | StoreError::Ambiguous { .. }
        | StoreError::Revoked { .. }
        | StoreError::UserTaken { .. }
        | StoreError::NoSuchUser { .. }
        | StoreError::UserDisabled { .. }
        | StoreError::UserHasKeys { .. }
        | StoreError::NoSuchBackend { .. }
        | StoreError::BackendTaken { .. } => Failure::failed(causes(error)),
    }
}

/// `NAME=VALUE` from the command line.
pub(super) fn attribute(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

/// Values of one name come together, in the order given.
pub(super) fn attributes(pairs: Vec<(String, String)>) -> NewAttributes {
    let mut attributes = NewAttributes::new();
    for (name, value) in pairs {
        match attributes.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value),
            None => attributes.push((name, vec![value])),
        }
    }
    attributes
}

/// Attributes in a cell of a table; a dash for none.
pub(super) fn cell(attributes: &BTreeMap<&str, &[Box<str>]>) -> String {
    if attributes.is_empty() {
        return "-".to_owned();
    }
    let texts: Vec<String> = attributes.iter().map(|(name, values)| format!("{name}={}", values.join(","))).collect();
    texts.join(" ")
}

/// Says what was done, beside the result.
pub(super) fn done(what: &str) {
    output::note(&format!("{what}; {IN_FORCE}"));
}
