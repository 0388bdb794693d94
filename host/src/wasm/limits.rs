//! What a guest may use: memory, tables, instances. Exceeding any of it is a fault, never a silent failure in the guest.

use wasmtime::{Error, ResourceLimiter, Result};

/// Elements of a guest's tables together; large enough for interpreters compiled to Wasm.
const TABLE_ELEMENTS: usize = 200_000;

/// A guest ran into its memory or table limit.
#[derive(Debug, thiserror::Error)]
#[error("the policy wants more than {limit} {unit}")]
pub(super) struct OverLimit {
    limit: usize,
    unit: &'static str,
}

/// Limits of one store; remembers how far the guest has grown.
#[derive(Debug)]
pub(super) struct GuestLimits {
    memory_bytes: usize,
    grown_to: usize,
    elements: usize,
}

impl GuestLimits {
    pub(super) fn new(memory_bytes: usize) -> Self {
        Self { memory_bytes, grown_to: 0, elements: 0 }
    }

    /// Size of all the guest's memories together, in bytes; they never shrink.
    pub(super) fn grown_to(&self) -> usize {
        self.grown_to
    }
}

impl ResourceLimiter for GuestLimits {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        // Of all memories together: a component may have several.
        let total = self.grown_to.saturating_sub(current).saturating_add(desired);
        if total > self.memory_bytes {
            return Err(Error::new(OverLimit { limit: self.memory_bytes, unit: "bytes of memory" }));
        }
        self.grown_to = total;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        let total = self.elements.saturating_sub(current).saturating_add(desired);
        if total > TABLE_ELEMENTS {
            return Err(Error::new(OverLimit { limit: TABLE_ELEMENTS, unit: "table elements" }));
        }
        self.elements = total;
        Ok(true)
    }

    /// A component made of Python links some forty modules.
    fn instances(&self) -> usize {
        96
    }

    fn tables(&self) -> usize {
        32
    }

    fn memories(&self) -> usize {
        8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_that_of_all_memories_together() {
        let mut limits = GuestLimits::new(100);
        assert!(limits.memory_growing(0, 60, None).unwrap());
        assert!(limits.memory_growing(0, 30, None).unwrap(), "a second memory");
        assert!(limits.memory_growing(60, 71, None).is_err());
        assert!(limits.memory_growing(30, 40, None).unwrap());
        assert!(limits.memory_growing(0, 1, None).is_err());
        assert_eq!(limits.grown_to(), 100, "what was refused doesn't count");
    }

    #[test]
    fn tables_are_counted_together_too() {
        let mut limits = GuestLimits::new(0);
        assert!(limits.table_growing(0, TABLE_ELEMENTS - 1, None).unwrap());
        assert!(limits.table_growing(0, 1, None).unwrap());
        assert!(limits.table_growing(1, 2, None).is_err());
    }
}
