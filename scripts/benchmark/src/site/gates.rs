//! The gates: real processes of the built binary, that share a state folder, and a Redis where there is one.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use http::Method;
use serde_json::Value;

use super::caller::{Caller, until};
use crate::{
    failure::{Failure, Trying},
    process::Process,
};

/// Time for a gate to start: one that was built without optimisation compiles its policies for many seconds.
const START: Duration = Duration::from_secs(120);
/// Time for what follows from what happened.
pub(crate) const SOON: Duration = Duration::from_secs(120);

/// A folder for gates: configuration, state and keys.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) folder: PathBuf,
    program: PathBuf,
}

impl Site {
    /// A new folder, in which nothing is configured.
    pub(crate) fn new(folder: PathBuf, program: &Path) -> Result<Self, Failure> {
        if folder.exists() {
            fs::remove_dir_all(&folder).trying(format_args!("{} can't be emptied", folder.display()))?;
        }
        fs::create_dir_all(&folder).trying(format_args!("{} can't be made", folder.display()))?;
        Ok(Self { folder, program: program.to_owned() })
    }

    /// Says what gates that start from now on are to do. `redis`: the lines of its section.
    pub(crate) fn configure(&self, backend: SocketAddr, redis: Option<&str>) -> Result<(), Failure> {
        let redis = redis.map_or_else(String::new, |lines| format!("[redis]\n{lines}\n"));
        self.configure_with(&[("counting", backend)], &redis)
    }

    /// The same with these backends, and these sections as they are.
    pub(crate) fn configure_with(&self, backends: &[(&str, SocketAddr)], sections: &str) -> Result<(), Failure> {
        let backend =
            |(name, at): &(&str, SocketAddr)| format!("[[backends]]\nname = {name:?}\nurl = \"http://{at}\"\n");
        let config = format!(
            "state_dir = {:?}\n[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [log]\nformat = \"json\"\n{sections}{}",
            self.folder.join("state"),
            backends.iter().map(backend).collect::<String>(),
        );
        Ok(fs::write(self.config(), config)?)
    }

    fn config(&self) -> PathBuf {
        self.folder.join("tollgate.toml")
    }

    /// A new key with these limits, as on the command line.
    pub(crate) fn key(&self, name: &str, limits: &[&str]) -> Result<String, Failure> {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(self.config()).args(["keys", "create", "--name", name]).args(limits);
        let output = command.stdin(Stdio::null()).output().trying("tollgate can't be run")?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() || !text.starts_with("op_") {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Failure::new(format!("`tollgate keys create` made no key: {said}")));
        }
        Ok(text)
    }

    /// So many gates that serve, and share limits if they are to.
    pub(crate) async fn start(&self, count: usize, caller: &Caller) -> Result<Gates, Failure> {
        let mut gates = Vec::with_capacity(count);
        for number in 0..count {
            gates.push(self.start_one(number, caller).await?);
        }
        let token = fs::read_to_string(self.folder.join("state/admin.token")).trying("there is no admin token")?;
        Ok(Gates { gates, caller: caller.clone(), token: token.trim().to_owned() })
    }

    async fn start_one(&self, number: usize, caller: &Caller) -> Result<Gate, Failure> {
        let log = self.folder.join(format!("gate-{number}.log"));
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(self.config()).arg("serve").stdout(Stdio::null());
        let mut process = Process::start("tollgate", &mut command, &log)?;
        let mut served = None;
        let place = log.display();
        until("a gate serves", START, async || {
            process.must_run().trying(format_args!("its log is {place}"))?;
            served = fs::read_to_string(&log)?.lines().find_map(addresses);
            Ok(served.is_some())
        })
        .await?;
        let (data_plane, admin) = served.ok_or_else(|| Failure::new("a gate doesn't say where it listens"))?;
        let gate = Gate { data_plane, admin, log: log.clone(), process };
        until("a gate is ready", SOON, async || {
            Ok(limits_of(caller, admin).await.is_ok_and(|state| state != "degraded"))
        })
        .await
        .trying(format_args!("its log is {place}"))?;
        Ok(gate)
    }
}

/// What `/readyz` says of limits.
async fn limits_of(caller: &Caller, admin: SocketAddr) -> Result<String, Failure> {
    let said = caller.json(admin, "/readyz", None).await?;
    Ok(said.get("limits").and_then(Value::as_str).unwrap_or_default().to_owned())
}

/// What the log says of where it listens, if this line does.
fn addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let line: Value = serde_json::from_str(line).ok()?;
    let address = |field: &str| line.get(field)?.as_str()?.parse().ok();
    (line.get("message")? == "serving").then_some((address("data_plane")?, address("admin")?))
}

/// One gate; killed when dropped.
#[derive(Debug)]
struct Gate {
    data_plane: SocketAddr,
    admin: SocketAddr,
    log: PathBuf,
    process: Process,
}

/// Gates that serve.
#[derive(Debug)]
pub(crate) struct Gates {
    gates: Vec<Gate>,
    pub(crate) caller: Caller,
    token: String,
}

impl Gates {
    /// Fails when one has ended.
    pub(crate) fn must_run(&mut self) -> Result<(), Failure> {
        self.gates.iter_mut().try_for_each(|gate| gate.process.must_run())
    }

    /// Resident memory of all, in bytes.
    pub(crate) fn resident_bytes(&self) -> Result<u64, Failure> {
        self.gates.iter().map(|gate| gate.process.resident_bytes()).sum()
    }

    /// What the first has written to its log so far.
    pub(crate) fn log(&self) -> Result<String, Failure> {
        Ok(fs::read_to_string(&self.first()?.log)?)
    }

    /// Asks the first's admin API; what it answers.
    pub(crate) async fn steer(&self, method: Method, path: &str) -> Result<Value, Failure> {
        self.caller.steer(method, self.first()?.admin, path, &self.token).await
    }

    fn first(&self) -> Result<&Gate, Failure> {
        self.gates.first().ok_or_else(|| Failure::new("there is no gate"))
    }

    /// Where calls go.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.gates.iter().map(|gate| gate.data_plane).collect()
    }

    /// What a metric, with all its labels, says in all gates together; none has it: 0.
    pub(crate) async fn sum(&self, metric: &str) -> Result<f64, Failure> {
        let mut sum = 0.0;
        for gate in &self.gates {
            let text = self.caller.get(gate.admin, "/metrics", None).await?;
            let value = |line: &str| line.strip_prefix(metric)?.strip_prefix(' ')?.parse::<f64>().ok();
            sum += text.lines().filter_map(value).sum::<f64>();
        }
        Ok(sum)
    }

    /// Calls about which Redis was not asked, or that it didn't answer: a gate counted them by itself.
    pub(crate) async fn counted_alone(&self) -> Result<f64, Failure> {
        self.sum_of_all("tollgate_redis_unavailable_total").await
    }

    /// What a metric says in all gates together, over all its labels.
    async fn sum_of_all(&self, metric: &str) -> Result<f64, Failure> {
        let mut sum = 0.0;
        for gate in &self.gates {
            let text = self.caller.get(gate.admin, "/metrics", None).await?;
            let value =
                |line: &str| line.strip_prefix(metric)?.strip_prefix('{')?.rsplit_once(' ')?.1.parse::<f64>().ok();
            sum += text.lines().filter_map(value).sum::<f64>();
        }
        Ok(sum)
    }

    /// What `/readyz` of each gate says of limits.
    pub(crate) async fn limits(&self) -> Result<Vec<String>, Failure> {
        let mut states = Vec::with_capacity(self.gates.len());
        for gate in &self.gates {
            states.push(limits_of(&self.caller, gate.admin).await?);
        }
        Ok(states)
    }

    /// Waits until no call runs in any gate, and Redis has heard how each ended.
    pub(crate) async fn until_idle(&self) -> Result<(), Failure> {
        let (mut running, mut waiting) = (0.0, 0.0);
        let idle = until("no call runs, and each is settled", SOON, async || {
            running = self.sum("tollgate_requests_in_flight").await?;
            waiting = self.sum("tollgate_redis_waiting").await?;
            Ok(running + waiting == 0.0)
        });
        let idle = idle.await;
        idle.trying(format_args!("{running} calls run, and {waiting} wait to be settled in Redis"))?;
        Ok(())
    }

    /// What the first gate shows of a limit of a key.
    pub(crate) async fn shown(&self, key: &str, limit: &str) -> Result<Shown, Failure> {
        let gate = self.first()?;
        let list = self.caller.json(gate.admin, &format!("/api/v1/keys/{key}/limits"), Some(&self.token)).await?;
        let limits = list.get("limits").and_then(Value::as_array).into_iter().flatten();
        let shown = limits.into_iter().find(|shown| shown.get("limit").is_some_and(|name| name == limit));
        let number = |field: &str| shown.and_then(|shown| shown.get(field)?.as_u64());
        match (number("spent"), number("reserved")) {
            (Some(spent), Some(reserved)) => Ok(Shown { spent, reserved }),
            _ => Err(Failure::new(format!("`{limit}` of {key} isn't shown in {list}"))),
        }
    }
}

/// Where one limit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) spent: u64,
    pub(crate) reserved: u64,
}
