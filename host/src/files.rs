//! Files and folders that belong to this process's user alone: what others may do to them, and what to run about it.
//!
//! The texts name a command that can be pasted into a shell. Nothing here changes a mode or an owner: a file that others
//! could open may have been read already, and that is for a person to judge.

use std::{
    fs::{DirBuilder, File, Metadata},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, StatVfsMountFlags, fstatvfs},
    io::Errno,
    process::geteuid,
};

/// What others may do, as bits of a mode.
const OPEN_TO_OTHERS: u32 = 0o077;
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Why a file or a folder is not this user's alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exposed {
    /// Its mode lets others in.
    #[error("other users can open '{}': run `chmod {mode:o} {}`", path.display(), word(path))]
    Open {
        /// Which one.
        path: PathBuf,
        /// The mode that it should have.
        mode: u32,
    },
    /// Its mode lets others put something else in place of what lies in it.
    #[error("other users can write to '{}', and so replace what lies there: run `chmod go-w {}`", path.display(), word(path))]
    Writable {
        /// Which one.
        path: PathBuf,
    },
    /// Another user owns it, who could change it at any time; or whom what is made here would be kept from.
    #[error(
        "'{}' belongs to the user with the id {owner}: run tollgate as that user, or run `chown {us} {}`",
        path.display(), word(path)
    )]
    Foreign {
        /// Which one.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who this process is.
        us: u32,
    },
}

/// Opens a file to read it, at once and as it stands there: a pipe in its place would never open, and a link could lead to
/// anything. Whether it is a file, and whose, is for the caller to look at.
///
/// # Errors
/// As the system's.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map(File::from).map_err(|error| match error {
        Errno::LOOP => io::Error::other("it is a symbolic link: put the file itself there"),
        error => error.into(),
    })
}

/// Makes a folder for this user alone, with those above it, where there is none yet.
///
/// # Errors
/// As the system's.
pub fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Whether a folder is this user's alone (mode 0700 or less).
///
/// # Errors
/// Why not, and what to run.
pub fn check_folder(path: &Path, found: &Metadata) -> Result<(), Exposed> {
    check(path, found.mode(), 0o700, (found.uid(), geteuid().as_raw()))
}

/// Whether only this user can change what a folder holds. Others may see what is there: the files guard themselves.
///
/// # Errors
/// Why not, and what to run.
pub fn check_place(path: &Path, found: &Metadata) -> Result<(), Exposed> {
    let kept = found.mode() & WRITABLE_BY_OTHERS;
    match check(path, kept, 0o700, (found.uid(), geteuid().as_raw())) {
        Err(Exposed::Open { path, .. }) => Err(Exposed::Writable { path }),
        other => other,
    }
}

/// Whether only this user and root can change a file or folder. On a file system that is mounted read-only nobody can,
/// whatever its mode.
///
/// # Errors
/// Why not, and what to run.
pub fn check_trusted(path: &Path, file: &File, found: &Metadata) -> Result<(), Exposed> {
    let (owner, us) = (found.uid(), geteuid().as_raw());
    if owner != us && owner != 0 {
        return Err(Exposed::Foreign { path: path.to_owned(), owner, us });
    }
    let is_read_only = || fstatvfs(file).is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::RDONLY));
    if found.mode() & WRITABLE_BY_OTHERS != 0 && !is_read_only() {
        return Err(Exposed::Writable { path: path.to_owned() });
    }
    Ok(())
}

/// Whether a file is this user's alone (mode 0600 or less).
///
/// # Errors
/// Why not, and what to run.
pub fn check_file(path: &Path, found: &Metadata) -> Result<(), Exposed> {
    check(path, found.mode(), 0o600, (found.uid(), geteuid().as_raw()))
}

/// The owner is looked at first: who doesn't own a file can't change its mode.
fn check(path: &Path, found: u32, wanted: u32, (owner, us): (u32, u32)) -> Result<(), Exposed> {
    let path = || path.to_owned();
    if owner != us {
        return Err(Exposed::Foreign { path: path(), owner, us });
    }
    if found & OPEN_TO_OTHERS != 0 {
        return Err(Exposed::Open { path: path(), mode: wanted });
    }
    Ok(())
}

/// A path as one word of a shell.
fn word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "/._-+@".contains(character);
    match text.chars().all(is_plain) && !text.starts_with('-') {
        true => text,
        // A leading dot keeps a name that begins with a hyphen from being an option.
        false => format!("'{}{}'", if text.starts_with('-') { "./" } else { "" }, text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;

    #[test]
    fn what_is_made_and_anything_stricter_is_alone_and_looser_is_not() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a/b");
        make_folder(&folder).unwrap();
        make_folder(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        let mode = |mode: u32| {
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
            let found = fs::metadata(&folder).unwrap();
            let alone = (check_folder(&folder, &found).is_ok(), check_file(&folder, &found).is_ok());
            (alone, check_place(&folder, &found).is_ok())
        };
        for good in [0o700, 0o600, 0o500, 0o400, 0o000] {
            assert_eq!(mode(good), ((true, true), true), "{good:o}");
        }
        for seen in [0o710, 0o701, 0o740, 0o704, 0o755] {
            assert_eq!(mode(seen), ((false, false), true), "{seen:o}");
        }
        for bad in [0o720, 0o702, 0o770, 0o777, 0o1777] {
            assert_eq!(mode(bad), ((false, false), false), "{bad:o}");
        }
        mode(0o775);
        let refused = check_place(&folder, &fs::metadata(&folder).unwrap()).unwrap_err().to_string();
        assert!(refused.contains(&format!("chmod go-w {}", folder.display())), "{refused}");
        mode(0o700);
    }

    #[test]
    fn a_pipe_is_opened_without_waiting_and_a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
        assert!(!open(&at("pipe")).unwrap().metadata().unwrap().is_file());
        fs::write(at("file"), "x").unwrap();
        assert!(open(&at("file")).unwrap().metadata().unwrap().is_file());
        symlink(at("file"), at("link")).unwrap();
        assert!(open(&at("link")).unwrap_err().to_string().contains("the file itself"));
        assert_eq!(open(&at("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_command_to_run_stands_in_the_text() {
        let check = |found: u32, wanted: u32, path: &str, command: &str| {
            let text = check(Path::new(path), found, wanted, (7, 7)).unwrap_err().to_string();
            assert!(text.ends_with(&format!("run `{command}`")), "{text}");
        };
        check(0o755, 0o700, "/var/lib/tollgate", "chmod 700 /var/lib/tollgate");
        check(0o644, 0o600, "state/pepper", "chmod 600 state/pepper");
        check(0o644, 0o600, "my state/it's", r"chmod 600 'my state/it'\''s'");
        check(0o644, 0o600, "-rf", "chmod 600 './-rf'");
    }

    #[test]
    fn what_another_user_owns_is_refused_whatever_its_mode() {
        let refused = check(Path::new("/s"), 0o755, 0o700, (1000, 0)).unwrap_err();
        let text = refused.to_string();
        assert!(text.contains("the id 1000") && text.ends_with("`chown 0 /s`"), "{text}");
        assert_eq!(check(Path::new("/s"), 0o700, 0o700, (1000, 1000)), Ok(()));
    }
}
