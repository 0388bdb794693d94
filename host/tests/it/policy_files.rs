//! The policy folder as people and orchestrators handle it: links, swaps, removal, and files that may not be used.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use http::Method;
use serde_json::json;

use crate::support::{Log, TwoServers, guest, soon, until};

/// Replaces a link in one step.
fn point(link: &Path, target: &str) {
    let next = link.with_file_name(".next");
    symlink(target, &next).unwrap();
    fs::rename(next, link).unwrap();
}

#[tokio::test]
async fn a_mounted_folder_whose_data_link_is_swapped_is_followed() {
    let bench = TwoServers::start(|builder| builder).await;
    let folder = bench.gate.policies();
    // As Kubernetes writes it: files are links to `..data/FILE`, and `..data` a link to the version's folder.
    let version = |name: &str, policy: &[u8]| {
        fs::create_dir(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("mounted.wasm"), policy).unwrap();
    };
    version("..2026_one", &guest::picking(1));
    point(&folder.join("..data"), "..2026_one");
    symlink("..data/mounted.wasm", folder.join("mounted.wasm")).unwrap();
    bench.until_it_goes_to("gpu-2").await;
    version("..2026_two", &guest::picking(0));
    point(&folder.join("..data"), "..2026_two");
    bench.until_it_goes_to("gpu-1").await;
}

#[tokio::test]
async fn a_link_to_another_file_is_another_version() {
    let bench = TwoServers::start(|builder| builder).await;
    let (folder, shelf) = (bench.gate.policies(), bench.gate.folder().join("shelf"));
    fs::create_dir(&shelf).unwrap();
    fs::write(shelf.join("one"), guest::picking(1)).unwrap();
    fs::write(shelf.join("two"), guest::picking(0)).unwrap();
    point(&folder.join("linked.wasm"), shelf.join("one").to_str().unwrap());
    bench.until_it_goes_to("gpu-2").await;
    point(&folder.join("linked.wasm"), shelf.join("two").to_str().unwrap());
    bench.until_it_goes_to("gpu-1").await;
}

#[tokio::test]
async fn a_folder_that_is_gone_changes_nothing_and_is_followed_when_it_is_back() {
    let log = Log::listen();
    let bench = TwoServers::start(|builder| builder.policy("lasting", &guest::picking(1))).await;
    let folder = bench.gate.policies();
    let away = bench.gate.folder().join("away");
    fs::rename(&folder, &away).unwrap();
    log.says(&["the policy folder", folder.to_str().unwrap(), "can't be read"]).await;
    assert!(bench.goes_to("gpu-2").await);
    fs::write(away.join("lasting.wasm"), guest::picking(0)).unwrap();
    fs::rename(&away, &folder).unwrap();
    bench.until_it_goes_to("gpu-1").await;
    let list = async || bench.gate.api(Method::GET, "/api/v1/policies").await.json();
    until("the end of the complaint", async || list().await["complaint"].is_null()).await;
}

#[tokio::test]
async fn what_may_not_be_used_is_told_and_the_old_version_serves() {
    let log = Log::listen();
    let bench = TwoServers::start(|builder| builder.policy("guarded", &guest::picking(1))).await;
    let file = bench.gate.policies().join("guarded.wasm");
    let says = async |reason: &str, step: &str| {
        log.says(&["policy 'guarded' is not used", reason, "the version before it goes on serving"]).await;
        assert!(bench.goes_to("gpu-2").await, "{reason}");
        until("its step", async || bench.gate.policy_status("guarded").await["last_failure"]["step"] == step).await;
    };
    let good = guest::picking(0);

    bench.gate.put_policy("guarded", &good[..100]);
    says("it is no WebAssembly component", "compile").await;

    let huge = bench.gate.policies().join(".guarded.huge");
    fs::File::create(&huge).unwrap().set_len(1 << 30).unwrap();
    fs::rename(&huge, &file).unwrap();
    says("has 1073741824 bytes; at most 67108864 are taken", "file").await;

    bench.gate.put_policy("guarded", &wat::parse_str("(module)").unwrap());
    says("it is a core module, not a component", "format").await;

    let other = replaced(&good, b"@0.1.0", b"@0.2.0");
    bench.gate.put_policy("guarded", &other);
    says("it was built for another version of the interface", "version").await;

    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    says("is no regular file", "file").await;
    fs::remove_dir(&file).unwrap();

    let native = bench.gate.policies().join("guarded.cwasm");
    fs::write(&file, &good).unwrap();
    fs::write(&native, "x").unwrap();
    says("guarded.cwasm is compiled code, which is never taken", "file").await;
    fs::remove_file(&native).unwrap();
    bench.until_it_goes_to("gpu-1").await;
}

#[tokio::test]
async fn what_others_could_have_written_is_refused() {
    let log = Log::listen();
    let bench = TwoServers::start(|builder| builder.policy("exposed", &guest::picking(1))).await;
    let next = bench.gate.policies().join(".exposed.next");
    let put = |mode: u32, owner: Option<u32>| {
        fs::write(&next, guest::picking(0)).unwrap();
        fs::set_permissions(&next, fs::Permissions::from_mode(mode)).unwrap();
        // Only root can give a file away: elsewhere that part proves nothing.
        let is_given = owner.is_none_or(|owner| chown(&next, Some(owner), None).is_ok());
        fs::rename(&next, bench.gate.policies().join("exposed.wasm")).unwrap();
        is_given
    };
    for mode in [0o646, 0o664] {
        put(mode, None);
        log.says(&["policy 'exposed' is not used", "other users can write", "chmod go-w"]).await;
        assert!(bench.goes_to("gpu-2").await, "{mode:o}");
    }
    if put(0o644, Some(4_242)) {
        log.says(&["policy 'exposed' is not used", "belongs to the user with the id 4242"]).await;
        assert!(bench.goes_to("gpu-2").await);
    }
    put(0o644, None);
    bench.until_it_goes_to("gpu-1").await;
}

#[tokio::test]
async fn the_second_name_of_a_file_is_no_second_policy() {
    let log = Log::listen();
    let bench = TwoServers::start(|builder| builder.policy("m-first-name", &guest::picking(1))).await;
    let at = |name: &str| bench.gate.policies().join(format!("{name}.wasm"));
    // Before the other by name: the one in force keeps the file.
    fs::hard_link(at("m-first-name"), at("a-second-name")).unwrap();
    log.says(&["policy 'a-second-name' is not used", "it is the same file as that of policy 'm-first-name'"]).await;
    fs::remove_file(at("m-first-name")).unwrap();
    until("the second name", async || bench.gate.policy_status("a-second-name").await["state"] == "in-force").await;
    bench.until_it_goes_to("gpu-2").await;
}

/// Writes a component without end, as it seems; whenever that ends, it is whole.
struct Writer {
    thread: thread::JoinHandle<()>,
    is_over: Arc<AtomicBool>,
}

impl Writer {
    async fn of(file: PathBuf, component: &[u8]) -> Self {
        let (writing, is_over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        // So large that reading it takes longer than until the next change.
        let component = guest::padded(component, 32 << 20);
        let thread = thread::spawn({
            let (writing, is_over) = (Arc::clone(&writing), Arc::clone(&is_over));
            move || {
                fs::write(&file, component).unwrap();
                let file = fs::File::options().write(true).open(&file).unwrap();
                for time in (1..).map(Duration::from_nanos).take_while(|_| !is_over.load(Ordering::Relaxed)) {
                    file.set_modified(SystemTime::UNIX_EPOCH + time).unwrap();
                    writing.store(true, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        until("the writing", async || writing.load(Ordering::Relaxed)).await;
        Self { thread, is_over }
    }

    fn ends(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

#[tokio::test]
async fn a_gate_does_not_start_without_a_policy_that_is_being_written() {
    let bench = TwoServers::start(|builder| builder.policy("growing", &guest::picking(1))).await;
    let writer = Writer::of(bench.gate.policies().join("growing.wasm"), &guest::picking(0)).await;
    let refused = bench.gate.restart_fails().await;
    assert!(
        refused.contains("the files of policy 'growing' change while they are read: start the gate once"),
        "{refused}"
    );
    writer.ends();
}

#[tokio::test]
async fn a_file_that_was_replaced_by_the_same_bytes_leaves_its_number_to_others() {
    let bench = TwoServers::start(|builder| builder.policy("m-copied", &guest::picking(1))).await;
    let at = |name: &str| bench.gate.policies().join(name);
    fs::rename(at("m-copied.wasm"), at("aside")).unwrap();
    bench.gate.put_policy("m-copied", &guest::picking(1));
    assert_eq!(bench.gate.api(Method::POST, "/api/v1/policies/reload").await.status, 200);
    for other in ["a-other.wasm", "z-other.wasm"] {
        fs::rename(at("aside"), at(other)).unwrap();
        let reloaded = bench.gate.api(Method::POST, "/api/v1/policies/reload").await;
        assert_eq!((reloaded.status, &reloaded.json()["complaints"]), (200, &json!([])), "{other}: {reloaded:?}");
        fs::rename(at(other), at("aside")).unwrap();
    }
}

#[tokio::test]
async fn a_reload_does_not_say_of_a_file_that_is_being_written_that_all_is_well() {
    let bench = TwoServers::start(|builder| builder.policy("growing", &guest::picking(1))).await;
    let reload = async || bench.gate.api(Method::POST, "/api/v1/policies/reload").await;
    let file = bench.gate.policies().join("growing.wasm");
    let writer = Writer::of(file, &guest::picking(0)).await;
    let said = soon("a look at it as it is written", async {
        loop {
            let said = reload().await;
            if said.status != 200 {
                return said;
            }
            // The writer had to wait for a processor, and what lay there then was taken.
            assert_eq!(bench.gate.policy_status("growing").await["state"], "in-force");
        }
    });
    let said = said.await;
    let complaint = said.json()["complaints"][0].clone();
    assert_eq!((said.status, &complaint["policy"]), (422, &json!("growing")), "{said:?}");
    assert!(complaint["complaint"].as_str().unwrap().contains("change while they are read"), "{said:?}");
    writer.ends();
    assert_eq!(reload().await.status, 200);
    assert!(bench.goes_to("gpu-1").await, "what is said to be in force is");
}

#[tokio::test]
async fn the_same_bytes_written_again_are_no_other_version() {
    let log = Log::listen();
    let bench = TwoServers::start(|builder| builder.policy("written-again", &guest::picking(1))).await;
    let list = async || bench.gate.api(Method::GET, "/api/v1/policies").await.json();
    let before = list().await;
    // In place, and by another file of the same content: both are looked at when a reload is answered.
    fs::write(bench.gate.policies().join("written-again.wasm"), guest::picking(1)).unwrap();
    bench.gate.put_policy("written-again", &guest::picking(1));
    let reloaded = bench.gate.api(Method::POST, "/api/v1/policies/reload").await;
    assert_eq!((reloaded.status, &reloaded.json()["changes"]), (200, &json!([])), "{reloaded:?}");
    assert_eq!(list().await, before, "neither its generation nor since when it serves is another");
    assert_eq!(log.lines_with(&["the policy is in force", "\"written-again\""]).len(), 1);
    assert!(bench.goes_to("gpu-2").await);
}

/// The bytes with one text for another of the same length, wherever it stands.
fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut replaced = bytes.to_vec();
    for at in 0..=bytes.len() - old.len() {
        if bytes[at..].starts_with(old) {
            replaced[at..at + new.len()].copy_from_slice(new);
        }
    }
    replaced
}

/// Every file below a folder that isn't a list of numbers beside another.
fn code_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let below = entries.flat_map(|path| if path.is_dir() { code_below(&path) } else { vec![path] });
    below.filter(|path| path.extension().is_none()).collect()
}

#[tokio::test]
async fn compiled_code_is_kept_and_what_is_broken_or_open_to_others_is_made_anew() {
    let log = Log::listen();
    let mut bench = TwoServers::start(|builder| builder.policy("kept-code", &guest::picking(1))).await;
    let cache = bench.gate.folder().join("state/compiled");
    assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
    let loaded = |code: &str| log.lines_with(&["the policy is in force", "\"kept-code\"", code]).len();
    bench.gate = bench.gate.restart().await;
    assert_eq!(loaded(r#""code":"cached""#), 1);

    let code = code_below(&cache);
    assert!(code.len() >= 4, "{code:?}");
    for (at, file) in code.iter().enumerate() {
        let bytes = fs::read(file).unwrap();
        let broken = if at % 2 == 0 { bytes[..bytes.len() / 2].to_vec() } else { vec![0x5a; bytes.len()] };
        fs::write(file, broken).unwrap();
    }
    bench.gate = bench.gate.restart().await;
    assert!(bench.goes_to("gpu-2").await);
    assert_eq!(loaded(r#""code":"compiled""#), 2, "the first time, and now");

    for file in code_below(&cache) {
        fs::set_permissions(file, fs::Permissions::from_mode(0o666)).unwrap();
    }
    bench.gate = bench.gate.restart().await;
    log.says(&["compiled code that isn't this user's alone is not used", cache.to_str().unwrap()]).await;
    assert!(bench.goes_to("gpu-2").await);
    assert_eq!(loaded(r#""code":"compiled""#), 3);
}
