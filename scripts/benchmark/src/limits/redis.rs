//! Servers of Redis and Sentinel for these runs, each on a free port of loopback, and killed when dropped.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    clock::now,
    contender::free_ports,
    failure::{Failure, Trying},
    process::Process,
};

/// Time to come up, and for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// The group that Sentinels watch.
pub(super) const GROUP: &str = "main";

/// A redis-server that answers.
#[derive(Debug)]
pub(super) struct Redis {
    process: Process,
    pub(super) address: SocketAddr,
    folder: PathBuf,
}

impl Redis {
    /// On a free port; `options` as on its command line.
    pub(super) fn start(folder: &Path, options: &[&str]) -> Result<Self, Failure> {
        let [address] = free_ports()?;
        Self::start_at(folder, address, options)
    }

    fn start_at(folder: &Path, address: SocketAddr, options: &[&str]) -> Result<Self, Failure> {
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &address.port().to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        command.args(options).current_dir(folder).stdout(Stdio::null());
        let process = Process::start("redis-server", &mut command, &folder.join("redis.log"))?;
        let mut redis = Self { process, address, folder: folder.to_owned() };
        redis.until_it_answers()?;
        Ok(redis)
    }

    fn until_it_answers(&mut self) -> Result<(), Failure> {
        let last = now() + PATIENCE;
        while run(self.address, "PING").is_err() {
            self.process.must_run().trying("is another server at its port?")?;
            if now() > last {
                return Err(Failure::new(format!("redis-server at {} doesn't answer", self.address)));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Kills it; it comes back at the same place, and has forgotten everything.
    pub(super) fn dies(self) -> Dead {
        Dead { address: self.address, folder: self.folder }
    }

    /// It takes what comes and answers nothing.
    pub(super) fn pause(&self) -> Result<(), Failure> {
        self.process.signal(Signal::STOP)
    }

    pub(super) fn resume(&self) -> Result<(), Failure> {
        self.process.signal(Signal::CONT)
    }

    /// Runs a command of one line; its answer's first line.
    pub(super) fn run(&self, command: &str) -> Result<String, Failure> {
        run(self.address, command)
    }
}

/// Where a redis-server was.
#[derive(Debug)]
pub(super) struct Dead {
    address: SocketAddr,
    folder: PathBuf,
}

impl Dead {
    /// An empty server where the dead one was.
    pub(super) fn returns(self) -> Result<Redis, Failure> {
        Redis::start_at(&self.folder, self.address, &[])
    }
}

/// A primary with its replica, and a Sentinel that puts it in the primary's place.
#[derive(Debug)]
pub(super) struct Watched {
    primary: Option<Redis>,
    replica: Redis,
    sentinel: Process,
    pub(super) address: SocketAddr,
}

impl Watched {
    /// Ready to fail over.
    pub(super) fn start(folder: &Path) -> Result<Self, Failure> {
        let primary = Redis::start(folder, &[])?;
        let port = primary.address.port().to_string();
        let replica = Redis::start(folder, &["--replicaof", "127.0.0.1", &port])?;
        let [address] = free_ports()?;
        let config = folder.join("sentinel.conf");
        let text = format!(
            "port {}\nbind 127.0.0.1\nsentinel monitor {GROUP} {} {port} 1\n\
             sentinel down-after-milliseconds {GROUP} 500\nsentinel failover-timeout {GROUP} 2000\n",
            address.port(),
            Ipv4Addr::LOCALHOST,
        );
        fs::write(&config, text)?;
        let mut command = Command::new("redis-server");
        command.arg(&config).arg("--sentinel").current_dir(folder).stdout(Stdio::null());
        let sentinel = Process::start("redis-sentinel", &mut command, &folder.join("sentinel.log"))?;
        let mut watched = Self { primary: Some(primary), replica, sentinel, address };
        watched.until_it_knows_the_replica()?;
        Ok(watched)
    }

    fn until_it_knows_the_replica(&mut self) -> Result<(), Failure> {
        let last = now() + PATIENCE;
        let knows = |line: &str| line.contains("slaves=1");
        let is_up = |line: &str| line.contains("master_link_status:up");
        while !(info(self.address, "INFO sentinel", knows) && info(self.replica.address, "INFO replication", is_up)) {
            self.sentinel.must_run()?;
            if now() > last {
                return Err(Failure::new("Sentinel finds no replica that follows its primary"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Kills the primary.
    pub(super) fn loses_its_primary(&mut self) {
        self.primary = None;
    }
}

/// Sends one command, and reads the first line of its answer.
fn run(address: SocketAddr, command: &str) -> Result<String, Failure> {
    let mut lines = ask(address, command)?;
    let mut line = String::new();
    lines.read_line(&mut line)?;
    if line.starts_with('-') || line.is_empty() {
        return Err(Failure::new(format!("{command}: Redis at {address} answers {line:?}")));
    }
    Ok(line)
}

/// Whether a line of what it tells is such.
fn info(address: SocketAddr, command: &str, is_such: impl Fn(&str) -> bool) -> bool {
    let Ok(mut lines) = ask(address, command) else { return false };
    let mut line = String::new();
    if lines.read_line(&mut line).is_err() {
        return false;
    }
    let mut left: usize = line.trim_start_matches('$').trim().parse().unwrap_or(0);
    while left > 0 {
        line.clear();
        match lines.read_line(&mut line) {
            Ok(read @ 1..) => left = left.saturating_sub(read),
            Ok(0) | Err(_) => return false,
        }
        if is_such(&line) {
            return true;
        }
    }
    false
}

fn ask(address: SocketAddr, command: &str) -> Result<BufReader<TcpStream>, Failure> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(command.as_bytes())?;
    stream.write_all(b"\r\n")?;
    Ok(BufReader::new(stream))
}
