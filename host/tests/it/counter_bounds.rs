//! How many counters of limits there may be, and who is refused when there are too many.

use serde_json::json;
use tollgate::ports::limits::LimitName;

use crate::support::{Answer, LlmServer, Script, TestProxy, proxy::of_model};

const MODELS: [&str; 16] = [
    "m0:1b", "m1:1b", "m2:1b", "m3:1b", "m4:1b", "m5:1b", "m6:1b", "m7:1b", "m8:1b", "m9:1b", "m10:1b", "m11:1b",
    "m12:1b", "m13:1b", "m14:1b", "m15:1b",
];

/// A gate with this line, and two keys with five limits for each of the models.
async fn gate(line: &str) -> (TestProxy, String, LlmServer) {
    let server = LlmServer::start("gpu-1", &MODELS).await;
    let all = || MODELS.into_iter().flat_map(|model| LimitName::ALL.map(|name| of_model(model, name, 1_000_000)));
    let builder = TestProxy::builder().backend(&server).set(line);
    let mut builder = builder.with_key(|key| key.limits.extend(all()));
    let other = builder.add_key("other", |key| key.limits.extend(all()));
    (builder.start().await, other, server)
}

async fn call(gate: &TestProxy, key: &str, model: &str) -> Answer {
    gate.post_as(key, "/v1/chat/completions", &json!({ "model": model, "messages": [] })).await
}

#[tokio::test]
async fn a_principal_with_too_many_counters_is_refused_and_no_other() {
    let (gate, other, server) = gate("limits.max_counters_per_principal = 32").await;
    let mut refused = 0;
    for model in MODELS {
        server.script(Script::json(200, r#"{"usage":{"prompt_tokens":5,"completion_tokens":5}}"#));
        let answer = call(&gate, gate.key(), model).await;
        if answer.status != 200 {
            assert_eq!((answer.status, answer.code().as_str()), (429, "too_many_counters"), "{answer:?}");
            refused += 1;
        }
    }
    // The key's own requests a minute, and for each model what stays counted after its call: at least its requests.
    assert!(refused > 0 && server.calls() + refused == MODELS.len(), "{refused}");
    assert_eq!(call(&gate, &other, MODELS[0]).await.status, 200);
    let reached = gate.metric("tollgate_bound_reached_total{bound=\"max_counters_per_principal\"}").await;
    assert!(reached == f64::from(u32::try_from(refused).unwrap()), "{reached}");
}

#[tokio::test]
async fn a_gate_with_no_place_for_another_counter_says_so() {
    let (gate, other, _server) = gate("limits.max_counters = 64").await;
    for round in 0.. {
        assert!(round < 32, "64 places for more than 64 counters");
        let key = if round < 16 { gate.key() } else { &other };
        let answer = call(&gate, key, MODELS[round % 16]).await;
        if answer.status != 200 {
            assert_eq!((answer.status, answer.code().as_str()), (503, "counters_full"), "{answer:?}");
            break;
        }
    }
    assert_eq!(gate.metric("tollgate_bound_reached_total{bound=\"max_counters\"}").await, 1.0);
}
