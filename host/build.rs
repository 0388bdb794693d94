//! Builds the default policies as components, so that the one binary carries them.
//!
//! The inner cargo gets a target folder of its own: sharing the outer one would wait for its lock for ever. Flags and
//! wrappers meant for the outer build (clippy's among them) would leak into it, so they are cleared.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

const TARGET: &str = "wasm32-wasip2";
const POLICIES: [&str; 3] = ["api-key", "rate-limit", "round-robin"];

const NOT_FOR_THE_INNER_BUILD: [&str; 10] = [
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_RUSTC_WRAPPER",
    "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER",
    "CLIPPY_ARGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_MAKEFLAGS",
];

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            for line in message.lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=migrations");
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("..");
    let policies = root.join("policies");
    for watched in ["Cargo.toml", "Cargo.lock", "sdk", "api-key", "rate-limit", "round-robin"] {
        println!("cargo::rerun-if-changed={}", policies.join(watched).display());
    }
    println!("cargo::rerun-if-changed={}", root.join("wit").display());

    let out = PathBuf::from(variable("OUT_DIR")?);
    let target = out.join("policies-target");
    compile(&policies, &target)?;
    for policy in POLICIES {
        let built = target.join(TARGET).join("release").join(format!("{}.wasm", policy.replace('-', "_")));
        let kept = out.join(format!("{policy}.wasm"));
        std::fs::copy(&built, &kept).map_err(|error| format!("no {} was built: {error}", built.display()))?;
    }
    Ok(())
}

fn compile(policies: &Path, target: &Path) -> Result<(), String> {
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .current_dir(policies)
        .args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"])
        .arg(target);
    for policy in POLICIES {
        cargo.args(["--package", policy]);
    }
    for name in NOT_FOR_THE_INNER_BUILD {
        cargo.env_remove(name);
    }
    let output = cargo.output().map_err(|error| format!("cargo could not be run for the policies: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("can't find crate for `core`") || said.contains("can't find crate for `std`") {
        return Err(format!("the target for policies is missing; add it once with: rustup target add {TARGET}"));
    }
    Err(format!("the default policies could not be built:\n{said}"))
}

#[expect(clippy::disallowed_methods, reason = "cargo speaks to a build script by the environment")]
fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}
