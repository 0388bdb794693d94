//! Policies of `examples/gallery` that do nothing without settings, or a grant, do what their names say with them.

use serde_json::json;

use crate::support::{Answer, LlmServer, TestProxy, guest};

const CHAT: &str = "/v1/chat/completions";

/// A gate with one policy of the gallery on these terms, before this server.
async fn gate(name: &str, terms: &str, server: &LlmServer) -> TestProxy {
    let builder = TestProxy::builder().set("limits.requests_per_minute = 1000000").backend(server);
    builder.policy(name, &guest::gallery(name)).policy_terms(name, terms).start().await
}

async fn chat(gate: &TestProxy, model: &str) -> Answer {
    gate.post(CHAT, &json!({ "model": model, "messages": [] })).await
}

#[tokio::test]
async fn alias_runs_the_first_model_of_the_name_that_is_up() {
    let mut server = LlmServer::start("gpu-1", &["qwen3:4b", "other:latest"]).await;
    let terms = "[settings]\nfast = [\"llama3.2:3b\", \"qwen3:4b\"]\nnone = [\"nobody:1b\"]";
    let gate = gate("alias", terms, &server).await;
    for (asked, served) in [("Fast", "qwen3:4b"), ("other", "other:latest")] {
        assert_eq!(chat(&gate, asked).await.status, 200);
        assert_eq!(server.seen().await.json()["model"], served, "{asked}");
    }
    chat(&gate, "none").await.refusal(CHAT, 503, "alias_without_model");
}

#[tokio::test]
async fn canary_models_sends_about_its_share_to_the_other_model() {
    let mut server = LlmServer::start("gpu-1", &["llama3.1:8b", "llama3.2:3b", "big:1"]).await;
    let terms = "settings = { from = \"llama3.1:8b\", to = \"llama3.2:3b\", percent = 50 }";
    let gate = gate("canary-models", terms, &server).await;
    let mut moved = 0;
    for _ in 0..100 {
        assert_eq!(chat(&gate, "llama3.1:8b").await.status, 200);
        moved += usize::from(server.seen().await.json()["model"] == "llama3.2:3b");
    }
    // Five standard deviations to either side.
    assert!((25..=75).contains(&moved), "{moved} of 100 went there");
    for _ in 0..10 {
        assert_eq!(chat(&gate, "big:1").await.status, 200);
        assert_eq!(server.seen().await.json()["model"], "big:1", "another model stays");
    }
}

#[tokio::test]
async fn jwt_knows_the_bearer_of_a_token_that_its_secret_signed() {
    // HS256 over `sub` "ann" and an `exp` in the year 2100, by the secret below.
    const TOKEN: &str = concat!(
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4iLCJleHAiOjQxMDI0NDQ4MDB9.",
        "zdOvMn4i1BBICDRkWRHElIk_0sj2TxO7kuyZUvgBY1c"
    );
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let terms = |secret: &str| format!("grants.raw_credential = true\nsettings.secret = \"{secret}\"");
    let knows = async |gate: &TestProxy, token: &str| {
        let answer = gate.post_as(token, CHAT, &json!({ "model": "llama3", "messages": [] })).await;
        match answer.status {
            200 => "known",
            // Its own words; OpenAI's dialect has one code for all that are unknown.
            401 if answer.body.contains("log in again") => "refused",
            401 => "unknown",
            status => panic!("{status}"),
        }
    };
    let own = gate("jwt", &terms("a secret of thirty-two bytes, ok!"), &server).await;
    assert_eq!(knows(&own, TOKEN).await, "known");
    assert_eq!(knows(&own, &TOKEN.replace("Jhbm4i", "Jib2Ii")).await, "refused", "somebody else's name");
    assert_eq!(knows(&own, "some-other-token").await, "unknown", "the next policies are asked");
    assert_eq!(knows(&own, own.key()).await, "known");
    let other = gate("jwt", &terms("another secret of thirty-two bytes"), &server).await;
    assert_eq!(knows(&other, TOKEN).await, "refused");
}
