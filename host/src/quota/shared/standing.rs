//! What the script read of its counters, as standings and refusals like those of counters in memory.
//!
//! Pure. Redis keeps no sum of what running calls hold: of that, a standing has this call's own.

use super::Unavailable;
use super::counter::Counter;
use super::script::{Look, Reading, Told, binding};
use crate::quota::calendar::length_before;
use crate::quota::charge::Span;
use crate::quota::{Charge, Exceeded, Refused, Standing, Unit};

/// Where all counters of a call stand, in the order of charges.
pub(super) fn standings(charges: &[Charge<'_>], counters: &[Counter], told: &Told) -> Vec<Standing> {
    let of = |((charge, counter), reading): ((&Charge<'_>, &Counter), &Reading)| {
        standing(charge.limit, counter, reading, told.at_us)
    };
    charges.iter().zip(counters).zip(&told.readings).map(of).collect()
}

/// Where a counter stands of which nothing is asked, and the units that count in it. `held` of them are known to be reserved.
pub(super) fn looked(charge: &Charge<'_>, counter: &Counter, look: Look, held: u64) -> (Standing, u64) {
    let reading = Reading { remaining: look.remaining, reset_after_us: look.reset_after_us, wait: None };
    let seen = standing(charge.limit, counter, &reading, 0);
    let reserved = if seen.unit == Unit::Calls { look.used } else { held.min(look.used) };
    (Standing { reserved, ..seen }, look.used)
}

/// The refusal of a call that doesn't fit.
///
/// # Errors
/// When every charge fits: then the script contradicts itself.
pub(super) fn exceeded(charges: &[Charge<'_>], counters: &[Counter], told: &Told) -> Result<Refused, Unavailable> {
    let bound = binding(&told.readings).and_then(|(wait, place)| Some((wait, charges.get(place)?)));
    let Some((wait, charge)) = bound else {
        return Err(Unavailable::Error("the script refused a call that fits".to_owned()));
    };
    let mut standings = standings(charges, counters, told);
    // The call holds nothing.
    standings.iter_mut().filter(|standing| standing.unit != Unit::Calls).for_each(|standing| standing.reserved = 0);
    let (policy, limit) = (charge.policy.to_owned(), charge.limit.to_owned());
    Ok(Refused::Exceeded(Box::new(Exceeded { policy, limit, rule: charge.rule, wait, standings })))
}

fn standing(limit: &str, counter: &Counter, reading: &Reading, at_us: u64) -> Standing {
    let terms = &counter.terms;
    let (reset_after_us, window_us) = match terms.span {
        Span::Concurrent => (None, None),
        Span::Window { .. } => (Some(reading.reset_after_us), Some(counter.numbers.first)),
        Span::Bucket { pace, .. } => (Some(reading.reset_after_us), Some(pace.drains_in_us(counter.numbers.bound))),
        Span::Calendar(period) => {
            let end_us = at_us.saturating_add(reading.reset_after_us);
            (Some(reading.reset_after_us), Some(length_before(period, end_us)))
        }
    };
    let unit = terms.settling.unit();
    let running = terms.capacity.saturating_sub(reading.remaining);
    Standing {
        limit: limit.into(),
        unit,
        capacity: terms.capacity,
        remaining: reading.remaining,
        reserved: if unit == Unit::Calls { running } else { counter.amount },
        reset_after_us,
        window_us,
    }
}
