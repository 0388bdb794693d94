//! The wasmtime engine, each setting with its reason, and the thread that makes its time pass.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use super::pace::Pace;
use wasmtime::{Cache, CacheConfig, Config, Engine, OptLevel};

/// Stack of a guest. Sync calls run on the request's own thread: an overflow there would end the process, so the guest's
/// share stays well below a worker's 2 MiB.
const MAX_STACK_BYTES: usize = 256 << 10;

/// Whether guests' instructions are counted, which costs them time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fuel {
    Ignored,
    Counted,
}

/// An engine and its ticker; the ticker stops when this is dropped.
#[derive(Debug)]
pub(super) struct TickingEngine {
    engine: Engine,
    pace: Arc<Pace>,
    stop: Arc<AtomicBool>,
    ticker: Option<JoinHandle<()>>,
}

impl TickingEngine {
    /// Starts an engine. Compiled code is kept in `cache` when there is one: it must be a folder that nobody else can
    /// write to, since what lies there is executed.
    pub(super) fn start(cache: Option<&Path>, fuel: Fuel) -> wasmtime::Result<Self> {
        let engine = Engine::new(config(cache)?.consume_fuel(fuel == Fuel::Counted))?;
        let (pace, stop) = (Arc::new(Pace::default()), Arc::new(AtomicBool::new(false)));
        let ticker = thread::Builder::new().name("policy-ticker".to_owned()).spawn({
            let (weak, pace, stop) = (engine.weak(), Arc::clone(&pace), Arc::clone(&stop));
            move || {
                // A thread of its own: an async timer on a busy runtime would come late, and in bursts.
                let mut idle = 0;
                while !stop.load(Ordering::Relaxed)
                    && let Some(engine) = weak.upgrade()
                {
                    engine.increment_epoch();
                    drop(engine);
                    pace.wait(&mut idle);
                }
            }
        })?;
        Ok(Self { engine, pace, stop, ticker: Some(ticker) })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What those who run guests tell the ticker.
    pub(super) fn pace(&self) -> &Arc<Pace> {
        &self.pace
    }
}

impl Drop for TickingEngine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.pace.wake();
        if let Some(ticker) = self.ticker.take() {
            drop(ticker.join());
        }
    }
}

fn config(cache: Option<&Path>) -> wasmtime::Result<Config> {
    let mut config = Config::new();
    config.cranelift_opt_level(OptLevel::Speed);
    config.epoch_interruption(true);
    config.max_wasm_stack(MAX_STACK_BYTES);
    // A trap with a backtrace costs 14 µs; a looping caller could ask for one after the other.
    config.wasm_backtrace_max_frames(None);
    // The same decision must come out again, whatever the processor.
    config.cranelift_nan_canonicalization(true);
    config.relaxed_simd_deterministic(true);
    if let Some(folder) = cache {
        let mut cache = CacheConfig::new();
        cache.with_directory(folder);
        config.cache(Some(Cache::new(cache)?));
    }
    Ok(config)
}
