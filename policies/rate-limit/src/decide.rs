//! What a call is charged. Pure: the limit comes in as a function, so that it is asked for only when something is charged.

use tollgate_policy::{Operation, admit::Decision, is_inference, requests_per_window};

const MINUTE_MS: u32 = 60_000;

/// Listings and facts of a model are free, and so is a principal without a limit.
pub(crate) fn decide(operation: Operation, subject: String, limit: impl FnOnce() -> Option<u64>) -> Decision {
    if !is_inference(operation) {
        return Decision::Abstain;
    }
    match limit() {
        Some(capacity) => {
            Decision::Admit(vec![requests_per_window("requests-per-minute", subject, capacity, MINUTE_MS)])
        }
        None => Decision::Abstain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_policy::charges::{Amount, Rule, Shape};

    #[test]
    fn inference_costs_one_request_of_the_keys_minute() {
        let Decision::Admit(charges) = decide(Operation::Chat, "k1".to_owned(), || Some(7)) else {
            panic!("expected a charge")
        };
        let [charge] = charges.as_slice() else { panic!("expected one charge, got {charges:?}") };
        assert_eq!((charge.limit.as_str(), charge.partition.as_str()), ("requests-per-minute", "k1"));
        let Rule::Metered(metered) = &charge.rule else { panic!("expected a metered rule") };
        assert!(matches!(metered.amount, Amount::Requests(1)));
        let Shape::Window(window) = &metered.shape else { panic!("expected a window") };
        assert_eq!((window.capacity, window.length_ms), (7, 60_000));
    }

    #[test]
    fn listings_and_facts_are_free_and_ask_for_no_limit() {
        for operation in [Operation::Listing, Operation::Show, Operation::Manage] {
            let decision = decide(operation, "k1".to_owned(), || panic!("no limit is needed"));
            assert!(matches!(decision, Decision::Abstain), "{operation:?}");
        }
    }

    #[test]
    fn an_unknown_operation_is_charged() {
        assert!(matches!(decide(Operation::Other, "k1".to_owned(), || Some(1)), Decision::Admit(_)));
    }

    #[test]
    fn without_a_limit_nothing_is_charged() {
        assert!(matches!(decide(Operation::Chat, "k1".to_owned(), || None), Decision::Abstain));
    }
}
