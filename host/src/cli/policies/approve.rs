//! `tollgate policies approve`: what a policy asks for is allowed from now on.

use std::path::PathBuf;

use clap::Args;
use reqwest::Method;
use serde::Serialize;

use super::{RELOAD_PATIENCE, UNPROCESSABLE};
use crate::{
    app::{approvals::Approvals, version_of},
    cli::{
        Format,
        admin_client::AdminClient,
        output::{self, Failure},
        policy,
    },
    clock::{Clock, moment},
    config::{Approve as Asked, Config},
    ports::control::{PolicyComplaint, Reloaded},
};

/// Which policy.
#[derive(Debug, Args)]
pub(in crate::cli) struct Approve {
    /// The policy's name: its file's in policies.folder, without `.wasm`
    name: String,
    /// Only if the file is of this version still, as `policy inspect` shows it; its beginning is enough
    #[arg(long, value_name = "VERSION")]
    if_version: Option<String>,
}

#[derive(Debug, Serialize)]
struct Approved<'a> {
    name: &'a str,
    version: String,
    /// By the interfaces that the component imports.
    capabilities: Vec<&'static str>,
    /// Whether a running gate has it in force now.
    in_force: bool,
}

pub(super) async fn answer(wanted: &Approve, config: &Config, format: Format) -> Result<(), Failure> {
    let name = wanted.name.as_str();
    let (bytes, compiled) = policy::look_at(file(wanted, config)?)?;
    let version = version_of(&bytes);
    if wanted.if_version.as_ref().is_some_and(|expected| expected.is_empty() || !version.starts_with(expected.as_str()))
    {
        let text =
            format!("the file of policy '{name}' has the version {version} now: look at it again before approving it");
        return Err(Failure::failed(text));
    }
    let capabilities = &compiled.inspection().capabilities;
    let note = format!("{version}, approved {}", moment(Clock::system().unix_ms()));
    let approvals = Approvals::in_state(&config.state_dir);
    approvals.approve(name, capabilities, &note).map_err(Failure::failed)?;
    let in_force = let_in(name, config).await?;
    let words = capabilities.iter().map(|capability| capability.word()).collect();
    if format == Format::Json {
        return output::json(&Approved { name, version, capabilities: words, in_force });
    }
    for capability in capabilities {
        output::result(&format!("{name} may: {}", capability.as_str()));
    }
    if capabilities.is_empty() {
        output::result(&format!("{name} can do nothing that needs an approval"));
    }
    if config.policies.approve != Asked::NewCapabilities {
        output::note("policies.approve isn't \"new-capabilities\", so no policy waits for approval");
    }
    Ok(())
}

fn file(wanted: &Approve, config: &Config) -> Result<PathBuf, Failure> {
    let Some(folder) = &config.policies.folder else {
        return Err(Failure::configuration("there is no policy folder, so nothing to approve: set policies.folder"));
    };
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if wanted.name.is_empty() || !wanted.name.bytes().all(is_name) {
        return Err(Failure::usage(format!("'{}' is no policy's name: those are of a-z, 0-9 and -", wanted.name)));
    }
    Ok(folder.join(format!("{}.wasm", wanted.name)))
}

/// Has the running gate look at its folder; whether there is one, and it took the policy.
async fn let_in(name: &str, config: &Config) -> Result<bool, Failure> {
    let asked = match AdminClient::with_token(config) {
        Ok(client) => client.ask(Method::POST, "/api/v1/policies/reload", RELOAD_PATIENCE).await,
        Err(failure) => Err(failure),
    };
    let answer = match asked {
        Ok(answer) => answer,
        Err(failure) => {
            output::note(&format!("written down for the gate's next start; {}", failure.message()));
            return Ok(false);
        }
    };
    let reloaded: Reloaded = if answer.status.as_u16() == UNPROCESSABLE { answer.json()? } else { answer.success()? };
    let of_it = |complaint: &&PolicyComplaint| complaint.policy.as_deref() == Some(name);
    match reloaded.complaints.iter().find(of_it) {
        None => Ok(true),
        Some(complaint) => Err(Failure::failed(format!("approved, but: {}", complaint.complaint))),
    }
}
