//! A policy file, loaded as a gate would load it, but asked by nobody.

use std::{
    fs,
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
    ports::{catalogue::NoBackends, limits::LimitSet},
    wasm::{Cases, GuestPolicy, MAX_COMPONENT_BYTES, Runtime, RuntimeConfig},
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

/// A loaded policy, and what keeps it alive.
pub(super) struct Loaded {
    pub(super) name: Arc<str>,
    pub(super) bytes: Vec<u8>,
    pub(super) policy: GuestPolicy,
    pub(super) runtime: Runtime,
}

impl PolicyArguments {
    /// The policy's name: the file's, without `.wasm`.
    pub(super) fn name(&self) -> Arc<str> {
        self.file.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default().into()
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
        start: impl FnOnce(RuntimeConfig, Clock, Arc<dyn crate::ports::catalogue::Catalogue>) -> Result<Runtime, E>,
    ) -> Result<Runtime, Failure> {
        let config = RuntimeConfig {
            cpu_budget: self.cpu_budget,
            memory_bytes: usize::try_from(self.memory.as_u64()).unwrap_or(usize::MAX),
            masked_headers: Vec::new(),
            default_limits: LimitSet::default(),
            ready_instances: 1,
            cache: None,
        };
        start(config, Clock::system(), Arc::new(NoBackends)).map_err(|error| Failure::failed(error.to_string()))
    }

    fn load_with(&self, runtime: Runtime) -> Result<Loaded, Failure> {
        let (name, bytes) = (self.name(), read(&self.file)?);
        let policy = runtime
            .load(&name, &bytes, "{}")
            .map_err(|error| Failure::failed(format!("{} can't be used as a policy: {error}", self.file.display())))?;
        Ok(Loaded { name, bytes, policy, runtime })
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
    let unreadable = |error: std::io::Error| Failure::failed(format!("{} can't be read: {error}", file.display()));
    let size = fs::metadata(file).map_err(unreadable)?.len();
    if usize::try_from(size).is_ok_and(|size| size > MAX_COMPONENT_BYTES) {
        return Err(Failure::failed(format!("{} has more than {MAX_COMPONENT_BYTES} bytes", file.display())));
    }
    fs::read(file).map_err(unreadable)
}
