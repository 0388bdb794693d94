//! The wasmtime engine, each setting with its reason, and the thread that makes its time pass.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use wasmtime::{Cache, CacheConfig, Config, Engine, OptLevel};

use super::pace::Pace;
use crate::files;

/// Stack of a guest. Sync calls run on the request's own thread: an overflow there would end the process, so the guest's
/// share stays well below a worker's 2 MiB.
const MAX_STACK_BYTES: usize = 256 << 10;

/// Most entries of compiled code that are kept, and their size; each has a small file of numbers beside it.
const CACHED_FILES: u64 = 2_048;
const CACHED_BYTES: u64 = 1 << 30;
/// How often old ones are looked for.
const CLEANUP: Duration = Duration::from_secs(60 * 60);

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
    cache: Option<Cache>,
    pace: Arc<Pace>,
    stop: Arc<AtomicBool>,
    ticker: Option<JoinHandle<()>>,
}

impl TickingEngine {
    /// Starts an engine. Compiled code is kept in `cache` when there is one: it must be a folder that nobody else can
    /// write to, since what lies there is executed.
    pub(super) fn start(cache: Option<&Path>, fuel: Fuel) -> wasmtime::Result<Self> {
        let cache = cache.map(open_cache).transpose()?;
        let engine = Engine::new(config(cache.clone()).consume_fuel(fuel == Fuel::Counted))?;
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
        Ok(Self { engine, cache, pace, stop, ticker: Some(ticker) })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// How often compiled code was found.
    pub(super) fn cache_hits(&self) -> usize {
        self.cache.as_ref().map_or(0, Cache::cache_hits)
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

fn config(cache: Option<Cache>) -> Config {
    let mut config = Config::new();
    config.cranelift_opt_level(OptLevel::Speed);
    config.epoch_interruption(true);
    config.max_wasm_stack(MAX_STACK_BYTES);
    // A trap with a backtrace costs 14 µs; a looping caller could ask for one after the other.
    config.wasm_backtrace_max_frames(None);
    // The same decision must come out again, whatever the processor.
    config.cranelift_nan_canonicalization(true);
    config.relaxed_simd_deterministic(true);
    config.cache(cache);
    config
}

/// Compiled code by the hash of the component and all that the compiler depends on: another processor, version or setting
/// finds nothing of it. An entry that can't be read is compiled anew; the oldest go when there are too many.
fn open_cache(folder: &Path) -> wasmtime::Result<Cache> {
    drop_foreign(folder);
    let mut config = CacheConfig::new();
    config.with_directory(folder);
    config.with_file_count_soft_limit(CACHED_FILES);
    config.with_files_total_size_soft_limit(CACHED_BYTES);
    config.with_cleanup_interval(CLEANUP);
    Cache::new(config)
}

/// Removes what isn't this process's user's alone: what lies there is executed. The folder itself was checked.
fn drop_foreign(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        let kind = found.file_type();
        if (kind.is_file() || kind.is_dir()) && files::check_place(&path, &found).is_ok() {
            if kind.is_dir() {
                drop_foreign(&path);
            }
            continue;
        }
        let removed = if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        tracing::warn!(
            path = %path.display(),
            is_removed = removed.is_ok(),
            "compiled code that isn't this user's alone is not used"
        );
    }
}
