//! Backends: where they are, what they serve, whether they are up, and how calls get there and back.
//!
//! The data plane sends by hyper's client over connections that each backend keeps; probes and model lists go by a client of their own that follows no
//! redirect, uses no proxy from the environment and reads no more than it must.

mod ability;
pub mod answer;
pub mod backend;
pub mod client;
pub mod connector;
pub mod control;
pub mod declared;
pub mod fleet;
pub mod once_more;
mod pool;
pub mod probe;
pub mod recent;
pub mod resolver;
pub mod single_flight;
pub mod trust;
mod watches;

#[cfg(test)]
mod tests;
