//! What the commands that write to the store share: opening it, reading what was typed, and showing what it holds.
//!
//! A running gate follows the store and takes a change within two seconds; nothing here talks to one.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use super::{
    output::{self, Failure},
    serve::failure,
};
use crate::{
    app,
    clock::saturating_ms,
    config::Config,
    identity::Pepper,
    ports::{
        keys::Attributes,
        store::{NewAttributes, Store, StoreError},
    },
    store::SqliteStore,
    wire::causes::causes,
};

/// Longest name of a key or a user, in characters: what the store takes.
const NAME_MAX: usize = 200;

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

/// Whether a text can be the name of a key or a user.
pub(super) fn fits(what: &str, name: &str) -> Result<(), Failure> {
    if !matches!(name.chars().count(), 1..=NAME_MAX) || name.chars().any(char::is_control) {
        return Err(Failure::usage(format!(
            "{what} takes 1 to {NAME_MAX} characters, none of them a control character"
        )));
    }
    Ok(())
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

/// Attributes by name, as JSON has them.
pub(super) fn by_name(attributes: &Attributes) -> BTreeMap<&str, &[Box<str>]> {
    attributes.iter().map(|(name, values)| (&**name, &**values)).collect()
}

/// Attributes in a cell of a table; a dash for none.
pub(super) fn cell(attributes: &BTreeMap<&str, &[Box<str>]>) -> String {
    if attributes.is_empty() {
        return "-".to_owned();
    }
    let texts: Vec<String> = attributes.iter().map(|(name, values)| format!("{name}={}", values.join(","))).collect();
    texts.join(" ")
}

/// A moment as RFC 3339, to the second.
pub(super) fn moment(unix_ms: u64) -> String {
    let moment = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms - ms.rem_euclid(1000)).ok());
    moment.map_or_else(|| unix_ms.to_string(), |moment| moment.to_string())
}

/// The moment after so much time, in Unix milliseconds, if a calendar has it.
pub(super) fn after(now_ms: u64, time: Duration) -> Option<u64> {
    let end = now_ms.saturating_add(saturating_ms(time));
    i64::try_from(end).is_ok_and(|end| Timestamp::from_millisecond(end).is_ok()).then_some(end)
}

/// Says what was done, beside the result.
pub(super) fn done(what: &str) {
    output::note(&format!("{what}; {IN_FORCE}"));
}
