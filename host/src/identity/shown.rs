//! Keys and users as lists show them, in JSON alike on the command line and in the admin API. Nothing that proves a key is
//! in here.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    clock::moment,
    ports::{
        keys::{Attributes, Scope},
        limits::Limits,
        store::{StoredKey, StoredUser},
    },
};

/// A key.
#[derive(Debug, Serialize)]
pub struct ShownKey<'a> {
    /// Public id.
    pub id: &'a str,
    /// What its creator calls it.
    pub name: &'a str,
    /// Who owns it.
    pub user: Option<&'a str>,
    /// `active`, `disabled`, `expired` or `revoked`.
    pub state: &'static str,
    /// Its own limits.
    pub limits: &'a Limits,
    /// Canonical names of the models that it may use; none: all.
    pub models: Option<Vec<&'a str>>,
    /// Whether it may change what backends have.
    pub may_manage: bool,
    /// What policies may ask of it.
    pub attributes: BTreeMap<&'a str, &'a [Box<str>]>,
    /// Until when the secret before the last rotation works; none: it doesn't.
    pub former_secret_until: Option<String>,
    /// Its end.
    pub expires_at: Option<String>,
    /// When it was made.
    pub created_at: String,
}

/// A user.
#[derive(Debug, Serialize)]
pub struct ShownUser<'a> {
    /// Unique name.
    pub name: &'a str,
    /// `active` or `disabled`.
    pub state: &'static str,
    /// What policies may ask of their keys.
    pub attributes: BTreeMap<&'a str, &'a [Box<str>]>,
    /// What all of their keys may take together.
    pub limits: &'a Limits,
    /// How many of their keys are not revoked.
    pub live_keys: u64,
    /// When they were made.
    pub created_at: String,
}

/// A key as it is at this time.
pub fn key(stored: &StoredKey, now_ms: u64) -> ShownKey<'_> {
    let StoredKey { record, former, .. } = stored;
    let models = match &record.scope {
        Scope::AllModels => None,
        Scope::Models(names) => Some(names.iter().map(|name| &**name).collect()),
    };
    ShownKey {
        id: &record.id,
        name: &record.name,
        user: record.user_name(),
        state: record.standing(now_ms).as_str(),
        limits: &record.limits,
        models,
        may_manage: record.may_manage,
        attributes: by_name(&record.attributes),
        former_secret_until: former.filter(|former| former.until_ms > now_ms).map(|former| moment(former.until_ms)),
        expires_at: record.expires_at_ms.map(moment),
        created_at: moment(record.created_at_ms),
    }
}

/// A user as stored.
pub fn user(stored: &StoredUser) -> ShownUser<'_> {
    let StoredUser { user, live_keys } = stored;
    ShownUser {
        name: &user.name,
        state: user.state.as_str(),
        attributes: by_name(&user.attributes),
        limits: &user.limits,
        live_keys: *live_keys,
        created_at: moment(user.created_at_ms),
    }
}

/// Attributes by name, as JSON has them.
pub fn by_name(attributes: &Attributes) -> BTreeMap<&str, &[Box<str>]> {
    attributes.iter().map(|(name, values)| (&**name, &**values)).collect()
}
