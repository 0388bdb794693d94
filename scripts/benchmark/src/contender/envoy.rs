//! Envoy: one worker, our key filter in proxy-wasm (V8), no access log, circuit breakers wide open.

use serde_json::{Value, json};

use super::{Bench, Kind, SetUp, free_ports};
use crate::{
    failure::Failure,
    load::Target,
    process::{Cores, on},
};

/// The key that calls present; those beside it make the filter's table no special case.
const KEY: &str = "benchmark-key-0123456789abcdef0123456789abcdef";
const OTHER_KEYS: usize = 100;

pub(super) fn set_up(bench: &Bench) -> Result<SetUp, Failure> {
    let [address] = free_ports()?;
    let config = config(bench, address.port());
    let path = bench.write("envoy.json", &serde_json::to_string_pretty(&config)?)?;
    let mut command = on(Cores::Measured, &bench.programs.envoy);
    command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning", "-c"]).arg(path);
    let target = Target { address, tls: None };
    Ok(SetUp {
        name: "Envoy",
        command,
        log: bench.log(Kind::Envoy),
        whole: target.clone(),
        streams: target,
        key: KEY.to_owned(),
        sharing: None,
    })
}

fn config(bench: &Bench, port: u16) -> Value {
    let keys: String =
        (0..OTHER_KEYS).map(|number| format!("other-key-{number:032}\n")).chain([KEY.to_owned()]).collect();
    let filter = json!({
        "name": "envoy.filters.http.wasm",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {
                "name": "keys",
                "configuration": { "@type": "type.googleapis.com/google.protobuf.StringValue", "value": keys },
                "vm_config": {
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": { "local": { "filename": bench.programs.envoy_filter } },
                },
            },
        },
    });
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
    });
    let manager = json!({
        "@type":
            "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "callers",
        "http_filters": [filter, router],
        "route_config": { "virtual_hosts": [{
            "name": "all", "domains": ["*"],
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "backend", "timeout": "0s" } }],
        }] },
    });
    let backend = json!({
        "lb_endpoints": [{ "endpoint": { "address": socket(bench.backend.port()) } }],
    });
    let most = 100_000;
    let breaker = json!({
        "max_connections": most, "max_pending_requests": most, "max_requests": most, "max_retries": most,
    });
    json!({ "static_resources": {
        "listeners": [{
            "name": "callers", "address": socket(port), "tcp_backlog_size": 4096,
            "filter_chains": [{ "filters": [
                { "name": "envoy.filters.network.http_connection_manager", "typed_config": manager },
            ] }],
        }],
        "clusters": [{
            "name": "backend", "type": "STATIC", "connect_timeout": "5s",
            "circuit_breakers": { "thresholds": [breaker] },
            "load_assignment": { "cluster_name": "backend", "endpoints": [backend] },
        }],
    } })
}

fn socket(port: u16) -> Value {
    json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } })
}
