//! Making keys, and giving them new secrets: what was asked for is checked, and the secret exists in the answer alone.
//!
//! Who asks may do so: that was checked before. Nothing here prints or logs.

use std::time::Duration;

use super::{FreshKey, NoRandomness, Pepper};
use crate::{
    clock::after,
    llm::model_name::ModelName,
    ports::{
        keys::{KeyRecord, Scope},
        limits::LimitChange,
        store::{NewAttributes, NewKey, Rotation, Store, StoreError},
    },
};

/// Longest name of a key or a user, in characters: what the store takes.
const NAME_MAX: usize = 200;

/// How long two secrets may prove one key: a secret that nobody withdraws is what rotating is against.
pub const OVERLAP_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A key that somebody wants.
#[derive(Clone, Debug)]
pub struct KeyOrder {
    /// What to call it.
    pub name: String,
    /// The user who is to own it; made if there is none of this name.
    pub user: Option<String>,
    /// Its own limits; what takes one away changes nothing.
    pub limits: Vec<LimitChange>,
    /// Models that it may use, in any spelling; none: all.
    pub models: Option<Vec<String>>,
    /// How long it is valid; none: for ever.
    pub expires: Option<Duration>,
    /// Whether it may change what backends have.
    pub may_manage: bool,
    /// What policies may ask of it.
    pub attributes: NewAttributes,
}

/// A key with a new secret.
#[derive(Debug)]
pub struct Renewed {
    /// The secret's one appearance.
    pub key: FreshKey,
    /// The key as it was.
    pub record: KeyRecord,
    /// Until when the secret before this one proves the key too, in Unix milliseconds; none: no longer.
    pub former_until_ms: Option<u64>,
    /// Whether one more secret before that still proved it, and doesn't any more.
    pub has_ended_former: bool,
}

/// Why there is no key, or no new secret.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// Something that was asked for can't be.
    #[error("{field} {reason}")]
    Unfit {
        /// Which field.
        field: &'static str,
        /// What is wrong with it, and what to do; reads on after the field's name.
        reason: String,
    },
    /// The id is none that a key's text can hold.
    #[error("the id '{id}' can't be part of a key: create a new key instead")]
    Id {
        /// The id.
        id: Box<str>,
    },
    /// The system gave no secret.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The store didn't do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes a key.
///
/// # Errors
/// When what is asked for can't be, or the store refuses it.
pub async fn issue(store: &dyn Store, pepper: &Pepper, order: KeyOrder, now_ms: u64) -> Result<FreshKey, IssueError> {
    check_name("name", &order.name)?;
    if let Some(user) = &order.user {
        check_name("user", user)?;
    }
    let expires_at_ms = order.expires.map(|valid| end(now_ms, valid)).transpose()?;
    let scope = order.models.as_deref().map_or(Ok(Scope::AllModels), scope)?;
    let key = FreshKey::generate()?;
    let new = NewKey {
        id: key.id().to_owned(),
        name: order.name,
        user: order.user,
        limits: order.limits,
        scope,
        may_manage: order.may_manage,
        attributes: order.attributes,
        expires_at_ms,
        created_at_ms: now_ms,
        hash: pepper.hash(key.id(), key.secret()),
    };
    store.create_key(new).await?;
    Ok(key)
}

/// Gives the key that is meant a new secret; the present one works for `overlap` beside it.
///
/// # Errors
/// When the overlap is too long, or the store refuses.
pub async fn renew(
    store: &dyn Store,
    pepper: &Pepper,
    key: &str,
    overlap: Duration,
    now_ms: u64,
) -> Result<Renewed, IssueError> {
    if overlap > OVERLAP_MAX {
        return Err(unfit("overlap", "is at most 30d: after that only the new secret should be in use"));
    }
    let former_until_ms = if overlap.is_zero() { None } else { after(now_ms, overlap) };
    let record = store.key(key).await?.record;
    let key = FreshKey::renew(&record.id)?.ok_or_else(|| IssueError::Id { id: record.id.clone() })?;
    let rotation =
        Rotation { id: key.id().to_owned(), hash: pepper.hash(key.id(), key.secret()), now_ms, former_until_ms };
    let rotated = store.rotate_key(rotation).await?;
    Ok(Renewed { key, record, former_until_ms, has_ended_former: rotated.has_ended_former })
}

/// Whether a text can be the name of a key or a user.
///
/// # Errors
/// [`IssueError::Unfit`], with this field's name.
pub fn check_name(field: &'static str, name: &str) -> Result<(), IssueError> {
    if !matches!(name.chars().count(), 1..=NAME_MAX) || name.chars().any(char::is_control) {
        let reason = format!("takes 1 to {NAME_MAX} characters, none of them a control character");
        return Err(IssueError::Unfit { field, reason });
    }
    Ok(())
}

fn end(now_ms: u64, valid: Duration) -> Result<u64, IssueError> {
    if valid.is_zero() {
        return Err(unfit("expires", "must be longer than no time; write 30d or 12h"));
    }
    let past = || unfit("expires", "leads past the year 9999; leave it out for a key without an end");
    after(now_ms, valid).ok_or_else(past)
}

fn scope(models: &[String]) -> Result<Scope, IssueError> {
    if models.is_empty() {
        return Err(unfit("models", "names none: leave it out for all models"));
    }
    let mut names = Vec::with_capacity(models.len());
    for (place, model) in models.iter().enumerate() {
        let name = ModelName::parse(model)
            .map_err(|error| IssueError::Unfit { field: "models", reason: format!("at {}: {error}", place + 1) })?;
        names.push(Box::<str>::from(name.canonical()));
    }
    names.sort();
    names.dedup();
    Ok(Scope::Models(names.into()))
}

fn unfit(field: &'static str, reason: &str) -> IssueError {
    IssueError::Unfit { field, reason: reason.to_owned() }
}
