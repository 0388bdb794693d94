//! The whole gate, over real sockets: one file for each behaviour.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "what helps a test is a test: where something is wrong it shall panic"
)]
#![expect(unreachable_pub, reason = "everything in a test's crate is its own")]

mod support;

mod admin;
mod admin_commands;
mod admin_keys;
mod admit;
mod authenticate;
mod backend_connections;
mod backends;
mod bad_input;
mod blobs;
mod budgets;
mod charges;
mod client_disconnect;
mod command_line;
mod counter_bounds;
mod credential;
mod declared_backends;
mod drain;
mod edges;
mod edits;
mod explain;
mod federation;
mod gallery;
mod gallery_settings;
mod hostile;
mod http2;
mod include_usage;
mod limit_commands;
mod limit_headers;
mod limits;
mod limits_show;
mod management;
mod masking;
mod operations;
mod policy_approval;
mod policy_breaker;
mod policy_cases;
mod policy_fault;
mod policy_files;
mod policy_fuzz;
mod policy_instances;
mod policy_interface;
mod policy_interface_env;
mod policy_interface_request;
mod policy_terms;
mod policy_tools;
mod provenance;
mod redis;
mod redis_loss;
mod reload;
mod rotation;
mod route;
mod secrets;
mod seed_defects;
mod settle_hook;
mod settlement;
mod shared_state;
mod streaming;
mod surfaces;
mod tls;
mod upstream_failure;
mod usage;
mod users;
