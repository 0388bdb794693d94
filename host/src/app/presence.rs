//! Whether other gates use the same state folder: each holds a shared lock on a file in it for as long as it lives.
//!
//! Nothing depends on it but a line in the log: where locks don't work, nobody is told.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    thread,
};

/// How often the lock is asked for while somebody else looks: a file that another program locks for good delays no start.
const TRIES: u32 = 1_000;

/// This gate is there, as others see it.
#[derive(Debug)]
pub(super) struct Presence(#[expect(dead_code, reason = "held for its lock")] Option<File>);

impl Presence {
    /// Holds the folder, and says once whether others do whose limits are counted apart from this gate's.
    pub(super) fn announce(folder: &Path, is_sharing: bool) -> Self {
        match hold(&folder.join("gate.lock")) {
            Ok((file, is_alone)) => {
                if !is_alone && !is_sharing {
                    tracing::warn!(
                        folder = %folder.display(),
                        "another gate uses this state folder: without Redis each counts its limits apart, so that in all as \
                         many times as much may pass; set redis.url, or stop the other one"
                    );
                }
                Self(Some(file))
            }
            Err(error) => {
                tracing::debug!(%error, "it can't be told whether another gate uses the state folder");
                Self(None)
            }
        }
    }
}

/// The file, locked, and whether nobody else holds it. The lock is shared before anybody looks whether they are alone: of two
/// that start at once, the one that looks later finds the other.
fn hold(path: &Path) -> io::Result<(File, bool)> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    let was_shared = share(&file)?;
    let is_alone = match file.try_lock() {
        Ok(()) => was_shared,
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(error)) => return Err(error),
    };
    // To look is to give up what was shared.
    share(&file)?;
    Ok((file, is_alone))
}

/// Shares the lock, and tells whether that came about. Only somebody who is just looking may be in the way.
fn share(file: &File) -> io::Result<bool> {
    for _ in 0..TRIES {
        match file.try_lock_shared() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => thread::yield_now(),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn of_two_that_start_at_once_at_most_one_is_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (path, barrier) = (folder.path().join("gate.lock"), Barrier::new(2));
        for _ in 0..500 {
            let start = || {
                barrier.wait();
                let held = hold(&path).unwrap();
                barrier.wait();
                held.1
            };
            let (one, other) = thread::scope(|scope| {
                let (one, other) = (scope.spawn(start), scope.spawn(start));
                (one.join().unwrap(), other.join().unwrap())
            });
            assert!(!(one && other), "both think that they are alone");
        }
    }

    #[test]
    fn only_the_first_of_several_is_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gate.lock");
        let first = hold(&path).unwrap();
        let second = hold(&path).unwrap();
        assert!(first.1 && !second.1);
        drop(first);
        assert!(!hold(&path).unwrap().1, "the second is still there");
        drop(second);
        assert!(hold(&path).unwrap().1);
        assert!(hold(&folder.path().join("nowhere/gate.lock")).is_err());
    }
}
