//! `tollgate limits show`: where the limits of a key stand in the running gate.

use clap::{Args, Subcommand};
use reqwest::{Method, Url};

use super::{
    Format,
    admin_client::{AdminClient, PATIENCE},
    output::{self, Failure},
};
use crate::{
    config::Config,
    ports::control::{LimitList, LimitStatus},
};

#[derive(Debug, Subcommand)]
pub(super) enum LimitsCommand {
    /// Show what a call of a key would be charged now, and how much of each limit is spent, reserved and left
    Show(Show),
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The key's id, or its name where only one has it
    key: String,
    /// The model of the call; without it limits of single models are left out
    #[arg(long)]
    model: Option<String>,
}

pub(super) async fn answer(command: LimitsCommand, config: &Config, format: Format) -> Result<(), Failure> {
    let LimitsCommand::Show(Show { key, model }) = command;
    let path =
        path(&key, model.as_deref()).ok_or_else(|| Failure::usage("write the key's id in place of this name"))?;
    let list: LimitList = AdminClient::with_token(config)?.ask(Method::GET, &path, PATIENCE).await?.success()?;
    if format == Format::Json {
        return output::json(&list);
    }
    if list.state != "active" {
        output::note(&format!("the key is {}: its calls are refused, whatever is left", list.state));
    }
    if list.source != "this process" {
        output::note(&format!("figures: {}", list.source));
    }
    if list.limits.is_empty() {
        output::note("a call of this key is charged nothing");
        return Ok(());
    }
    print(list.limits);
    Ok(())
}

/// Prints where limits stand.
pub(super) fn print(limits: Vec<LimitStatus>) {
    let head = ["POLICY", "LIMIT", "UNIT", "CAPACITY", "SPENT", "RESERVED", "REMAINING", "RESET"];
    output::table(&head, limits.into_iter().map(row).collect());
}

/// What asks for the limits of this key; none where a path can't hold its name.
fn path(key: &str, model: Option<&str>) -> Option<String> {
    if matches!(key, "" | "." | "..") {
        return None;
    }
    // Only the path and the query of this address are used.
    let mut url = Url::parse("http://gate/api/v1/keys").ok()?;
    url.path_segments_mut().ok()?.extend([key, "limits"]);
    if let Some(model) = model {
        url.query_pairs_mut().append_pair("model", model);
    }
    Some(url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path())))
}

fn row(status: LimitStatus) -> Vec<String> {
    let LimitStatus { policy, limit, unit, capacity, spent, reserved, remaining, resets_at } = status;
    let [capacity, spent, reserved, remaining] = [capacity, spent, reserved, remaining].map(|units| units.to_string());
    vec![policy, limit, unit, capacity, spent, reserved, remaining, resets_at.unwrap_or_else(|| "-".to_owned())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_models_are_escaped() {
        for (key, model, expected) in [
            ("k7", None, Some("/api/v1/keys/k7/limits")),
            ("a/b ?", Some("hf.co/m:q4&x"), Some("/api/v1/keys/a%2Fb%20%3F/limits?model=hf.co%2Fm%3Aq4%26x")),
            ("..", None, None),
            ("", None, None),
        ] {
            assert_eq!(path(key, model).as_deref(), expected, "{key}");
        }
    }
}
