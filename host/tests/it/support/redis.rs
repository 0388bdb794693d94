//! A redis-server of a test's own.

use std::{
    io::{BufRead, BufReader, ErrorKind},
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Killed when it is dropped.
pub(crate) struct RedisServer {
    child: Child,
    port: u16,
    _folder: TempDir,
}

impl RedisServer {
    /// On a free port.
    pub(crate) fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        Self::start_at(port)
    }

    /// On this port: one that comes back, and has forgotten all.
    pub(crate) fn start_at(port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        let mut child = match command.current_dir(folder.path()).stdout(Stdio::piped()).spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                panic!("redis-server isn't installed: apt-get install redis-server")
            }
            Err(error) => panic!("redis-server: {error}"),
        };
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("Ready to accept connections")), "redis-server ended");
        Self { child, port, _folder: folder }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Runs a command without an answer of interest.
    pub(crate) fn run(&self, words: &[&str]) {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        let mut connection = redis::Client::open(self.url()).unwrap().get_connection().unwrap();
        command.query::<redis::Value>(&mut connection).unwrap();
    }

    /// The names of all that it holds, sorted.
    pub(crate) fn keys(&self) -> Vec<String> {
        let mut connection = redis::Client::open(self.url()).unwrap().get_connection().unwrap();
        let mut keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
        keys.sort();
        keys
    }

    /// It takes calls and answers none.
    pub(crate) fn pause(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
