//! A policy file, loaded as a gate would load it, but asked by nobody.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytesize::ByteSize;
use clap::Args;

use crate::{
    app::cases,
    cli::output::Failure,
    clock::Clock,
    config::{Config, Policies, PolicyFile},
    ports::{
        catalogue::{Catalogue, NoBackends},
        limits::LimitSet,
    },
    wasm::{
        BUILT_IN, Cases, Compiled, GuestPolicy, LoadError, MAX_COMPONENT_BYTES, Runtime, RuntimeConfig, Started, Terms,
    },
};

/// Which file, and with what allowance.
#[derive(Debug, Args)]
pub(in crate::cli) struct PolicyArguments {
    /// The component, as it would lie in the policy folder
    pub(super) file: PathBuf,
    /// CPU time of one hook, as in `policies.cpu_budget`
    #[arg(long, value_name = "TIME", default_value = "2ms", value_parser = humantime::parse_duration)]
    pub(super) cpu_budget: Duration,
    /// Memory of one instance, as in `policies.memory`
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    pub(super) memory: ByteSize,
}

/// A policy that is configured as its `.toml` says, and what keeps it alive.
pub(super) struct Loaded {
    pub(super) name: Arc<str>,
    pub(super) compiled: Compiled,
    pub(super) started: Started,
    pub(super) terms: Terms,
    pub(super) runtime: Runtime,
}

impl Loaded {
    /// The policy, to be asked.
    pub(super) fn policy(&self) -> &GuestPolicy {
        self.started.policy()
    }
}

impl PolicyArguments {
    /// This file, with the allowance of a gate that says nothing else.
    pub(super) fn with_defaults(file: PathBuf) -> Self {
        let gate = Config::defaults_in(Path::new(".")).policies;
        Self { file, cpu_budget: gate.cpu_budget, memory: ByteSize(gate.memory) }
    }

    /// The policy's name: the file's, without `.wasm`.
    pub(super) fn name(&self) -> Arc<str> {
        self.file.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default().into()
    }

    /// Compiles the file and looks at it; nothing of it runs.
    pub(super) fn compile(&self) -> Result<(Vec<u8>, Compiled), Failure> {
        self.compile_in(&self.runtime(Runtime::start)?)
    }

    /// Loads the file.
    pub(super) fn load(&self) -> Result<Loaded, Failure> {
        let runtime = self.runtime(Runtime::start)?;
        self.load_with(runtime)
    }

    /// Loads it where instructions are counted.
    pub(super) fn load_metered(&self) -> Result<Loaded, Failure> {
        let runtime = self.runtime(Runtime::metered)?;
        self.load_with(runtime)
    }

    fn runtime<E: ToString>(
        &self,
        start: impl FnOnce(RuntimeConfig, Clock, Arc<dyn Catalogue>) -> Result<Runtime, E>,
    ) -> Result<Runtime, Failure> {
        let config = RuntimeConfig {
            cpu_budget: self.cpu_budget,
            memory_bytes: usize::try_from(self.memory.as_u64()).unwrap_or(usize::MAX),
            masked_headers: Vec::new(),
            default_limits: LimitSet::default(),
            ready_instances: 1,
            recheck_every: 0,
            cache: None,
        };
        start(config, Clock::system(), Arc::new(NoBackends)).map_err(|error| Failure::failed(error.to_string()))
    }

    fn compile_in(&self, runtime: &Runtime) -> Result<(Vec<u8>, Compiled), Failure> {
        let bytes = read(&self.file)?;
        let compiled = runtime.compile(&bytes).map_err(|error| self.unusable(&error))?;
        Ok((bytes, compiled))
    }

    fn load_with(&self, runtime: Runtime) -> Result<Loaded, Failure> {
        let (name, terms) = (self.name(), self.terms()?);
        let (_, compiled) = self.compile_in(&runtime)?;
        let started = runtime.start_policy(&name, &compiled, &terms).map_err(|error| self.unusable(&error))?;
        Ok(Loaded { name, compiled, started, terms, runtime })
    }

    /// That the file can't be used.
    pub(super) fn unusable(&self, error: &LoadError) -> Failure {
        Failure::failed(format!("{} can't be used as a policy: {error}", self.file.display()))
    }

    /// What `NAME.toml` beside the file says: its settings, grants and budgets.
    pub(super) fn terms(&self) -> Result<Terms, Failure> {
        let (path, gate) = (self.file.with_extension("toml"), self.gate());
        let file = match fs::read_to_string(&path) {
            Ok(text) => PolicyFile::parse(&text, &path.display().to_string(), &gate).map_err(|problems| {
                let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
                Failure::failed(lines.join("\n"))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => PolicyFile::defaults(&gate),
            Err(error) => return Err(Failure::failed(format!("{} can't be read: {error}", path.display()))),
        };
        let is_built_in = BUILT_IN.iter().any(|built_in| *built_in.name == *self.name());
        match file.misplaced_order(&path.display().to_string(), is_built_in) {
            Some(problem) => Err(Failure::failed(problem)),
            None => Ok(Terms::from(&file)),
        }
    }

    /// `[policies]` of a gate that allows what the arguments say.
    fn gate(&self) -> Policies {
        let defaults = Config::defaults_in(Path::new(".")).policies;
        let memory = self.memory.as_u64();
        Policies {
            cpu_budget: self.cpu_budget,
            max_cpu_budget: defaults.max_cpu_budget.max(self.cpu_budget),
            memory,
            max_memory: defaults.max_memory.max(memory),
            ..defaults
        }
    }

    /// The cases of this file, or of the policy; none when the policy has none beside it.
    pub(super) fn cases(&self, file: Option<&Path>) -> Result<Option<Cases>, Failure> {
        let place = file.map_or_else(|| cases::place(&self.file), Path::to_owned);
        match cases::read(&place).map_err(Failure::failed)? {
            None if file.is_some() => Err(Failure::failed(format!("there is no file {}", place.display()))),
            cases => Ok(cases),
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let unreadable = |error: io::Error| Failure::failed(format!("{} can't be read: {error}", file.display()));
    let size = fs::metadata(file).map_err(unreadable)?.len();
    if usize::try_from(size).is_ok_and(|size| size > MAX_COMPONENT_BYTES) {
        return Err(Failure::failed(format!("{} has more than {MAX_COMPONENT_BYTES} bytes", file.display())));
    }
    fs::read(file).map_err(unreadable)
}
