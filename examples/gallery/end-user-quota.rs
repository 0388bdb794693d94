//! A quota for each end user behind one key, by a header that the application sends. Give such a key to applications
//! only: who holds it can name any user. Calls of a key without the header share one quota.
//! Settings, with their defaults: `{ "header": "x-openwebui-user-id", "requests": 30, "seconds": 60 }`.
use std::sync::OnceLock;
use tollgate_policy::{Admit, Call, Principal, admit::Decision, is_inference, request, requests_per_window};

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct EndUserQuota {
    header: Option<String>,
    requests: Option<u64>,
    seconds: Option<u32>,
}
static SETTINGS: OnceLock<EndUserQuota> = OnceLock::new();

impl Admit for EndUserQuota {
    fn configure(settings: &str) -> Result<(), String> {
        let settings: Self = serde_json::from_str(settings).map_err(|error| error.to_string())?;
        let fits = settings.seconds.is_none_or(|seconds| (1..=86_400).contains(&seconds));
        fits.then_some(settings).and_then(|it| SETTINGS.set(it).ok()).ok_or("`seconds` must be 1 to 86400".to_owned())
    }
    fn decide(call: Call, Principal { subject, .. }: Principal) -> Decision {
        let Self { header, requests, seconds } = SETTINGS.get_or_init(Self::default);
        let user = request::header(header.as_deref().unwrap_or("x-openwebui-user-id")).unwrap_or_default();
        let (capacity, length_ms) = (requests.unwrap_or(30), seconds.unwrap_or(60) * 1000);
        let charge = requests_per_window("end-user-requests", format!("{subject}/{user}"), capacity, length_ms);
        if is_inference(call.operation) { Decision::Admit(vec![charge]) } else { Decision::Abstain }
    }
}
tollgate_policy::export_admit!(EndUserQuota);
