//! How limits are shared, and which settings can't work.
//!
//! Pure.

use std::num::NonZeroU32;
use std::time::Duration;

use thiserror::Error;

use super::{Address, Mode, Tolerance};

/// How the limits are shared.
#[derive(Clone, Debug)]
pub struct SharedSettings {
    /// Where Redis is.
    pub address: Address,
    /// The hash tag of all keys: gates with the same tag share limits. Letters, digits, `-`, `_` and `.`, at most 64.
    pub tag: String,
    /// What is done while Redis can't be asked.
    pub mode: Mode,
    /// Among how many gates limits are shared meanwhile; none: as many as were there when last counted.
    pub replicas: Option<NonZeroU32>,
    /// How long a reservation may take, all of it.
    pub deadline: Duration,
    /// How often this gate says that it is there, and so finds out that Redis isn't.
    pub beat_every: Duration,
    /// How many failures are too many.
    pub tolerance: Tolerance,
    /// How long a running call counts after its gate was last heard of. Renewed three times in that time.
    pub lease: Duration,
    /// How long Redis remembers a reservation that isn't settled; at least two leases.
    pub open: Duration,
    /// Most reservations that are open or wait to be settled.
    pub most_open: usize,
    /// Most counters whose local spending is remembered.
    pub most_owed: usize,
}

impl SharedSettings {
    /// The defaults, for this place.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            tag: "limits".to_owned(),
            mode: Mode::default(),
            replicas: None,
            deadline: Duration::from_millis(25),
            beat_every: Duration::from_millis(250),
            tolerance: Tolerance::default(),
            lease: Duration::from_secs(30),
            open: Duration::from_secs(3_600),
            most_open: 65_536,
            most_owed: 100_000,
        }
    }
}

/// Settings with which limits can't be shared.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// The tag has no characters, too many, or others.
    #[error("the tag of the keys in Redis is not [A-Za-z0-9._-]{{1,64}}: name another")]
    Tag,
    /// A time or a bound is zero, or a reservation is forgotten before its lease can be renewed.
    #[error("`{0}` is too small for shared limits: raise it")]
    TooSmall(&'static str),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes to tell this gate from others: try again")]
    NoRandomness,
}

/// Looks for settings with which limits can't be shared.
pub(super) fn check(settings: &SharedSettings) -> Result<(), SettingsError> {
    let spelled = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if settings.tag.is_empty() || settings.tag.len() > 64 || !settings.tag.bytes().all(spelled) {
        return Err(SettingsError::Tag);
    }
    for (name, large_enough) in [
        ("deadline", !settings.deadline.is_zero()),
        ("beat_every", !settings.beat_every.is_zero()),
        ("lease", settings.lease >= Duration::from_millis(100)),
        ("open", settings.open >= settings.lease * 2),
        ("most_open", settings.most_open > 0),
        ("tolerance", settings.tolerance.failures > 0),
    ] {
        if !large_enough {
            return Err(SettingsError::TooSmall(name));
        }
    }
    Ok(())
}
