//! Tollgate: a gate in front of Ollama and other LLM servers.
//!
//! A request comes in by [`server`], and [`proxy`] takes it through its stages: receive, authenticate, read, admit, route,
//! forward, relay. The three decisions on the way are made by policies, which [`wasm`] runs and [`policy`] describes.
//! [`app`] puts everything together. Modules stand here by layer, and each imports only from layers below its own;
//! ARCHITECTURE.md says why.

// 5: composition
pub mod app;
pub mod cli;
// 4: edge
pub mod admin;
pub mod server;
// 3: the request path
pub mod proxy;
// 2: mechanisms
pub mod identity;
pub mod quota;
pub mod store;
pub mod upstream;
pub mod usage;
pub mod wasm;
// 1: contracts
pub mod config;
pub mod policy;
pub mod ports;
// 0: vocabulary
pub mod clock;
pub mod files;
pub mod llm;
pub mod wire;
