//! One context length for all callers of a model: a call with another one would make Ollama load the model again.
//! Settings: `{ "default": 8192, "llama3.1:8b": 32768 }`, models with their tag; without a default it is 8192.
use std::{collections::BTreeMap, sync::OnceLock};
use tollgate_policy::{Admit, Call, Principal, Reason, Surface, admit::Decision, edits, is_inference, rejection};

static LENGTHS: OnceLock<BTreeMap<String, u32>> = OnceLock::new();
struct PinNumCtx;

impl Admit for PinNumCtx {
    fn configure(settings: &str) -> Result<(), String> {
        let lengths = serde_json::from_str(settings).map_err(|error| error.to_string())?;
        LENGTHS.set(lengths).map_err(|_| "configured twice".to_owned())
    }
    fn decide(call: Call, _: Principal) -> Decision {
        if call.surface != Surface::Ollama || !is_inference(call.operation) {
            return Decision::Abstain;
        }
        let lengths = LENGTHS.get();
        let length = lengths.and_then(|all| all.get(&call.model).or_else(|| all.get("default"))).unwrap_or(&8192);
        if edits::set_json("/options/num_ctx", &length.to_string()).is_ok() {
            return Decision::Admit(vec![]);
        }
        Decision::Reject(rejection(Reason::Invalid, "bad_options", "correct `options` or leave it out"))
    }
}
tollgate_policy::export_admit!(PinNumCtx);
