//! What policies may know of models and backends.

use std::{fmt::Debug, sync::Arc};

use super::keys::Scope;
use crate::llm::Surface;

/// Answers about models and backends, from memory. Model names are any spelling; an unreadable one is unknown.
pub trait Catalogue: Debug + Send + Sync {
    /// How many backends could serve this model now, for a caller of this surface with this scope.
    fn candidates(&self, model: &str, surface: Surface, scope: &Scope) -> u32;
    /// Size of the model's file in bytes; none when unknown.
    fn size_bytes(&self, model: &str) -> Option<u64>;
    /// Number of the model's parameters; none when unknown.
    fn parameters(&self, model: &str) -> Option<u64>;
    /// Configured name of a backend.
    fn backend_name(&self, id: u32) -> Option<Arc<str>>;
}

/// What is known without backends: nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoBackends;

impl Catalogue for NoBackends {
    fn candidates(&self, _: &str, _: Surface, _: &Scope) -> u32 {
        0
    }
    fn size_bytes(&self, _: &str) -> Option<u64> {
        None
    }
    fn parameters(&self, _: &str) -> Option<u64> {
        None
    }
    fn backend_name(&self, _: u32) -> Option<Arc<str>> {
        None
    }
}
