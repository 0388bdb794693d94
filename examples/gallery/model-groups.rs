//! An allow-list of models by the principal's `groups` attribute.
//! Settings: `{ "staff": ["*"], "students": ["llama3.2", "qwen3:4b"] }`; `llama3.2` means each of its tags, and `*` all
//! models. Who is in none of these groups may use no model, so `{}` refuses every call that names one.
use std::{collections::BTreeMap, sync::OnceLock};
use tollgate_policy::{Admit, Call, Principal, Reason, admit::Decision, is_inference, principals, rejection};

static GROUPS: OnceLock<BTreeMap<String, Vec<String>>> = OnceLock::new();
struct ModelGroups;

impl Admit for ModelGroups {
    fn configure(settings: &str) -> Result<(), String> {
        let groups = serde_json::from_str(settings).map_err(|error| error.to_string())?;
        GROUPS.set(groups).map_err(|_| "configured twice".to_owned())
    }
    fn decide(call: Call, _: Principal) -> Decision {
        if call.model.is_empty() && !is_inference(call.operation) {
            return Decision::Abstain;
        }
        let name = call.model.rsplit_once(':').map_or(call.model.as_str(), |(name, _tag)| name);
        let fits = |model: &String| model == "*" || *model == call.model || model == name;
        let allows = |group: &String| GROUPS.get().and_then(|all| all.get(group)).into_iter().flatten().any(fits);
        if principals::attribute("groups").iter().any(allows) {
            return Decision::Abstain;
        }
        Decision::Reject(rejection(Reason::Forbidden, "model_not_in_group", "none of your groups may use this model"))
    }
}
tollgate_policy::export_admit!(ModelGroups);
