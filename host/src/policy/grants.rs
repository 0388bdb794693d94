//! Grants: what a policy may do only because an operator said so, by its name, in `[grants]` of its `.toml`.
//!
//! Only narrower or wider than what every policy may: what no policy may do, no grant allows.

use std::sync::Arc;

use http::HeaderName;

/// What one policy was granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// It may read credentials as they were presented, and say what it found there (`credential`).
    pub raw_credential: bool,
    /// Which headers it may set, of those that are a policy's to set.
    pub headers: HeaderGrant,
}

impl Grants {
    /// The grants in a line, for the log; none where they are those of every policy.
    pub fn text(&self) -> Option<String> {
        let raw = self.raw_credential.then(|| "raw_credential".to_owned());
        let headers = match &self.headers {
            HeaderGrant::All => None,
            HeaderGrant::Prefixed(prefixes) if prefixes.is_empty() => Some("no headers".to_owned()),
            HeaderGrant::Prefixed(prefixes) => Some(format!("headers {}", prefixes.join(" "))),
        };
        let said: Vec<String> = [raw, headers].into_iter().flatten().collect();
        (!said.is_empty()).then(|| said.join(", "))
    }
}

/// Which headers a policy may set, of those that are a policy's to set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HeaderGrant {
    /// All of them: nobody said anything.
    #[default]
    All,
    /// Those whose names begin with one of these, in small letters; with an empty list none.
    Prefixed(Arc<[Box<str>]>),
}

impl HeaderGrant {
    /// Whether it holds for this header.
    pub fn covers(&self, name: &HeaderName) -> bool {
        match self {
            Self::All => true,
            Self::Prefixed(prefixes) => prefixes.iter().any(|prefix| name.as_str().starts_with(&**prefix)),
        }
    }
}

/// The policy that asks for a change, and what it was granted.
#[derive(Clone, Copy, Debug)]
pub struct Grantee<'a> {
    /// Its name: that of its `.toml`.
    pub policy: &'a str,
    /// What it was granted.
    pub grants: &'a Grants,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixed(prefixes: &[&str]) -> HeaderGrant {
        HeaderGrant::Prefixed(prefixes.iter().map(|prefix| (*prefix).into()).collect())
    }

    #[test]
    fn a_grant_holds_for_names_that_begin_with_one_of_its_prefixes() {
        for (grant, name, is_covered) in [
            (HeaderGrant::All, "accept", true),
            (prefixed(&[]), "x-team", false),
            (prefixed(&["x-team-", "x-priority"]), "X-Team-Blue", true),
            (prefixed(&["x-team-", "x-priority"]), "x-priority", true),
            (prefixed(&["x-team-", "x-priority"]), "x-team", false),
            (prefixed(&["x-team-"]), "y-x-team-blue", false),
        ] {
            assert_eq!(grant.covers(&name.parse().unwrap()), is_covered, "{grant:?} {name}");
        }
    }

    #[test]
    fn what_differs_from_every_policy_s_grants_is_told_in_a_line() {
        let told = |raw_credential, headers| Grants { raw_credential, headers }.text();
        assert_eq!(told(false, HeaderGrant::All), None);
        assert_eq!(told(true, HeaderGrant::All).as_deref(), Some("raw_credential"));
        assert_eq!(told(false, prefixed(&[])).as_deref(), Some("no headers"));
        let both = told(true, prefixed(&["x-a", "x-b-"]));
        assert_eq!(both.as_deref(), Some("raw_credential, headers x-a x-b-"));
    }
}
