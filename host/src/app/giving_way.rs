//! Work that gives way to callers: done on a thread of its own, which takes what others leave of the processors.
//!
//! Linux has a class for that: to its scheduler a core with nothing but idle work is free, and what wakes is put there instead of
//! in a queue. But where others always want all cores, as a model server without a GPU does, that class gets next to nothing of
//! them (3 parts of 1,027 of one), and a policy would take minutes to load. So it is tried first; work that has begun stays with
//! what was chosen. Niceness, which is what is left there, on other systems and where the class is forbidden, only tells how to share.

#[cfg(target_os = "linux")]
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use std::{
    io,
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use rustix::process::nice;
#[cfg(target_os = "linux")]
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
    thread_schedule_policy,
};

#[cfg(target_os = "linux")]
use crate::clock::thread_cpu;

/// How often that is done which can't wait for the work to end.
const MEANWHILE_EVERY: Duration = Duration::from_millis(100);

/// How much less than the callers' threads it may have of the processors, where it isn't in the idle class.
const NICENESS: i32 = 10;

/// What a thread in the idle class must get done, and in which time, for the class to be of use: more than the first turn that
/// the scheduler gives to whoever is new, which ends with a tick of the kernel, of up to 10 ms, after its slice, of up to 4 ms.
#[cfg(target_os = "linux")]
const TRIAL_WORK: Duration = Duration::from_millis(20);
#[cfg(target_os = "linux")]
const TRIAL_WITHIN: Duration = Duration::from_millis(100);

#[cfg(target_os = "linux")]
const IDLE: ThreadSchedulePolicy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);

/// How long what was tried holds.
const WAY_HOLDS: Duration = Duration::from_secs(5);

/// Why work that gives way came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotDone {
    #[error("there is no thread for it: {0}")]
    NoThread(#[from] io::Error),
    #[error("the gate panicked over it")]
    Panicked,
}

/// Where work is done that gives way.
#[derive(Debug, Default)]
pub(super) struct Aside {
    /// The way that was open, and until when that holds.
    known: Option<(Way, Duration)>,
}

impl Aside {
    /// Does it on a thread of its own, since one that has given way can't take that back. `meanwhile` is done here, again and
    /// again until the work is done: what can't wait for that. `now` is any clock's that never goes back.
    ///
    /// # Errors
    /// Why it came to nothing.
    pub(super) fn run<T: Send + 'static>(
        &mut self,
        now: Duration,
        work: impl FnOnce() -> T + Send + 'static,
        mut meanwhile: impl FnMut(),
    ) -> Result<T, NotDone> {
        let known = self.known.filter(|(_, until)| now < *until).map(|(way, _)| way);
        let (done, is_done) = channel();
        thread::Builder::new().name("policy-loader".to_owned()).spawn(move || {
            let way = known.unwrap_or_else(Way::open_now);
            way.give();
            // Whoever waits waits for ever.
            let (Ok(()) | Err(_)) = done.send((way, work()));
        })?;
        loop {
            // Not joined: that would wait for a last turn of a thread that gives way.
            match is_done.recv_timeout(MEANWHILE_EVERY) {
                Ok((way, done)) => {
                    self.known = self.known.filter(|_| known.is_some()).or(Some((way, now + WAY_HOLDS)));
                    return Ok(done);
                }
                Err(RecvTimeoutError::Timeout) => meanwhile(),
                Err(RecvTimeoutError::Disconnected) => return Err(NotDone::Panicked),
            }
        }
    }
}

/// How a thread gives way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    #[cfg(target_os = "linux")]
    IdleClass,
    Niceness,
}

impl Way {
    #[cfg(not(target_os = "linux"))]
    fn open_now() -> Self {
        Self::Niceness
    }

    #[cfg(target_os = "linux")]
    fn open_now() -> Self {
        let way = Self::tried(TRIAL_WORK, TRIAL_WITHIN);
        tracing::debug!(?way, "the loader of policies gives way");
        way
    }

    /// The idle class, if a thread in it can work for so long within this time.
    #[cfg(target_os = "linux")]
    fn tried(work: Duration, within: Duration) -> Self {
        let (done, is_done) = channel();
        let is_over = Arc::<AtomicBool>::default();
        let trial = {
            let is_over = Arc::clone(&is_over);
            move || {
                if !enter_idle_class() {
                    return;
                }
                while thread_cpu() < work && !is_over.load(Ordering::Relaxed) {}
                // Nobody waits for it any more.
                let (Ok(()) | Err(_)) = done.send(());
            }
        };
        let way = match thread::Builder::new().name("policy-trial".to_owned()).spawn(trial) {
            Ok(_) if is_done.recv_timeout(within).is_ok() => Self::IdleClass,
            Ok(_) | Err(_) => Self::Niceness,
        };
        // It ends with its next turn.
        is_over.store(true, Ordering::Relaxed);
        way
    }

    /// From now on this thread gives way.
    fn give(self) {
        #[cfg(target_os = "linux")]
        if self == Self::IdleClass && enter_idle_class() {
            return;
        }
        if let Err(error) = nice(NICENESS) {
            tracing::debug!(%error, "the loader of policies has the priority of all others");
        }
    }
}

/// `false`: it is forbidden here.
#[cfg(target_os = "linux")]
fn enter_idle_class() -> bool {
    let entered = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, IDLE);
    // Where the process started with niceness it fails after it has set the class: niceness can't be taken back.
    let is_in = thread_schedule_policy() == Ok(IDLE);
    if !is_in {
        tracing::debug!(?entered, "the loader of policies may not be in the idle class");
    }
    is_in
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

    use super::*;

    /// Long enough for a thread that others starve to have a turn.
    const A_TURN: Duration = Duration::from_secs(60);

    fn in_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        thread::spawn(work).join().expect("the thread ends well")
    }

    #[test]
    fn where_the_class_is_allowed_and_of_use_it_is_the_way_of_that_thread_alone() {
        let before = thread_schedule_policy();
        let is_allowed = in_a_thread(enter_idle_class);
        let way = Way::tried(Duration::ZERO, A_TURN);
        assert_eq!(way, if is_allowed { Way::IdleClass } else { Way::Niceness });
        let given = in_a_thread(move || {
            way.give();
            thread_schedule_policy()
        });
        assert_eq!(given == Ok(IDLE), is_allowed);
        assert_eq!(thread_schedule_policy(), before);
    }

    #[test]
    fn what_cannot_wait_is_done_while_the_work_goes_on() {
        let (told, tells) = channel();
        let waits = move || tells.recv_timeout(A_TURN);
        let tell = || {
            // It may have been told already.
            let (Ok(()) | Err(_)) = told.send(7);
        };
        let before = thread_schedule_policy();
        assert_eq!(Aside::default().run(Duration::ZERO, waits, tell).unwrap(), Ok(7));
        assert_eq!(thread_schedule_policy(), before, "this thread gives way to nobody");
    }

    #[test]
    fn work_that_panics_ends_itself_alone() {
        let mut aside = Aside::default();
        let panics: fn() = || panic!("for a test");
        assert!(matches!(aside.run(Duration::ZERO, panics, || ()), Err(NotDone::Panicked)));
        assert!(aside.run(Duration::ZERO, || (), || ()).is_ok());
    }

    #[test]
    fn what_was_tried_holds_for_a_while() {
        let mut aside = Aside::default();
        let mut until = |now: u64| {
            aside.run(Duration::from_secs(now), || (), || ()).unwrap();
            aside.known.unwrap().1.as_secs()
        };
        assert_eq!([until(1), until(2), until(5), until(6), until(7)], [6, 6, 6, 11, 11]);
    }

    #[test]
    fn where_others_always_want_the_core_the_idle_class_is_not_the_way() {
        let way = in_a_thread(|| {
            // Whom this thread starts stays on its core.
            let mut core = CpuSet::new();
            core.set(sched_getcpu());
            sched_setaffinity(None, &core).unwrap();
            let (runs, is_over) = (channel(), Arc::<AtomicBool>::default());
            let spinning = {
                let is_over = Arc::clone(&is_over);
                thread::spawn(move || {
                    runs.0.send(()).unwrap();
                    while !is_over.load(Ordering::Relaxed) {}
                })
            };
            runs.1.recv().unwrap();
            let way = Way::open_now();
            is_over.store(true, Ordering::Relaxed);
            spinning.join().unwrap();
            way
        });
        assert_eq!(way, Way::Niceness);
    }
}
