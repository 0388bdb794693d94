//! What happened: the numbers for operators and one log line for each call. Never a key, a prompt or an answer.

pub mod admin;
pub mod backend_gauges;
pub mod bound;
pub mod edges;
pub mod estimate;
mod estimate_error;
mod few;
pub mod limit_counters;
mod limit_refusals;
pub mod metrics;
pub mod policy_numbers;
pub mod redis_numbers;
