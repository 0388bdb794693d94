//! Refuses Ollama's cloud models (`gpt-oss:cloud`, `gpt-oss:120b-cloud`): prompts to them leave the house.

use tollgate_policy::{Admit, Call, Principal, Reason, admit::Decision, rejection};

struct DenyCloud;

impl Admit for DenyCloud {
    fn decide(call: Call, _: Principal) -> Decision {
        match call.model.rsplit_once(':') {
            Some((_, tag)) if tag == "cloud" || tag.ends_with("-cloud") => {
                let message = "cloud models are not served here: choose a local one";
                Decision::Reject(rejection(Reason::Forbidden, "cloud_model", message))
            }
            _ => Decision::Abstain,
        }
    }
}

tollgate_policy::export_admit!(DenyCloud);
