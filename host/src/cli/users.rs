//! `tollgate users`: who owns keys, written to the store. A running gate takes a change within two seconds.

use clap::{Args, Subcommand};

use super::{
    Format,
    declared::{attribute, attributes, cell, done, open, refused},
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
        store::{NewUser, Store},
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
    /// Change what policies may ask of a user's keys
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
}

#[derive(Debug, Args)]
pub(super) struct Set {
    #[command(flatten)]
    which: Which,
    /// A value in place of those that the user has under this name; repeat it for several
    #[arg(long, value_name = "NAME=VALUE", value_parser = attribute, required_unless_present = "clear")]
    attribute: Vec<(String, String)>,
    /// A name whose values go; may be repeated
    #[arg(long, value_name = "NAME")]
    clear: Vec<String>,
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
            let (attributes, created_at_ms) = (attributes(create.attribute), Clock::system().unix_ms());
            let new = NewUser { name: name.clone(), attributes, created_at_ms };
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
            let mut changes = attributes(set.attribute);
            if let Some((twice, _)) = changes.iter().find(|(name, _)| set.clear.contains(name)) {
                return Err(Failure::usage(format!("--attribute and --clear both name '{twice}': leave one out")));
            }
            changes.extend(set.clear.into_iter().map(|name| (name, Vec::new())));
            let done = store.set_user_attributes(&set.which.user, changes).await;
            (set.which.user, done.map(|()| "has these attributes now"))
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
            cell(&user.attributes),
            user.created_at,
        ]
    });
    output::table(&["NAME", "STATE", "KEYS", "ATTRIBUTES", "CREATED"], rows.collect());
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
