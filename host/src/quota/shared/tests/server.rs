//! Servers for the tests: redis-server as a process, and a stub that answers what no Redis does.

use std::io::{BufRead as _, BufReader, ErrorKind};
use std::net::TcpListener;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

/// A redis-server (or redis-sentinel) of its own; killed when dropped.
pub(super) struct Server {
    child: Child,
    output: BufReader<ChildStdout>,
    pub(super) port: u16,
    pub(super) folder: TempDir,
}

impl Server {
    /// On a free port and a Unix socket.
    pub(super) fn start() -> Self {
        Self::start_on(free_port(), &[])
    }

    pub(super) fn start_with(options: &[&str]) -> Self {
        Self::start_on(free_port(), options)
    }

    pub(super) fn start_on(port: u16, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.arg("--unixsocket").arg(folder.path().join("redis.sock")).arg("--dir").arg(folder.path());
        command.args(options);
        Self::spawn(command, port, folder, "Ready to accept connections")
    }

    /// A Sentinel over the group `main` of this primary.
    pub(super) fn sentinel_of(primary: &Self) -> Self {
        Self::sentinel_with(primary.port, "")
    }

    /// A Sentinel over the group `main` of the primary at this port, with these lines in its configuration. It listens on its
    /// port unless they say otherwise, which they do by `PORT`.
    pub(super) fn sentinel_with(primary: u16, lines: &str) -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let config = folder.path().join("sentinel.conf");
        let listens = if lines.contains("PORT") {
            lines.replace("PORT", &port.to_string())
        } else {
            format!("port {port}\n{lines}")
        };
        let text = format!(
            "{listens}\nbind 127.0.0.1\ndir {}\nsentinel monitor main 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n",
            folder.path().display(),
            primary
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("redis-sentinel");
        command.arg(config);
        Self::spawn(command, port, folder, "+monitor")
    }

    fn spawn(mut command: Command, port: u16, folder: TempDir, sign: &str) -> Self {
        let mut child = match command.stdout(Stdio::piped()).spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                panic!("{command:?} isn't installed: apt-get install redis-server redis-sentinel")
            }
            Err(error) => panic!("{command:?}: {error}"),
        };
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut server = Self { child, output, port, folder };
        server.until_it_says(sign);
        server
    }

    /// Waits for a line of its log.
    pub(super) fn until_it_says(&mut self, sign: &str) {
        let (mut said, mut line) = (String::new(), String::new());
        while !line.contains(sign) {
            line.clear();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "it ended before it said {sign}: {said}");
            said.push_str(&line);
        }
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A connection to prepare and to look.
    pub(super) fn look(&self) -> redis::Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    /// Runs a command.
    pub(super) fn run(&self, words: &[&str]) -> redis::Value {
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| {
            command.arg(*word);
        });
        command.query(&mut self.look()).unwrap()
    }

    /// The keys it holds that end so.
    pub(super) fn keys(&self, pattern: &str) -> Vec<String> {
        redis::from_redis_value(self.run(&["KEYS", pattern])).unwrap()
    }

    pub(super) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub(super) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_child(&self.child);
        kill_process(id, signal).unwrap();
    }

    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server that welcomes gates, and then answers every other call with these bytes.
pub(super) struct Stub {
    pub(super) url: String,
    /// What it answers to a reservation.
    pub(super) answer: Arc<Mutex<&'static [u8]>>,
    _tasks: JoinSet<()>,
}

impl Stub {
    pub(super) async fn start(answer: &'static [u8]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let answer = Arc::new(Mutex::new(answer));
        let mut tasks = JoinSet::new();
        let told = Arc::clone(&answer);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&told)));
            }
        });
        Self { url, answer, _tasks: tasks }
    }
}

/// Takes each piece that comes for whole commands, which is true of commands as small as these.
async fn serve(mut stream: tokio::net::TcpStream, answer: Arc<Mutex<&'static [u8]>>) {
    let mut piece = vec![0; 65_536];
    while let Ok(length @ 1..) = stream.read(&mut piece).await {
        let text = String::from_utf8_lossy(&piece[..length]).into_owned();
        for command in text.split("*").filter(|command| command.contains("\r\n$")) {
            let reply: &[u8] = if command.contains("beat") {
                b"*3\r\n:1\r\n:1\r\n:7\r\n"
            } else if command.contains("EVALSHA") {
                *answer.lock().unwrap()
            } else if command.contains("INFO") && !command.contains("SETINFO") {
                b"$0\r\n\r\n"
            } else {
                b"+OK\r\n"
            };
            if stream.write_all(reply).await.is_err() {
                return;
            }
        }
    }
}
