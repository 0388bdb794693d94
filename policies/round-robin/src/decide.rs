//! The order of backends for one turn. Pure.

use tollgate_policy::Backend;

/// All backends once each, starting with the one whose turn it is. Any turn is good: the length divides it at use, so
/// that a list which grew or shrank since the last call never leads outside it.
pub(crate) fn rotation(turn: i64, backends: &[Backend]) -> Vec<u32> {
    let count = i64::try_from(backends.len()).unwrap_or(i64::MAX).max(1);
    let first = usize::try_from(turn.rem_euclid(count)).unwrap_or(0);
    let (before, after) = backends.split_at(first.min(backends.len()));
    after.iter().chain(before).map(|backend| backend.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(ids: &[u32]) -> Vec<Backend> {
        ids.iter()
            .map(|&id| Backend {
                id,
                weight: 1,
                in_flight: 0,
                model_in_flight: 0,
                capacity: None,
                queued: 0,
                first_token_us: None,
                tokens_per_second_milli: None,
                errors_permille: 0,
                resident: false,
            })
            .collect()
    }

    #[test]
    fn each_turn_starts_one_further_and_names_all_once() {
        let backends = backends(&[4, 7, 9]);
        assert_eq!(rotation(0, &backends), [4, 7, 9]);
        assert_eq!(rotation(1, &backends), [7, 9, 4]);
        assert_eq!(rotation(2, &backends), [9, 4, 7]);
        assert_eq!(rotation(3, &backends), [4, 7, 9]);
    }

    #[test]
    fn a_turn_beyond_a_list_that_shrank_stays_inside_it() {
        for turn in [i64::MIN, -1, 0, 1, 41, i64::MAX] {
            assert_eq!(rotation(turn, &backends(&[5])), [5]);
            assert_eq!(rotation(turn, &backends(&[5, 6])).len(), 2);
        }
    }

    #[test]
    fn no_backends_give_an_empty_order() {
        assert_eq!(rotation(3, &[]), Vec::<u32>::new());
    }
}
