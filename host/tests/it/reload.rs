//! The policy folder, followed while the gate serves: what is put there is in force soon, and no call is lost by it.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{sync::Notify, task::JoinSet, time::timeout};

use crate::support::{Answer, LlmServer, Log, Script, TestProxy, guest, proxy::Builder, until};

const CHAT: &str = "/v1/chat/completions";

/// What is put into the folder is in force within this time.
const SOON: Duration = Duration::from_secs(2);

/// Two servers with the same model; the ids 0 and 1.
struct Bench {
    gpu_1: LlmServer,
    _gpu_2: LlmServer,
    gate: TestProxy,
}

impl Bench {
    async fn start(more: impl FnOnce(Builder) -> Builder) -> Self {
        let gpu_1 = LlmServer::start("gpu-1", &["llama3:latest"]).await;
        let gpu_2 = LlmServer::start("gpu-2", &["llama3:latest"]).await;
        let builder = TestProxy::builder().backend(&gpu_1).backend(&gpu_2).policy_folder();
        let builder = builder.set("limits.requests_per_minute = 1000000");
        let gate = more(builder).start().await;
        Self { gpu_1, _gpu_2: gpu_2, gate }
    }

    async fn chat(&self) -> Answer {
        self.gate.post(CHAT, &json!({ "model": "llama3", "messages": [] })).await
    }

    /// Whether so many calls in a row are all served by this backend: in turn they never would be.
    async fn goes_to(&self, backend: &str) -> bool {
        for _ in 0..10 {
            if self.chat().await.backend() != Some(backend) {
                return false;
            }
        }
        true
    }

    async fn alternates(&self) -> bool {
        let (one, other) = (self.chat().await, self.chat().await);
        one.backend() != other.backend()
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.gate.policies().join(format!("{name}.wasm"))).unwrap();
    }

    async fn takes_turns_again(&self) {
        // With other callers about, two calls after each other go to both servers sooner or later.
        until("the built-in policy decides again", async || self.alternates().await).await;
    }

    /// Puts a policy into the folder: calls go to this backend within two seconds. Where other work holds up the
    /// machine it is tried again.
    async fn in_force_soon(&self, name: &str, component: &[u8], backend: &str) {
        for version in 1..=5 {
            self.gate.put_policy(name, &guest::padded(component, version));
            let what = format!("'{name}' sends calls to {backend}");
            if timeout(SOON, until(&what, async || self.goes_to(backend).await)).await.is_ok() {
                return;
            }
            self.remove(name);
            self.takes_turns_again().await;
        }
        panic!("'{name}' was never in force within two seconds");
    }
}

/// Callers who call all the time.
struct Load {
    log: Log,
    stop: Arc<AtomicBool>,
    callers: JoinSet<(usize, Vec<String>)>,
}

impl Load {
    fn on(gate: &TestProxy) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut callers = JoinSet::new();
        for _ in 0..4 {
            let (stop, client, url) = (Arc::clone(&stop), gate.client().clone(), gate.url(CHAT));
            let key = gate.key().to_owned();
            callers.spawn(async move {
                let (mut served, mut lost) = (0, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    let body = json!({ "model": "llama3", "messages": [] }).to_string();
                    match client.post(&url).bearer_auth(&key).body(body).send().await {
                        Ok(response) => {
                            let answer = Answer::of(response).await;
                            if answer.status == 200 { served += 1 } else { lost.push(format!("{answer:?}")) }
                        }
                        Err(error) => lost.push(format!("{error:?}")),
                    }
                }
                (served, lost)
            });
        }
        Self { log: Log::listen(), stop, callers }
    }

    /// Not one call was lost.
    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for (served, lost) in self.callers.join_all().await {
            assert!(
                served > 0 && lost.is_empty(),
                "{served} calls were served; lost: {lost:#?}; {:#?}",
                self.log.lines_with(&["policy_fault"])
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_put_into_the_folder_changes_the_routing_within_two_seconds_and_loses_no_call() {
    let bench = Bench::start(|builder| builder).await;
    let load = Load::on(&bench.gate);
    bench.in_force_soon("chooser", &guest::picking(1), "gpu-2").await;
    bench.in_force_soon("chooser", &guest::picking(0), "gpu-1").await;
    bench.remove("chooser");
    bench.takes_turns_again().await;
    load.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_replaces_the_built_in_of_its_name_and_its_end_brings_that_back() {
    let bench = Bench::start(|builder| builder).await;
    let load = Load::on(&bench.gate);
    for _ in 0..2 {
        bench.in_force_soon("round-robin", &guest::picking(1), "gpu-2").await;
        bench.remove("round-robin");
        bench.takes_turns_again().await;
    }
    load.end().await;
    // The gallery's in its place: of two idle backends always the first.
    bench.in_force_soon("round-robin", &guest::gallery("least-busy"), "gpu-1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_reloads_lose_no_call() {
    let (log, bench) = (Log::listen(), Bench::start(|builder| builder).await);
    let load = Load::on(&bench.gate);
    for version in 1..=50 {
        let component = guest::padded(&guest::picking(version % 2), version);
        bench.gate.put_policy("fifty-times", &component);
        let loaded = || log.lines_with(&["the policy is in force", "\"fifty-times\""]).len();
        until("the next version", async || loaded() == usize::try_from(version).unwrap()).await;
    }
    load.end().await;
    until("the last version", async || bench.goes_to("gpu-1").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_file_changes_nothing_and_the_log_says_why() {
    let (log, bench) =
        (Log::listen(), Bench::start(|builder| builder.policy("often-broken", &guest::picking(1))).await);
    let good = guest::picking(0);
    let unknown_import = wat::parse_str(r#"(component (import "made:up/thing@1.0.0" (instance)))"#).unwrap();
    let files = wat::parse_str(r#"(component (import "wasi:filesystem/types@0.2.6" (instance)))"#).unwrap();
    let native = wasmtime::Engine::default().precompile_component(&good).unwrap();
    let noise: Vec<u8> = (0..10_000_u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let core_module = wat::parse_str("(module)").unwrap();
    let nothing = wat::parse_str("(component)").unwrap();
    let load = Load::on(&bench.gate);
    for (bytes, reason) in [
        (&noise[..], "it is no WebAssembly component: its first bytes are not those of Wasm"),
        (&good[..good.len() / 2], "it is no WebAssembly component"),
        (&[], "it is no WebAssembly component"),
        (&core_module, "it is a core module, not a component"),
        (&native, "it is precompiled (.cwasm)"),
        (&unknown_import, "it imports `made:up/thing@1.0.0`, which the gate doesn't link"),
        (&files, "it imports `wasi:filesystem/types@0.2.6`, which the gate doesn't link"),
        (&nothing, "it exports no hook"),
    ] {
        bench.gate.put_policy("often-broken", bytes);
        log.says(&["policy 'often-broken' is not used", reason, "the version before it goes on serving"]).await;
        assert!(bench.goes_to("gpu-2").await, "{reason}");
    }
    // A file that was never good is no policy, and keeps none from being followed.
    bench.gate.put_policy("never-good", &noise);
    log.says(&["policy 'never-good' is not used"]).await;
    bench.gate.put_policy("often-broken", &good);
    until("the good one", async || bench.goes_to("gpu-1").await).await;
    load.end().await;
    let complaints = log.lines_with(&["policy 'never-good' is not used"]).len();
    assert_eq!(complaints, 1, "what stays broken is said once");
}

#[tokio::test]
async fn a_policy_in_the_place_of_a_built_in_must_decide_what_that_decided() {
    let (log, bench) = (Log::listen(), Bench::start(|builder| builder.policy_folder()).await);
    bench.gate.put_policy("api-key", &guest::picking(0));
    log.says(&["policy 'api-key' is not used", "must export the hook `authenticate`"]).await;
    assert_eq!(
        bench.gate.post_as("op_wrong", "/api/chat", &serde_json::json!({ "model": "llama3" })).await.status,
        401
    );
}

#[tokio::test]
async fn a_policy_that_authenticates_serves_on_when_its_file_is_gone() {
    let log = Log::listen();
    let closed = guest::authenticator(&guest::rejection(1, b"closed", b"nobody comes in"));
    let bench = Bench::start(|builder| builder.policy("gone-doorman", &closed)).await;
    assert_eq!(bench.chat().await.code(), "closed");
    bench.remove("gone-doorman");
    log.says(&["the file of policy 'gone-doorman' is gone", "serves on until the gate is restarted"]).await;
    assert_eq!(bench.chat().await.code(), "closed", "without it more callers would pass");
    // Others come and go as before.
    bench.gate.put_policy("api-key", &guest::padded(&closed, 1));
    log.says(&["the policy is in force", "\"api-key\""]).await;
    assert_eq!(bench.chat().await.code(), "closed");
}

#[tokio::test]
async fn joining_policies_are_asked_by_name_before_the_built_in_ones() {
    let rejecting = |code: &str| guest::admitter(&guest::rejection(1, code.as_bytes(), b"no"));
    // `allow` with the subject `x`.
    let lets_in = guest::authenticator(
        "(i32.store8 (i32.const 2048) (i32.const 0)) (i32.store8 (i32.const 3000) (i32.const 120))
         (i32.store (i32.const 2052) (i32.const 3000)) (i32.store (i32.const 2056) (i32.const 1))
         (i32.store8 (i32.const 2060) (i32.const 0)) (i32.const 2048)",
    );
    let bench = Bench::start(|builder| {
        let builder = builder.policy("m-second", &rejecting("second")).policy("zz-lets-in", &lets_in);
        builder.policy("zz-chooser", &guest::picking(1))
    })
    .await;
    let (log, gate) = (Log::listen(), &bench.gate);
    let keyless = async || {
        let body = json!({ "model": "llama3", "messages": [] }).to_string();
        Answer::of(gate.client().post(gate.url(CHAT)).body(body).send().await.unwrap()).await
    };
    assert_eq!(keyless().await.code(), "second", "the policy that joins is asked before `api-key`");
    gate.put_policy("n-third", &rejecting("third"));
    log.says(&["the policy is in force", "\"n-third\""]).await;
    gate.put_policy("b-first", &rejecting("first"));
    until("the first", async || keyless().await.code() == "first").await;
    for (name, next) in [("b-first", "second"), ("m-second", "third")] {
        bench.remove(name);
        until(next, async || keyless().await.code() == next).await;
    }
    bench.remove("n-third");
    until("nobody rejects", async || keyless().await.status == 200).await;
    assert!(bench.goes_to("gpu-2").await, "the policy that joins is asked before `round-robin`");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_of_a_megabyte_is_in_force_within_two_seconds() {
    let bench = Bench::start(|builder| builder).await;
    let big = guest::padded(&guest::gallery("least-busy"), 1 << 20);
    bench.in_force_soon("round-robin", &big, "gpu-1").await;
}

#[tokio::test]
async fn a_stream_that_runs_over_a_reload_ends_well() {
    let bench = Bench::start(|builder| builder.policy("chooser", &guest::picking(0))).await;
    let go_on = Arc::new(Notify::new());
    let script = Script::ndjson().chunk("{\"response\":\"one\"}\n").wait(&go_on);
    bench.gpu_1.script(script.chunk("{\"response\":\"two\",\"done\":true}\n").end());
    let request = bench.gate.request(http::Method::POST, "/api/generate").body(r#"{"model":"llama3"}"#);
    let mut stream = request.send().await.unwrap();
    assert_eq!(stream.chunk().await.unwrap().unwrap(), "{\"response\":\"one\"}\n");

    bench.gate.put_policy("chooser", &guest::picking(1));
    until("the new version", async || bench.goes_to("gpu-2").await).await;
    bench.remove("chooser");
    until("turns", async || bench.alternates().await).await;

    go_on.notify_one();
    assert_eq!(stream.chunk().await.unwrap().unwrap(), "{\"response\":\"two\",\"done\":true}\n");
    assert_eq!(stream.chunk().await.unwrap(), None);
}

#[tokio::test]
async fn a_file_that_is_written_slowly_is_taken_when_it_is_whole() {
    let bench = Bench::start(|builder| builder).await;
    let component = guest::picking(1);
    let file = bench.gate.policies().join("slowly-written.wasm");
    let (first, rest) = component.split_at(component.len() / 2);
    fs::write(&file, first).unwrap();
    assert_eq!(bench.chat().await.status, 200);
    let mut whole = first.to_vec();
    whole.extend(rest);
    fs::write(&file, whole).unwrap();
    until("the policy", async || bench.goes_to("gpu-2").await).await;
}

#[tokio::test]
async fn a_folder_that_is_swapped_as_a_whole_is_followed() {
    let bench = Bench::start(|builder| builder.policy("chooser", &guest::picking(1))).await;
    assert!(bench.goes_to("gpu-2").await);
    let (folder, next) = (bench.gate.policies(), bench.gate.folder().join("next"));
    fs::create_dir(&next).unwrap();
    fs::write(next.join("chooser.wasm"), guest::picking(0)).unwrap();
    fs::rename(&folder, bench.gate.folder().join("previous")).unwrap();
    fs::rename(&next, &folder).unwrap();
    until("the new folder", async || bench.goes_to("gpu-1").await).await;
    // The new folder is watched as the old one was: without an event it would be looked at after ten seconds.
    bench.remove("chooser");
    timeout(Duration::from_secs(5), bench.takes_turns_again()).await.expect("the change is followed");
}
