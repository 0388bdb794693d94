//! A call to a big model costs more: one unit for every 8 billion parameters begun, from a budget per principal.

use tollgate_policy::{Admit, Call, Principal, admit::Decision, catalogue, charge, is_inference};

/// Units of one principal in any minute.
const CAPACITY: u32 = 60;
const PARAMETERS_PER_UNIT: u64 = 8_000_000_000;
/// What a model of unknown size counts as.
const UNKNOWN: u64 = 70_000_000_000;

struct ChargeBySize;

impl Admit for ChargeBySize {
    fn decide(call: Call, principal: Principal) -> Decision {
        if !is_inference(call.operation) {
            return Decision::Abstain;
        }
        let units = catalogue::parameters(&call.model).unwrap_or(UNKNOWN).div_ceil(PARAMETERS_PER_UNIT);
        // At least one, and at most the whole budget: the biggest model passes once a minute.
        let amount = charge::requests(u32::try_from(units).unwrap_or(CAPACITY).clamp(1, CAPACITY));
        let shape = charge::window(CAPACITY.into(), 60_000);
        Decision::Admit(vec![charge::metered("model-units", principal.subject, amount, shape)])
    }
}
tollgate_policy::export_admit!(ChargeBySize);
