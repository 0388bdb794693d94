//! Among how many gates limits are shared, for the time in which nobody can count them.
//!
//! Pure: time comes in. More gates are believed at once, fewer only after they were fewer for a while: right after an
//! outage the first gate back sees itself alone, and would else hold the whole limit in the next one.

/// How long fewer gates have to be counted, without a break, before that is believed, in ms.
const FEWER_AFTER_MS: u64 = 60_000;

/// What was counted.
#[derive(Debug, Default)]
pub(super) struct Gates {
    /// 0: never counted.
    believed: u32,
    /// The most that were counted since there are fewer than believed, and since when.
    fewer: Option<(u32, u64)>,
}

impl Gates {
    /// So many are there now.
    pub(super) fn counted(&mut self, gates: u32, now_ms: u64) {
        if gates >= self.believed {
            *self = Self { believed: gates, fewer: None };
            return;
        }
        let (most, since_ms) = self.fewer.map_or((gates, now_ms), |(most, since_ms)| (most.max(gates), since_ms));
        self.fewer = Some((most, since_ms));
        if now_ms.saturating_sub(since_ms) >= FEWER_AFTER_MS {
            *self = Self { believed: most, fewer: None };
        }
    }

    /// Nobody could count for a while.
    pub(super) fn lost_sight(&mut self) {
        self.fewer = None;
    }

    /// How many limits are shared among. None: never counted.
    pub(super) fn believed(&self) -> Option<u32> {
        Some(self.believed).filter(|gates| *gates > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_gates_are_believed_at_once_and_fewer_after_a_minute_in_sight() {
        let mut gates = Gates::default();
        assert_eq!(gates.believed(), None);
        for (now_ms, counted, believed) in
            [(0, 1, 1), (10, 3, 3), (20, 1, 3), (40_000, 2, 3), (60_019, 1, 3), (60_020, 1, 2), (60_030, 4, 4)]
        {
            gates.counted(counted, now_ms);
            assert_eq!(gates.believed(), Some(believed), "at {now_ms}");
        }
    }

    #[test]
    fn who_comes_back_alone_from_an_outage_does_not_hold_everything_in_the_next() {
        let mut gates = Gates::default();
        gates.counted(3, 0);
        gates.counted(2, 10);
        gates.lost_sight();
        gates.counted(1, 90_000);
        assert_eq!(gates.believed(), Some(3));
        gates.lost_sight();
        gates.counted(1, 200_000);
        gates.counted(1, 259_999);
        assert_eq!(gates.believed(), Some(3));
        gates.counted(1, 260_000);
        assert_eq!(gates.believed(), Some(1));
    }
}
