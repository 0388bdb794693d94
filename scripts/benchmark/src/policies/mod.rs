//! What policies can do to a gate: hostile ones at every hook, a thousand reloads under load, and what failing costs.
//!
//! The gate is the built binary with real files in its policy folder. Each part prints what it saw, and what of it was
//! promised; a promise that isn't kept, or can't be judged, fails the run. Times are printed, and never promised.

mod figures;
mod folder;
mod guest;
mod hostile;
mod load;
mod reloads;
mod version;
#[path = "../../../../host/tests/it/support/wat.rs"]
mod wat;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use http::{Method, Request, header};
use http_body_util::Full;
use serde_json::json;

use crate::{
    failure::{Failure, Trying},
    site::{
        Report,
        backend::Backend,
        caller::Caller,
        gates::{Gates, Site},
        options::{self, Options},
    },
};

#[derive(Args, Debug)]
pub(crate) struct PolicyArguments {
    /// Only these; without any, all.
    #[arg(value_enum)]
    only: Vec<Section>,
    #[command(flatten)]
    options: Options,
    /// The folder of the interface.
    #[arg(long)]
    wit: PathBuf,
    /// The folder with the policies of the host's tests, built.
    #[arg(long)]
    guests: PathBuf,
    /// The benchmark `policy_fault`, built.
    #[arg(long)]
    policy_fault: Option<PathBuf>,
    /// The benchmark `policy_call`, built.
    #[arg(long)]
    policy_call: Option<PathBuf>,
    /// Policies in other languages, built, whose figures are printed.
    #[arg(long)]
    authored: Vec<PathBuf>,
}

/// What can be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Hostile guests, at every hook.
    Hostile,
    /// Good and bad files, one after another, under load.
    Reloads,
    /// What failing costs, and what policies cost that don't fail.
    Figures,
}

/// What all sections share.
#[derive(Debug)]
struct Bench {
    program: PathBuf,
    wit: PathBuf,
    guests: PathBuf,
    folder: PathBuf,
    backends: [Backend; 2],
    caller: Caller,
    is_smoke: bool,
}

/// Looks at all that was asked for; the report is printed as it grows.
pub(crate) fn run(arguments: &PolicyArguments) -> Result<(), Failure> {
    options::block_on(look(arguments))
}

async fn look(arguments: &PolicyArguments) -> Result<(), Failure> {
    let options = &arguments.options;
    let bench = Bench {
        program: options.tollgate.clone(),
        wit: arguments.wit.clone(),
        guests: arguments.guests.clone(),
        folder: options.folder()?,
        backends: [Backend::start().await?, Backend::start().await?],
        caller: Caller::new(),
        is_smoke: options.smoke,
    };
    let mut all = Report::default();
    for section in options.sections(&arguments.only, &[Section::Hostile, Section::Reloads]) {
        all.add(match section {
            Section::Hostile => hostile::look(&bench).await?,
            Section::Reloads => reloads::look(&bench).await?,
            Section::Figures => figures::look(arguments)?,
        });
    }
    options.end(all, "policies")
}

/// A gate that follows a folder of policies.
#[derive(Debug)]
struct Gate {
    gates: Gates,
    address: SocketAddr,
    /// The key of those whose calls a policy spoils, and the key of all others.
    keys: [String; 2],
    folder: folder::Folder,
}

impl Gate {
    /// A new one, before so many of the backends. `sections` are lines of its configuration.
    async fn start(bench: &Bench, name: &str, backends: usize, sections: &str) -> Result<Self, Failure> {
        let site = Site::new(bench.folder.join(name), &bench.program)?;
        let policies = site.folder.join("policies.d");
        std::fs::create_dir(&policies).trying("the policy folder can't be made")?;
        let sections =
            format!("[policies]\nfolder = {policies:?}\n[limits]\nrequests_per_minute = 1000000000\n{sections}\n");
        let named: Vec<_> = ["gpu-1", "gpu-2"]
            .into_iter()
            .zip(&bench.backends)
            .map(|(name, backend)| (name, backend.address))
            .collect();
        site.configure_with(named.get(..backends).unwrap_or(&named), &sections)?;
        // What the guest at `settle` is asked stands in the key: the request is gone by then.
        let keys = [site.key("spoilt", &["--attribute", "ask=no-such-question"])?, site.key("other", &[])?];
        let gates = site.start(1, &bench.caller).await?;
        let address = gates.addresses().first().copied().ok_or_else(|| Failure::new("no gate serves"))?;
        Ok(Self { gates, address, keys, folder: folder::Folder::new(policies) })
    }
}

/// A chat.
fn chat(
    to: SocketAddr,
    path: &str,
    key: &str,
    more: &[(&str, &str)],
    body: String,
) -> Result<Request<Full<Bytes>>, Failure> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{to}{path}"))
        .header(header::AUTHORIZATION, format!("Bearer {key}"))
        .header(header::CONTENT_TYPE, "application/json");
    for (name, value) in more {
        request = request.header(*name, *value);
    }
    request.body(Full::new(Bytes::from(body))).trying("a call can't be written")
}

/// The body of a plain chat.
fn plain() -> String {
    json!({ "model": "now-8", "stream": false, "messages": [{ "role": "user", "content": "hello" }] }).to_string()
}

/// Makes a component of a text.
fn component(wit: &Path, world: &str, text: &str) -> Result<Vec<u8>, Failure> {
    wat::component(wit, world, text).trying(format_args!("no component can be made of this text: {text}"))
}
