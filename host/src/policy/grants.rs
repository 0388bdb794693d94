//! Grants: what a policy may do only because an operator said so, by its name.

/// What one policy was granted. Nothing by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// It may read credentials as they were presented, and say what it found there (`credential`).
    pub raw_credential: bool,
}

impl Grants {
    /// Everything: for looking at a policy that nobody asks.
    pub const ALL: Self = Self { raw_credential: true };
}
