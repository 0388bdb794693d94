//! The policy folder of a gate: files are put there as a careful operator does, and the gate is told to look.

use std::{fs, path::PathBuf};

use http::Method;
use serde_json::Value;

use crate::{
    failure::{Failure, Trying},
    site::gates::Gates,
};

/// The endings of a policy's files, in the order in which they are put there.
const ENDINGS: [&str; 3] = [".toml", ".cases.json", ".wasm"];

/// The files of one version; what it hasn't is removed.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    pub(super) component: Vec<u8>,
    pub(super) terms: Option<String>,
    pub(super) cases: Option<String>,
}

#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(place: PathBuf) -> Self {
        Self(place)
    }

    /// Puts a version there, each file in one move. What it hasn't goes last: the component before it, without the `.toml` or
    /// the cases that were to stop it, would be a good version.
    pub(super) fn put(&self, name: &str, files: &Files) -> Result<(), Failure> {
        let contents = [
            files.terms.as_ref().map(String::as_bytes),
            files.cases.as_ref().map(String::as_bytes),
            Some(&files.component),
        ];
        for (ending, content) in ENDINGS.into_iter().zip(contents) {
            let Some(content) = content else { continue };
            let place = self.0.join(format!("{name}{ending}"));
            // Hidden until it is whole.
            let hidden = self.0.join(format!(".{name}{ending}"));
            fs::write(&hidden, content).trying(format_args!("{} can't be written", hidden.display()))?;
            fs::rename(&hidden, &place).trying(format_args!("{} can't be put there", place.display()))?;
        }
        let mut missing = ENDINGS.into_iter().zip(contents).filter(|(_, content)| content.is_none());
        missing.try_for_each(|(ending, _)| remove(&self.0.join(format!("{name}{ending}"))))
    }

    /// Takes a policy out.
    pub(super) fn remove(&self, name: &str) -> Result<(), Failure> {
        ENDINGS.iter().try_for_each(|ending| remove(&self.0.join(format!("{name}{ending}"))))
    }
}

fn remove(place: &std::path::Path) -> Result<(), Failure> {
    match fs::remove_file(place) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// What a gate says of one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) state: String,
    pub(super) breaker: String,
    pub(super) generation: u64,
    /// The step at which its last version failed, and why; empty where none did.
    pub(super) failed_at: String,
    pub(super) reason: String,
}

/// Makes the gate look at its folder, and waits until it has.
pub(super) async fn reload(gates: &Gates) -> Result<(), Failure> {
    gates.steer(Method::POST, "/api/v1/policies/reload").await.map(|_| ())
}

/// How a policy stands.
pub(super) async fn status(gates: &Gates, name: &str) -> Result<Status, Failure> {
    let list = gates.steer(Method::GET, "/api/v1/policies").await?;
    let policies = list.get("policies").and_then(Value::as_array).into_iter().flatten();
    let one = policies.into_iter().find(|policy| policy.get("name").is_some_and(|known| known == name));
    let Some(one) = one else { return Ok(Status::default()) };
    let text = |from: Option<&Value>, field: &str| {
        from.and_then(|from| from.get(field)?.as_str()).unwrap_or_default().to_owned()
    };
    let failed = one.get("last_failure");
    Ok(Status {
        state: text(Some(one), "state"),
        breaker: text(Some(one), "breaker"),
        generation: one.get("generation").and_then(Value::as_u64).unwrap_or_default(),
        failed_at: text(failed, "step"),
        reason: text(failed, "reason"),
    })
}
