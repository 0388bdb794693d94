//! From bytes to a checked component: what it imports and exports is looked at before any of it runs.

use std::{
    fmt::{Debug, Formatter, Result as FmtResult},
    time::Duration,
};

use wasmtime::{
    Engine, Error,
    component::{Component, InstancePre, Linker, types::ComponentItem},
};

use super::{
    asked,
    host_state::HostState,
    instance::{BirthError, Exports},
    wasi,
};
use crate::{
    policy::{Capability, Grants, Hook},
    ports::control::LoadStep,
};

/// The package and version of the interface, as names of imports and exports have them.
const PACKAGE: &str = "tollgate:policy/";
const TRACK: &str = "0.1.";
const OTHER_VERSION: &str = "it was built for another version of the interface; build it against 0.1";

/// Largest component that is read, in bytes; those with an interpreter inside have some 20 MB.
pub const MAX_COMPONENT_BYTES: usize = 64 << 20;

/// Why a component can't serve as a policy.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is larger than what is read.
    #[error("it has {bytes} bytes; at most {MAX_COMPONENT_BYTES} are taken")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// It holds native code, which is never taken from a policy folder.
    #[error("it is precompiled (.cwasm): copy the .wasm component that it was made from")]
    Precompiled,
    /// It is Wasm, but no component.
    #[error("it is a core module, not a component: build it with `--target wasm32-wasip2`")]
    CoreModule,
    /// It is something else.
    #[error("it is no WebAssembly component: {0}")]
    NotWasm(String),
    /// It begins like one, and can't be compiled.
    #[error("it is no WebAssembly component that can be used: {0}")]
    NotCompiled(String),
    /// It asks for what no policy gets.
    #[error("it imports `{import}`, which the gate doesn't link: {hint}")]
    NotLinked {
        /// The import.
        import: String,
        /// What to do.
        hint: &'static str,
    },
    /// It reads credentials, and nobody said that it may.
    #[error(
        "it imports `{import}`, with which it reads callers' credentials in clear, and that needs a grant: if it is meant \
         to, write `raw_credential = true` under [grants] in {policy}.toml beside it"
    )]
    NotGranted {
        /// The import.
        import: String,
        /// The policy's name.
        policy: String,
    },
    /// It decides at a hook that isn't asked.
    #[error("it exports `{export}`, which the gate doesn't call: {hint}")]
    NotCalled {
        /// The export.
        export: String,
        /// What to do.
        hint: &'static str,
    },
    /// It has nothing to decide.
    #[error(
        "it exports no hook: a policy exports `{PACKAGE}authenticate`, `admit`, `route` or `settle` of version 0.1"
    )]
    NoHook,
    /// Its imports or exports have other types than the interface.
    #[error("it doesn't fit the interface: {0}; build it against this gate's WIT, which `tollgate policy new` writes")]
    Misfit(String),
    /// It has settings, and no export that takes them.
    #[error("it takes no settings: it exports no `{PACKAGE}lifecycle`; leave [settings] out of its .toml")]
    NoSettings,
    /// It could not be started or configured.
    #[error("{0}")]
    Start(String),
    /// It takes longer than it may.
    #[error(
        "its hook `{hook}` takes {p99:?} of CPU time (99th percentile when warm), and may take {budget:?}: make it faster, \
         or raise cpu_budget in its .toml"
    )]
    TooSlow {
        /// Which hook.
        hook: &'static str,
        /// How long, measured before any caller met it.
        p99: Duration,
        /// How long it may.
        budget: Duration,
    },
}

impl LoadError {
    /// Where on its way into force it failed.
    pub fn step(&self) -> LoadStep {
        match self {
            Self::TooLarge { .. } | Self::Precompiled | Self::CoreModule | Self::NotWasm(_) => LoadStep::Format,
            Self::NotCompiled(_) => LoadStep::Compile,
            Self::NotLinked { hint, .. } | Self::NotCalled { hint, .. } if *hint == OTHER_VERSION => LoadStep::Version,
            Self::NotLinked { .. } | Self::NotGranted { .. } => LoadStep::Imports,
            Self::NotCalled { .. } | Self::NoHook | Self::Misfit(_) => LoadStep::Hooks,
            Self::NoSettings | Self::Start(_) => LoadStep::Configure,
            Self::TooSlow { .. } => LoadStep::Warm,
        }
    }
}

impl From<BirthError> for LoadError {
    fn from(error: BirthError) -> Self {
        let cause = match &error {
            BirthError::Start(cause) | BirthError::Configure(cause) => format!("{error}: {cause:#}"),
            BirthError::Refused(_) => error.to_string(),
        };
        Self::Start(cause)
    }
}

/// What a component imports and decides, for the person who wants to know before using it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Hooks that it decides.
    pub hooks: Vec<Hook>,
    /// Its imports, by interface.
    pub imports: Vec<String>,
    /// What it can do with them.
    pub capabilities: Vec<Capability>,
}

impl Inspection {
    /// What it can do, in plain words.
    pub fn capabilities_text(&self) -> String {
        self.capabilities.iter().map(|capability| capability.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// A component that was compiled and checked: every import is linked, and it decides at one hook at least. Cheap to clone.
#[derive(Clone)]
pub struct Compiled {
    pub(super) pre: InstancePre<HostState>,
    pub(super) exports: Exports,
    pub(super) inspection: Inspection,
}

impl Compiled {
    /// What it imports and decides.
    pub fn inspection(&self) -> &Inspection {
        &self.inspection
    }
}

impl Debug for Compiled {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        formatter.debug_struct("Compiled").field("inspection", &self.inspection).finish_non_exhaustive()
    }
}

/// Compiles and checks. Takes long: never on a request's path.
pub(super) fn check(engine: &Engine, linker: &Linker<HostState>, bytes: &[u8]) -> Result<Compiled, LoadError> {
    let component = compile(engine, bytes)?;
    let imports = imports(engine, &component)?;
    refuse_exports(engine, &component)?;
    let pre = linker.instantiate_pre(&component).map_err(|error| LoadError::Misfit(text(&error)))?;
    let exports = Exports::find(&pre);
    let hooks: Vec<Hook> = Hook::ALL.into_iter().filter(|hook| exports.has(*hook)).collect();
    if hooks.is_empty() {
        return Err(LoadError::NoHook);
    }
    refuse_half(engine, pre.component(), &hooks, exports.is_configurable())?;
    let capabilities = Capability::of(imports.iter().map(String::as_str));
    Ok(Compiled { pre, exports, inspection: Inspection { hooks, imports, capabilities } })
}

/// A component that reads credentials is for those whom somebody granted that.
pub(super) fn check_grants(inspection: &Inspection, policy: &str, grants: &Grants) -> Result<(), LoadError> {
    let is_ungranted = |import: &&String| {
        let interface = import.split('@').next();
        interface == Some(asked::CREDENTIAL) && !grants.raw_credential
    };
    match inspection.imports.iter().find(is_ungranted) {
        Some(import) => Err(LoadError::NotGranted { import: import.clone(), policy: policy.to_owned() }),
        None => Ok(()),
    }
}

fn compile(engine: &Engine, bytes: &[u8]) -> Result<Component, LoadError> {
    if bytes.len() > MAX_COMPONENT_BYTES {
        return Err(LoadError::TooLarge { bytes: bytes.len() });
    }
    if Engine::detect_precompiled(bytes).is_some() {
        return Err(LoadError::Precompiled);
    }
    // The eight bytes after which the formats part: magic number, then version 1 (module) or 13 with layer 1 (component).
    if bytes.starts_with(b"\0asm\x01\0\0\0") {
        return Err(LoadError::CoreModule);
    }
    if !bytes.starts_with(b"\0asm") {
        return Err(LoadError::NotWasm("its first bytes are not those of Wasm".to_owned()));
    }
    Component::from_binary(engine, bytes).map_err(|error| LoadError::NotCompiled(text(&error)))
}

/// The names of all imports, if every one of them is linked.
fn imports(engine: &Engine, component: &Component) -> Result<Vec<String>, LoadError> {
    let mut names = Vec::new();
    for (name, _) in component.component_type().imports(engine) {
        let (interface, version) = name.split_once('@').unwrap_or((name, ""));
        let hint = if interface.starts_with(PACKAGE) {
            if asked::LINKED.contains(&interface) && version.starts_with(TRACK) {
                None
            } else if asked::LINKED.contains(&interface) {
                Some(OTHER_VERSION)
            } else {
                Some("this version has no such interface")
            }
        } else if wasi::LINKED.contains(&interface) {
            None
        } else if interface.starts_with("wasi:") {
            Some("policies reach no files, network or HTTP")
        } else {
            Some("a policy may import `tollgate:policy` and some of `wasi:cli`, `clocks`, `io` and `random`")
        };
        if let Some(hint) = hint {
            return Err(LoadError::NotLinked { import: name.to_owned(), hint });
        }
        names.push(name.to_owned());
    }
    names.sort();
    Ok(names)
}

/// A hook that is never asked would be a policy that doesn't do what its author thinks.
fn refuse_exports(engine: &Engine, component: &Component) -> Result<(), LoadError> {
    for (name, item) in component.component_type().exports(engine) {
        let (interface, version) = name.split_once('@').unwrap_or((name, ""));
        let Some(interface) = interface.strip_prefix(PACKAGE) else { continue };
        let hint = if !matches!(item.ty, ComponentItem::ComponentInstance(_)) {
            continue;
        } else if !matches!(interface, "lifecycle" | "types" | "charges")
            && Hook::ALL.iter().all(|hook| hook.as_str() != interface)
        {
            "this version doesn't ask this hook yet"
        } else if !version.starts_with(TRACK) {
            OTHER_VERSION
        } else {
            continue;
        };
        return Err(LoadError::NotCalled { export: name.to_owned(), hint });
    }
    Ok(())
}

/// An interface that is there without its function would be asked by nobody, and miss what it is there to refuse.
fn refuse_half(engine: &Engine, component: &Component, found: &[Hook], is_configurable: bool) -> Result<(), LoadError> {
    for (name, _) in component.component_type().exports(engine) {
        let interface = name.split('@').next().and_then(|name| name.strip_prefix(PACKAGE)).unwrap_or_default();
        if Hook::ALL.iter().any(|hook| hook.as_str() == interface && !found.contains(hook)) {
            return Err(LoadError::Misfit(format!("`{name}` lacks the function of its hook")));
        }
        if interface == "lifecycle" && !is_configurable {
            return Err(LoadError::Misfit(format!("`{name}` lacks `configure`")));
        }
    }
    Ok(())
}

fn text(error: &Error) -> String {
    format!("{error:#}")
}
