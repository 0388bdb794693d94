//! Limits held in this process's memory: what the charges of a call count against.
//!
//! A call's charges are reserved together or not at all ([`Quota::reserve`]); the [`Reservation`] is then settled by what
//! the call used, or given back. Each shape of a limit is a [`Counter`] of its own, pure arithmetic in whole numbers;
//! [`Quota`] is the table of all of them.
//!
//! Nothing here waits, asks the time or opens a socket. Counters go by a hash of their names; only those of the calendar keep
//! their partitions, because they must be written down. What several gates hold together is in [`shared`], which alone talks to
//! Redis.

pub mod bucket;
mod budget;
pub mod calendar;
mod charge;
pub mod concurrent;
pub mod counter;
mod expected;
mod key;
mod label;
mod limits;
mod moment;
mod owners;
mod refused;
mod reservation;
mod shard;
pub mod shared;
mod sip;
pub mod table;
mod totals;
pub mod window;

pub use charge::{Charge, Outcome, Tokens, Unit};
pub use counter::{Counter, Mark, Wait};
pub use expected::Expected;
pub use label::Label;
pub use limits::{Foresight, Hold, Limits, NotHeld, Sharing};
pub use moment::Moment;
pub use refused::{Exceeded, Refused, Standing};
pub use reservation::Reservation;
pub use table::{MAX_CHARGES, Quota, QuotaBounds};
pub use totals::Totals;

#[cfg(test)]
mod tests;
