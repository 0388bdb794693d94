//! Who calls: keys, their proof, and the table that answers without asking the disk.
//!
//! A key's secret is never kept: the store has a hash of it that is keyed with the pepper, a file of the host's own. So
//! neither a copy of the database nor a guess at it proves a key.

pub mod admin_token;
pub mod credential;
pub mod issue;
pub mod key_poll;
pub mod key_table;
pub mod pepper;
pub mod shown;

pub use admin_token::{AdminToken, AdminTokenError};
pub use credential::{FreshKey, NoRandomness, ParsedKey, looks_like_key};
pub use key_poll::refresh;
pub use key_table::KeyTable;
pub use pepper::{Pepper, PepperError};
