//! What a call is charged, in a policy's words: a limit's name, whose counter it is, and the rule that the counter keeps.
//!
//! Checked where it comes from a policy: nothing here is zero where zero has no meaning, and every number lies within
//! [`MOST_UNITS`].

/// Most units that a limit may name: what a double holds exactly, because Redis' scripts count in doubles. Larger
/// capacities mean this one.
pub const MOST_UNITS: u64 = crate::ports::limits::LARGEST_LIMIT;

/// Which tokens count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// Those of the prompt.
    Input,
    /// Those of the answer.
    Output,
    /// Both.
    All,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many requests; at least 1.
    Requests(u32),
    /// Tokens: reserved by estimate, settled by usage.
    Tokens {
        /// Which.
        kind: TokenKind,
        /// Thousandths of a charged token for each real one; at least 1.
        weight_permille: u32,
    },
}

/// A stretch of the calendar; UTC, weeks from Monday.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Period {
    /// From minute 0.
    Hour,
    /// From midnight.
    Day,
    /// From Monday.
    Week,
    /// From the first.
    Month,
}

/// How a counter behaves over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// At most `capacity` in any stretch of `length_ms`.
    Window {
        /// Units admitted; zero admits nothing.
        capacity: u64,
        /// Length of the stretch.
        length_ms: u32,
    },
    /// `refill` units come back every `every_ms`, up to `burst`.
    Bucket {
        /// Most units at once; zero admits nothing.
        burst: u64,
        /// Units that come back each time; at least 1.
        refill: u64,
        /// How often they come back; at least 1.
        every_ms: u32,
    },
    /// At most `capacity` in each period.
    Calendar {
        /// Units in one period; zero admits nothing.
        capacity: u64,
        /// Which period.
        period: Period,
    },
}

/// What a charge asks of its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Counted over time.
    Metered {
        /// What is counted.
        amount: Amount,
        /// Over which time.
        shape: Shape,
    },
    /// At most this many calls at the same time; zero admits nothing.
    Concurrent(u32),
}

/// One charge of a call. Checked: the limit's name is `[a-z0-9-]{1,32}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Which limit.
    pub limit: String,
    /// Whose counter.
    pub partition: String,
    /// What is asked of the counter.
    pub rule: Rule,
}
