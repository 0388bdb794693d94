//! Bytes on their way: bodies, bounded reading, uploads, errors with their causes, and which headers pass.

pub mod body;
pub mod bounded;
pub mod causes;
pub mod headers;
pub mod upload;
