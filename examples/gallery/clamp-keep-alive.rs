//! Callers may keep a model loaded for at most half an hour; nor may they unload it at once, or pin it for ever.

use tollgate_policy::{Admit, Call, Principal, Reason, Surface, admit::Decision, edits, is_inference, rejection};

const MAX_SECONDS: u64 = 30 * 60;

struct ClampKeepAlive;

/// Whole seconds of `300`, `"90s"` or `"1h30m"`; none for what can't be read, and for less than none (`-1`: for ever).
fn seconds(json: &str) -> Option<u64> {
    let text = || humantime::parse_duration(json.trim_matches('"')).ok();
    json.parse().ok().or_else(|| Some(text()?.as_secs()))
}

impl Admit for ClampKeepAlive {
    fn decide(call: Call, _: Principal) -> Decision {
        let loads = call.surface == Surface::Ollama && is_inference(call.operation);
        let asked = loads.then(|| tollgate_policy::request::json("/keep_alive")).flatten();
        if asked.is_none_or(|json| seconds(&json).is_some_and(|asked| (1..=MAX_SECONDS).contains(&asked))) {
            return Decision::Abstain;
        }
        if edits::set_json("/keep_alive", &MAX_SECONDS.to_string()).is_ok() {
            return Decision::Admit(vec![]);
        }
        Decision::Reject(rejection(Reason::Invalid, "bad_keep_alive", "leave out `keep_alive`"))
    }
}
tollgate_policy::export_admit!(ClampKeepAlive);
