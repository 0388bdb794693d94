//! Whether other gates use the same state folder: each holds a shared lock on a file in it for as long as it lives.
//!
//! Nothing depends on it but a line in the log: where locks don't work, nobody is told.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

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

/// The file, locked, and whether nobody else holds it.
fn hold(path: &Path) -> io::Result<(File, bool)> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    let is_alone = file.try_lock().is_ok();
    if is_alone {
        file.unlock()?;
    }
    // Only somebody who is just looking whether they are alone may be in the way, and finds that they aren't.
    drop(file.try_lock_shared());
    Ok((file, is_alone))
}

#[cfg(test)]
mod tests {
    use super::*;

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
