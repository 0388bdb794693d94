//! `tollgate backends`: LLM servers beside those of the configuration, and draining. Written to the store; a running
//! gate takes a change within two seconds.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde::{Deserialize, Serialize};

use super::{
    Format,
    admin_client::{AdminClient, PATIENCE},
    declared::{done, open, refused},
    output::{self, Failure},
};
use crate::{
    app::declared::{AllBackends, Origin, all_backends, conflict},
    clock::Clock,
    config::{Backend, Config, WrittenBackend},
    ports::store::{Declared, Store, StoreError, StoredBackend},
};

#[derive(Debug, Subcommand)]
pub(super) enum BackendsCommand {
    /// Add a backend beside those of the configuration
    Add(Add),
    /// List the backends of the configuration and the added ones
    List,
    /// Send no new calls to a backend; running ones finish
    Drain(Which),
    /// Send calls to a drained backend again
    Undrain(Which),
    /// Remove a backend that was added
    Remove(Which),
}

#[derive(Debug, Args)]
pub(super) struct Which {
    /// The backend's name
    name: String,
}

#[derive(Debug, Args)]
pub(super) struct Add {
    #[command(flatten)]
    which: Which,
    /// Its address, e.g. http://10.0.0.7:11434
    url: String,
    /// What it speaks
    #[arg(long, default_value = "ollama", value_parser = ["ollama", "openai"])]
    kind: String,
    /// What policies are told as its weight, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    weight: u32,
    /// It answers in Anthropic's API too (kind openai only; an ollama backend is asked for its version)
    #[arg(long)]
    anthropic: bool,
}

/// A backend as a list shows it.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    name: &'a str,
    url: String,
    kind: &'a str,
    weight: u32,
    /// Whether an `openai` backend answers in Anthropic's API too.
    anthropic: bool,
    /// `config` or `store`.
    source: &'static str,
    drained: bool,
    /// Why it can't be used; none: it can.
    problem: Option<&'a str>,
    /// How it does; none: not known here.
    live: Option<&'a Live>,
}

/// How a backend does, as a running gate says.
#[derive(Debug, Deserialize, Serialize)]
struct Live {
    name: String,
    up: bool,
    in_flight: u64,
    models: Vec<String>,
}

/// What a running gate says of its backends.
#[derive(Debug, Deserialize)]
struct Said {
    backends: Vec<Live>,
}

pub(super) async fn answer(command: BackendsCommand, config: &Config, format: Format) -> Result<(), Failure> {
    let store = open(config).await?;
    let answered = run(command, config, &store, format).await;
    store.close().await;
    answered
}

async fn run(command: BackendsCommand, config: &Config, store: &dyn Store, format: Format) -> Result<(), Failure> {
    let name = match command {
        BackendsCommand::List => return list(config, store, format).await,
        BackendsCommand::Remove(which) => return remove(&which.name, config, store, format).await,
        BackendsCommand::Add(add) => add_one(add, config, store).await?,
        BackendsCommand::Drain(which) => set_drained(which.name, true, config, store).await?,
        BackendsCommand::Undrain(which) => set_drained(which.name, false, config, store).await?,
    };
    if format == Format::Table {
        return Ok(());
    }
    let known = known(config, store).await?;
    match shown(&known, None).into_iter().find(|shown| shown.name == name) {
        Some(shown) => output::json(&shown),
        // The mark of a backend that is no more was taken away.
        None => output::json(&serde_json::json!({ "name": name, "drained": false })),
    }
}

async fn add_one(add: Add, config: &Config, store: &dyn Store) -> Result<String, Failure> {
    let Add { which, url, kind, weight, anthropic } = &add;
    let written = WrittenBackend { name: &which.name, url, kind, weight: *weight, anthropic: *anthropic };
    let backend = Backend::declared(&written, config.upstream.allow_link_local)
        .map_err(|problem| Failure::usage(format!("the backend can't be added: {problem}")))?;
    if let Some(conflict) = conflict(&all_backends(config, Declared::default()).usable, &backend) {
        return Err(Failure::failed(conflict));
    }
    let stored = StoredBackend {
        name: backend.name.clone(),
        url: backend.url.to_string(),
        kind: backend.kind.as_str().to_owned(),
        weight: backend.weight,
        anthropic: backend.anthropic,
        created_at_ms: Clock::system().unix_ms(),
    };
    store.add_backend(stored).await.map_err(|error| refused(&error))?;
    done(&format!("backend '{}' at {} is added", backend.name, backend.url));
    Ok(backend.name)
}

async fn set_drained(name: String, is_drained: bool, config: &Config, store: &dyn Store) -> Result<String, Failure> {
    let configured: Vec<String> = config.backends.iter().map(|backend| backend.name.clone()).collect();
    store.set_backend_drained(&name, is_drained, &configured).await.map_err(|error| refused(&error))?;
    done(&match is_drained {
        true => format!("backend '{name}' gets no new calls; running ones finish"),
        false => format!("backend '{name}' gets calls again"),
    });
    Ok(name)
}

async fn remove(name: &str, config: &Config, store: &dyn Store, format: Format) -> Result<(), Failure> {
    let is_configured = config.backends.iter().any(|backend| backend.name == name);
    // A stored one goes even if the configuration has taken its name since.
    store.remove_backend(name).await.map_err(|error| match error {
        StoreError::NoSuchBackend { .. } if is_configured => Failure::failed(format!(
            "backend '{name}' is one of the configuration: edit the file to remove it, or run \
             `tollgate backends drain {name}` to send it no new calls"
        )),
        error => refused(&error),
    })?;
    done(&format!("backend '{name}' is removed"));
    match format {
        Format::Json => output::json(&serde_json::json!({ "name": name, "removed": true })),
        Format::Table => Ok(()),
    }
}

async fn known(config: &Config, store: &dyn Store) -> Result<AllBackends, Failure> {
    Ok(all_backends(config, store.declared_backends().await.map_err(|error| refused(&error))?))
}

async fn list(config: &Config, store: &dyn Store, format: Format) -> Result<(), Failure> {
    let known = known(config, store).await?;
    print(&known, live(config).await.as_deref(), format)
}

/// How the backends do, if a gate runs that says so: the list is worth having without it.
async fn live(config: &Config) -> Option<Vec<Live>> {
    let gate = AdminClient::with_token(config).ok()?;
    let answer = gate.ask(Method::GET, "/api/v1/backends", PATIENCE).await.ok()?;
    answer.success::<Said>().ok().map(|said| said.backends)
}

/// Prints all backends, with how they do where a running gate has said so.
fn print(known: &AllBackends, live: Option<&[Live]>, format: Format) -> Result<(), Failure> {
    let shown = shown(known, live);
    if format == Format::Json {
        return output::json(&shown);
    }
    let mut head = vec!["NAME", "URL", "KIND", "WEIGHT", "SOURCE", "STATE"];
    if live.is_some() {
        head.extend(["UP", "IN FLIGHT", "MODELS"]);
    }
    let rows = shown.iter().map(|backend| {
        let state = match (backend.problem, backend.drained) {
            (Some(_), _) => "unusable",
            (None, true) => "drained",
            (None, false) => "used",
        };
        let mut row = vec![
            backend.name.to_owned(),
            backend.url.clone(),
            spoken(backend.kind, backend.anthropic),
            backend.weight.to_string(),
            backend.source.to_owned(),
            state.to_owned(),
        ];
        if live.is_some() {
            row.extend(backend.live.map_or_else(
                || ["-", "-", "-"].map(str::to_owned),
                |live| {
                    [
                        if live.up { "yes" } else { "no" }.to_owned(),
                        live.in_flight.to_string(),
                        live.models.len().to_string(),
                    ]
                },
            ));
        }
        row
    });
    output::table(&head, rows.collect());
    for left_out in &known.left_out {
        output::note(&format!("note: added backend '{}' is not used: {}", left_out.stored.name, left_out.reason));
    }
    for name in &known.drained_unknown {
        output::note(&format!(
            "note: '{name}' is marked as drained, but is no backend that can be used: \
             `tollgate backends undrain {name}` takes the mark away"
        ));
    }
    Ok(())
}

/// What a backend speaks, in a cell of a table.
fn spoken(kind: &str, anthropic: bool) -> String {
    if anthropic { format!("{kind}, anthropic") } else { kind.to_owned() }
}

fn shown<'a>(known: &'a AllBackends, live: Option<&'a [Live]>) -> Vec<Shown<'a>> {
    let live_of = |name: &str| live.unwrap_or_default().iter().find(|live| live.name == name);
    let usable = known.usable.iter().map(|known| Shown {
        name: &known.config.name,
        url: known.config.url.to_string(),
        kind: known.config.kind.as_str(),
        weight: known.config.weight,
        anthropic: known.config.anthropic,
        source: known.origin.as_str(),
        drained: known.is_drained,
        problem: None,
        live: live_of(&known.config.name),
    });
    let left_out = known.left_out.iter().map(|left_out| Shown {
        name: &left_out.stored.name,
        url: left_out.stored.url.clone(),
        kind: &left_out.stored.kind,
        weight: left_out.stored.weight,
        anthropic: left_out.stored.anthropic,
        source: Origin::Store.as_str(),
        drained: false,
        problem: Some(&left_out.reason),
        live: None,
    });
    usable.chain(left_out).collect()
}
