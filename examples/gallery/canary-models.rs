//! Sends a share of one model's calls to another model, where the caller may use that one and a backend has it.
//! Settings: `{ "from": "llama3.1:8b", "to": "llama3.2:3b", "percent": 5 }`, names with their tag; `{}` moves nothing.
use std::sync::OnceLock;
use tollgate_policy::{Admit, Call, Principal, Reason, admit::Decision, catalogue, edits, is_inference, rejection};

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CanaryModels {
    from: String,
    to: String,
    percent: u64,
}
static SETTINGS: OnceLock<CanaryModels> = OnceLock::new();

impl Admit for CanaryModels {
    fn configure(settings: &str) -> Result<(), String> {
        let settings = serde_json::from_str(settings).map_err(|error| error.to_string())?;
        SETTINGS.set(settings).map_err(|_| "configured twice".to_owned())
    }
    fn decide(call: Call, _: Principal) -> Decision {
        let Self { from, to, percent } = SETTINGS.get_or_init(Self::default);
        let drawn = tollgate_policy::env::random() % 100 < *percent;
        if !drawn || call.model != *from || !is_inference(call.operation) || catalogue::candidates(to) == 0 {
            return Decision::Abstain;
        }
        let no = |_| Decision::Reject(rejection(Reason::Unavailable, "model_not_changed", "try again"));
        edits::set_model(to).map_or_else(no, |()| Decision::Admit(vec![]))
    }
}
tollgate_policy::export_admit!(CanaryModels);
