//! Refuses callers outside the allowed networks; those inside go on to the next policy. Give it the lowest `order`: a
//! policy asked before it could let a caller in.
//! Settings: `{ "networks": ["10.0.0.0/8", "fd00::/8"] }`; `{}` allows loopback and private networks.
use ipnet::IpNet;
use std::sync::OnceLock;
use tollgate_policy::{Authenticate, Head, Presented, Reason, authenticate::Decision, rejection, request};

const PRIVATE: [&str; 6] = ["127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7"];
static NETWORKS: OnceLock<Vec<IpNet>> = OnceLock::new();
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct AllowNetwork {
    networks: Option<Vec<IpNet>>,
}

impl Authenticate for AllowNetwork {
    fn configure(settings: &str) -> Result<(), String> {
        let settings: Self = serde_json::from_str(settings).map_err(|error| error.to_string())?;
        let private = || PRIVATE.iter().filter_map(|network| network.parse().ok()).collect();
        NETWORKS.set(settings.networks.unwrap_or_else(private)).map_err(|_| "configured twice".to_owned())
    }
    fn check(_: Head, _: Option<Presented>) -> Decision {
        let mut networks = NETWORKS.get().into_iter().flatten();
        if networks.any(|network| request::peer_in(&network.trunc().to_string())) {
            return Decision::Abstain;
        }
        Decision::Reject(rejection(Reason::Forbidden, "outside_network", "call from an allowed network"))
    }
}
tollgate_policy::export_authenticate!(AllowNetwork);
