//! Limits held in this process's memory: what the charges of a call count against.
//!
//! A call's charges are reserved together or not at all ([`Quota::reserve`]); the [`Reservation`] is then kept, because
//! the call reached a backend, or given back. [`Window`] is the arithmetic of one counter, [`Quota`] the
//! table of all of them. Enforced so far: windows counted in requests. The caller refuses every other rule as
//! unsupported before it comes here.
//!
//! Nothing here waits, asks the time, opens a socket or keeps a name: counters go by a hash of their names. What several
//! gates hold together is in [`shared`], which alone talks to Redis.

mod key;
mod shard;
pub mod shared;
pub mod table;
pub mod window;

pub use table::{Charge, MAX_CHARGES, Quota, QuotaBounds, Refused, Reservation};
pub use window::{NoRoom, Slice, Window};
