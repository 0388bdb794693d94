//! Charges: a constructor for each unit, each shape and each rule, and the charge for a limit that the gate keeps.
//!
//! An amount on a shape makes a metered charge; calls at the same time are counted by [`concurrent`]. Nothing here asks
//! the gate. What the gate makes of zeros and lengths stands in `wit/types.wit`.

use crate::{
    Principal,
    charges::{Amount, Bucket, Calendar, Charge, Metered, Period, Rule, Shape, TokenAmount, TokenKind, Window},
    principals::{HeldLimit, Holder, LimitName},
};

const MINUTE_MS: u32 = 60_000;
const ONE_FOR_ONE_PERMILLE: u32 = 1000;

/// So many requests; usually 1.
pub fn requests(number: u32) -> Amount {
    Amount::Requests(number)
}

/// Tokens, one for one: reserved by estimate, settled by usage.
pub fn tokens(kind: TokenKind) -> Amount {
    weighted_tokens(kind, ONE_FOR_ONE_PERMILLE)
}

/// Tokens, of which each costs so many thousandths of one.
pub fn weighted_tokens(kind: TokenKind, weight_permille: u32) -> Amount {
    Amount::Tokens(TokenAmount { kind, weight_permille })
}

/// At most `capacity` in any stretch of `length_ms`.
pub fn window(capacity: u64, length_ms: u32) -> Shape {
    Shape::Window(Window { capacity, length_ms })
}

/// `refill` units come back every `every_ms`, up to `burst`.
pub fn bucket(burst: u64, refill: u64, every_ms: u32) -> Shape {
    Shape::Bucket(Bucket { burst, refill, every_ms })
}

/// At most `capacity` in each period of the calendar, UTC.
pub fn budget(capacity: u64, period: Period) -> Shape {
    Shape::Calendar(Calendar { capacity, period })
}

/// A charge of an amount on a shape.
pub fn metered(limit: &str, partition: String, amount: Amount, shape: Shape) -> Charge {
    Charge { limit: limit.to_owned(), partition, rule: Rule::Metered(Metered { amount, shape }) }
}

/// A charge that lets at most so many calls run at the same time.
pub fn concurrent(limit: &str, partition: String, most: u32) -> Charge {
    Charge { limit: limit.to_owned(), partition, rule: Rule::Concurrent(most) }
}

/// A charge of one request on a sliding window: at most `capacity` in any `length_ms`.
pub fn requests_per_window(limit: &str, partition: String, capacity: u64, length_ms: u32) -> Charge {
    metered(limit, partition, requests(1), window(capacity, length_ms))
}

/// A charge of all tokens, input and output, on a sliding window.
pub fn tokens_per_window(limit: &str, partition: String, capacity: u64, length_ms: u32) -> Charge {
    metered(limit, partition, tokens(TokenKind::All), window(capacity, length_ms))
}

/// The charge of a limit that `principals.limits` told, as the built-in `rate-limit` makes it: `requests-per-minute` for
/// the key, `user-…` for all keys of its user, `model-…` and `user-model-…` for the model alone.
pub fn stored(held: &HeldLimit, principal: &Principal, model: &str) -> Charge {
    let (word, rule) = rule(held);
    let (of_user, owner) = match held.holder {
        Holder::Key => ("", &principal.subject),
        Holder::User => ("user-", principal.user.as_ref().unwrap_or(&principal.subject)),
    };
    // No model's name has a space, so that no two pairs make one partition.
    let (of_model, partition) =
        if held.of_model { ("model-", format!("{model} {owner}")) } else { ("", owner.clone()) };
    Charge { limit: [of_user, of_model, word].concat(), partition, rule }
}

fn rule(held: &HeldLimit) -> (&'static str, Rule) {
    let all = |shape| Rule::Metered(Metered { amount: tokens(TokenKind::All), shape });
    match held.name {
        LimitName::RequestsPerMinute => {
            let shape = window(held.value, MINUTE_MS);
            ("requests-per-minute", Rule::Metered(Metered { amount: requests(1), shape }))
        }
        LimitName::TokensPerMinute => ("tokens-per-minute", all(window(held.value, MINUTE_MS))),
        // More calls than that can't run at the same time.
        LimitName::Concurrent => ("concurrent", Rule::Concurrent(u32::try_from(held.value).unwrap_or(u32::MAX))),
        LimitName::TokensPerDay => ("tokens-per-day", all(budget(held.value, Period::Day))),
        LimitName::TokensPerMonth => ("tokens-per-month", all(budget(held.value, Period::Month))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [LimitName; 5] = [
        LimitName::RequestsPerMinute,
        LimitName::TokensPerMinute,
        LimitName::Concurrent,
        LimitName::TokensPerDay,
        LimitName::TokensPerMonth,
    ];

    fn held(holder: Holder, of_model: bool, name: LimitName, value: u64) -> HeldLimit {
        HeldLimit { holder, name, of_model, value }
    }

    fn principal() -> Principal {
        Principal { subject: "k1".to_owned(), user: Some("ann".to_owned()) }
    }

    #[test]
    fn each_limit_has_its_name_and_its_partition() {
        let check = |holder, of_model, name, limit: &str, partition: &str| {
            let charge = stored(&held(holder, of_model, name, 7), &principal(), "llama3:latest");
            assert_eq!((charge.limit.as_str(), charge.partition.as_str()), (limit, partition));
        };
        check(Holder::Key, false, LimitName::RequestsPerMinute, "requests-per-minute", "k1");
        check(Holder::Key, true, LimitName::TokensPerMinute, "model-tokens-per-minute", "llama3:latest k1");
        check(Holder::User, false, LimitName::Concurrent, "user-concurrent", "ann");
        check(Holder::User, true, LimitName::TokensPerDay, "user-model-tokens-per-day", "llama3:latest ann");
        check(Holder::Key, false, LimitName::TokensPerMonth, "tokens-per-month", "k1");
    }

    #[test]
    fn no_two_limits_share_a_name_and_each_name_fits() {
        let mut seen = std::collections::BTreeSet::new();
        for holder in [Holder::Key, Holder::User] {
            for of_model in [false, true] {
                for name in NAMES {
                    let charge = stored(&held(holder, of_model, name, 1), &principal(), "m:latest");
                    assert!(matches!(charge.limit.len(), 1..=32), "{}", charge.limit);
                    assert!(seen.insert(charge.limit.clone()), "{} twice", charge.limit);
                }
            }
        }
    }

    #[test]
    fn each_limit_has_its_unit_and_its_shape() {
        let rule_of = |name| stored(&held(Holder::Key, false, name, 7), &principal(), "").rule;
        let metered = |name| match rule_of(name) {
            Rule::Metered(metered) => metered,
            Rule::Concurrent(most) => panic!("{name:?} lets {most} run"),
        };
        let requests = metered(LimitName::RequestsPerMinute);
        assert!(matches!(requests.amount, Amount::Requests(1)));
        assert!(matches!(requests.shape, Shape::Window(Window { capacity: 7, length_ms: 60_000 })));
        for (name, period) in [(LimitName::TokensPerDay, Period::Day), (LimitName::TokensPerMonth, Period::Month)] {
            let tokens = metered(name);
            let all = TokenAmount { kind: TokenKind::All, weight_permille: 1000 };
            assert!(matches!(tokens.amount, Amount::Tokens(amount) if amount.kind == all.kind
                && amount.weight_permille == all.weight_permille));
            assert!(matches!(tokens.shape, Shape::Calendar(calendar) if calendar.capacity == 7
                && calendar.period == period));
        }
        let minute = metered(LimitName::TokensPerMinute);
        assert!(matches!(minute.shape, Shape::Window(Window { capacity: 7, length_ms: 60_000 })));
        assert!(matches!(rule_of(LimitName::Concurrent), Rule::Concurrent(7)));
    }

    #[test]
    fn a_limit_beyond_what_the_interface_holds_is_the_largest_and_never_a_smaller_one() {
        let huge = stored(&held(Holder::Key, false, LimitName::Concurrent, u64::MAX), &principal(), "");
        assert!(matches!(huge.rule, Rule::Concurrent(u32::MAX)));
    }

    #[test]
    fn a_users_limit_is_charged_even_if_nobody_says_which_user() {
        let nobody = Principal { user: None, ..principal() };
        assert_eq!(stored(&held(Holder::User, false, LimitName::Concurrent, 1), &nobody, "").partition, "k1");
    }

    #[test]
    fn other_shapes_and_weights_are_what_they_say() {
        let weighted = weighted_tokens(TokenKind::Output, 2500);
        let Rule::Metered(charge) = metered("a", String::new(), weighted, bucket(9, 3, 100)).rule else {
            panic!("a metered charge")
        };
        assert!(matches!(
            charge.amount,
            Amount::Tokens(TokenAmount { kind: TokenKind::Output, weight_permille: 2500 })
        ));
        assert!(matches!(charge.shape, Shape::Bucket(Bucket { burst: 9, refill: 3, every_ms: 100 })));
        assert!(matches!(concurrent("a", String::new(), 4).rule, Rule::Concurrent(4)));
        let Rule::Metered(charge) = tokens_per_window("a", String::new(), 5, 1000).rule else {
            panic!("a metered charge")
        };
        assert!(matches!(charge.shape, Shape::Window(Window { capacity: 5, length_ms: 1000 })));
    }
}
