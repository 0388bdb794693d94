//! Asks about the credential at `admit`, where it may not be asked.

use guests::{Asked, raw, told};
use tollgate_policy::{Admit, Call, Principal, admit::Decision};

struct Ask;

impl Admit for Ask {
    fn decide(_: Call, _: Principal) -> Decision {
        Asked::at("raw-late").map_or(Decision::Abstain, |asked| Decision::Reject(told(raw::answers(asked.text()))))
    }
}

tollgate_policy::export_admit!(Ask);
