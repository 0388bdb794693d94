//! `tollgate keys`: keys of callers, written to the store. A running gate takes a change within two seconds.

use std::{collections::BTreeMap, time::Duration};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    Format,
    declared::{after, attribute, attributes, by_name, cell, done, fits, moment, open, pepper, refused},
    limits::{self, LimitFlags},
    output::{self, Failure},
};
use crate::{
    clock::Clock,
    config::Config,
    identity::FreshKey,
    llm::model_name::ModelName,
    ports::{
        keys::{KeyRecord, KeyState, Scope, Standing},
        limits::Limits,
        store::{NewKey, Rotation, Store, StoredKey},
    },
};

/// How long two secrets may prove one key: a secret that nobody withdraws is what rotating is against.
const OVERLAP_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Create a key and print it: it is shown this once
    Create(Create),
    /// List keys; secrets are not known to anybody
    List,
    /// Show one key
    Show(Which),
    /// Change a key's limits; those that aren't named stay
    Set(Set),
    /// Give a key a new secret and print it; name, limits, models and counters stay
    Rotate(Rotate),
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
    #[command(flatten)]
    limits: LimitFlags,
    /// Models it may use, e.g. llama3,qwen3:8b; without it all
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    models: Vec<String>,
    /// How long it is valid, e.g. 30d or 12h; without it for ever
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    expires: Option<Duration>,
    /// Let it pull, delete, copy, create and push models, which changes backends
    #[arg(long)]
    manage: bool,
    /// A value that policies may ask for, e.g. groups=staff; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = attribute)]
    attribute: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(super) struct Which {
    /// The key's id, or its name where only one has it
    key: String,
}

#[derive(Debug, Args)]
pub(super) struct Set {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    limits: LimitFlags,
}

#[derive(Debug, Args)]
pub(super) struct Rotate {
    #[command(flatten)]
    which: Which,
    /// How long the present secret works beside the new one, at most 30d; 0s ends it at once
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = overlap)]
    overlap: Duration,
}

/// A key as text for people.
#[derive(Debug)]
struct Cells {
    id: String,
    name: String,
    user: String,
    state: String,
    limits: String,
    models: String,
    manage: String,
    expires: String,
}

impl Cells {
    fn of(StoredKey { record, .. }: &StoredKey, now_ms: u64) -> Self {
        let dash = || "-".to_owned();
        Self {
            id: record.id.to_string(),
            name: record.name.to_string(),
            user: record.user_name().map_or_else(dash, str::to_owned),
            state: record.standing(now_ms).as_str().to_owned(),
            limits: limits::cell(&record.limits),
            models: models(record).map_or_else(|| "all".to_owned(), |models| models.join(",")),
            manage: if record.may_manage { "yes".to_owned() } else { dash() },
            expires: record.expires_at_ms.map_or_else(dash, moment),
        }
    }
}

/// A key as a list shows it.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    id: &'a str,
    name: &'a str,
    user: Option<&'a str>,
    state: &'static str,
    limits: &'a Limits,
    models: Option<Vec<&'a str>>,
    may_manage: bool,
    attributes: BTreeMap<&'a str, &'a [Box<str>]>,
    /// Until when the secret before the last rotation works; none: it doesn't.
    former_secret_until: Option<String>,
    expires_at: Option<String>,
    created_at: String,
}

pub(super) async fn answer(command: KeysCommand, config: &Config, format: Format) -> Result<(), Failure> {
    let store = open(config).await?;
    let answered = match command {
        KeysCommand::Create(create) => make(create, config, &store, format).await,
        KeysCommand::List => list(&store, format).await,
        KeysCommand::Show(which) => show(&store, &which, format).await,
        KeysCommand::Set(set) => change(set, &store, format).await,
        KeysCommand::Rotate(rotate) => renew(rotate, config, &store, format).await,
        KeysCommand::Disable(which) => set_state(&store, &which, KeyState::Disabled, format).await,
        KeysCommand::Enable(which) => set_state(&store, &which, KeyState::Active, format).await,
        KeysCommand::Revoke(which) => set_state(&store, &which, KeyState::Revoked, format).await,
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
        Some(valid) => Some(after(now_ms, valid).ok_or_else(|| {
            Failure::usage("--expires leads past the year 9999; leave it out for a key without an end")
        })?),
        None => None,
    };
    let (scope, limits) = (scope(&create.models)?, create.limits.first()?);
    let pepper = pepper(config, store).await?;
    let key = FreshKey::generate().map_err(|error| Failure::failed(error.to_string()))?;
    let new = NewKey {
        id: key.id().to_owned(),
        name: create.name,
        user: create.user,
        limits,
        scope,
        may_manage: create.manage,
        attributes: attributes(create.attribute),
        expires_at_ms,
        created_at_ms: now_ms,
        hash: pepper.hash(key.id(), key.secret()),
    };
    store.create_key(new).await.map_err(|error| refused(&error))?;
    if format == Format::Json {
        return output::json(&serde_json::json!({ "id": key.id(), "key": key.text() }));
    }
    print_key(&key);
    Ok(())
}

async fn renew(rotate: Rotate, config: &Config, store: &dyn Store, format: Format) -> Result<(), Failure> {
    let now_ms = Clock::system().unix_ms();
    let former_until_ms = match rotate.overlap {
        Duration::ZERO => None,
        overlap => after(now_ms, overlap),
    };
    let record = store.key(&rotate.which.key).await.map_err(|error| refused(&error))?.record;
    let pepper = pepper(config, store).await?;
    let key = FreshKey::renew(&record.id).map_err(|error| Failure::failed(error.to_string()))?.ok_or_else(|| {
        Failure::failed(format!("the id '{}' can't be part of a key: create a new key instead", record.id))
    })?;
    let rotation =
        Rotation { id: key.id().to_owned(), hash: pepper.hash(key.id(), key.secret()), now_ms, former_until_ms };
    let rotated = store.rotate_key(rotation).await.map_err(|error| refused(&error))?;
    let former_secret_until = former_until_ms.map(moment);
    if format == Format::Json {
        return output::json(&serde_json::json!({
            "id": key.id(),
            "key": key.text(),
            "former_secret_until": former_secret_until,
            "ended_earlier_secret": rotated.has_ended_former,
        }));
    }
    if rotated.has_ended_former {
        output::note("The key was rotated a short while ago: the secret before that one ends now.");
    }
    match record.standing(now_ms) {
        Standing::Active => {}
        other => output::note(&format!("The key is {}, and stays so with its new secret.", other.as_str())),
    }
    match former_secret_until {
        Some(until) => done(&format!("The secret that it has had until now works until {until}, beside the new one")),
        None => done("The secret that it has had until now ends at once"),
    }
    print_key(&key);
    Ok(())
}

/// The one place that prints a secret: alone on its line.
fn print_key(key: &FreshKey) {
    output::note("This key is shown once; keep it somewhere safe:");
    output::result(key.text());
}

async fn list(store: &dyn Store, format: Format) -> Result<(), Failure> {
    let now_ms = Clock::system().unix_ms();
    let keys = store.keys().await.map_err(|error| refused(&error))?;
    if format == Format::Json {
        return output::json(&keys.iter().map(|key| shown(key, now_ms)).collect::<Vec<_>>());
    }
    let rows = keys.iter().map(|key| {
        let cells = Cells::of(key, now_ms);
        let Cells { id, name, user, state, limits, models, manage, expires } = cells;
        vec![id, name, user, state, limits, models, manage, expires]
    });
    output::table(&["ID", "NAME", "USER", "STATE", "LIMITS", "MODELS", "MANAGE", "EXPIRES"], rows.collect());
    Ok(())
}

async fn show(store: &dyn Store, which: &Which, format: Format) -> Result<(), Failure> {
    let now_ms = Clock::system().unix_ms();
    let key = store.key(&which.key).await.map_err(|error| refused(&error))?;
    if format == Format::Json {
        return output::json(&shown(&key, now_ms));
    }
    let users = key.record.user.as_ref().map_or_else(|| "-".to_owned(), |user| limits::cell(&user.limits));
    let (attributes, created) = (cell(&by_name(&key.record.attributes)), moment(key.record.created_at_ms));
    let Cells { id, name, user, state, limits, models, manage, expires } = Cells::of(&key, now_ms);
    for (what, text) in [
        ("id", id),
        ("name", name),
        ("user", user),
        ("state", state),
        ("limits", limits),
        ("user's limits", users),
        ("models", models),
        ("manage", manage),
        ("attributes", attributes),
        ("expires", expires),
        ("created", created),
    ] {
        output::result(&format!("{what}: {text}"));
    }
    Ok(())
}

async fn change(set: Set, store: &dyn Store, format: Format) -> Result<(), Failure> {
    let changes = set.limits.changes()?;
    if changes.is_empty() {
        return Err(Failure::usage("nothing is to be changed: give at least one limit, e.g. --rpm 60 or --tpm none"));
    }
    let id = store.change_key_limits(&set.which.key, changes).await.map_err(|error| refused(&error))?;
    let key = store.key(&id).await.map_err(|error| refused(&error))?;
    done(&format!("key {id} has these limits of its own now: {}", limits::cell(&key.record.limits)));
    match format {
        Format::Json => output::json(&shown(&key, Clock::system().unix_ms())),
        Format::Table => Ok(()),
    }
}

async fn set_state(store: &dyn Store, which: &Which, state: KeyState, format: Format) -> Result<(), Failure> {
    let id = store.set_key_state(&which.key, state).await.map_err(|error| refused(&error))?;
    let key = store.key(&id).await.map_err(|error| refused(&error))?;
    done(&format!("key {id} is {} now", state.as_str()));
    let user = key.record.user_name().filter(|_| state == KeyState::Active && key.record.is_of_disabled_user());
    if let Some(user) = user {
        output::note(&format!("its user '{user}' is disabled, so it stays refused: run `tollgate users enable`"));
    }
    match format {
        Format::Json => output::json(&shown(&key, Clock::system().unix_ms())),
        Format::Table => Ok(()),
    }
}

fn shown(key: &StoredKey, now_ms: u64) -> Shown<'_> {
    let StoredKey { record, former, .. } = key;
    Shown {
        id: &record.id,
        name: &record.name,
        user: record.user_name(),
        state: record.standing(now_ms).as_str(),
        limits: &record.limits,
        models: models(record),
        may_manage: record.may_manage,
        attributes: by_name(&record.attributes),
        former_secret_until: former.filter(|former| former.until_ms > now_ms).map(|former| moment(former.until_ms)),
        expires_at: record.expires_at_ms.map(moment),
        created_at: moment(record.created_at_ms),
    }
}

fn models(key: &KeyRecord) -> Option<Vec<&str>> {
    match &key.scope {
        Scope::AllModels => None,
        Scope::Models(names) => Some(names.iter().map(|name| &**name).collect()),
    }
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

fn overlap(text: &str) -> Result<Duration, String> {
    // humantime wants a unit; no time needs none.
    let time = if text == "0" { Duration::ZERO } else { humantime::parse_duration(text).map_err(|e| e.to_string())? };
    if time > OVERLAP_MAX {
        return Err("at most 30d: after that only the new secret should be in use".to_owned());
    }
    Ok(time)
}
