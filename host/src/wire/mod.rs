//! Bytes on their way: bodies, bounded reading, uploads, streams of lines and events, errors with their causes, and which
//! headers pass.

pub mod body;
pub mod bounded;
pub mod causes;
pub mod headers;
pub mod joined;
pub mod ndjson;
pub mod sse;
pub mod tail;
pub mod upload;
