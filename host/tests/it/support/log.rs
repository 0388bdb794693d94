//! What the gates of this process log, line by line, as the binary would write it.
//!
//! There is one log for all tests that run at the same time: look for a name that only your test uses.

use std::{
    io::{self, Write},
    sync::{Mutex, Once, PoisonError},
};

use serde_json::Value;
use tracing_subscriber::EnvFilter;

use super::until;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The log from a moment on.
pub(crate) struct Log {
    from: usize,
}

impl Log {
    /// From now on.
    pub(crate) fn listen() -> Self {
        static STARTED: Once = Once::new();
        STARTED.call_once(|| {
            let log = tracing_subscriber::fmt().with_writer(|| Line).with_env_filter(EnvFilter::new("tollgate=debug"));
            log.json().flatten_event(true).init();
        });
        Self { from: lines().len() }
    }

    /// All lines that hold all of these texts.
    pub(crate) fn lines_with(&self, parts: &[&str]) -> Vec<Value> {
        let lines = lines();
        let new = lines.get(self.from..).unwrap_or_default().iter();
        let fitting = new.filter(|line| parts.iter().all(|part| line.contains(part)));
        fitting.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits for a line that holds all of these texts.
    pub(crate) async fn says(&self, parts: &[&str]) {
        until(&format!("a line in the log with {parts:?}"), async || !self.lines_with(parts).is_empty()).await;
    }
}

fn lines() -> std::sync::MutexGuard<'static, Vec<String>> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes one line, which comes whole.
struct Line;

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lines().push(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
