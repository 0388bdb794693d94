//! The whole gate, over real sockets: one file for each behaviour.

mod support;

mod admit;
mod authenticate;
mod bad_input;
mod client_disconnect;
mod command_line;
mod federation;
mod gallery;
mod operations;
mod policy_fault;
mod policy_interface;
mod policy_interface_env;
mod policy_interface_request;
mod reload;
mod route;
mod secrets;
mod streaming;
mod upstream_failure;
