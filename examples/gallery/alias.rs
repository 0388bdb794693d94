//! One name for several models: the first that a backend has for this caller now is taken.
//! Settings: `{ "fast": ["llama3.2:3b", "qwen3:4b"] }`, aliases without a tag; `{}` has none.
use std::{collections::BTreeMap, sync::OnceLock};
use tollgate_policy::{Admit, Call, Operation, Principal, Reason, admit::Decision, catalogue, edits, rejection};

static ALIASES: OnceLock<BTreeMap<String, Vec<String>>> = OnceLock::new();
struct Alias;

impl Admit for Alias {
    fn configure(settings: &str) -> Result<(), String> {
        let aliases = serde_json::from_str(settings).map_err(|error| error.to_string())?;
        ALIASES.set(aliases).map_err(|_| "configured twice".to_owned())
    }
    fn decide(call: Call, _: Principal) -> Decision {
        let name = call.model.strip_suffix(":latest").unwrap_or(&call.model);
        let models = ALIASES.get().and_then(|aliases| aliases.get(name));
        // Who deletes or copies a model must name it.
        let Some(models) = models.filter(|_| call.operation != Operation::Manage) else { return Decision::Abstain };
        let (code, message) = match models.iter().find(|model| catalogue::candidates(model) > 0) {
            Some(model) if edits::set_model(model).is_ok() => return Decision::Admit(vec![]),
            Some(_) => ("model_not_changed", "the model of this alias could not be set: try again"),
            None => ("alias_without_model", "no model of this alias is up: try again later"),
        };
        Decision::Reject(rejection(Reason::Unavailable, code, message))
    }
}
tollgate_policy::export_admit!(Alias);
