//! The one script: its commands, and what its answers mean.
//!
//! Pure: commands are built and answers read here, sent elsewhere. Every key that a command touches is declared and
//! has the same hash tag.

use std::fmt::Write as _;

use redis::{Cmd, Script};
use smallvec::SmallVec;

use super::counter::{Counter, Kind, Name, Numbers};
use crate::quota::{Outcome, Wait};

const SOURCE: &str = include_str!("limits.lua");

/// The key, behind the prefix, under which the generation stands.
const GENERATION: &str = "generation";

/// How a counter stands, as one call saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// Units free after the call's own; of a refused call, before it.
    pub(super) remaining: u64,
    /// Microseconds until all units are free if nothing else happens, or the period ends.
    pub(super) reset_after_us: u64,
    /// None: the charge fits.
    pub(super) wait: Option<Wait>,
}

/// What the script told of a call's counters, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Redis' wall clock, in Unix microseconds.
    pub(super) at_us: u64,
    /// Units reserved beyond a bound: a fault of the script, if it is ever more than 0.
    pub(super) overshoot_units: u64,
    pub(super) readings: SmallVec<[Reading; 4]>,
}

/// Where a counter stands when nothing is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) used: u64,
    pub(super) remaining: u64,
    pub(super) reset_after_us: u64,
}

/// What the script answers to a reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Admitted(Told),
    Refused(Told),
    /// The id was cancelled or settled before: nothing is reserved.
    Void,
    /// The key of a charge, counted from 1, holds what no gate wrote; 0 is the reservation's own.
    Foreign(u64),
    /// Redis has lost the counters that the gate knows.
    Lost,
}

/// The script, and the names of all keys.
#[derive(Debug)]
pub(super) struct Limits {
    script: Script,
    /// `tollgate:{TAG}:`
    prefix: String,
}

/// Whose turn a command belongs to, and how long Redis keeps it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms<'a> {
    /// Unique over all gates.
    pub(super) id: &'a str,
    pub(super) lease_us: u64,
    pub(super) open_ms: u64,
    /// The counters that are meant, by their generation; 0: any.
    pub(super) generation: u64,
}

impl<'a> Terms<'a> {
    /// Of a call that needs no more than its id.
    pub(super) fn of(id: &'a str) -> Self {
        Self { id, lease_us: 0, open_ms: 0, generation: 0 }
    }
}

impl Limits {
    /// For keys under this hash tag.
    pub(super) fn new(tag: &str) -> Self {
        Self { script: Script::new(SOURCE), prefix: format!("tollgate:{{{tag}}}:") }
    }

    /// Reserves all counters, or none.
    pub(super) fn reserve(&self, terms: Terms<'_>, counters: &[Counter]) -> Call {
        self.call("reserve", terms, counters.iter().map(|counter| (counter.name, counter.numbers, counter.amount)))
    }

    /// Settles a reservation.
    pub(super) fn settle(&self, terms: Terms<'_>, counters: &[Counter], outcome: Outcome) -> Call {
        let settled = |counter: &Counter| (counter.name, counter.numbers, counter.settled(outcome));
        self.call("settle", terms, counters.iter().map(settled))
    }

    /// Takes a reservation back, also one that Redis has yet to hear of.
    pub(super) fn cancel(&self, terms: Terms<'_>, counters: &[Counter]) -> Call {
        self.call("cancel", terms, counters.iter().map(|counter| (counter.name, counter.numbers, 0)))
    }

    /// Prolongs what a running call holds.
    pub(super) fn renew(&self, terms: Terms<'_>, counters: &[Counter]) -> Call {
        let leases = counters.iter().filter(|counter| counter.numbers.kind == Kind::Leases);
        self.call("renew", terms, leases.map(|counter| (counter.name, counter.numbers, 0)))
    }

    /// Adds debts; once for each id.
    pub(super) fn owe(&self, terms: Terms<'_>, debts: impl Iterator<Item = (Name, Numbers, u64)> + Clone) -> Call {
        self.call("owe", terms, debts)
    }

    /// Asks where counters stand.
    pub(super) fn look(&self, terms: Terms<'_>, counters: &[Counter]) -> Call {
        self.call("look", terms, counters.iter().map(|counter| (counter.name, counter.numbers, 0)))
    }

    /// Tells what is known of calendars that were lost: for each the least that is used, with the period's end in its numbers.
    pub(super) fn restore(&self, terms: Terms<'_>, known: impl Iterator<Item = (Name, Numbers, u64)> + Clone) -> Call {
        self.call("restore", terms, known)
    }

    /// Begins a generation of counters.
    pub(super) fn found(&self, terms: Terms<'_>) -> Call {
        self.call("found", terms, std::iter::empty())
    }

    /// Says that the gate of this id is there.
    pub(super) fn beat(&self, terms: Terms<'_>) -> Call {
        let mut command = self.command(2);
        command.arg(format!("{}replicas", self.prefix)).arg(format!("{}{GENERATION}", self.prefix));
        put_terms(&mut command, "beat", terms);
        Call(command)
    }

    /// Says that it has gone.
    pub(super) fn leave(&self, id: &str) -> Cmd {
        let mut command = redis::cmd("ZREM");
        command.arg(format!("{}replicas", self.prefix)).arg(id);
        command
    }

    fn call<C>(&self, operation: &str, terms: Terms<'_>, counters: C) -> Call
    where
        C: Iterator<Item = (Name, Numbers, u64)> + Clone,
    {
        let names = counters.clone();
        let count = names.clone().count();
        let mut command = self.command(2 + count);
        let mut key = self.prefix.clone();
        let mut keyed = |write: &dyn Fn(&mut String)| {
            key.truncate(self.prefix.len());
            write(&mut key);
            command.arg(&key);
        };
        keyed(&|key| ["r:", terms.id].iter().for_each(|part| key.push_str(part)));
        keyed(&|key| key.push_str(GENERATION));
        for (name, ..) in names {
            keyed(&|key| {
                key.push_str("c:");
                name.write(key);
            });
        }
        put_terms(&mut command, operation, terms);
        for (_, numbers, amount) in counters {
            command.arg(numbers.kind.letter());
            for number in [numbers.bound, amount, numbers.first, numbers.second] {
                command.arg(number);
            }
        }
        Call(command)
    }

    /// Begins a command with so many keys.
    fn command(&self, keys: usize) -> Cmd {
        let mut command = Cmd::with_capacity(9 + keys * 6, 128 + keys * 128);
        command.arg("EVALSHA").arg(self.script.get_hash()).arg(keys);
        command
    }
}

/// Adds what stands between the keys and the counters' numbers.
fn put_terms(command: &mut Cmd, operation: &str, terms: Terms<'_>) {
    command.arg(operation).arg("").arg(terms.id).arg(terms.lease_us).arg(terms.open_ms).arg(terms.generation);
}

/// A call of the script.
#[derive(Clone, Debug)]
pub(super) struct Call(Cmd);

impl Call {
    /// By the script's hash.
    pub(super) fn by_hash(&self) -> &Cmd {
        &self.0
    }

    /// By the script's hash, for a pipeline.
    pub(super) fn into_command(self) -> Cmd {
        self.0
    }

    /// With the whole script, for a server that has forgotten it.
    pub(super) fn in_full(&self) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(SOURCE);
        for argument in self.0.args_iter().skip(2) {
            if let redis::Arg::Simple(bytes) = argument {
                command.arg(bytes);
            }
        }
        command
    }
}

/// Reads what the script answered to a reservation of so many counters.
///
/// # Errors
/// A text when the answer is no answer of this script.
pub(super) fn answer(numbers: &[i64], counters: usize) -> Result<Answer, String> {
    let strange = || strange(numbers);
    let whole = |number: &i64| u64::try_from(*number).map_err(|_| strange());
    match numbers {
        [status @ (0 | 1), at_us, overshoot_units, rest @ ..] if rest.len() == counters * 4 => {
            let readings = rest.chunks_exact(4).map(reading).collect::<Option<_>>().ok_or_else(strange)?;
            let (at_us, overshoot_units) = (whole(at_us)?, whole(overshoot_units)?);
            let told = Told { at_us, overshoot_units, readings };
            Ok(if *status == 1 { Answer::Admitted(told) } else { Answer::Refused(told) })
        }
        [2] => Ok(Answer::Void),
        [3, place] => Ok(Answer::Foreign(whole(place)?)),
        [5] => Ok(Answer::Lost),
        _ => Err(strange()),
    }
}

/// Reads where so many counters stand; none where one of them is no counter of ours.
///
/// # Errors
/// A text when the answer is no answer of this script.
pub(super) fn looks(numbers: &[i64], counters: usize) -> Result<Option<Vec<Look>>, String> {
    match numbers {
        [1, rest @ ..] if rest.len() == counters * 3 => {
            rest.chunks_exact(3).map(look).collect::<Option<_>>().map(Some).ok_or_else(|| strange(numbers))
        }
        [3, _] => Ok(None),
        _ => Err(strange(numbers)),
    }
}

fn strange(numbers: &[i64]) -> String {
    let mut text = String::from("the script answered something else than expected: ");
    let shown = numbers.get(..numbers.len().min(8)).unwrap_or_default();
    write!(text, "{shown:?}").map_or_else(|_| String::new(), |()| text)
}

fn look(numbers: &[i64]) -> Option<Look> {
    let [used, remaining, reset_after_us] = *numbers else { return None };
    Some(Look {
        used: u64::try_from(used).ok()?,
        remaining: u64::try_from(remaining).ok()?,
        reset_after_us: u64::try_from(reset_after_us).ok()?,
    })
}

fn reading(numbers: &[i64]) -> Option<Reading> {
    let [fits, remaining, reset_after_us, wait] = *numbers else { return None };
    let wait = match (fits, wait) {
        (1, _) => None,
        (0, -1) => Some(Wait::Forever),
        (0, -2) => Some(Wait::UntilACallEnds),
        (0, wait) => Some(Wait::Micros(u64::try_from(wait).ok()?)),
        _ => return None,
    };
    Some(Reading {
        remaining: u64::try_from(remaining).ok()?,
        reset_after_us: u64::try_from(reset_after_us).ok()?,
        wait,
    })
}

/// Which charge binds: the one with the longest wait, of equal waits the first. None: all fit.
pub(super) fn binding(readings: &[Reading]) -> Option<(Wait, usize)> {
    let mut binding: Option<(Wait, usize)> = None;
    for (place, reading) in readings.iter().enumerate() {
        if let Some(wait) = reading.wait
            && binding.is_none_or(|(longest, _)| wait > longest)
        {
            binding = Some((wait, place));
        }
    }
    binding
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_another_shape_is_an_error_and_never_an_admission() {
        for numbers in [
            &[][..],
            &[1],
            &[1, 9, 0, 1, 2, 3],
            &[1, 9, 0, 1, 2, 3, 0, 0],
            &[1, 9, -1, 1, 2, 3, 0],
            &[0, 9, 0, 1, -1, 0, 0],
            &[9],
            &[3, -1],
            &[2, 0],
            &[5, 0],
        ] {
            assert!(answer(numbers, 1).is_err(), "{numbers:?}");
            assert!(looks(numbers, 1).is_ok_and(|looks| looks.is_none()) == (numbers == [3, -1]), "{numbers:?}");
        }
        let reading = Reading { remaining: 2, reset_after_us: 3, wait: Some(Wait::Micros(4)) };
        let told = Told { at_us: 9, overshoot_units: 0, readings: SmallVec::from_slice(&[reading]) };
        assert_eq!(answer(&[5], 1), Ok(Answer::Lost));
        let (used, remaining, reset_after_us) = (7, 0, 3);
        assert_eq!(looks(&[1, 7, 0, 3], 1), Ok(Some(vec![Look { used, remaining, reset_after_us }])));
        assert_eq!(answer(&[0, 9, 0, 0, 2, 3, 4], 1), Ok(Answer::Refused(told)));
    }

    #[test]
    fn the_longest_wait_binds_and_never_is_longest() {
        let of = |waits: &[Option<Wait>]| {
            let readings: Vec<_> =
                waits.iter().map(|wait| Reading { remaining: 0, reset_after_us: 0, wait: *wait }).collect();
            binding(&readings).map(|(_, place)| place)
        };
        let (ends, short, long) = (Some(Wait::UntilACallEnds), Some(Wait::Micros(1)), Some(Wait::Micros(2)));
        assert_eq!(of(&[None, None]), None);
        assert_eq!(of(&[ends, short, long, short]), Some(2));
        assert_eq!(of(&[long, None, long]), Some(0));
        assert_eq!(of(&[long, Some(Wait::Forever)]), Some(1));
    }
}
