//! A redis-server for one start of the gate, and whether the gate's limits were in it all the time.
//!
//! It writes nothing to disk, sleeps between calls, and stays away from the measured core. Its CPU is not the gate's.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread::sleep,
    time::Duration,
};

use super::{Bench, free_ports};
use crate::{
    clock::now,
    failure::{Failure, Trying},
    process::{Cores, Process, on},
};

/// Time to start, and for the gate to find it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(1);
/// Time to answer what is asked.
const ANSWER: Duration = Duration::from_secs(5);

/// Calls whose limits Redis reserved.
const ASKED: &str = "tollgate_redis_duration_seconds_count";
/// Calls that it was not asked about, or didn't answer in time; one line for each reason.
const UNAVAILABLE: &str = "tollgate_redis_unavailable_total";
/// Whether limits are not shared now.
const DEGRADED: &str = "tollgate_redis_degraded";
/// For how long they were not.
const DEGRADED_SECONDS: &str = "tollgate_redis_degraded_seconds_total";

/// The server, and where the gate that uses it tells its metrics.
#[derive(Debug)]
pub(crate) struct Sharing {
    /// Stopped when this is dropped.
    _server: Process,
    admin: SocketAddr,
    /// What the gate's metrics said before it was measured.
    before: Numbers,
}

/// What the gate says about its Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Numbers {
    asked: f64,
    unavailable: f64,
    degraded: f64,
    degraded_seconds: f64,
}

/// Starts a server; answers it, and where it listens.
pub(super) fn start(bench: &Bench) -> Result<(Process, SocketAddr), Failure> {
    let [address] = free_ports()?;
    let mut command = on(Cores::Others, &bench.programs.redis);
    command.args(["--bind", &address.ip().to_string(), "--port", &address.port().to_string()]);
    command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(&bench.folder);
    command.arg("--logfile").arg(bench.folder.join("redis.log"));
    let mut server = Process::start("redis-server", &mut command, &bench.folder.join("redis-stderr.log"))?;
    let last = now() + PATIENCE;
    while let Err(error) = ping(address) {
        server.must_run()?;
        if now() > last {
            let seconds = PATIENCE.as_secs();
            return Err(Failure::new(format!("redis-server doesn't answer after {seconds} s: {error}")));
        }
        sleep(PAUSE);
    }
    Ok((server, address))
}

fn ping(address: SocketAddr) -> io::Result<()> {
    const PONG: &[u8; 7] = b"+PONG\r\n";
    let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; PONG.len()];
    stream.read_exact(&mut answer)?;
    if &answer == PONG { Ok(()) } else { Err(io::Error::other("it is no Redis")) }
}

impl Sharing {
    pub(super) fn new(server: Process, admin: SocketAddr) -> Self {
        Self { _server: server, admin, before: Numbers::default() }
    }

    /// Waits until the gate that was started shares its limits.
    pub(super) fn begin(&mut self) -> Result<(), Failure> {
        let last = now() + PATIENCE;
        loop {
            self.before = self.numbers()?;
            if self.before.degraded == 0.0 {
                return Ok(());
            }
            if now() > last {
                let seconds = PATIENCE.as_secs();
                return Err(Failure::new(format!("it does not share its limits through Redis after {seconds} s")));
            }
            sleep(PAUSE);
        }
    }

    /// Fails unless the limits of so many calls were in Redis, and those of none elsewhere.
    pub(crate) fn must_have_held(&self, calls: f64) -> Result<(), Failure> {
        self.numbers()?.must_have_held(self.before, calls)
    }

    fn numbers(&self) -> Result<Numbers, Failure> {
        let text = metrics(self.admin).trying("its metrics can't be read")?;
        Numbers::of(&text).ok_or_else(|| Failure::new("its metrics have no Redis: the run would not be what it says"))
    }
}

impl Numbers {
    /// As the metrics have them; none when one is not there.
    fn of(text: &str) -> Option<Self> {
        Some(Self {
            asked: sum(text, ASKED)?,
            unavailable: sum(text, UNAVAILABLE)?,
            degraded: sum(text, DEGRADED)?,
            degraded_seconds: sum(text, DEGRADED_SECONDS)?,
        })
    }

    fn must_have_held(self, before: Self, calls: f64) -> Result<(), Failure> {
        let seconds = self.degraded_seconds - before.degraded_seconds;
        let unavailable = self.unavailable - before.unavailable;
        if self.degraded > 0.0 || seconds > 0.0 || unavailable > 0.0 {
            return Err(Failure::new(format!(
                "the gate was degraded: {unavailable} calls without Redis, {seconds:.1} s without it. The figures would be of \
                 another gate than they say; is the machine too busy?"
            )));
        }
        let asked = self.asked - before.asked;
        if asked < calls {
            return Err(Failure::new(format!("Redis was asked about {asked} of {calls} calls")));
        }
        Ok(())
    }
}

/// The sum of all lines of this metric, whatever their labels; none when there is no line.
fn sum(text: &str, name: &str) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        if !rest.starts_with(['{', ' ']) {
            return None;
        }
        rest.rsplit_once(' ')?.1.parse::<f64>().ok()
    });
    values.reduce(|one, other| one + other)
}

fn metrics(admin: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&admin, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(format!("GET /metrics HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP tollgate_redis_degraded Whether\n\
        tollgate_redis_duration_seconds_sum 1.5\n\
        tollgate_redis_duration_seconds_count 1000\n\
        tollgate_redis_unavailable_total{reason=\"late\"} 2\n\
        tollgate_redis_unavailable_total{reason=\"busy\"} 1\n\
        tollgate_redis_degraded_seconds_total 0.25\n\
        tollgate_redis_degraded 1\n";

    #[test]
    fn lines_of_one_metric_add_up_and_those_of_longer_names_do_not_count() {
        let expected = Numbers { asked: 1000.0, unavailable: 3.0, degraded: 1.0, degraded_seconds: 0.25 };
        assert_eq!(Numbers::of(TEXT), Some(expected));
        assert_eq!(Numbers::of("tollgate_redis_degraded 0\n"), None);
    }

    #[test]
    fn a_gate_that_was_degraded_while_it_was_measured_is_an_error() {
        let good = Numbers { asked: 1000.0, unavailable: 3.0, degraded: 0.0, degraded_seconds: 0.25 };
        let check = |after: Numbers, calls| after.must_have_held(good, calls).map_err(|failure| failure.to_string());
        assert_eq!(check(Numbers { asked: 1500.0, ..good }, 500.0), Ok(()));
        assert!(check(Numbers { asked: 1500.0, ..good }, 501.0).unwrap_err().contains("500 of 501"));
        for after in [
            Numbers { unavailable: 4.0, ..good },
            Numbers { degraded_seconds: 0.5, ..good },
            Numbers { degraded: 1.0, ..good },
        ] {
            assert!(check(after, 0.0).unwrap_err().contains("degraded"), "{after:?}");
        }
    }
}
