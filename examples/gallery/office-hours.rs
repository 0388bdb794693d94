//! Inference only Monday to Friday, from 8 to 18 o'clock; listings and facts of a model pass at any time.
//! Settings, with their defaults: `{ "zone": "UTC", "from": 8, "to": 18 }`, hours of an IANA zone.
use std::sync::OnceLock;
use tollgate_policy::{Admit, Call, Principal, Reason, admit::Decision, env, is_inference, rejection};

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct OfficeHours {
    zone: Option<String>,
    from: Option<u8>,
    to: Option<u8>,
}
static SETTINGS: OnceLock<OfficeHours> = OnceLock::new();

impl Admit for OfficeHours {
    fn configure(settings: &str) -> Result<(), String> {
        let settings = serde_json::from_str(settings).map_err(|error| error.to_string())?;
        SETTINGS.set(settings).map_err(|_| "configured twice".to_owned())
    }
    fn decide(call: Call, _: Principal) -> Decision {
        let Self { zone, from, to } = SETTINGS.get_or_init(Self::default);
        // A zone that doesn't exist has no hours at which calls pass.
        let open = env::local_now(zone.as_deref().unwrap_or("UTC"))
            .is_ok_and(|now| now.weekday <= 5 && (from.unwrap_or(8)..to.unwrap_or(18)).contains(&now.hour));
        let no = || rejection(Reason::Forbidden, "outside_office_hours", "closed: call in office hours");
        if open || !is_inference(call.operation) { Decision::Abstain } else { Decision::Reject(no()) }
    }
}
tollgate_policy::export_admit!(OfficeHours);
