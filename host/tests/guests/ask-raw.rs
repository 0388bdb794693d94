//! Asks about the credential at `authenticate`, and lets the caller in as `raw` where the answers go to the log. With
//! `x-answer: abstain` it has no opinion once it has asked.

use guests::{Asked, raw, told};
use tollgate_policy::{Authenticate, Head, Presented, Principal, authenticate::Decision, env, request};

struct Ask;

impl Authenticate for Ask {
    fn check(_: Head, _: Option<Presented>) -> Decision {
        let Some(asked) = Asked::at("raw") else { return Decision::Abstain };
        let answers = raw::answers(asked.text());
        match request::header("x-answer").as_deref() {
            Some("log") => {
                env::log(env::Level::Info, &format!("answers {answers}"));
                Decision::Allow(Principal { subject: "raw".to_owned(), user: None })
            }
            Some("abstain") => Decision::Abstain,
            _ => Decision::Reject(told(answers)),
        }
    }
}

tollgate_policy::export_authenticate!(Ask);
