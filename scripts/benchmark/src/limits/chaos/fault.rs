//! What goes wrong with a Redis, and how it is set right again.

use std::{path::Path, time::Duration};

use super::super::{
    redis::{Dead, GROUP, Redis, Watched},
    relay::Relay,
};
use crate::failure::Failure;

/// How slow a slow Redis is.
const SLOW: Duration = Duration::from_millis(200);

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Killed,
    Paused,
    Slowed,
    Emptied,
    ScriptFlushed,
    ReadOnly,
    FailedOver,
}

impl Fault {
    pub(super) const ALL: [Self; 7] = [
        Self::Killed,
        Self::Paused,
        Self::Slowed,
        Self::Emptied,
        Self::ScriptFlushed,
        Self::ReadOnly,
        Self::FailedOver,
    ];
    /// Those of which only counts are of interest.
    pub(super) const SMOKE: [Self; 4] = [Self::Killed, Self::ReadOnly, Self::ScriptFlushed, Self::Emptied];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Killed => "killed, back empty",
            Self::Paused => "paused (SIGSTOP)",
            Self::Slowed => "slowed to 200 ms",
            Self::Emptied => "restarted empty",
            Self::ScriptFlushed => "SCRIPT FLUSH",
            Self::ReadOnly => "read-only",
            Self::FailedOver => "failed over by Sentinel",
        }
    }

    /// Whether it goes on until somebody sets it right.
    pub(super) fn lasts(self) -> bool {
        !matches!(self, Self::Emptied | Self::ScriptFlushed | Self::FailedOver)
    }
}

/// The Redis of one row.
#[derive(Debug)]
pub(super) enum Stage {
    /// One server, behind a relay where it is to be slow.
    Alone { redis: Redis, relay: Option<Relay> },
    /// One that isn't there now.
    Gone(Dead),
    /// With a replica and a Sentinel.
    Watched(Watched),
}

impl Stage {
    pub(super) async fn set(fault: Fault, folder: &Path) -> Result<Self, Failure> {
        if fault == Fault::FailedOver {
            return Ok(Self::Watched(Watched::start(folder)?));
        }
        let redis = Redis::start(folder, &[])?;
        let relay = if fault == Fault::Slowed { Some(Relay::before(redis.address).await?) } else { None };
        Ok(Self::Alone { redis, relay })
    }

    /// Where gates find it.
    pub(super) fn url(&self) -> String {
        match self {
            Self::Alone { relay: Some(relay), .. } => format!("redis://{}", relay.address),
            Self::Alone { redis, relay: None } => format!("redis://{}", redis.address),
            Self::Watched(watched) => format!("redis+sentinel://{}/{GROUP}", watched.address),
            Self::Gone(_) => String::new(),
        }
    }

    /// Makes it go wrong. Waits for processes, never for long.
    pub(super) fn strike(self, fault: Fault) -> Result<Self, Failure> {
        match (self, fault) {
            (Self::Alone { redis, .. }, Fault::Killed) => Ok(Self::Gone(redis.dies())),
            (Self::Alone { redis, relay }, Fault::Emptied) => Ok(Self::Alone { redis: redis.dies().returns()?, relay }),
            (Self::Watched(mut watched), Fault::FailedOver) => {
                watched.loses_its_primary();
                Ok(Self::Watched(watched))
            }
            (Self::Alone { redis, relay }, fault) => {
                match fault {
                    Fault::Paused => redis.pause()?,
                    Fault::ScriptFlushed => drop(redis.run("SCRIPT FLUSH")?),
                    // A replica of nobody: it keeps what it has, and takes nothing.
                    Fault::ReadOnly => drop(redis.run("REPLICAOF 127.0.0.1 1")?),
                    Fault::Slowed | Fault::Killed | Fault::Emptied | Fault::FailedOver => {}
                }
                if let (Some(relay), Fault::Slowed) = (&relay, fault) {
                    relay.slows_to(SLOW);
                }
                Ok(Self::Alone { redis, relay })
            }
            (stage, _) => Ok(stage),
        }
    }

    /// Sets right what doesn't come right by itself.
    pub(super) fn heal(self, fault: Fault) -> Result<Self, Failure> {
        match self {
            Self::Gone(dead) => Ok(Self::Alone { redis: dead.returns()?, relay: None }),
            Self::Alone { redis, relay } => {
                match fault {
                    Fault::Paused => redis.resume()?,
                    Fault::ReadOnly => drop(redis.run("REPLICAOF NO ONE")?),
                    Fault::Killed | Fault::Slowed | Fault::Emptied | Fault::ScriptFlushed | Fault::FailedOver => {}
                }
                if let Some(relay) = &relay {
                    relay.slows_to(Duration::ZERO);
                }
                Ok(Self::Alone { redis, relay })
            }
            Self::Watched(watched) => Ok(Self::Watched(watched)),
        }
    }
}
