//! `tollgate policies`: what decides in the running gate, and having it look at its folder now.

use std::time::Duration;

use clap::Subcommand;
use reqwest::Method;

use super::{
    Format,
    admin_client::{AdminClient, PATIENCE},
    output::{self, Failure},
};
use crate::{
    config::Config,
    ports::control::{PolicyList, PolicySource, PolicyState, PolicyStatus, Reloaded},
};

/// Large policies take long to compile; the gate itself answers within two minutes.
const RELOAD_PATIENCE: Duration = Duration::from_secs(120);

/// What the API answers when some policy can't be used: the same as when all can, and why.
const UNPROCESSABLE: u16 = 422;

#[derive(Debug, Subcommand)]
pub(super) enum PoliciesCommand {
    /// List the policies of the running gate, and what is wrong with any
    List,
    /// Have the running gate look at its policy folder now, and say what came of it
    Reload,
}

pub(super) async fn answer(command: PoliciesCommand, config: &Config, format: Format) -> Result<(), Failure> {
    let client = AdminClient::with_token(config)?;
    match command {
        PoliciesCommand::List => list(&client, format).await,
        PoliciesCommand::Reload => reload(&client, format).await,
    }
}

async fn list(client: &AdminClient, format: Format) -> Result<(), Failure> {
    let list: PolicyList = client.ask(Method::GET, "/api/v1/policies", PATIENCE).await?.success()?;
    if format == Format::Json {
        return output::json(&list);
    }
    let head = ["NAME", "STATE", "HOOKS", "SOURCE", "VERSION", "GENERATION", "BREAKER", "SINCE", "CAPABILITIES"];
    output::table(&head, list.policies.iter().map(row).collect());
    let of_policies = list.policies.iter().filter_map(|policy| policy.complaint.as_ref());
    list.complaint.iter().chain(of_policies).for_each(|complaint| output::note(complaint));
    let failures = list.policies.iter().filter_map(|policy| Some((&policy.name, policy.last_failure.as_ref()?)));
    for (name, failure) in failures {
        let (at, step, reason) = (&failure.at, failure.step.as_str(), &failure.reason);
        output::note(&format!("'{name}' last failed to load at {at}, at step {step}: {reason}"));
    }
    Ok(())
}

fn row(policy: &PolicyStatus) -> Vec<String> {
    let state = match policy.state {
        PolicyState::InForce => "in-force",
        PolicyState::Outdated => "outdated",
        PolicyState::Refused => "refused",
    };
    let source = match policy.source {
        PolicySource::BuiltIn => "built-in",
        PolicySource::File => "file",
    };
    let or_dash = |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned());
    // As much of the hash as tells versions apart at a glance.
    let version = policy.version.as_ref().map(|version| version.chars().take("sha256:".len() + 12).collect());
    vec![
        policy.name.clone(),
        state.to_owned(),
        or_dash(Some(policy.hooks.join(","))),
        source.to_owned(),
        or_dash(version),
        or_dash(policy.generation.map(|generation| generation.to_string())),
        or_dash(policy.breaker.clone()),
        or_dash(policy.since.clone()),
        or_dash(Some(policy.capabilities.join(", "))),
    ]
}

async fn reload(client: &AdminClient, format: Format) -> Result<(), Failure> {
    let answer = client.ask(Method::POST, "/api/v1/policies/reload", RELOAD_PATIENCE).await?;
    let is_whole = answer.status.is_success();
    let reloaded: Reloaded = if answer.status.as_u16() == UNPROCESSABLE { answer.json()? } else { answer.success()? };
    match format {
        Format::Json => output::json(&reloaded)?,
        Format::Table => {
            for change in &reloaded.changes {
                output::result(&format!("{}: {}", change.policy, change.change.as_str()));
            }
            if reloaded.changes.is_empty() {
                output::note("nothing changed");
            }
        }
    }
    if is_whole {
        return Ok(());
    }
    let complaints: Vec<&str> = reloaded.complaints.iter().map(|complaint| complaint.complaint.as_str()).collect();
    Err(Failure::failed(complaints.join("\n")))
}
