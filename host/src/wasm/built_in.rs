//! The default policies, as components inside the binary.

/// One default policy.
#[derive(Clone, Copy)]
pub struct BuiltIn {
    /// Its name; a file `NAME.wasm` in the policy folder replaces it.
    pub name: &'static str,
    /// The component.
    pub bytes: &'static [u8],
}

impl std::fmt::Debug for BuiltIn {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("BuiltIn").field("name", &self.name).field("bytes", &self.bytes.len()).finish()
    }
}

/// In the order in which they are asked.
pub const BUILT_IN: [BuiltIn; 3] = [
    BuiltIn { name: "api-key", bytes: include_bytes!(concat!(env!("OUT_DIR"), "/api-key.wasm")) },
    BuiltIn { name: "rate-limit", bytes: include_bytes!(concat!(env!("OUT_DIR"), "/rate-limit.wasm")) },
    BuiltIn { name: "round-robin", bytes: include_bytes!(concat!(env!("OUT_DIR"), "/round-robin.wasm")) },
];
