//! Programs that this repository didn't write, or that try one: run to their end, with what they say.

use std::{
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use tokio::{
    sync::mpsc::{Receiver, channel},
    time::timeout,
};

use super::gate::{Gate, Transport};
use crate::support::soon;

/// Within this time a caller's leaving reaches the backend.
const LEAVING: Duration = Duration::from_secs(1);

/// A client, and the program that tries it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    name: &'static str,
    is_python: bool,
}

impl Client {
    pub(crate) fn python(name: &'static str) -> Self {
        Self { name, is_python: true }
    }

    pub(crate) fn javascript(name: &'static str) -> Self {
        Self { name, is_python: false }
    }

    /// The first piece of a stream that this client reads.
    pub(crate) fn first_of_a_stream(self) -> &'static str {
        match self.name {
            "openai" => {
                "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"broken\",\"choices\":\
                 [{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"first\"},\"finish_reason\":null}]}\n\n"
            }
            "anthropic" => {
                "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"type\":\"message\",\
                 \"role\":\"assistant\",\"model\":\"broken\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\
                 \"usage\":{\"input_tokens\":1,\"output_tokens\":0}}}\n\n"
            }
            _ => {
                "{\"model\":\"broken\",\"created_at\":\"2026-01-01T00:00:00Z\",\"message\":{\"role\":\"assistant\",\
                 \"content\":\"first\"},\"done\":false}\n"
            }
        }
    }

    /// Runs all of its checks; when it leaves a stream, the backend must be left too.
    pub(crate) async fn run(self, gate: &mut Gate) {
        let mut child = self.command(gate, "client").spawn().unwrap_or_else(|error| self.is_missing(&error));
        let mut stdin = child.stdin.take();
        let mut lines = lines(child.stdout.take().unwrap());
        let mut stderr = child.stderr.take().unwrap();
        let problems = thread::spawn(move || {
            let mut text = String::new();
            // Whatever isn't text is nothing to be shown.
            drop(stderr.read_to_string(&mut text));
            text
        });
        let mut has_left = false;
        let mut reached_backend = false;
        while let Some(line) = soon(&format!("a word of {self:?}"), lines.recv()).await {
            if line == "cancelled" {
                has_left = true;
                reached_backend = timeout(LEAVING, gate.broken.closed()).await.is_ok();
                drop(stdin.take());
            }
        }
        let status = child.wait().unwrap();
        let problems = problems.join().unwrap();
        let transport = gate.transport();
        assert!(status.success(), "{self:?}, {transport:?}: {status}\n{problems}");
        assert!(has_left, "{self:?}, {transport:?}: it left no stream\n{problems}");
        assert!(reached_backend, "{self:?}, {transport:?}: the backend was not left within {LEAVING:?}");
    }

    /// Runs the checks of what it does by itself when it is refused.
    pub(crate) fn retries(self, gate: &Gate) {
        let output = self.command(gate, "retries").output().unwrap_or_else(|error| self.is_missing(&error));
        let problems = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{self:?}: {}\n{problems}", output.status);
    }

    fn is_missing(self, error: &std::io::Error) -> ! {
        panic!("{self:?} can't be run: {error}; install the clients with ./scripts/clients")
    }

    /// `part` ends the name of the program.
    fn command(self, gate: &Gate, part: &str) -> Command {
        let programs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
        let modules = installed("javascript/node_modules");
        let mut command = if self.is_python {
            let mut command = Command::new(installed("python/bin/python"));
            // Nothing is written beside the sources.
            command.arg("-B").arg(programs.join("python").join(format!("{}_{part}.py", self.name)));
            command
        } else {
            let mut command = Command::new(modules.join(".bin/node"));
            command.arg(programs.join("javascript").join(format!("{}_{part}.cjs", self.name)));
            command
        };
        // Of this machine's settings none matters: no proxy, no other authority.
        command.env_clear().env("NODE_PATH", modules);
        if gate.transport() == Transport::Tls {
            command.env("SSL_CERT_FILE", gate.authority()).env("NODE_EXTRA_CA_CERTS", gate.authority());
        }
        command.env("GATE", gate.described()).current_dir(gate.folder());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// Where `scripts/clients` installs.
fn installed(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("clients").join(path)
}

fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, coming) = channel(1_000);
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    coming
}

/// Runs a program of the system; answers its exit code and all that it said.
pub(crate) fn run(program: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program} can't be run: {error}; install it with ./scripts/clients"));
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.code(), text)
}
