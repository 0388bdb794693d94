//! What would become of a call, as an operator is told: who decides what on it, and why.
//!
//! The data here are also the shape of the JSON API, and what the command line reads from it: their names are stable.

use serde::{Deserialize, Serialize};

use super::control::LimitStatus;

/// What would become of one call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Number of the set of policies that decides.
    pub generation: u64,
    /// The call's method and path, as the operation table has them; none when it names no such operation.
    pub operation: Option<String>,
    /// Its model by canonical name, after all edits.
    pub model: Option<String>,
    /// Who decides what, in the order in which a call meets it.
    pub steps: Vec<ExplainedStep>,
    /// Where the limits stand that the call would be charged, without it.
    pub limits: Vec<LimitStatus>,
    /// Where these figures come from; none where nothing is charged. See [`super::control::LimitList::source`].
    pub limits_source: Option<String>,
    /// The backends to which the call would go: the first, and where no connection to it comes about the next.
    pub backends: Vec<String>,
    /// What the caller would read instead of an answer.
    pub refusal: Option<ExplainedRefusal>,
}

/// One decision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedStep {
    /// `authenticate`, `admit` or `route`.
    pub stage: String,
    /// The policy that decides; none where it is the gate itself.
    pub policy: Option<String>,
    /// Its version, as `sha256:` and the component's hash in hex.
    pub version: Option<String>,
    /// `allow`, `admit`, `rank`, `abstain`, `reject`, `fault` or `passed-over` of a policy; `found`, `holds` or `refuse` of
    /// the gate.
    pub decision: String,
    /// The reason code of a rejection, or how a policy failed.
    pub code: Option<String>,
    /// More of it, for people.
    pub detail: String,
    /// What the policy would change in the call.
    pub edits: Vec<String>,
    /// What it would charge.
    pub charges: Vec<String>,
}

/// What a caller would read instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedRefusal {
    /// The stage that refuses: `receive`, `authenticate`, `read`, `admit` or `route`.
    pub stage: String,
    /// Who refuses: a policy by its name; none where it is the gate itself.
    pub policy: Option<String>,
    /// Who is to blame: `client`, `policy`, `upstream` or `gate`.
    pub blame: String,
    /// The status.
    pub status: u16,
    /// The code in the answer.
    pub code: String,
    /// The answer's headers that say more.
    pub headers: Vec<(String, String)>,
    /// The answer's body, to the letter; its request id is made up.
    pub body: String,
    /// What the log would say beside, and the caller never reads.
    pub private: Option<String>,
}
