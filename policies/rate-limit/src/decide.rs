//! What a call is charged. Pure: the limits come in as a function, so that they are asked for only when something is
//! charged.

use tollgate_policy::{Call, Principal, admit::Decision, charge, is_inference, principals::HeldLimit};

/// Listings and facts of a model are free, and so is a principal without limits.
pub(crate) fn decide(call: &Call, principal: &Principal, limits: impl FnOnce(&str) -> Vec<HeldLimit>) -> Decision {
    if !is_inference(call.operation) {
        return Decision::Abstain;
    }
    let held = limits(&call.model);
    if held.is_empty() {
        return Decision::Abstain;
    }
    Decision::Admit(held.iter().map(|held| charge::stored(held, principal, &call.model)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_policy::{
        Operation, Surface,
        charges::{Amount, Rule, Shape},
        principals::{Holder, LimitName},
    };

    fn call(operation: Operation) -> Call {
        Call {
            surface: Surface::Openai,
            operation,
            model: "llama3:latest".to_owned(),
            body_bytes: 2,
            input_tokens: 1,
            output_cap: None,
            streaming: false,
        }
    }

    fn principal() -> Principal {
        Principal { subject: "k1".to_owned(), user: Some("ann".to_owned()) }
    }

    fn held(holder: Holder, of_model: bool, name: LimitName) -> HeldLimit {
        HeldLimit { holder, name, of_model, value: 7 }
    }

    #[test]
    fn inference_costs_one_request_of_the_keys_minute() {
        let limits = |_: &str| vec![held(Holder::Key, false, LimitName::RequestsPerMinute)];
        let Decision::Admit(charges) = decide(&call(Operation::Chat), &principal(), limits) else {
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
    fn every_limit_of_the_asked_model_is_charged() {
        let limits = |model: &str| {
            assert_eq!(model, "llama3:latest");
            vec![
                held(Holder::Key, false, LimitName::RequestsPerMinute),
                held(Holder::Key, true, LimitName::TokensPerMinute),
                held(Holder::User, false, LimitName::TokensPerMonth),
            ]
        };
        let Decision::Admit(charges) = decide(&call(Operation::Embed), &principal(), limits) else {
            panic!("expected charges")
        };
        let named: Vec<&str> = charges.iter().map(|charge| charge.limit.as_str()).collect();
        assert_eq!(named, ["requests-per-minute", "model-tokens-per-minute", "user-tokens-per-month"]);
    }

    #[test]
    fn listings_facts_and_management_are_free_and_ask_for_no_limit() {
        for operation in [Operation::Listing, Operation::Show, Operation::Manage] {
            let decision = decide(&call(operation), &principal(), |_| panic!("no limit is needed"));
            assert!(matches!(decision, Decision::Abstain), "{operation:?}");
        }
    }

    #[test]
    fn an_unknown_operation_is_charged() {
        let limits = |_: &str| vec![held(Holder::Key, false, LimitName::Concurrent)];
        assert!(matches!(decide(&call(Operation::Other), &principal(), limits), Decision::Admit(_)));
    }

    #[test]
    fn without_limits_nothing_is_charged() {
        assert!(matches!(decide(&call(Operation::Chat), &principal(), |_| Vec::new()), Decision::Abstain));
    }
}
