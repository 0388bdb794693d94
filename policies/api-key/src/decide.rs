//! Which key may pass. Pure: the proof comes in as a function, so that it is asked for only when a key was presented.

use tollgate_policy::{
    Presented, Principal, Reason,
    authenticate::Decision,
    keys::{Key, Standing},
    rejection,
};

/// A credential without a key id is another policy's business. A key whose secret is not proven is refused without a
/// word on whether its id exists; what became of a key shows only to who holds its secret.
pub(crate) fn decide(presented: Option<&Presented>, verify: impl FnOnce() -> Option<Key>) -> Decision {
    if presented.is_none_or(|presented| presented.key_id.is_none()) {
        return Decision::Abstain;
    }
    let Some(key) = verify() else {
        let message = "the API key is not valid: check that it was copied whole, or ask for a new one";
        return Decision::Reject(rejection(Reason::Unauthorized, "invalid_api_key", message));
    };
    let (code, message) = match key.standing {
        Standing::Active => return Decision::Allow(Principal { subject: key.id, user: key.user }),
        Standing::Disabled => ("key_disabled", "this API key is disabled: ask its administrator to enable it"),
        Standing::Expired => ("key_expired", "this API key has expired: ask for a new one"),
        Standing::Revoked => ("key_revoked", "this API key was revoked: ask for a new one"),
    };
    Decision::Reject(rejection(Reason::Forbidden, code, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_policy::Scheme;

    fn presented(key_id: Option<&str>) -> Presented {
        Presented { scheme: Scheme::Bearer, key_id: key_id.map(str::to_owned) }
    }

    fn key(standing: Standing) -> Key {
        Key { id: "k1".to_owned(), user: Some("ann".to_owned()), standing, expires_at_ms: None }
    }

    fn refusal(decision: Decision) -> (Reason, String) {
        match decision {
            Decision::Reject(rejection) => (rejection.reason, rejection.code),
            other => panic!("expected a rejection, got {other:?}"),
        }
    }

    #[test]
    fn without_a_key_it_abstains_and_asks_for_no_proof() {
        for presented in [None, Some(presented(None))] {
            let decision = decide(presented.as_ref(), || panic!("no proof is needed"));
            assert!(matches!(decision, Decision::Abstain));
        }
    }

    #[test]
    fn an_unproven_key_is_refused_as_unauthorized() {
        let decision = decide(Some(&presented(Some("k1"))), || None);
        assert_eq!(refusal(decision), (Reason::Unauthorized, "invalid_api_key".to_owned()));
    }

    #[test]
    fn an_active_key_passes_as_itself_with_its_owner() {
        let decision = decide(Some(&presented(Some("k1"))), || Some(key(Standing::Active)));
        let Decision::Allow(principal) = decision else { panic!("expected allow, got {decision:?}") };
        assert_eq!((principal.subject.as_str(), principal.user.as_deref()), ("k1", Some("ann")));
    }

    #[test]
    fn a_proven_key_learns_what_became_of_it() {
        for (standing, code) in [
            (Standing::Disabled, "key_disabled"),
            (Standing::Expired, "key_expired"),
            (Standing::Revoked, "key_revoked"),
        ] {
            let decision = decide(Some(&presented(Some("k1"))), || Some(key(standing)));
            assert_eq!(refusal(decision), (Reason::Forbidden, code.to_owned()));
        }
    }
}
