//! The bounds that the gate's edges and its limits hold, as operators see them: each has a key in the configuration and a counter here.

/// A bound that was reached, so that something was refused or closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bound {
    /// `server.max_connections`: a caller had to wait for a place.
    Connections,
    /// `server.max_in_flight`.
    InFlight,
    /// `server.max_head` or `server.max_headers`.
    HeadSize,
    /// `server.max_body` and the caps of single operations.
    BodySize,
    /// `server.max_buffered`.
    Buffered,
    /// `server.first_byte_timeout`.
    FirstByte,
    /// `server.handshake_timeout`.
    Handshake,
    /// `server.head_timeout`.
    HeadTime,
    /// `server.body_idle_timeout`.
    BodyIdle,
    /// `server.body_timeout`.
    BodyTime,
    /// `server.min_blob_rate`.
    BlobRate,
    /// `server.keep_alive_timeout`.
    KeepAlive,
    /// `server.http2`: a connection that did more than it may, or didn't answer a ping.
    Http2,
    /// `upstream.idle_timeout`, on the caller's side: a caller took nothing of an answer. Where that stops the whole
    /// connection, Linux ends it; other systems don't.
    Stall,
    /// `server.drain_timeout`: a connection was cut when the gate stopped.
    Drain,
    /// `upstream.connect_timeout`: each attempt at a backend counts.
    UpstreamConnect,
    /// `upstream.first_byte_timeout`.
    UpstreamFirstByte,
    /// `upstream.idle_timeout`.
    UpstreamIdle,
    /// `upstream.management_timeout`: to the first byte of an answer, or within it.
    Management,
    /// `limits.max_counters`: a call found no place for a counter.
    Counters,
    /// `limits.max_counters_per_principal`.
    CountersPerPrincipal,
    /// `policies.settle_queue`: a call came to its end without the policies that wait for that being told.
    SettleQueue,
}

impl Bound {
    /// All of them, so that each counter is there before it counts.
    pub const ALL: [Self; 22] = [
        Self::Connections,
        Self::InFlight,
        Self::HeadSize,
        Self::BodySize,
        Self::Buffered,
        Self::FirstByte,
        Self::Handshake,
        Self::HeadTime,
        Self::BodyIdle,
        Self::BodyTime,
        Self::BlobRate,
        Self::KeepAlive,
        Self::Http2,
        Self::Stall,
        Self::Drain,
        Self::UpstreamConnect,
        Self::UpstreamFirstByte,
        Self::UpstreamIdle,
        Self::Management,
        Self::Counters,
        Self::CountersPerPrincipal,
        Self::SettleQueue,
    ];

    /// As it stands in the metrics: the configuration's key.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "max_connections",
            Self::InFlight => "max_in_flight",
            Self::HeadSize => "max_head",
            Self::BodySize => "max_body",
            Self::Buffered => "max_buffered",
            Self::FirstByte => "first_byte_timeout",
            Self::Handshake => "handshake_timeout",
            Self::HeadTime => "head_timeout",
            Self::BodyIdle => "body_idle_timeout",
            Self::BodyTime => "body_timeout",
            Self::BlobRate => "min_blob_rate",
            Self::KeepAlive => "keep_alive_timeout",
            Self::Http2 => "http2",
            Self::Stall => "caller_idle_timeout",
            Self::Drain => "drain_timeout",
            Self::UpstreamConnect => "upstream_connect_timeout",
            Self::UpstreamFirstByte => "upstream_first_byte_timeout",
            Self::UpstreamIdle => "upstream_idle_timeout",
            Self::Management => "upstream_management_timeout",
            Self::Counters => "max_counters",
            Self::CountersPerPrincipal => "max_counters_per_principal",
            Self::SettleQueue => "settle_queue",
        }
    }
}
