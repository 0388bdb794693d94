//! `tollgate healthcheck`: for a container's health check and for scripts. 0 is yes, 1 is no and why, whatever the reason.

use clap::Args;
use reqwest::Method;

use super::{
    Format,
    admin_client::{AdminClient, PATIENCE},
    output::{self, Failure},
};
use crate::{admin::Readiness, config::Config};

#[derive(Debug, Args)]
pub(super) struct Healthcheck {
    /// Ask only whether it is alive: while it stops, or no backend answers, it still is
    #[arg(long)]
    live: bool,
}

pub(super) async fn answer(asked: &Healthcheck, config: &Config, format: Format) -> Result<(), Failure> {
    let said = if asked.live { live(config, format).await } else { ready(config, format).await };
    // Who checks health knows two answers.
    said.map_err(Failure::into_no)
}

async fn live(config: &Config, format: Format) -> Result<(), Failure> {
    let answer = AdminClient::open(config)?.ask(Method::GET, "/healthz", PATIENCE).await?;
    if !answer.status.is_success() {
        return Err(answer.failure());
    }
    match format {
        Format::Table => output::result("alive"),
        Format::Json => output::json(&serde_json::json!({ "alive": true }))?,
    }
    Ok(())
}

async fn ready(config: &Config, format: Format) -> Result<(), Failure> {
    let answer = AdminClient::open(config)?.ask(Method::GET, "/readyz", PATIENCE).await?;
    let readiness: Readiness =
        if matches!(answer.status.as_u16(), 200 | 503) { answer.json()? } else { answer.success()? };
    if format == Format::Json {
        output::json(&readiness)?;
    }
    match readiness.reason() {
        Some(reason) => Err(Failure::failed(format!("the gate is not ready: {reason}"))),
        None => {
            if format == Format::Table {
                output::result("ready");
            }
            Ok(())
        }
    }
}
