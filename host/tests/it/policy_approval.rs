//! With `policies.approve = "new-capabilities"`, a policy that can do more than was approved waits until it is.

use std::{fs, path::Path};

use http::Method;
use serde_json::json;

use crate::support::{
    LlmServer, Log, TestProxy,
    binary::{Outcome, run},
    guest,
    proxy::Builder,
    until,
};

const CHAT: &str = "/v1/chat/completions";

/// A router that picks this backend, and can do more: it keeps values, or keeps values and reads requests.
fn picking(id: u32, more: usize) -> Vec<u8> {
    let imports = [
        r#"(import "tollgate:policy/state@0.1.0" "put" (func (param i32 i32 i32 i32 i32)))"#,
        r#"(import "tollgate:policy/request@0.1.0" "peer" (func (param i32)))"#,
    ];
    let hook = format!(
        r#"(func (export "tollgate:policy/route@0.1.0#choose")
        (param i32 i32 i32 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
        (i32.store8 (i32.const 2048) (i32.const 0)) (i32.store (i32.const 2052) (i32.const {id})) (i32.const 2048))"#
    );
    let imports: String = imports[..more].concat();
    guest::component("router", &guest::module_that(&imports, "(i32.const 1024)", &hook))
}

async fn servers() -> [LlmServer; 2] {
    [LlmServer::start("gpu-1", &["llama3:latest"]).await, LlmServer::start("gpu-2", &["llama3:latest"]).await]
}

fn asking(servers: &[LlmServer; 2]) -> Builder {
    let builder = servers.iter().fold(TestProxy::builder(), Builder::backend).policy_folder();
    builder.set("limits.requests_per_minute = 1000000").set("policies.approve = \"new-capabilities\"")
}

/// Whether calls in a row are all served by this backend: in turn they never would be.
async fn goes_to(gate: &TestProxy, backend: &str) -> bool {
    let chat = async || gate.post(CHAT, &json!({ "model": "llama3", "messages": [] })).await;
    chat().await.backend() == Some(backend) && chat().await.backend() == Some(backend)
}

fn approve(gate: &TestProxy, more: &[&str]) -> Outcome {
    let sets = [
        format!("admin.listen={}", gate.admin_address()),
        "policies.folder=policies.d".to_owned(),
        "policies.approve=new-capabilities".to_owned(),
    ];
    let mut arguments = vec!["policies", "approve", "own"];
    arguments.extend(more);
    sets.iter().for_each(|set| arguments.extend(["--set", set]));
    run(gate.folder(), &arguments)
}

fn approved(gate: &TestProxy) -> Vec<String> {
    let names = |folder: &Path| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> =
        names(&gate.folder().join("state/approved")).map(|name| name.to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_asks_for_more_waits_and_the_command_line_lets_it_in() {
    let (log, servers) = (Log::listen(), servers().await);
    let gate = asking(&servers).policy("own", &picking(0, 0)).start().await;
    assert!(goes_to(&gate, "gpu-1").await, "what can do nothing needs no approval");

    gate.put_policy("own", &picking(1, 1));
    log.says(&["waits for approval, for it keeps values between calls", "tollgate policies approve own", "approval"])
        .await;
    log.says(&["policy 'own' is not used", "a gate doesn't start while it waits"]).await;
    assert!(goes_to(&gate, "gpu-1").await, "the version before it serves");
    until("the list", async || gate.policy_status("own").await["last_failure"]["step"] == "approval").await;
    let failures = "tollgate_policy_load_failures_total{policy=\"own\",step=\"approval\"}";
    gate.until_metric(failures, 1.0).await;

    let wrong = approve(&gate, &["--if-version", "sha256:00"]);
    assert!(wrong.code == Some(1) && wrong.stderr.contains("look at it again"), "{wrong:?}");
    let yes = approve(&gate, &[]);
    assert!(yes.code == Some(0) && yes.stdout.contains("own may: keeps values between calls"), "{yes:?}");
    assert_eq!(approved(&gate), ["own.state"]);
    assert!(goes_to(&gate, "gpu-2").await, "it is in force when the command ends");
    assert_eq!(gate.policy_status("own").await["capabilities"], json!(["state"]));
    assert_eq!(gate.metric("tollgate_policy_capability{policy=\"own\",capability=\"state\"}").await, 1.0);

    // What was approved stays so, also for another version; what comes on top waits, also after a restart.
    gate.put_policy("own", &picking(0, 1));
    until("the next version", async || goes_to(&gate, "gpu-1").await).await;
    gate.put_policy("own", &picking(1, 2));
    log.says(&["waits for approval, for it reads requests:"]).await;
    assert!(goes_to(&gate, "gpu-1").await);
    gate.put_policy("own", &picking(1, 1));
    until("less", async || goes_to(&gate, "gpu-2").await).await;
    let gate = gate.restart().await;
    assert!(goes_to(&gate, "gpu-2").await, "the approval outlives the gate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_wants_approval_too_which_can_be_given_before_it() {
    let servers = servers().await;
    let gate = asking(&servers).start().await;
    gate.put_policy("own", &picking(1, 2));
    let waits = async || gate.policy_status("own").await["complaint"].to_string().contains("waits for approval");
    until("the complaint", waits).await;
    let sets = ["policies.folder=policies.d", "policies.approve=new-capabilities"];
    let check = || run(gate.folder(), &["check", "--set", sets[0], "--set", sets[1]]);
    let refused = check();
    assert!(refused.code == Some(78) && refused.stderr.contains("tollgate policies approve own"), "{refused:?}");
    let nobody = run(
        gate.folder(),
        &["policies", "approve", "own", "--set", sets[0], "--set", sets[1], "--set", "admin.listen=127.0.0.1:1"],
    );
    assert!(nobody.code == Some(0) && nobody.stderr.contains("the gate's next start"), "{nobody:?}");
    assert_eq!(approved(&gate), ["own.request", "own.state"]);
    assert_eq!(check().code, Some(0));
    let gate = gate.restart().await;
    assert!(goes_to(&gate, "gpu-2").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_in_the_place_of_a_built_in_may_do_what_that_one_does() {
    let (log, servers) = (Log::listen(), servers().await);
    let gate = asking(&servers).start().await;
    let built_in = gate.policy_status("round-robin").await;
    assert!(built_in["capabilities"].as_array().unwrap().contains(&json!("state")), "it keeps values too: {built_in}");
    gate.put_policy("round-robin", &picking(1, 1));
    until("the replacement", async || goes_to(&gate, "gpu-2").await).await;
    gate.put_policy("own", &picking(1, 1));
    log.says(&["policy 'own' is not used", "waits for approval, for it keeps values between calls:"]).await;
    gate.put_policy("round-robin", &picking(0, 2));
    log.says(&["policy 'round-robin' is not used", "waits for approval, for it reads requests:"]).await;
    assert!(goes_to(&gate, "gpu-2").await);
    assert!(!gate.folder().join("state/approved").exists(), "nobody approved anything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_that_was_withdrawn_keeps_the_next_start_from_using_the_policy() {
    let servers = servers().await;
    let gate = asking(&servers).start().await;
    gate.put_policy("own", &picking(1, 1));
    let approving = approve(&gate, &[]);
    assert_eq!(approving.code, Some(0), "{approving:?}");
    assert!(goes_to(&gate, "gpu-2").await, "what is said to be in force is");
    fs::remove_file(gate.folder().join("state/approved/own.state")).unwrap();
    assert_eq!(gate.api(Method::POST, "/api/v1/policies/reload").await.status, 200);
    assert!(goes_to(&gate, "gpu-2").await, "what serves goes on");
    let refused = gate.restart_fails().await;
    assert!(refused.contains("policy 'own' is not used: it waits for approval"), "{refused}");
    assert!(refused.contains("tollgate policies approve own"), "{refused}");
}
