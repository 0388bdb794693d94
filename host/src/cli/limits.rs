//! Limits on the command line: the flags that `keys` and `users` share, and how limits are shown.

use clap::Args;

use super::output::Failure;
use crate::{
    llm::model_name::ModelName,
    ports::limits::{LARGEST_LIMIT, LimitChange, LimitName, LimitSet, Limits},
};

/// Above the flags in the help.
const HEADING: &str = "Limits (N: whole number, also 5k or 20M; 0 admits nothing; with `set`, none removes)";

/// Limits by their flags. A number may end with k (thousands) or M (millions).
#[derive(Debug, Args)]
pub(super) struct LimitFlags {
    /// Requests in any minute; a limit that neither a key nor its user has is that of [limits] in the configuration
    #[arg(long, value_name = "N", help_heading = HEADING, value_parser = setting, allow_negative_numbers = true)]
    rpm: Option<Setting>,
    /// Tokens in any minute, input and output
    #[arg(long, value_name = "N", help_heading = HEADING, value_parser = setting, allow_negative_numbers = true)]
    tpm: Option<Setting>,
    /// Calls at the same time
    #[arg(long, value_name = "N", help_heading = HEADING, value_parser = setting, allow_negative_numbers = true)]
    concurrent: Option<Setting>,
    /// Tokens in a day or a month of UTC, e.g. day=1M; may be repeated
    #[arg(long, value_name = "PERIOD=N", help_heading = HEADING, value_parser = budget)]
    budget: Vec<LimitChange>,
    /// A limit for one model alone, beside those for all, e.g. llama3:8b:tpm=5k; NAME is rpm, tpm, concurrent, day or
    /// month; may be repeated
    #[arg(long, value_name = "MODEL:NAME=N", help_heading = HEADING, value_parser = model_limit)]
    model_limit: Vec<LimitChange>,
}

/// What a limit is to be; none: it is to go.
#[derive(Clone, Copy, Debug)]
struct Setting(Option<u64>);

impl LimitFlags {
    /// What the flags change.
    pub(super) fn changes(self) -> Result<Vec<LimitChange>, Failure> {
        let plain = [
            (LimitName::RequestsPerMinute, self.rpm),
            (LimitName::TokensPerMinute, self.tpm),
            (LimitName::Concurrent, self.concurrent),
        ];
        let plain =
            plain.into_iter().filter_map(|(name, setting)| Some(LimitChange { model: None, name, limit: setting?.0 }));
        let mut changes: Vec<LimitChange> = Vec::new();
        for change in plain.chain(self.budget).chain(self.model_limit) {
            if changes.iter().any(|known| known.name == change.name && known.model == change.model) {
                let flag = if change.model.is_some() { "--model-limit" } else { "--budget" };
                let (model, short) = (change.model.map_or_else(String::new, |model| model + ":"), short(change.name));
                return Err(Failure::usage(format!("{flag} sets {model}{short} twice: leave one out")));
            }
            changes.push(change);
        }
        Ok(changes)
    }

    /// The limits of something new, which has none that could be removed.
    pub(super) fn first(self) -> Result<Vec<LimitChange>, Failure> {
        let changes = self.changes()?;
        if changes.iter().any(|change| change.limit.is_none()) {
            let text =
                "none removes a limit, and there is none yet: leave the flag out, or use `set` later, e.g. --rpm none";
            return Err(Failure::usage(text));
        }
        Ok(changes)
    }
}

/// A name as the flags have it.
fn short(name: LimitName) -> &'static str {
    match name {
        LimitName::RequestsPerMinute => "rpm",
        LimitName::TokensPerMinute => "tpm",
        LimitName::Concurrent => "concurrent",
        LimitName::TokensPerDay => "day",
        LimitName::TokensPerMonth => "month",
    }
}

fn setting(text: &str) -> Result<Setting, String> {
    if text == "none" {
        return Ok(Setting(None));
    }
    let (digits, unit) = match text.strip_suffix('k') {
        Some(thousands) => (thousands, 1_000),
        None => text.strip_suffix('M').map_or((text, 1), |millions| (millions, 1_000_000)),
    };
    // `parse` alone would take a sign.
    let number = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let number = number.and_then(|digits| digits.parse::<u64>().ok()?.checked_mul(unit));
    match number.filter(|number| *number <= LARGEST_LIMIT) {
        Some(number) => Ok(Setting(Some(number))),
        None => Err(format!("write a whole number from 0 to {LARGEST_LIMIT}, also as 5k or 20M, or none")),
    }
}

fn budget(text: &str) -> Result<LimitChange, String> {
    let way_out = || "write it as day=N or month=N".to_owned();
    let (period, number) = text.split_once('=').ok_or_else(way_out)?;
    let name = match period {
        "day" => LimitName::TokensPerDay,
        "month" => LimitName::TokensPerMonth,
        _ => return Err(way_out()),
    };
    Ok(LimitChange { model: None, name, limit: setting(number)?.0 })
}

/// The name stands behind the last colon, because a model's tag has one too.
fn model_limit(text: &str) -> Result<LimitChange, String> {
    let (target, number) = text.split_once('=').ok_or("write it as MODEL:NAME=N, e.g. llama3:8b:tpm=5k")?;
    let (model, word) = target.rsplit_once(':').unwrap_or(("", target));
    let known = LimitName::ALL.map(short).join(", ");
    let name = LimitName::ALL.into_iter().find(|name| short(*name) == word);
    let name = name.ok_or_else(|| format!("write it as MODEL:NAME=N, where NAME is one of {known}"))?;
    let model = ModelName::parse(model).map_err(|error| error.to_string())?;
    Ok(LimitChange { model: Some(model.canonical().to_owned()), name, limit: setting(number)?.0 })
}

/// Limits in a cell of a table, as the flags would take them; a dash for none.
pub(super) fn cell(limits: &Limits) -> String {
    let of = |model: &str, set: &LimitSet| -> Vec<String> {
        set.iter().map(|(name, limit)| format!("{model}{}={}", short(name), number(limit))).collect()
    };
    let models = limits.models().flat_map(|(model, set)| of(&format!("{model}:"), set));
    let texts: Vec<String> = of("", limits.overall()).into_iter().chain(models).collect();
    if texts.is_empty() { "-".to_owned() } else { texts.join(" ") }
}

fn number(limit: u64) -> String {
    match limit {
        0 => "0".to_owned(),
        limit if limit.is_multiple_of(1_000_000) => format!("{}M", limit / 1_000_000),
        limit if limit.is_multiple_of(1_000) => format!("{}k", limit / 1_000),
        limit => limit.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(model: Option<&str>, name: LimitName, limit: Option<u64>) -> LimitChange {
        LimitChange { model: model.map(str::to_owned), name, limit }
    }

    #[test]
    fn a_number_is_whole_and_may_end_with_k_or_m() {
        for (text, expected) in
            [("0", 0), ("7", 7), ("5k", 5_000), ("20M", 20_000_000), ("9007199254740991", LARGEST_LIMIT)]
        {
            assert_eq!(setting(text).unwrap().0, Some(expected), "{text}");
        }
        assert_eq!(setting("none").unwrap().0, None);
        for text in [
            "",
            "k",
            "-1",
            "+1",
            "1.5",
            "1.5M",
            "1e6",
            "5K",
            "5m",
            "5G",
            "5 k",
            "1_000",
            "١",
            "None",
            "9007199254740992",
            "9007199254741k",
            "18446744073709551616",
            "99999999999999999999M",
        ] {
            assert!(setting(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_limit_of_a_model_names_it_before_the_last_colon() {
        let check = |text: &str, model: &str, name, limit| {
            assert_eq!(model_limit(text).unwrap(), change(Some(model), name, limit), "{text}");
        };
        check("LLaMA3:tpm=5k", "llama3:latest", LimitName::TokensPerMinute, Some(5_000));
        check("llama3:8b:rpm=3", "llama3:8b", LimitName::RequestsPerMinute, Some(3));
        check("hf.co/bob/m:q4:month=none", "hf.co/bob/m:q4", LimitName::TokensPerMonth, None);
        check("tpm:tpm=0", "tpm:latest", LimitName::TokensPerMinute, Some(0));
        for text in ["llama3", "llama3:tpm", "tpm=5", ":tpm=5", "llama3=5", "llama3:8b=5", "a b:tpm=5", "m:tpm=-5"] {
            assert!(model_limit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn limits_are_shown_as_they_are_typed() {
        let mut limits = Limits::default();
        assert_eq!(cell(&limits), "-");
        for typed in [
            change(Some("llama3:8b"), LimitName::TokensPerMinute, Some(5_500)),
            change(None, LimitName::TokensPerDay, Some(2_000_000)),
            change(None, LimitName::RequestsPerMinute, Some(0)),
            change(None, LimitName::Concurrent, Some(3_000)),
        ] {
            limits.apply(&typed);
        }
        assert_eq!(cell(&limits), "rpm=0 concurrent=3k day=2M llama3:8b:tpm=5500");
    }
}
