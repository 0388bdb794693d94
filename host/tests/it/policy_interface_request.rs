//! What a policy may ask about the call, the caller, the key, models and backends: the effects, as seen from outside.

use http::Method;
use serde_json::{Value, json};
use tollgate::ports::{
    keys::{KeyState, Scope},
    limits::LimitName,
};

use crate::support::{
    Answer, Asking, LlmServer,
    asking::told,
    proxy::{of_model, overall},
    until,
};

#[tokio::test]
async fn headers_are_seen_save_credentials_cookies_and_masked_ones() {
    let masked = "policies.masked_headers = [\"x-house-secret\"]";
    let asking = Asking::start_with(|builder| builder.set(masked)).await;
    for hook in ["authenticate", "admit", "route"] {
        for (name, seen) in [
            ("x-team", "blue, green"),
            ("X-TEAM", "blue, green"),
            ("x-odd", "caf\u{fffd}"),
            ("x-empty", ""),
            ("authorization", "none"),
            ("Authorization", "none"),
            ("x-api-key", "none"),
            ("cookie", "none"),
            ("proxy-authorization", "none"),
            ("x-house-secret", "none"),
            ("X-House-Secret", "none"),
            ("x-absent", "none"),
            ("no header", "none"),
        ] {
            let call = asking.call(hook, &format!("header {name}")).header("x-team", "blue").header("x-team", "green");
            let call = call.header("x-api-key", asking.gate.key()).header("cookie", "session=1").header("x-empty", "");
            let call = call.header("proxy-authorization", "Basic eA==").header("x-house-secret", "1234");
            let call = call.header("x-odd", http::HeaderValue::from_bytes(b"caf\xe9").unwrap());
            assert_eq!(told(call).await, seen, "{name} at {hook}");
        }
    }
}

#[tokio::test]
async fn json_is_read_by_pointer_and_null_is_not_absent() {
    let asking = Asking::start().await;
    let long = "x".repeat(65_534);
    let body = json!({
        "model": "llama3", "messages": [{ "role": "user", "content": "hi" }],
        "options": { "num_ctx": 4096, "a/b": 1, "m~n": 2, "": 3 }, "nothing": null, "long": long,
    });
    for hook in ["admit", "route"] {
        for (pointer, value) in [
            ("/options/num_ctx", "4096"),
            ("/messages/0/content", "\"hi\""),
            ("/messages/0", r#"{"content":"hi","role":"user"}"#),
            ("/options/a~1b", "1"),
            ("/options/m~0n", "2"),
            ("/options/", "3"),
            ("/nothing", "null"),
            ("/absent", "none"),
            ("/nothing/more", "none"),
            ("/messages/1", "none"),
            ("/messages/-", "none"),
            ("/messages/00", "none"),
        ] {
            let call = asking.call(hook, &format!("json {pointer}")).body(body.to_string());
            assert_eq!(told(call).await, value, "{pointer} at {hook}");
        }
        let call = asking.call(hook, "json-length /long").body(body.to_string());
        assert_eq!(told(call).await, "65536", "64 KiB, quotes included");
    }
    let longer = json!({ "model": "llama3", "messages": [], "long": long + "x" }).to_string();
    let answer = Answer::of(asking.call("admit", "json-length /long").body(longer).send().await.unwrap()).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "value_too_large"), "never none: {answer:?}");
}

#[tokio::test]
async fn the_caller_s_address_is_known_at_every_hook() {
    let asking = Asking::start().await;
    let questions = "peer | peer-in 127.0.0.0/8 | peer-in 127.0.0.1/32 | peer-in 10.0.0.0/8 | peer-in ::/0";
    for hook in ["authenticate", "admit", "route"] {
        // What the caller says of itself counts for nothing.
        let call = asking.call(hook, questions).header("x-forwarded-for", "10.1.2.3");
        assert_eq!(told(call).await, "127.0.0.1 | true | true | false | false", "{hook}");
    }
}

#[tokio::test]
async fn the_path_has_no_query() {
    let asking = Asking::start().await;
    let gate = &asking.gate;
    for hook in ["authenticate", "admit"] {
        for (path, seen) in [("/v1/models?key=op_secret", "/v1/models"), ("/v1/models/llama3", "/v1/models/llama3")] {
            let call = gate.request(Method::GET, path).header("x-ask-at", hook).header("x-ask", "path");
            assert_eq!(told(call).await, seen, "{hook}");
        }
    }
    assert_eq!(asking.ask("route", "path").await, "/v1/chat/completions");
}

#[tokio::test]
async fn prompts_that_begin_alike_have_one_hash() {
    let asking = Asking::start().await;
    let hash = async |hook: &str, bytes: u32, content: &str| {
        let body = json!({ "model": "llama3", "messages": [{ "role": "user", "content": content }] });
        told(asking.call(hook, &format!("prefix-hash {bytes}")).body(body.to_string())).await
    };
    let one = hash("route", 64, &("system prompt ".repeat(10) + "one")).await;
    assert_ne!(one, "none");
    assert_eq!(hash("route", 64, &("system prompt ".repeat(10) + "two")).await, one);
    assert_eq!(hash("admit", 64, &("system prompt ".repeat(10) + "three")).await, one);
    assert_ne!(hash("route", 65, &("system prompt ".repeat(10) + "one")).await, one, "another length, another hash");
    assert_ne!(hash("route", 64, &"another prompt ".repeat(10)).await, one);
    assert_eq!(hash("route", 64, "short").await, "none");
    // The other two shapes of a prompt.
    let of = async |body: Value| told(asking.call("route", "prefix-hash 8").body(body.to_string())).await;
    let generate = of(json!({ "model": "llama3", "prompt": "the same words" })).await;
    assert_eq!(of(json!({ "model": "llama3", "input": "the same words" })).await, generate);
    assert_eq!(of(json!({ "model": "llama3" })).await, "none");
}

#[tokio::test]
async fn candidates_are_counted_within_the_key_s_scope() {
    let other = LlmServer::start("gpu-2", &["llama3:latest", "qwen3:4b"]).await;
    let mut scoped = String::new();
    let asking = Asking::start_with(|builder| {
        let mut builder = builder.backend(&other);
        scoped = builder.add_key("scoped", |key| key.scope = Scope::Models(["llama3:latest".into()].into()));
        builder
    })
    .await;
    let questions =
        "candidates llama3 | candidates Llama3:latest | candidates qwen3:4b | candidates nobody | candidates ";
    for hook in ["admit", "route"] {
        assert_eq!(asking.ask(hook, questions).await, "2 | 2 | 1 | 0 | 0", "{hook}");
        let call = asking.call(hook, questions);
        let mut call = call.build().unwrap();
        call.headers_mut().insert("authorization", format!("Bearer {scoped}").parse().unwrap());
        let answer = Answer::of(asking.gate.client().execute(call).await.unwrap()).await;
        assert_eq!(answer.json()["error"]["message"], "2 | 2 | 0 | 0 | 0", "{hook}: out of scope is not there");
    }
    other.kill().await;
    until("the second backend leaves the rotation", async || asking.ask("admit", "candidates llama3").await == "1")
        .await;
}

#[tokio::test]
async fn models_and_backends_are_described() {
    let asking = Asking::start().await;
    let questions = "size-bytes llama3 | size-bytes nobody | parameters LLAMA3 | parameters nobody \
                     | backend-name 0 | backend-name 1 | backend-name 4294967295";
    for hook in ["authenticate", "admit", "route"] {
        let told = asking.ask(hook, questions).await;
        assert_eq!(told, "4000000000 | none | 8000000000 | none | gpu-1 | none | none", "{hook}");
    }
}

#[tokio::test]
async fn policies_are_told_each_limit_of_key_user_and_model() {
    let asking = Asking::start_with(|builder| {
        let user = vec![
            overall(LimitName::TokensPerDay, 50_000_000),
            overall(LimitName::Concurrent, 6),
            of_model("llama3:latest", LimitName::Concurrent, 5),
        ];
        builder
            .set("limits.requests_per_minute = 44\nlimits.concurrent = 9\nlimits.tokens_per_month = 77000000")
            .user("ann", user)
            .with_key(|key| {
                key.user = Some("ann".to_owned());
                key.limits.push(overall(LimitName::RequestsPerMinute, 7));
                key.limits.push(of_model("llama3:latest", LimitName::TokensPerMinute, 1_000_000));
                key.limits.push(of_model("hf.co/bob/m:q4", LimitName::TokensPerMonth, 8));
            })
    })
    .await;
    let one_by_one = "limit key requests-per-minute | limit key tokens-per-minute | limit key concurrent \
                      | limit key tokens-per-day | limit key tokens-per-month | limit user requests-per-minute \
                      | limit user concurrent | limit user tokens-per-day | limit user tokens-per-month \
                      | limit key tokens-per-minute llama3:latest | limit key tokens-per-minute LLaMA3 \
                      | limit key requests-per-minute llama3:latest | limit user concurrent llama3 \
                      | limit user concurrent qwen3:8b | limit key tokens-per-month HF.co/bob/m:Q4 \
                      | limit key concurrent a@b | limit user tokens-per-day llama3";
    let told_one_by_one = "7 | none | none | none | 77000000 | none | 6 | 50000000 | none | 1000000 | 1000000 | none | 5 | none | 8 | none | none";
    let of_others = "Holder::Key LimitName::RequestsPerMinute 7, Holder::Key LimitName::TokensPerMonth 77000000, \
                   Holder::User LimitName::Concurrent 6, Holder::User LimitName::TokensPerDay 50000000";
    let of_llama = "Holder::Key LimitName::RequestsPerMinute 7, Holder::Key LimitName::TokensPerMinute 1000000*, \
                    Holder::Key LimitName::TokensPerMonth 77000000, Holder::User LimitName::Concurrent 5*, \
                    Holder::User LimitName::Concurrent 6, Holder::User LimitName::TokensPerDay 50000000";
    for hook in ["admit", "route"] {
        assert_eq!(asking.ask(hook, one_by_one).await, told_one_by_one, "{hook}");
        for (model, all) in
            [("llama3:latest", of_llama), ("LLaMA3", of_llama), ("qwen3:8b", of_others), ("a@b", of_others)]
        {
            assert_eq!(asking.ask(hook, &format!("limits {model}")).await, all, "{model} at {hook}");
        }
        assert_eq!(asking.ask(hook, "limits ").await, of_others, "a call without a model");
    }
}

#[tokio::test]
async fn a_key_without_limits_is_told_the_default_and_another_name_is_a_fault() {
    let asking = Asking::start_with(|builder| builder.set("limits.requests_per_minute = 44")).await;
    let told = asking.ask("admit", "limits llama3:latest | limit key requests-per-minute | limit key concurrent").await;
    assert_eq!(told, "Holder::Key LimitName::RequestsPerMinute 44 | 44 | none");
    let answer = Answer::of(asking.call("admit", "limit key requests-per-hour").send().await.unwrap()).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "policy_fault"), "{answer:?}");
}

#[tokio::test]
async fn attributes_are_those_of_the_key() {
    let groups = ("groups".to_owned(), vec!["staff".to_owned(), "night shift".to_owned()]);
    let asking = Asking::start_with(|builder| builder.with_key(|key| key.attributes = vec![groups])).await;
    for hook in ["admit", "route"] {
        let told = asking.ask(hook, "attribute groups | attribute Groups | attribute none").await;
        assert_eq!(told, "staff+night shift |  | ", "{hook}");
    }
}

#[tokio::test]
async fn verify_tells_of_a_proven_key_only() {
    let (mut ended, mut off) = (String::new(), String::new());
    let asking = Asking::start_with(|mut builder| {
        ended = builder.add_key("ended", |key| key.expires_at_ms = Some(key.created_at_ms));
        off = builder.add_key("off", |key| key.user = Some("ann".to_owned()));
        builder
    })
    .await;
    let gate = &asking.gate;
    let verify = async |credential: Option<&str>| {
        let request = gate.client().get(gate.url("/v1/models")).header("x-ask-at", "authenticate");
        let request = request.header("x-ask", "verify");
        told(match credential {
            Some(text) => request.bearer_auth(text),
            None => request,
        })
        .await
    };
    let record = |key: &str, user: &str, standing: &str, end: &str| {
        let id = &key[3..13];
        format!("Key {{ id: \"{id}\", user: {user}, standing: Standing::{standing}, expires-at-ms: {end} }}")
    };
    let start = crate::support::proxy::START_UNIX_MS;
    assert_eq!(verify(Some(gate.key())).await, record(gate.key(), "None", "Active", "None"));
    assert_eq!(verify(Some(&ended)).await, record(&ended, "None", "Expired", &format!("Some({start})")));

    gate.set_key_state(&off[3..13], KeyState::Disabled).await;
    let disabled = record(&off, "Some(\"ann\")", "Disabled", "None");
    until("the key is disabled", async || verify(Some(&off)).await == disabled).await;
    gate.set_key_state(&off[3..13], KeyState::Revoked).await;
    let revoked = record(&off, "Some(\"ann\")", "Revoked", "None");
    until("the key is revoked", async || verify(Some(&off)).await == revoked).await;

    // Another key's secret behind this id, a digit too few, something else, nothing.
    let mixed = format!("{}{}", &gate.key()[..14], &off[14..]);
    for unproven in [Some(mixed.as_str()), Some(&gate.key()[..60]), Some("sk-something"), None] {
        assert_eq!(verify(unproven).await, "none", "{unproven:?}");
    }
}
