//! Asks at `route`; `pick ID` and `rank ID…` choose backends, and `facts` tells what the hook was told.

use guests::Asked;
use tollgate_policy::{Backend, Call, Principal, Route, route::Decision};

struct Ask;

impl Route for Ask {
    fn choose(call: Call, _: Principal, backends: Vec<Backend>) -> Decision {
        let Some(asked) = Asked::at("route") else { return Decision::Abstain };
        let id = |id: &&str| id.parse().expect("a backend's id");
        match asked.words()[..] {
            ["pick", ref chosen] => Decision::Pick(id(chosen)),
            ["rank", ref order @ ..] => Decision::Ranked(order.iter().map(id).collect()),
            ["facts"] => Decision::Reject(guests::told(format!("{call:?} {backends:?}"))),
            _ => asked.answer().map_or(Decision::Abstain, Decision::Reject),
        }
    }
}

tollgate_policy::export_route!(Ask);
