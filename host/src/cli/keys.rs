//! `tollgate keys`: keys of callers, written to the store. A running gate takes a change within two seconds.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{
    Format,
    declared::{attribute, attributes, cell, done, not_issued, open, pepper, refused},
    limits::{self, LimitFlags},
    output::{self, Failure},
};
use crate::{
    clock::{Clock, moment},
    config::Config,
    identity::{
        FreshKey,
        issue::{KeyOrder, OVERLAP_MAX, Renewed, issue, renew as renew_key},
        shown::{ShownKey, key as shown},
    },
    ports::{
        keys::{KeyState, Standing},
        store::Store,
    },
};

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
    fn of(key: &ShownKey<'_>) -> Self {
        let dash = || "-".to_owned();
        Self {
            id: key.id.to_owned(),
            name: key.name.to_owned(),
            user: key.user.map_or_else(dash, str::to_owned),
            state: key.state.to_owned(),
            limits: limits::cell(key.limits),
            models: key.models.as_ref().map_or_else(|| "all".to_owned(), |models| models.join(",")),
            manage: if key.may_manage { "yes".to_owned() } else { dash() },
            expires: key.expires_at.clone().unwrap_or_else(dash),
        }
    }
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
    let order = KeyOrder {
        name: create.name,
        user: create.user,
        limits: create.limits.first()?,
        models: Some(create.models).filter(|models| !models.is_empty()),
        expires: create.expires,
        may_manage: create.manage,
        attributes: attributes(create.attribute),
    };
    let pepper = pepper(config, store).await?;
    let key = issue(store, &pepper, order, Clock::system().unix_ms()).await.map_err(|error| not_issued(&error))?;
    if format == Format::Json {
        return output::json(&serde_json::json!({ "id": key.id(), "key": key.text() }));
    }
    print_key(&key);
    Ok(())
}

async fn renew(rotate: Rotate, config: &Config, store: &dyn Store, format: Format) -> Result<(), Failure> {
    let now_ms = Clock::system().unix_ms();
    let pepper = pepper(config, store).await?;
    let renewed = renew_key(store, &pepper, &rotate.which.key, rotate.overlap, now_ms).await;
    let Renewed { key, record, former_until_ms, has_ended_former } = renewed.map_err(|error| not_issued(&error))?;
    let former_secret_until = former_until_ms.map(moment);
    if format == Format::Json {
        return output::json(&serde_json::json!({
            "id": key.id(),
            "key": key.text(),
            "former_secret_until": former_secret_until,
            "ended_earlier_secret": has_ended_former,
        }));
    }
    if has_ended_former {
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
    let shown: Vec<ShownKey<'_>> = keys.iter().map(|key| shown(key, now_ms)).collect();
    if format == Format::Json {
        return output::json(&shown);
    }
    let rows = shown.iter().map(|key| {
        let Cells { id, name, user, state, limits, models, manage, expires } = Cells::of(key);
        vec![id, name, user, state, limits, models, manage, expires]
    });
    output::table(&["ID", "NAME", "USER", "STATE", "LIMITS", "MODELS", "MANAGE", "EXPIRES"], rows.collect());
    Ok(())
}

async fn show(store: &dyn Store, which: &Which, format: Format) -> Result<(), Failure> {
    let now_ms = Clock::system().unix_ms();
    let key = store.key(&which.key).await.map_err(|error| refused(&error))?;
    let shown = shown(&key, now_ms);
    if format == Format::Json {
        return output::json(&shown);
    }
    let users = key.record.user.as_ref().map_or_else(|| "-".to_owned(), |user| limits::cell(&user.limits));
    let Cells { id, name, user, state, limits, models, manage, expires } = Cells::of(&shown);
    for (what, text) in [
        ("id", id),
        ("name", name),
        ("user", user),
        ("state", state),
        ("limits", limits),
        ("user's limits", users),
        ("models", models),
        ("manage", manage),
        ("attributes", cell(&shown.attributes)),
        ("expires", expires),
        ("created", shown.created_at),
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

fn overlap(text: &str) -> Result<Duration, String> {
    // humantime wants a unit; no time needs none.
    let time = if text == "0" { Duration::ZERO } else { humantime::parse_duration(text).map_err(|e| e.to_string())? };
    if time > OVERLAP_MAX {
        return Err("at most 30d: after that only the new secret should be in use".to_owned());
    }
    Ok(time)
}
