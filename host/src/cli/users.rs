//! `tollgate users`: who owns keys, written to the store. A running gate takes a change within two seconds.

use clap::{Args, Subcommand};

use super::{
    Format,
    declared::{attribute, attributes, cell, done, open, refused},
    limits::{self, LimitFlags},
    output::{self, Failure},
};
use crate::{
    clock::Clock,
    config::Config,
    identity::{
        issue::check_name,
        shown::{ShownUser, user as shown},
    },
    ports::{
        keys::UserState,
        store::{NewUser, Store, UserChanges},
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum UsersCommand {
    /// Create a user; `keys create --user` does so too
    Create(Create),
    /// List users
    List,
    /// Refuse all of a user's keys; they can be enabled again
    Disable(Which),
    /// Let a user's keys pass again
    Enable(Which),
    /// Change what a user's keys together are limited to, and what policies may ask of them
    Set(Set),
    /// Remove a user whose keys are all revoked
    Remove(Which),
}

#[derive(Debug, Args)]
pub(super) struct Which {
    /// The user's name
    user: String,
}

#[derive(Debug, Args)]
pub(super) struct Create {
    #[command(flatten)]
    which: Which,
    /// A value that policies may ask for, e.g. groups=staff; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = attribute)]
    attribute: Vec<(String, String)>,
    #[command(flatten)]
    limits: LimitFlags,
}

#[derive(Debug, Args)]
pub(super) struct Set {
    #[command(flatten)]
    which: Which,
    /// A value in place of those that the user has under this name; repeat it for several
    #[arg(long, value_name = "NAME=VALUE", value_parser = attribute)]
    attribute: Vec<(String, String)>,
    /// A name whose values go; may be repeated
    #[arg(long, value_name = "NAME")]
    clear: Vec<String>,
    #[command(flatten)]
    limits: LimitFlags,
}

pub(super) async fn answer(command: UsersCommand, config: &Config, format: Format) -> Result<(), Failure> {
    let store = open(config).await?;
    let answered = run(command, &store, format).await;
    store.close().await;
    answered
}

async fn run(command: UsersCommand, store: &dyn Store, format: Format) -> Result<(), Failure> {
    let (name, what) = match command {
        UsersCommand::List => return list(store, format).await,
        UsersCommand::Remove(which) => return remove(store, &which.user, format).await,
        UsersCommand::Create(create) => {
            let name = create.which.user;
            check_name("the name of a user", &name).map_err(|error| Failure::usage(error.to_string()))?;
            let (attributes, limits) = (attributes(create.attribute), create.limits.first()?);
            let new = NewUser { name: name.clone(), attributes, limits, created_at_ms: Clock::system().unix_ms() };
            (name, store.create_user(new).await.map(|()| "is there now"))
        }
        UsersCommand::Disable(which) => {
            let done = store.set_user_state(&which.user, UserState::Disabled).await;
            (which.user, done.map(|()| "is disabled now, and so are all of their keys"))
        }
        UsersCommand::Enable(which) => {
            let done = store.set_user_state(&which.user, UserState::Active).await;
            (which.user, done.map(|()| "is active now"))
        }
        UsersCommand::Set(set) => {
            let (user, changes) = (set.which.user, changes(set.attribute, set.clear, set.limits)?);
            let done = store.change_user(&user, changes).await;
            (user, done.map(|()| "is changed"))
        }
    };
    done(&format!("user '{name}' {}", what.map_err(|error| refused(&error))?));
    if format == Format::Table {
        return Ok(());
    }
    let users = store.users().await.map_err(|error| refused(&error))?;
    match users.iter().find(|stored| *stored.user.name == *name) {
        Some(stored) => output::json(&shown(stored)),
        None => Err(Failure::try_again(format!("user '{name}' was removed by somebody else meanwhile"))),
    }
}

fn changes(pairs: Vec<(String, String)>, clear: Vec<String>, limits: LimitFlags) -> Result<UserChanges, Failure> {
    let (mut attributes, limits) = (attributes(pairs), limits.changes()?);
    if let Some((twice, _)) = attributes.iter().find(|(name, _)| clear.contains(name)) {
        return Err(Failure::usage(format!("--attribute and --clear both name '{twice}': leave one out")));
    }
    attributes.extend(clear.into_iter().map(|name| (name, Vec::new())));
    if attributes.is_empty() && limits.is_empty() {
        let text = "nothing is to be changed: give a limit, e.g. --rpm 60, or --attribute or --clear";
        return Err(Failure::usage(text));
    }
    Ok(UserChanges { attributes, limits })
}

async fn list(store: &dyn Store, format: Format) -> Result<(), Failure> {
    let users = store.users().await.map_err(|error| refused(&error))?;
    let shown: Vec<ShownUser<'_>> = users.iter().map(shown).collect();
    if format == Format::Json {
        return output::json(&shown);
    }
    let rows = shown.into_iter().map(|user| {
        vec![
            user.name.to_owned(),
            user.state.to_owned(),
            user.live_keys.to_string(),
            limits::cell(user.limits),
            cell(&user.attributes),
            user.created_at,
        ]
    });
    output::table(&["NAME", "STATE", "KEYS", "LIMITS", "ATTRIBUTES", "CREATED"], rows.collect());
    Ok(())
}

async fn remove(store: &dyn Store, name: &str, format: Format) -> Result<(), Failure> {
    store.remove_user(name).await.map_err(|error| refused(&error))?;
    done(&format!("user '{name}' is removed; their revoked keys stay revoked"));
    match format {
        Format::Json => output::json(&serde_json::json!({ "name": name, "removed": true })),
        Format::Table => Ok(()),
    }
}
