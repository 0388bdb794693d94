//! What policies may know of models and backends.

use std::{fmt::Debug, sync::Arc};

use super::keys::Scope;

/// Answers about models and backends, from memory. Model names are any spelling; an unreadable one is unknown.
pub trait Catalogue: Debug + Send + Sync {
    /// How many backends could serve this model now, for a caller with this scope.
    fn candidates(&self, model: &str, scope: &Scope) -> u32;
    /// Size of the model's file in bytes; none when unknown.
    fn size_bytes(&self, model: &str) -> Option<u64>;
    /// Number of the model's parameters; none when unknown.
    fn parameters(&self, model: &str) -> Option<u64>;
    /// Configured name of a backend.
    fn backend_name(&self, id: u32) -> Option<Arc<str>>;
}
