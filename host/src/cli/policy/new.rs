//! `tollgate policy new`: a folder in which a policy builds, with nothing but what the binary carries.

use std::{fs, io, path::Path};

use clap::{Args, ValueEnum};
use serde_json::json;

use super::templates::{self, Language};
use crate::{
    cli::{
        Format,
        output::{self, Failure},
    },
    policy::Hook,
};

/// Longest name of a policy, as in the policy folder.
const MAX_NAME: usize = 64;

#[derive(Debug, Args)]
pub(in crate::cli) struct New {
    /// The policy's name and its folder's: a-z, 0-9 and -, beginning with a letter
    name: String,
    /// The language that it is written in
    #[arg(long, value_enum)]
    lang: Language,
    /// The hook that it decides
    #[arg(long, value_enum, default_value_t = HookName::Route)]
    hook: HookName,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum HookName {
    Authenticate,
    Admit,
    Route,
    Settle,
}

impl From<HookName> for Hook {
    fn from(name: HookName) -> Self {
        match name {
            HookName::Authenticate => Self::Authenticate,
            HookName::Admit => Self::Admit,
            HookName::Route => Self::Route,
            HookName::Settle => Self::Settle,
        }
    }
}

pub(super) fn make(new: &New, format: Format) -> Result<(), Failure> {
    check_name(&new.name)?;
    let folder = Path::new(&new.name);
    let files = templates::project(&new.name, new.lang, new.hook.into());
    let failed = |error: io::Error| Failure::failed(format!("{} can't be made: {error}", folder.display()));
    fs::create_dir(folder).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::failed(format!("{} is there already: take another name, or remove it", folder.display()))
        }
        _ => failed(error),
    })?;
    for (path, text) in &files {
        let path = folder.join(path);
        path.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
        fs::write(&path, text).map_err(failed)?;
    }
    let mut paths: Vec<String> = files.iter().map(|(path, _)| format!("{}/{path}", new.name)).collect();
    paths.sort();
    if format == Format::Json {
        return output::json(&json!({ "name": new.name, "files": paths }));
    }
    paths.iter().for_each(|path| output::result(path));
    output::note(&format!("{}/README.md has the commands that build and test it", new.name));
    Ok(())
}

/// A name that is one for the policy folder, for cargo and for WIT.
fn check_name(name: &str) -> Result<(), Failure> {
    let is_word = |word: &str| {
        word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
            && word.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase())
    };
    if name.len() <= MAX_NAME && name.split('-').all(is_word) {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "'{name}' is no name for a policy: take words of a-z and 0-9 with - between them, each beginning with a letter"
    )))
}

#[cfg(test)]
mod tests {
    use super::check_name;

    #[test]
    fn names_are_words_with_dashes_between_them() {
        let check = |name: &str, fits: bool| assert_eq!(check_name(name).is_ok(), fits, "{name}");
        check("a", true);
        check("least-busy2", true);
        check("", false);
        check("a--b", false);
        check("a-2", false);
        check("A", false);
        check("../a", false);
        check("a_b", false);
        check(&"a".repeat(65), false);
    }
}
