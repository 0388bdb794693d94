//! Where the log goes: stderr, through a bounded queue. A reader that is slow loses lines, and never holds up a call.

use std::io::{self, IsTerminal};

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use super::output::Failure;
use crate::config::{Log, LogFormat};

/// Lines that may wait to be written.
const QUEUED_LINES: usize = 16_384;

/// Starts the log. What still waits is written when the guard is dropped.
pub(super) fn start(config: &Log) -> Result<WorkerGuard, Failure> {
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUED_LINES).finish(io::stderr());
    // Libraries speak from `warn` on: at their lower levels some write what a caller sent.
    let filter = EnvFilter::new(format!("warn,tollgate={}", config.level));
    let log = tracing_subscriber::fmt().with_writer(writer).with_env_filter(filter);
    let is_terminal = io::stderr().is_terminal();
    let as_text = match config.format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => is_terminal,
    };
    let started = if as_text {
        log.with_ansi(is_terminal).with_target(false).try_init()
    } else {
        log.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    };
    started.map_err(|error| Failure::failed(format!("the log can't start: {error}")))?;
    Ok(guard)
}
