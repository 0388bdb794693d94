//! Asks at `authenticate`; `allow SUBJECT` lets a caller in, and `facts` tells what the hook was told.

use guests::Asked;
use tollgate_policy::{Authenticate, Head, Presented, Principal, authenticate::Decision};

struct Ask;

impl Authenticate for Ask {
    fn check(head: Head, presented: Option<Presented>) -> Decision {
        let Some(asked) = Asked::at("authenticate") else { return Decision::Abstain };
        match asked.words()[..] {
            ["allow", subject] => Decision::Allow(Principal { subject: subject.to_owned(), user: None }),
            ["facts"] => Decision::Reject(guests::told(format!("{head:?} {presented:?}"))),
            _ => asked.answer().map_or(Decision::Abstain, Decision::Reject),
        }
    }
}

tollgate_policy::export_authenticate!(Ask);
