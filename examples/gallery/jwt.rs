//! Knows callers by a JSON Web Token: HS256, whatever its header says; `sub`, `nbf` and `exp`, and no other claim.
//! Settings: `{ "secret": "32 bytes or more" }`; without it the policy does not load. Needs the grant for `credential`.
use data_encoding::BASE64URL_NOPAD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use tollgate_policy::{Authenticate, Head, Presented, Principal, Reason, authenticate::Decision, credential, env};
static HMAC: std::sync::OnceLock<Hmac<sha2::Sha256>> = std::sync::OnceLock::new();
struct Jwt;
fn principal(token: &str, now: u64) -> Option<Principal> {
    let (signed, signature) = token.rsplit_once('.')?;
    HMAC.get()?.clone().chain_update(signed).verify_slice(&BASE64.decode(signature.as_bytes()).ok()?).ok()?;
    let claims: Value = serde_json::from_slice(&BASE64.decode(signed.split_once('.')?.1.as_bytes()).ok()?).ok()?;
    let times = claims.get("nbf").map_or(Some(0), Value::as_u64)?..claims.get("exp")?.as_u64()?;
    let good = |sub: &&str| times.contains(&now) && (1..=128).contains(&sub.len()) && !sub.contains(char::is_control);
    claims.get("sub")?.as_str().filter(good).map(|sub| Principal { subject: sub.to_owned(), user: None })
}
impl Authenticate for Jwt {
    fn configure(settings: &str) -> Result<(), String> {
        let mut all: std::collections::BTreeMap<String, String> = serde_json::from_str(settings).unwrap_or_default();
        let mac = all.remove("secret").filter(|key| key.len() >= 32).map(|key| Hmac::new_from_slice(key.as_bytes()));
        mac.and_then(|mac| HMAC.set(mac.ok()?).ok()).ok_or("give a `secret` of 32 bytes or more".to_owned())
    }
    fn check(_: Head, presented: Option<Presented>) -> Decision {
        let Some(Presented { key_id: None, .. }) = presented else { return Decision::Abstain };
        let Some(token) = credential::raw().filter(|raw| raw.starts_with("eyJ")) else { return Decision::Abstain };
        let no = || Decision::Reject(tollgate_policy::rejection(Reason::Unauthorized, "invalid_token", "log in again"));
        principal(&token, env::now_ms() / 1000).map_or_else(no, Decision::Allow)
    }
}
tollgate_policy::export_authenticate!(Jwt);
