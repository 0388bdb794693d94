//! Charges in a line of text: `LIMIT=concurrent:MOST`, else `LIMIT=UNIT/SHAPE`.
//!
//! A unit is `requests:COUNT`, `input:PERMILLE`, `output:PERMILLE` or `all:PERMILLE`; a shape is `window:CAPACITY:MS`,
//! `bucket:BURST:REFILL:MS` or `calendar:CAPACITY:PERIOD`.

use tollgate_policy::charges::{
    Amount, Bucket, Calendar, Charge, Metered, Period, Rule, Shape, TokenAmount, TokenKind, Window,
};

/// The charge that a text names, in this partition.
pub fn charge(text: &str, partition: &str) -> Charge {
    let (limit, rule) = text.split_once('=').expect("LIMIT=RULE");
    let rule = match rule.split_once('/') {
        None => Rule::Concurrent(number(rule.strip_prefix("concurrent:").expect("concurrent:MOST"))),
        Some((unit, shape)) => Rule::Metered(Metered { amount: amount(unit), shape: self::shape(shape) }),
    };
    Charge { limit: limit.to_owned(), partition: partition.to_owned(), rule }
}

fn amount(unit: &str) -> Amount {
    let (unit, count) = unit.split_once(':').expect("UNIT:COUNT");
    let tokens = |kind| Amount::Tokens(TokenAmount { kind, weight_permille: number(count) });
    match unit {
        "requests" => Amount::Requests(number(count)),
        "input" => tokens(TokenKind::Input),
        "output" => tokens(TokenKind::Output),
        "all" => tokens(TokenKind::All),
        other => panic!("no unit: {other}"),
    }
}

fn shape(shape: &str) -> Shape {
    match shape.split(':').collect::<Vec<_>>()[..] {
        ["window", capacity, ms] => Shape::Window(Window { capacity: number(capacity), length_ms: number(ms) }),
        ["bucket", burst, refill, ms] => {
            Shape::Bucket(Bucket { burst: number(burst), refill: number(refill), every_ms: number(ms) })
        }
        ["calendar", capacity, period] => {
            let period = match period {
                "hour" => Period::Hour,
                "day" => Period::Day,
                "week" => Period::Week,
                "month" => Period::Month,
                other => panic!("no period: {other}"),
            };
            Shape::Calendar(Calendar { capacity: number(capacity), period })
        }
        _ => panic!("no shape: {shape}"),
    }
}

fn number<N: std::str::FromStr>(text: &str) -> N {
    text.parse().unwrap_or_else(|_| panic!("no number: {text}"))
}
