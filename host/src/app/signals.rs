//! What the system tells the process: to stop, or to look at the policy folder.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What the process is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// SIGTERM, or SIGINT (ctrl-c).
    Stop,
    /// SIGHUP.
    Reload,
}

/// The signals that a gate listens to.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes them from here on; what the system would do by itself it does no more.
    ///
    /// # Errors
    /// When the system doesn't let the process listen for signals.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next one. Several of a kind that come at once count as one.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }
}
