//! Processes under test: started on their core, measured with all their threads and children, and stopped for sure.
//!
//! Each gets a process group of its own. Only groups that were made here are ever killed.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread::sleep,
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process_group, setrlimit};

use crate::{
    clock::now,
    failure::{Failure, Trying},
};

/// The core of what is measured.
const MEASURED_CORE: &str = "0";
/// Time to end when asked to.
const PATIENCE: Duration = Duration::from_secs(5);

/// Groups that run now, for when the run itself is stopped; none once it is, and then nothing starts any more.
static STARTED: Mutex<Option<Vec<Pid>>> = Mutex::new(Some(Vec::new()));

/// Which cores a process runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cores {
    /// The one core that only the measured proxy uses.
    Measured,
    /// All others.
    Others,
}

/// A process of ours; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    group: Pid,
}

impl Process {
    /// Starts a command; what it writes to stderr goes to `log`.
    pub(crate) fn start(name: &'static str, command: &mut Command, log: &Path) -> Result<Self, Failure> {
        let log = File::create(log).trying(format_args!("{} can't be written", log.display()))?;
        command.process_group(0).stdin(Stdio::null()).stderr(log);
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        let started = started.as_mut().ok_or_else(|| Failure::new("stopped"))?;
        let child = command.spawn().trying(format_args!("{name} can't be started"))?;
        let group = Pid::from_child(&child);
        started.push(group);
        Ok(Self { name, child, group })
    }

    /// The command's standard output, once.
    pub(crate) fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// Fails when it has ended.
    pub(crate) fn must_run(&mut self) -> Result<(), Failure> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(Failure::new(format!("{} has ended: {status}", self.name))),
        }
    }

    /// CPU time of all its threads and children so far.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        let mut ns = 0_u64;
        for pid in self.tree()? {
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                // A thread may end while it is looked at.
                let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
                let first = text.split_whitespace().next().and_then(|text| text.parse::<u64>().ok());
                ns += first.ok_or_else(|| Failure::new("this kernel doesn't count CPU time in schedstat"))?;
            }
        }
        Ok(Duration::from_nanos(ns))
    }

    /// Resident memory of it and its children, in bytes; pages that they share count for each.
    pub(crate) fn resident_bytes(&self) -> Result<u64, Failure> {
        let mut kib = 0_u64;
        for pid in self.tree()? {
            let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let number = line.and_then(|line| line.split_whitespace().next()).and_then(|text| text.parse::<u64>().ok());
            kib += number.ok_or_else(|| Failure::new(format!("{} has no VmRSS", self.name)))?;
        }
        Ok(kib * 1024)
    }

    /// Sends it, and what it started, a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Failure> {
        Ok(kill_process_group(self.group, signal)?)
    }

    /// Asks it to stop, and waits; after a while it is killed.
    pub(crate) fn stop(self) -> Result<(), Failure> {
        self.stop_within(PATIENCE)
    }

    /// The same with more patience, for what has much to write.
    pub(crate) fn stop_within(mut self, patience: Duration) -> Result<(), Failure> {
        kill_process_group(self.group, Signal::TERM)?;
        let last = now() + patience;
        while now() < last && self.child.try_wait()?.is_none() {
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// It and all that descend from it.
    fn tree(&self) -> Result<Vec<i32>, Failure> {
        let mut parents = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            // The name may hold blanks and parentheses: the parent stands after the last one.
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
            parents.extend(parent.map(|parent: i32| (pid, parent)));
        }
        let mut tree = vec![self.group.as_raw_nonzero().get()];
        let mut done = 0;
        while let Some(&parent) = tree.get(done) {
            tree.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
            done += 1;
        }
        Ok(tree)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that is gone already is what is wanted. Forgotten before it is waited for: then its number may come again.
        kill_process_group(self.group, Signal::KILL).ok();
        if let Some(started) = STARTED.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            started.retain(|group| *group != self.group);
        }
        drop(self.child.wait());
    }
}

/// Kills all that was started and still runs: the run is stopped from outside.
pub(crate) fn kill_all() {
    let started = STARTED.lock().unwrap_or_else(PoisonError::into_inner).take();
    for group in started.unwrap_or_default() {
        kill_process_group(group, Signal::KILL).ok();
    }
}

/// A command that runs on these cores. With a single core there is nothing to choose.
pub(crate) fn on(cores: Cores, program: &Path) -> Command {
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    if count < 2 {
        return Command::new(program);
    }
    let list = match cores {
        Cores::Measured => MEASURED_CORE.to_owned(),
        Cores::Others => format!("1-{}", all_cores() - 1),
    };
    let mut command = Command::new("taskset");
    command.args(["-c", &list]).arg(program);
    command
}

/// Keeps this thread away from the measured core.
pub(crate) fn stay_away() -> Result<(), Failure> {
    let count = all_cores();
    if count < 2 {
        return Ok(());
    }
    let list = format!("1-{}", count - 1);
    let own = std::process::id().to_string();
    let moved = Command::new("taskset").args(["-a", "-p", "-c", &list, &own]).stdout(Stdio::null()).status()?;
    if moved.success() {
        Ok(())
    } else {
        Err(Failure::new(format!("taskset could not move this process to cores {list}")))
    }
}

/// How many cores the machine has, whatever this process may use.
fn all_cores() -> usize {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines().filter(|line| line.starts_with("processor")).count().max(1)
}

/// Makes room for so many descriptors, here and in what is started; answers how many there are.
pub(crate) fn descriptors(wanted: u64) -> io::Result<u64> {
    let now = getrlimit(Resource::Nofile);
    let hard = now.maximum.unwrap_or(wanted);
    let raised = Rlimit { current: Some(wanted), maximum: Some(hard.max(wanted)) };
    if setrlimit(Resource::Nofile, raised).is_ok() {
        return Ok(wanted);
    }
    // Without the right to raise the hard limit the soft one may still go up to it.
    let most = hard.min(wanted);
    setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: now.maximum })?;
    Ok(most)
}
