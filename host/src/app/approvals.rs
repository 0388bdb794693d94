//! What each policy may do, as somebody approved it: an empty-handed file for each policy and capability, in a folder of the state
//! folder. The file's name is the approval; what stands in it is for people.
//!
//! Needed only with `policies.approve = "new-capabilities"`. An approval lasts until its file is removed. A folder that can't be
//! read approves nothing.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::{
    config::{Approve, Config},
    files,
    policy::Capability,
};

/// Where approvals lie.
#[derive(Clone, Debug)]
pub struct Approvals {
    state_dir: PathBuf,
    folder: PathBuf,
}

impl Approvals {
    /// Those of this state folder.
    pub fn in_state(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned(), folder: state_dir.join("approved") }
    }

    /// Those that a gate of this configuration asks for; none where it asks for none.
    pub fn asked_by(config: &Config) -> Option<Self> {
        (config.policies.approve == Approve::NewCapabilities).then(|| Self::in_state(&config.state_dir))
    }

    /// What of this the policy was not approved to do.
    ///
    /// # Errors
    /// Why it isn't known.
    pub fn missing(&self, policy: &str, asked: &[Capability]) -> Result<Vec<Capability>, String> {
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let unreadable =
            |error: io::Error| format!("the approvals in {} can't be read: {error}", self.folder.display());
        match fs::symlink_metadata(&self.folder) {
            Ok(found) => files::check_folder(&self.folder, &found).map_err(|error| error.to_string())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(asked.to_vec()),
            Err(error) => return Err(unreadable(error)),
        }
        let mut missing = Vec::new();
        for capability in asked {
            match fs::symlink_metadata(self.file(policy, *capability)) {
                Ok(found) if found.is_file() => {}
                Ok(_) => missing.push(*capability),
                Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(*capability),
                Err(error) => return Err(unreadable(error)),
            }
        }
        Ok(missing)
    }

    /// Approves that the policy does all of this, from now on. `note` says of which version and when. In a state folder that isn't
    /// this user's nothing is made: the gate, which is another user there, would refuse it.
    ///
    /// # Errors
    /// Why not all of it could be written down, and what to run.
    pub fn approve(&self, policy: &str, capabilities: &[Capability], note: &str) -> Result<(), String> {
        let unwritable = |error: io::Error| format!("{} can't be written to: {error}", self.folder.display());
        if let Some(found) = there_is(&self.state_dir).map_err(unwritable)? {
            files::check_folder(&self.state_dir, &found).map_err(|error| error.to_string())?;
        }
        files::make_folder(&self.folder).map_err(unwritable)?;
        let found = fs::symlink_metadata(&self.folder).map_err(unwritable)?;
        files::check_folder(&self.folder, &found).map_err(|error| error.to_string())?;
        for capability in capabilities {
            let path = self.file(policy, *capability);
            let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
            let mut file = file.map_err(unwritable)?;
            writeln!(file, "{note}").and_then(|()| file.sync_all()).map_err(unwritable)?;
        }
        Ok(())
    }

    /// A policy's name has no dot.
    fn file(&self, policy: &str, capability: Capability) -> PathBuf {
        self.folder.join(format!("{policy}.{}", capability.word()))
    }
}

/// What is known of a folder, behind a link too, as the gate looks at it; none where there is none.
fn there_is(folder: &Path) -> io::Result<Option<fs::Metadata>> {
    match fs::metadata(folder) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    const ASKED: [Capability; 2] = [Capability::ChangesCalls, Capability::KeepsState];

    #[test]
    fn what_was_approved_for_one_policy_is_approved_for_no_other_and_nothing_else_is() {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join("state");
        let approvals = Approvals::in_state(&state);
        assert_eq!(approvals.missing("own", &ASKED).unwrap(), ASKED);
        assert_eq!(approvals.missing("own", &[]).unwrap(), []);
        approvals.approve("own", &[Capability::ChangesCalls], "for a test").unwrap();
        assert_eq!(approvals.missing("own", &ASKED).unwrap(), [Capability::KeepsState]);
        assert_eq!(approvals.missing("ow", &ASKED).unwrap(), ASKED);
        approvals.approve("own", &ASKED, "again").unwrap();
        assert_eq!(approvals.missing("own", &ASKED).unwrap(), []);
        fs::remove_file(state.join("approved/own.edits")).unwrap();
        assert_eq!(approvals.missing("own", &ASKED).unwrap(), [Capability::ChangesCalls]);
    }

    #[test]
    fn a_folder_that_others_could_write_to_approves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join("state");
        let approvals = Approvals::in_state(&state);
        approvals.approve("own", &ASKED, "for a test").unwrap();
        fs::set_permissions(state.join("approved"), fs::Permissions::from_mode(0o770)).unwrap();
        assert!(approvals.missing("own", &ASKED).unwrap_err().contains("chmod 700"));
        assert!(approvals.approve("own", &ASKED, "again").unwrap_err().contains("chmod 700"));
    }

    #[test]
    fn in_a_state_folder_that_is_not_this_user_s_alone_nothing_is_made() {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join("state");
        let approvals = Approvals::in_state(&state);
        files::make_folder(&state).unwrap();
        let is_refused = |words: &str| {
            let refused = approvals.approve("own", &ASKED, "for a test").unwrap_err();
            assert!(refused.contains(words), "{refused}");
            assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
        };
        fs::set_permissions(&state, fs::Permissions::from_mode(0o750)).unwrap();
        is_refused("run `chmod 700 ");
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
        // Only root can give a folder away: elsewhere this part proves nothing.
        if chown(&state, Some(4_242), None).is_ok() {
            is_refused("belongs to the user with the id 4242: run tollgate as that user");
            chown(&state, Some(rustix::process::geteuid().as_raw()), None).unwrap();
        }
        approvals.approve("own", &ASKED, "for a test").unwrap();
        // A gate that never ran has none: it is made as its start would make it.
        fs::remove_dir_all(&state).unwrap();
        approvals.approve("own", &ASKED, "for a test").unwrap();
        assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
