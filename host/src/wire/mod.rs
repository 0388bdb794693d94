//! Bytes on their way: bodies, bounded reading, how a stream ends, and which headers pass.

pub mod body;
pub mod bounded;
pub mod causes;
pub mod headers;
