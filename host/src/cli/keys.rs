//! `tollgate keys`: keys of callers, written to the store. A running gate takes a change within two seconds.

use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;

use super::{
    Format,
    output::{self, Failure},
    serve::failure,
};
use crate::{
    app,
    clock::{Clock, saturating_ms},
    config::Config,
    identity::{FreshKey, Pepper},
    llm::model_name::ModelName,
    ports::{
        keys::{KeyRecord, KeyState, Scope},
        store::{NewKey, Store, StoreError},
    },
    wire::causes::causes,
};

/// Longest name of a key or a user, in characters: what the store takes.
const MAX_NAME: usize = 200;

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Create a key and print it: it is shown this once
    Create(Create),
    /// List keys; secrets are not known to anybody
    List,
    /// Switch a key off; it can be enabled again
    Disable(Which),
    /// Switch a key on again
    Enable(Which),
    /// Withdraw a key for good
    Revoke(Which),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// What to call it
    #[arg(long)]
    name: String,
    /// User who owns it; created if there is none of this name
    #[arg(long)]
    user: Option<String>,
    /// Requests per minute; without it limits.requests_per_minute applies
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    rpm: Option<u64>,
    /// Models it may use, e.g. llama3,qwen3:8b; without it all
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    models: Vec<String>,
    /// How long it is valid, e.g. 30d or 12h; without it for ever
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    expires: Option<Duration>,
    /// A value that policies may ask for, e.g. groups=staff; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = attribute)]
    attribute: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(super) struct Which {
    /// The key's id, or its name where only one has it
    key: String,
}

/// A key as a list shows it.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    id: &'a str,
    name: &'a str,
    user: Option<&'a str>,
    state: &'static str,
    requests_per_minute: Option<u64>,
    models: Option<Vec<&'a str>>,
    expires_at: Option<String>,
    created_at: String,
}

pub(super) async fn answer(command: KeysCommand, config: &Config, format: Format) -> Result<(), Failure> {
    let store = app::open_store(config).await.map_err(|error| failure(&error))?;
    let answered = match command {
        KeysCommand::Create(create) => make(create, config, &store, format).await,
        KeysCommand::List => list(&store, format).await,
        KeysCommand::Disable(which) => set(&store, &which, KeyState::Disabled).await,
        KeysCommand::Enable(which) => set(&store, &which, KeyState::Active).await,
        KeysCommand::Revoke(which) => set(&store, &which, KeyState::Revoked).await,
    };
    store.close().await;
    answered
}

async fn make(create: Create, config: &Config, store: &dyn Store, format: Format) -> Result<(), Failure> {
    fits("--name", &create.name)?;
    if let Some(user) = &create.user {
        fits("--user", user)?;
    }
    let now_ms = Clock::system().unix_ms();
    let expires_at_ms = match create.expires {
        Some(Duration::ZERO) => return Err(Failure::usage("--expires must be longer than no time; write 30d or 12h")),
        Some(valid) => Some(end(now_ms, valid)?),
        None => None,
    };
    let pepper = Pepper::load_or_create(&config.state_dir).map_err(|error| Failure::configuration(causes(&error)))?;
    let key = FreshKey::generate().map_err(|error| Failure::failed(error.to_string()))?;
    let new = NewKey {
        id: key.id().to_owned(),
        name: create.name,
        user: create.user,
        requests_per_minute: create.rpm,
        scope: scope(&create.models)?,
        attributes: attributes(create.attribute),
        expires_at_ms,
        created_at_ms: now_ms,
        hash: pepper.hash(key.id(), key.secret()),
    };
    store.create_key(new).await.map_err(|error| store_failure(&error))?;
    if format == Format::Json {
        return output::json(&serde_json::json!({ "id": key.id(), "key": key.text() }));
    }
    output::note("This key is shown once; keep it somewhere safe:");
    output::result(key.text());
    Ok(())
}

async fn list(store: &dyn Store, format: Format) -> Result<(), Failure> {
    let now_ms = Clock::system().unix_ms();
    let keys = store.keys().await.map_err(|error| store_failure(&error))?;
    let shown: Vec<Shown<'_>> = keys.iter().map(|key| shown(&key.record, now_ms)).collect();
    if format == Format::Json {
        return output::json(&shown);
    }
    let dash = || "-".to_owned();
    let rows = shown.into_iter().map(|key| {
        vec![
            key.id.to_owned(),
            key.name.to_owned(),
            key.user.map_or_else(dash, str::to_owned),
            key.state.to_owned(),
            key.requests_per_minute.map_or_else(dash, |limit| limit.to_string()),
            key.models.map_or_else(|| "all".to_owned(), |models| models.join(",")),
            key.expires_at.unwrap_or_else(dash),
        ]
    });
    output::table(&["ID", "NAME", "USER", "STATE", "RPM", "MODELS", "EXPIRES"], rows.collect());
    Ok(())
}

async fn set(store: &dyn Store, which: &Which, state: KeyState) -> Result<(), Failure> {
    let id = store.set_key_state(&which.key, state).await.map_err(|error| store_failure(&error))?;
    output::note(&format!("key {id} is {} now; a running gate takes this within two seconds", state.as_str()));
    Ok(())
}

fn shown(key: &KeyRecord, now_ms: u64) -> Shown<'_> {
    let models = match &key.scope {
        Scope::AllModels => None,
        Scope::Models(names) => Some(names.iter().map(|name| &**name).collect()),
    };
    Shown {
        id: &key.id,
        name: &key.name,
        user: key.user.as_deref(),
        state: key.standing(now_ms).as_str(),
        requests_per_minute: key.requests_per_minute,
        models,
        expires_at: key.expires_at_ms.map(moment),
        created_at: moment(key.created_at_ms),
    }
}

/// A moment as RFC 3339, to the second.
fn moment(unix_ms: u64) -> String {
    let moment = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms - ms.rem_euclid(1000)).ok());
    moment.map_or_else(|| unix_ms.to_string(), |moment| moment.to_string())
}

fn end(now_ms: u64, valid: Duration) -> Result<u64, Failure> {
    let end = now_ms.saturating_add(saturating_ms(valid));
    let is_a_date = i64::try_from(end).is_ok_and(|end| Timestamp::from_millisecond(end).is_ok());
    if is_a_date {
        Ok(end)
    } else {
        Err(Failure::usage("--expires leads past the year 9999; leave it out for a key without an end"))
    }
}

fn fits(flag: &str, name: &str) -> Result<(), Failure> {
    if !matches!(name.chars().count(), 1..=MAX_NAME) || name.chars().any(char::is_control) {
        return Err(Failure::usage(format!(
            "{flag} takes 1 to {MAX_NAME} characters, none of them a control character"
        )));
    }
    Ok(())
}

fn scope(models: &[String]) -> Result<Scope, Failure> {
    if models.is_empty() {
        return Ok(Scope::AllModels);
    }
    let mut names = Vec::new();
    for model in models {
        let name = ModelName::parse(model).map_err(|error| Failure::usage(format!("--models '{model}': {error}")))?;
        names.push(Box::<str>::from(name.canonical()));
    }
    names.sort();
    names.dedup();
    Ok(Scope::Models(names.into()))
}

/// Values of one name come together, in the order given.
fn attributes(pairs: Vec<(String, String)>) -> Vec<(String, Vec<String>)> {
    let mut attributes: Vec<(String, Vec<String>)> = Vec::new();
    for (name, value) in pairs {
        match attributes.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value),
            None => attributes.push((name, vec![value])),
        }
    }
    attributes
}

fn attribute(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

fn store_failure(error: &StoreError) -> Failure {
    match error {
        StoreError::Database(_) => Failure::try_again(causes(error)),
        StoreError::Unreadable { .. }
        | StoreError::Refused(_)
        | StoreError::NameTaken { .. }
        | StoreError::NoSuchKey { .. }
        | StoreError::Ambiguous { .. }
        | StoreError::Revoked { .. } => Failure::failed(causes(error)),
    }
}
