//! WASI for policies: enough for a language's runtime to start, and nothing that waits or reaches out.
//!
//! Linked are `cli`, `clocks`, `random` and `io`; files, sockets and HTTP are not: a component that imports them is refused
//! by name. Clocks answer the hook's one moment, random is a fixed stream, output goes to the gate's log. `io` is ours: the
//! crate's own sync functions block on an executor, which panics on a worker thread of one.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime::{
    Error, Result,
    component::{HasData, Linker, Resource, ResourceTable},
};
use wasmtime_wasi::{
    Deterministic, HostMonotonicClock, HostWallClock, WasiCtx, WasiView,
    cli::{IsTerminal, StdoutStream, WasiCli, WasiCliView},
    clocks::{WasiClocks, WasiClocksView},
    p2::{
        DynInputStream, DynOutputStream, DynPollable, OutputStream, Pollable, StreamError, StreamResult, bindings,
        bindings::sync::io::{error, poll, streams},
        pipe::ClosedInputStream,
        subscribe,
    },
    random::WasiRandom,
};

use super::{
    host_state::{HookTime, HostState, Shared},
    log::Level,
};
use crate::policy::Exchange;

/// Interfaces that a component may import, without the version.
pub(super) const LINKED: [&str; 18] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
];

/// The random bytes that every instance gets again and again: a decision must come out the same.
const FIXED_BYTES: [u8; 16] = *b"tollgate-policy\0";

/// Adds what is linked.
pub(super) fn add_to_linker(linker: &mut Linker<HostState>) -> Result<()> {
    use bindings::{cli, clocks, random};
    clocks::wall_clock::add_to_linker::<_, WasiClocks>(linker, HostState::clocks)?;
    clocks::monotonic_clock::add_to_linker::<_, WasiClocks>(linker, HostState::clocks)?;
    random::random::add_to_linker::<_, WasiRandom>(linker, |state| state.ctx().ctx.random())?;
    random::insecure::add_to_linker::<_, WasiRandom>(linker, |state| state.ctx().ctx.random())?;
    random::insecure_seed::add_to_linker::<_, WasiRandom>(linker, |state| state.ctx().ctx.random())?;
    cli::exit::add_to_linker::<_, WasiCli>(linker, HostState::cli)?;
    cli::environment::add_to_linker::<_, WasiCli>(linker, HostState::cli)?;
    cli::stdin::add_to_linker::<_, WasiCli>(linker, HostState::cli)?;
    cli::stdout::add_to_linker::<_, WasiCli>(linker, HostState::cli)?;
    cli::stderr::add_to_linker::<_, WasiCli>(linker, HostState::cli)?;
    cli::terminal_input::add_to_linker::<_, WasiCli>(linker, HostState::cli)?;
    cli::terminal_output::add_to_linker::<_, WasiCli>(linker, HostState::cli)?;
    cli::terminal_stdin::add_to_linker::<_, WasiCli>(linker, HostState::cli)?;
    cli::terminal_stdout::add_to_linker::<_, WasiCli>(linker, HostState::cli)?;
    cli::terminal_stderr::add_to_linker::<_, WasiCli>(linker, HostState::cli)?;
    error::add_to_linker::<_, PlainTable>(linker, |state| state.ctx().table)?;
    poll::add_to_linker::<_, NoWaiting>(linker, HostState::no_wait)?;
    streams::add_to_linker::<_, NoWaiting>(linker, HostState::no_wait)
}

/// A context without environment, arguments, files or network.
pub(super) fn context(shared: &Arc<Shared>, time: &Arc<HookTime>) -> WasiCtx {
    let output = |level| ToLog { shared: Arc::clone(shared), level };
    WasiCtx::builder()
        .stdin(ClosedInputStream)
        .stdout(output(Level::Info))
        .stderr(output(Level::Warn))
        .wall_clock(Moment(Arc::clone(time)))
        .monotonic_clock(Moment(Arc::clone(time)))
        .secure_random(Deterministic::new(FIXED_BYTES.to_vec()))
        .insecure_random(Deterministic::new(FIXED_BYTES.to_vec()))
        .insecure_random_seed(0)
        .max_random_size(64 << 10)
        .build()
}

/// The hook's one moment.
struct Moment(Arc<HookTime>);

impl HostWallClock for Moment {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.unix_ms())
    }
}

impl HostMonotonicClock for Moment {
    fn resolution(&self) -> u64 {
        1_000_000
    }
    fn now(&self) -> u64 {
        self.0.unix_ms().saturating_mul(1_000_000)
    }
}

/// A guest's stdout or stderr.
#[derive(Clone)]
struct ToLog {
    shared: Arc<Shared>,
    level: Level,
}

impl IsTerminal for ToLog {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for ToLog {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for ToLog {
    async fn ready(&mut self) {}
}

impl OutputStream for ToLog {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        for line in bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            self.shared.log.write(&self.shared.name, self.level, &String::from_utf8_lossy(line));
        }
        Ok(())
    }
    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }
    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(4096)
    }
}

struct PlainTable;

impl HasData for PlainTable {
    type Data<'a> = &'a mut ResourceTable;
}

struct NoWaiting;

impl HasData for NoWaiting {
    type Data<'a> = NoWait<'a>;
}

/// Streams and pollables that never wait: what would have to is a trap.
struct NoWait<'a> {
    table: &'a mut ResourceTable,
    exchange: Option<&'a Exchange>,
}

impl HostState {
    fn no_wait(&mut self) -> NoWait<'_> {
        let (table, exchange) = self.table_and_exchange();
        NoWait { table, exchange }
    }
}

fn would_wait(import: &str) -> Error {
    Error::msg(format!("it called `{import}`, and a policy never waits"))
}

impl poll::Host for NoWait<'_> {
    fn poll(&mut self, _: Vec<Resource<DynPollable>>) -> Result<Vec<u32>> {
        Err(would_wait("wasi:io/poll.poll"))
    }
}

impl poll::HostPollable for NoWait<'_> {
    fn ready(&mut self, _: Resource<DynPollable>) -> Result<bool> {
        Err(would_wait("wasi:io/poll.pollable.ready"))
    }
    fn block(&mut self, _: Resource<DynPollable>) -> Result<()> {
        Err(would_wait("wasi:io/poll.pollable.block"))
    }
    fn drop(&mut self, pollable: Resource<DynPollable>) -> Result<()> {
        poll::HostPollable::drop(self.table, pollable)
    }
}

impl streams::Host for NoWait<'_> {
    fn convert_stream_error(&mut self, error: StreamError) -> Result<streams::StreamError> {
        streams::Host::convert_stream_error(self.table, error)
    }
}

impl NoWait<'_> {
    /// The bytes without the presented credential, which a caller may have repeated where a policy can read it.
    fn blanked(&self, bytes: Vec<u8>) -> Bytes {
        match self.exchange {
            Some(exchange) => exchange.blanked(String::from_utf8_lossy(&bytes).into_owned()).into(),
            None => bytes.into(),
        }
    }

    fn output(&mut self, stream: &Resource<DynOutputStream>) -> StreamResult<&mut DynOutputStream> {
        Ok(self.table.get_mut(stream)?)
    }
}

impl streams::HostOutputStream for NoWait<'_> {
    fn check_write(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<u64> {
        Ok(u64::try_from(self.output(&stream)?.check_write()?).unwrap_or(u64::MAX))
    }
    fn write(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        let bytes = self.blanked(bytes);
        self.output(&stream)?.write(bytes)
    }
    fn blocking_write_and_flush(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        let bytes = self.blanked(bytes);
        self.output(&stream)?.write(bytes)
    }
    fn flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        self.output(&stream)?.flush()
    }
    fn blocking_flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        self.output(&stream)?.flush()
    }
    fn subscribe(&mut self, stream: Resource<DynOutputStream>) -> Result<Resource<DynPollable>> {
        subscribe(self.table, stream)
    }
    fn write_zeroes(&mut self, _: Resource<DynOutputStream>, _: u64) -> StreamResult<()> {
        Err(StreamError::trap("a policy has no use for zeroes in its log"))
    }
    fn blocking_write_zeroes_and_flush(&mut self, _: Resource<DynOutputStream>, _: u64) -> StreamResult<()> {
        Err(StreamError::trap("a policy has no use for zeroes in its log"))
    }
    fn splice(&mut self, _: Resource<DynOutputStream>, _: Resource<DynInputStream>, _: u64) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }
    fn blocking_splice(
        &mut self,
        _: Resource<DynOutputStream>,
        _: Resource<DynInputStream>,
        _: u64,
    ) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }
    fn drop(&mut self, stream: Resource<DynOutputStream>) -> Result<()> {
        self.table.delete(stream)?;
        Ok(())
    }
}

/// The only input is stdin, and it is closed.
impl streams::HostInputStream for NoWait<'_> {
    fn read(&mut self, _: Resource<DynInputStream>, _: u64) -> StreamResult<Vec<u8>> {
        Err(StreamError::Closed)
    }
    fn blocking_read(&mut self, _: Resource<DynInputStream>, _: u64) -> StreamResult<Vec<u8>> {
        Err(StreamError::Closed)
    }
    fn skip(&mut self, _: Resource<DynInputStream>, _: u64) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }
    fn blocking_skip(&mut self, _: Resource<DynInputStream>, _: u64) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }
    fn subscribe(&mut self, stream: Resource<DynInputStream>) -> Result<Resource<DynPollable>> {
        subscribe(self.table, stream)
    }
    fn drop(&mut self, stream: Resource<DynInputStream>) -> Result<()> {
        self.table.delete(stream)?;
        Ok(())
    }
}
