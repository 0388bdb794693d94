//! What mechanisms need of each other, as data and traits, so that none imports another.

pub mod budgets;
pub mod catalogue;
pub mod control;
pub mod explanation;
pub mod keys;
pub mod limits;
pub mod store;
