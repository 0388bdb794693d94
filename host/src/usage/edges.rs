//! The numbers of the gate's edges: connections, TLS, and how often each bound was reached.

use std::sync::{OnceLock, atomic::AtomicI64};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::bound::Bound;
use crate::wire::bounded::BufferBudget;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BoundLabels {
    bound: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProtocolLabels {
    protocol: &'static str,
}

/// Counters and gauges of the edges; written without a lock.
#[derive(Debug)]
pub struct Edges {
    reached: [Counter; Bound::ALL.len()],
    open: Gauge<i64, AtomicI64>,
    served: Family<ProtocolLabels, Counter>,
    buffered: Gauge<i64, AtomicI64>,
    budget: OnceLock<BufferBudget>,
    handshakes_failed: Counter,
    certificate_ends: Gauge<i64, AtomicI64>,
    certificates_refused: Counter,
}

impl Edges {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let bounds = Family::<BoundLabels, Counter>::default();
        let reached = Bound::ALL.map(|bound| bounds.get_or_create(&BoundLabels { bound: bound.as_str() }).clone());
        registry.register("bound_reached", "How often a bound of the configuration was reached, by its key", bounds);
        let open = Gauge::default();
        registry.register("connections_open", "Connections of callers that are open", open.clone());
        let served = Family::<ProtocolLabels, Counter>::default();
        registry.register("connections", "Connections of callers that were served, by protocol", served.clone());
        let buffered = Gauge::default();
        let help = "Bytes of request bodies that are held";
        registry.register_with_unit("buffered", help, Unit::Bytes, buffered.clone());
        let handshakes_failed = Counter::default();
        registry.register("tls_handshakes_failed", "TLS handshakes of callers that failed", handshakes_failed.clone());
        let certificate_ends = Gauge::default();
        let help = "When the certificate in use ends, in Unix time; 0 without TLS";
        registry.register_with_unit("tls_certificate_end", help, Unit::Seconds, certificate_ends.clone());
        let certificates_refused = Counter::default();
        let help = "Changed certificate files that could not be used, so that those before them stayed";
        registry.register("tls_certificates_refused", help, certificates_refused.clone());
        let budget = OnceLock::new();
        Self { reached, open, served, buffered, budget, handshakes_failed, certificate_ends, certificates_refused }
    }

    /// A bound was reached.
    pub fn reached(&self, bound: Bound) {
        let index = Bound::ALL.iter().position(|known| *known == bound);
        if let Some(counter) = index.and_then(|index| self.reached.get(index)) {
            counter.inc();
        }
    }

    /// A connection was accepted.
    pub fn opened(&self) {
        self.open.inc();
    }

    /// An accepted connection is closed.
    pub fn closed(&self) {
        self.open.dec();
    }

    /// A connection speaks this protocol.
    pub fn speaks(&self, protocol: &'static str) {
        self.served.get_or_create(&ProtocolLabels { protocol }).inc();
    }

    /// What bodies take is read from this budget from now on; only the first counts.
    pub fn follow_buffers(&self, budget: BufferBudget) {
        self.budget.get_or_init(|| budget);
    }

    /// Brings the gauges up to date that others keep.
    pub(super) fn look(&self) {
        let held = self.budget.get().map_or(0, BufferBudget::held);
        self.buffered.set(i64::try_from(held).unwrap_or(i64::MAX));
    }

    /// A TLS handshake failed.
    pub fn handshake_failed(&self) {
        self.handshakes_failed.inc();
    }

    /// A certificate is in use that ends then, in seconds since 1970.
    pub fn certificate_ends(&self, unix_s: i64) {
        self.certificate_ends.set(unix_s);
    }

    /// Changed certificate files could not be used.
    pub fn certificate_refused(&self) {
        self.certificates_refused.inc();
    }
}
