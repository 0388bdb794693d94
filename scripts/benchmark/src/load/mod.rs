//! The load: calls over keep-alive connections, as fast as they are answered or at a fixed rate, on one thread.
//!
//! At a fixed rate a call's time counts from when it was meant to start, whether or not a connection was free then: a
//! server that stalls is charged for all the calls that should have come meanwhile.

mod answer;
mod connection;
mod engine;
mod held;
mod report;
mod request;

pub(crate) use self::{
    connection::Target,
    engine::{Mark, run},
    held::{call_once, hold},
    report::{Percentiles, Report, Times},
    request::{Call, client_tls},
};

use std::time::Duration;

use bytes::Bytes;

/// When calls start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// Each connection begins a call when the one before it has ended.
    Closed,
    /// So many calls start in a second, whatever becomes of them.
    PerSecond(f64),
}

/// When a load ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// After this time.
    Time(Duration),
    /// After so many calls, counted from the first.
    Calls(u64),
}

/// One load.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) target: Target,
    /// The request, head and body.
    pub(crate) request: Bytes,
    /// Connections; at a fixed rate the most that may be open.
    pub(crate) connections: usize,
    pub(crate) pace: Pace,
    /// This long nothing counts.
    pub(crate) warm_up: Duration,
    pub(crate) until: Until,
    /// Never sleeps: who answers wakes nobody, and pays for no waking.
    pub(crate) spins: bool,
}
