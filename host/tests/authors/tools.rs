//! The languages of policies, and commands run as somebody would who has their tools.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::guest;

/// A language of policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    Rust,
    JavaScript,
    Python,
    C,
}

impl Language {
    /// As `--lang` has it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::JavaScript => "js",
            Self::Python => "python",
            Self::C => "c",
        }
    }

    /// Whether its tools are installed; if not, that is told.
    pub(crate) fn is_there(self) -> bool {
        let needed: &[&str] = match self {
            Self::Rust => &[],
            Self::JavaScript => &["javascript/bin/componentize-qjs"],
            Self::Python => &["componentize-py/bin/componentize-py"],
            Self::C => &["ziglang/bin/python-zig", "cargo/bin/wit-bindgen", "cargo/bin/wasm-tools"],
        };
        let missing = needed.iter().find(|program| !tools().join(program).exists());
        if let Some(program) = missing {
            eprintln!("SKIPPED: there is no {program} in target/author-tools; ./scripts/examples installs it");
        }
        missing.is_none()
    }
}

fn tools() -> PathBuf {
    guest::root().join("target/author-tools")
}

/// Rust projects share what they build: each would compile the same macros.
pub(crate) fn shared_target(project: &Path, language: Language) {
    let place = project.join("target");
    if language == Language::Rust && !place.exists() {
        let shared = tools().join("rust");
        fs::create_dir_all(&shared).unwrap();
        symlink(fs::canonicalize(shared).unwrap(), place).unwrap();
    }
}

/// Runs commands in this folder, `$POLICIES` being that one; answers what they said. They must all work.
pub(crate) fn run(folder: &Path, commands: &str, policies: Option<&Path>) -> String {
    let gate = Path::new(env!("CARGO_BIN_EXE_tollgate")).parent().unwrap().to_owned();
    let own = ["javascript/bin", "componentize-py/bin", "ziglang/bin", "cargo/bin"].map(|bin| tools().join(bin));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([gate].into_iter().chain(own).chain(std::env::split_paths(&path))).unwrap();
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", commands]).current_dir(folder).env("PATH", path);
    // What is meant for the build of the tests would be taken for the policies' as well.
    for name in ["CARGO_TARGET_DIR", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"]
    {
        command.env_remove(name);
    }
    if let Some(policies) = policies {
        command.env("POLICIES", policies);
    }
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "in {}:\n{commands}\n{told}", folder.display());
    told
}
