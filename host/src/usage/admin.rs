//! The numbers of the admin listener: its connections, and what it refused.

use std::sync::atomic::AtomicI64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Why the admin listener refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminRefusal {
    /// It was asked by a name that is not its own.
    Host,
    /// No token was presented.
    NoToken,
    /// Another token was presented.
    WrongToken,
    /// Other tokens were presented too often.
    TooManyAttempts,
    /// The request's body was too large.
    BodySize,
    /// The request's body took too long.
    BodyTime,
}

impl AdminRefusal {
    const ALL: [Self; 6] =
        [Self::Host, Self::NoToken, Self::WrongToken, Self::TooManyAttempts, Self::BodySize, Self::BodyTime];

    fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::NoToken => "no_token",
            Self::WrongToken => "wrong_token",
            Self::TooManyAttempts => "too_many_attempts",
            Self::BodySize => "body_size",
            Self::BodyTime => "body_time",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    reason: &'static str,
}

/// Counters and gauges of the admin listener.
#[derive(Debug)]
pub struct AdminNumbers {
    open: Gauge<i64, AtomicI64>,
    timed_out: Counter,
    refused: Family<RefusalLabels, Counter>,
}

impl AdminNumbers {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let open = Gauge::default();
        registry.register("admin_connections_open", "Connections of the admin listener that are open", open.clone());
        let timed_out = Counter::default();
        let help = "Connections of the admin listener on which no whole request came in time, idle ones included";
        registry.register("admin_connections_timed_out", help, timed_out.clone());
        let refused = Family::<RefusalLabels, Counter>::default();
        for reason in AdminRefusal::ALL {
            // Each is there before it counts, so that an alert can be written on it.
            drop(refused.get_or_create(&RefusalLabels { reason: reason.as_str() }));
        }
        let help = "Requests that the admin listener refused, by reason";
        registry.register("admin_refusals", help, refused.clone());
        Self { open, timed_out, refused }
    }

    /// A connection was accepted.
    pub fn opened(&self) {
        self.open.inc();
    }

    /// An accepted connection is closed.
    pub fn closed(&self) {
        self.open.dec();
    }

    /// A connection was closed because no whole head came in time.
    pub fn timed_out(&self) {
        self.timed_out.inc();
    }

    /// A request was refused.
    pub fn refused(&self, reason: AdminRefusal) {
        self.refused.get_or_create(&RefusalLabels { reason: reason.as_str() }).inc();
    }
}
