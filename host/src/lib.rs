pub mod clock;
pub mod config;
pub mod llm;
pub mod policy;
pub mod ports;
pub mod quota;
pub mod wasm;
