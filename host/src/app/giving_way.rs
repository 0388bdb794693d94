//! Work that gives way to callers: done on a thread of its own, which takes what others leave of the processors.
//!
//! Linux has a class for that: to its scheduler a core with nothing but idle work is free, and what wakes is put there instead of
//! in a queue. But where others always want all cores, as a model server without a GPU does, that class gets next to nothing of
//! them (3 parts of 1,027 of one), and a policy would take minutes to load. So it is tried first; what is chosen then holds until the
//! work is done. Niceness, which is what is left there, on other systems and where the class is forbidden, only tells how to share.

#[cfg(target_os = "linux")]
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use std::{
    convert::Infallible,
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

/// Does it on a thread of its own, since one that has given way can't take that back. `meanwhile` is done here, again and again
/// until that has ended: what can't wait for it.
pub(super) fn giving_way<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
    mut meanwhile: impl FnMut(),
) -> io::Result<thread::Result<T>> {
    let way = Way::open_now();
    tracing::debug!(?way, "the loader of policies gives way");
    // Closed when the thread ends, however it does.
    let (running, has_ended) = channel::<Infallible>();
    let thread = thread::Builder::new().name("policy-loader".to_owned()).spawn(move || {
        let _running = running;
        way.give();
        work()
    })?;
    while has_ended.recv_timeout(MEANWHILE_EVERY) == Err(RecvTimeoutError::Timeout) {
        meanwhile();
    }
    Ok(thread.join())
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
        Self::tried(TRIAL_WORK, TRIAL_WITHIN)
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
        assert_eq!(giving_way(|| 7, || ()).unwrap().unwrap(), 7);
        assert_eq!(thread_schedule_policy(), before);
    }

    #[test]
    fn what_cannot_wait_is_done_while_the_work_goes_on_and_work_that_panics_ends_itself_alone() {
        let (told, tells) = channel();
        let waits = move || tells.recv().map(|()| 7);
        let mut told_times = 0;
        let done = giving_way(waits, || {
            told_times += 1;
            // It has been told already.
            let (Ok(()) | Err(_)) = told.send(());
        });
        assert_eq!((done.unwrap().unwrap(), told_times >= 1), (Ok(7), true));
        let no_work: fn() = || panic!("for a test");
        assert!(giving_way(no_work, || ()).unwrap().is_err());
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
