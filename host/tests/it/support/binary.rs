//! The real binary as a process of its own.

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::PATIENCE;

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// Runs a command to its end. Relative paths are those of `folder`, which is its folder for temporary files too.
pub(crate) fn run(folder: &Path, arguments: &[&str]) -> Outcome {
    run_with(folder, &[], arguments)
}

/// The same with these variables in its environment.
pub(crate) fn run_with(folder: &Path, environment: &[(&str, &str)], arguments: &[&str]) -> Outcome {
    let output = command(folder, arguments).envs(environment.iter().copied()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A command that goes on until it is asked to stop.
pub(crate) struct Running {
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

/// Lines of a stream as they come, and all of them so far.
struct Lines {
    coming: Receiver<String>,
    text: String,
}

impl Running {
    pub(crate) fn start(folder: &Path, arguments: &[&str]) -> Self {
        let mut child = command(folder, arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let (stdout, stderr) = (Lines::of(child.stdout.take().unwrap()), Lines::of(child.stderr.take().unwrap()));
        Self { child, stdout, stderr }
    }

    /// The next line on stdout that this finds something in.
    pub(crate) fn on_stdout<T>(&mut self, find: impl Fn(&str) -> Option<T>) -> T {
        self.stdout.find(find)
    }

    /// The next line on stderr that this finds something in.
    pub(crate) fn on_stderr<T>(&mut self, find: impl Fn(&str) -> Option<T>) -> T {
        self.stderr.find(find)
    }

    /// The most memory that it has had so far, in KiB.
    pub(crate) fn peak_memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Asks it to stop with SIGTERM, and waits until it has.
    pub(crate) fn stop(mut self) -> Outcome {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        // Both streams end with the process.
        let (stdout, stderr) = (self.stdout.rest(), self.stderr.rest());
        Outcome { code: self.child.wait().unwrap().code(), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Lines {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let (sender, coming) = sync_channel(100_000);
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { coming, text: String::new() }
    }

    fn next(&mut self) -> Option<String> {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        match self.coming.recv_timeout(PATIENCE) {
            Ok(line) => {
                self.text.push_str(&line);
                self.text.push('\n');
                Some(line)
            }
            Err(Disconnected) => None,
            Err(Timeout) => panic!("nothing more came for {} seconds after:\n{}", PATIENCE.as_secs(), self.text),
        }
    }

    fn find<T>(&mut self, find: impl Fn(&str) -> Option<T>) -> T {
        while let Some(line) = self.next() {
            if let Some(found) = find(&line) {
                return found;
            }
        }
        panic!("the process ended after:\n{}", self.text)
    }

    fn rest(&mut self) -> String {
        while self.next().is_some() {}
        std::mem::take(&mut self.text)
    }
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(arguments).current_dir(folder).env_clear().env("TMPDIR", folder).stdin(Stdio::null());
    command
}
