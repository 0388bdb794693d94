//! Is asked at `admit` behind `ask-admit`, with `x-ask-next`: `facts`, `fail`, `reject` or questions, which it answers in the log.
//! With `x-charge` it charges by that rule.

use tollgate_policy::{Admit, Call, Principal, Reason, admit::Decision, env, rejection, request};

struct Ask;

impl Admit for Ask {
    fn decide(call: Call, principal: Principal) -> Decision {
        match request::header("x-ask-next").as_deref() {
            None => {}
            Some("facts") => env::log(env::Level::Info, &format!("next {call:?}")),
            Some("reject") => return Decision::Reject(rejection(Reason::Forbidden, "next", "it is asked to")),
            Some("fail") => panic!("it is asked to"),
            Some(questions) => env::log(env::Level::Info, &format!("next {}", guests::answers(questions))),
        }
        let charge = request::header("x-charge").map(|rule| guests::charge(&rule, &principal.subject));
        Decision::Admit(charge.into_iter().collect())
    }
}

tollgate_policy::export_admit!(Ask);
