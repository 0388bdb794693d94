//! Asks at `admit`; `charge LIMIT CAPACITY` charges a request on a minute, in the caller's partition or the one named third,
//! `rules LIMIT=RULE...` charges by rules of any kind, and `facts` tells what the hook was told.

use guests::Asked;
use tollgate_policy::{Admit, Call, Principal, admit::Decision, requests_per_window};

struct Ask;

impl Admit for Ask {
    fn decide(call: Call, principal: Principal) -> Decision {
        let Some(asked) = Asked::at("admit") else { return Decision::Abstain };
        match asked.words()[..] {
            ["charge", limit, capacity, ref partition @ ..] => {
                let capacity = capacity.parse().expect("a capacity");
                let partition = partition.first().map_or(principal.subject, |partition| (*partition).to_owned());
                Decision::Admit(vec![requests_per_window(limit, partition, capacity, 60_000)])
            }
            ["rules", ref rules @ ..] => {
                Decision::Admit(rules.iter().map(|rule| guests::charge(rule, &principal.subject)).collect())
            }
            ["facts"] => Decision::Reject(guests::told(format!("{call:?} {principal:?}"))),
            _ => asked.answer().map_or(Decision::Abstain, Decision::Reject),
        }
    }
}

tollgate_policy::export_admit!(Ask);
