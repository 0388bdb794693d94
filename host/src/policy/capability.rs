//! Capabilities: what a policy can do, told by what it imports. A policy can't do what it doesn't import.

/// One thing that a policy can do beyond answering from the facts that it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// `credential`; needs a grant.
    ReadsCredentials,
    /// `edits`.
    ChangesCalls,
    /// `request`.
    ReadsRequests,
    /// `keys`.
    ChecksKeys,
    /// `principals`.
    ReadsPrincipals,
    /// `catalogue`.
    ReadsCatalogue,
    /// `state`.
    KeepsState,
    /// `env`, or an output of WASI.
    WritesLog,
}

impl Capability {
    /// All of them; those that matter most come first.
    pub const ALL: [Self; 8] = [
        Self::ReadsCredentials,
        Self::ChangesCalls,
        Self::ReadsRequests,
        Self::ChecksKeys,
        Self::ReadsPrincipals,
        Self::ReadsCatalogue,
        Self::KeepsState,
        Self::WritesLog,
    ];

    /// In plain words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadsCredentials => "reads credentials in clear",
            Self::ChangesCalls => "changes calls",
            Self::ReadsRequests => "reads requests",
            Self::ChecksKeys => "checks keys",
            Self::ReadsPrincipals => "reads limits and attributes of callers",
            Self::ReadsCatalogue => "reads what models and backends there are",
            Self::KeepsState => "keeps values between calls",
            Self::WritesLog => "writes to the log",
        }
    }

    /// The interface that it comes with, as one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::ReadsCredentials => "credential",
            Self::ChangesCalls => "edits",
            Self::ReadsRequests => "request",
            Self::ChecksKeys => "keys",
            Self::ReadsPrincipals => "principals",
            Self::ReadsCatalogue => "catalogue",
            Self::KeepsState => "state",
            Self::WritesLog => "env",
        }
    }

    /// What these imports, as a component has them, make possible.
    pub fn of<'a>(imports: impl Iterator<Item = &'a str> + Clone) -> Vec<Self> {
        let interfaces = imports.map(|import| import.split('@').next().unwrap_or(import));
        Self::ALL.into_iter().filter(|capability| interfaces.clone().any(|name| capability.comes_with(name))).collect()
    }

    fn comes_with(self, interface: &str) -> bool {
        let writes = self == Self::WritesLog && matches!(interface, "wasi:cli/stdout" | "wasi:cli/stderr");
        writes || interface.strip_prefix("tollgate:policy/") == Some(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_can_do_what_it_imports_and_nothing_else() {
        let check = |imports: &[&str], expected: &[Capability]| {
            assert_eq!(Capability::of(imports.iter().copied()), expected, "{imports:?}");
        };
        check(&[], &[]);
        check(&["tollgate:policy/types@0.1.0", "tollgate:policy/charges@0.1.0", "wasi:io/poll@0.2.6"], &[]);
        check(&["wasi:cli/stderr@0.2.6"], &[Capability::WritesLog]);
        check(
            &["tollgate:policy/env@0.1.0", "tollgate:policy/edits@0.1.0", "tollgate:policy/credential@0.1.0"],
            &[Capability::ReadsCredentials, Capability::ChangesCalls, Capability::WritesLog],
        );
    }
}
