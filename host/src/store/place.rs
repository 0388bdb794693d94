//! Where the database file may stand, and making it there.
//!
//! Called once at start, and it may wait for the disk. It refuses a place where other users could swap or read the
//! files (the database and those that SQLite keeps beside it), and network file systems, on which SQLite's locks and its shared memory don't work. It never opens a
//! database file that is there already: closing it again would drop the locks that SQLite holds for this process.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock, fstatfs};

use crate::{
    files::{self, Exposed},
    ports::store::StoreError,
};

/// What SQLite may have put beside a database, behind its name: its log, the index of the log, an older kind of log. A
/// backup that was put back by hand can leave them with another mode or owner.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

/// How long another process may take to open the same database: 100 times 50 ms.
const LOCK_ATTEMPTS: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// A database file that exists, in a place that is safe. While this lives, no other process opens one in that folder:
/// two that turn an empty file into a WAL database at the same moment would fail each other.
#[derive(Debug)]
pub(super) struct Place {
    /// The file, by a path without symbolic links.
    pub(super) path: PathBuf,
    /// Closing it lets the next process open its store.
    _lock: File,
}

impl Place {
    /// Checks the folder and the file, and makes what is missing: the folder with mode 0700, the file with 0600.
    pub(super) async fn prepare(path: &Path) -> Result<Self, StoreError> {
        let Some(name) = path.file_name() else {
            return Err(StoreError::Refused(format!("'{}' names no file: give the database a name", path.display())));
        };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        files::make_folder(folder).map_err(|error| failed(folder, error))?;
        let folder = fs::canonicalize(folder).map_err(|error| failed(folder, error))?;
        let opened = File::open(&folder).map_err(|error| failed(&folder, error))?;
        check_folder(&folder, &opened)?;
        lock(&folder, &opened).await?;
        let path = folder.join(name);
        make_or_check_file(&path)?;
        for suffix in BESIDE {
            let mut beside = path.clone().into_os_string();
            beside.push(suffix);
            check_file_if_any(Path::new(&beside))?;
        }
        Ok(Self { path, _lock: opened })
    }
}

fn check_folder(folder: &Path, opened: &File) -> Result<(), StoreError> {
    let found = opened.metadata().map_err(|error| failed(folder, error))?;
    files::check_place(folder, &found).map_err(|exposed| refused(&exposed))?;
    let statistics = fstatfs(opened).map_err(|error| failed(folder, error.into()))?;
    match FileSystem::of(statistics.f_type) {
        FileSystem::Local => Ok(()),
        FileSystem::Network(name) => Err(StoreError::Refused(format!(
            "'{}' lies on a network file system ({name}), where the store can be damaged: use a folder on a local disk",
            folder.display()
        ))),
        FileSystem::Fuse => {
            let folder = folder.display();
            tracing::warn!(%folder, "the store lies on a FUSE file system: make sure that no other host writes to it");
            Ok(())
        }
    }
}

/// What `statfs` says of a file system, as far as SQLite cares.
#[derive(Debug, PartialEq, Eq)]
enum FileSystem {
    Local,
    Network(&'static str),
    /// Network ones (sshfs) and local ones (the layers of a rootless container, virtiofs) look alike, and refusing the
    /// latter would keep Tollgate out of many containers: so this is warned of, not refused.
    Fuse,
}

impl FileSystem {
    /// From the magic number of `statfs`, as listed in Linux's `magic.h` and in statfs(2).
    fn of(magic: rustix::fs::FsWord) -> Self {
        match magic {
            0x6969 => Self::Network("NFS"),
            0x517b => Self::Network("SMB"),
            0xff53_4d42 => Self::Network("CIFS"),
            0xfe53_4d42 => Self::Network("SMB2"),
            0x0102_1997 => Self::Network("9p"),
            0x5346_414f => Self::Network("AFS"),
            0x7375_7245 => Self::Network("Coda"),
            0x00c3_6400 => Self::Network("Ceph"),
            0x0bd0_0bd0 => Self::Network("Lustre"),
            0x0116_1970 => Self::Network("GFS2"),
            0x7461_636f => Self::Network("OCFS2"),
            0x6573_5546 => Self::Fuse,
            _ => Self::Local,
        }
    }
}

/// Waits, for at most five seconds, until no other process is opening a store in this folder.
async fn lock(folder: &Path, opened: &File) -> Result<(), StoreError> {
    for _ in 0..LOCK_ATTEMPTS {
        match flock(opened, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) => tokio::time::sleep(LOCK_PAUSE).await,
            Err(error) => return Err(failed(folder, error.into())),
        }
    }
    let kept = "another process has kept it locked for five seconds: try again";
    Err(failed(folder, io::Error::new(io::ErrorKind::WouldBlock, kept)))
}

fn make_or_check_file(path: &Path) -> Result<(), StoreError> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(path, error)),
    }
    check_file_if_any(path)
}

/// What isn't there, or goes as it is looked at, is nobody's.
fn check_file_if_any(path: &Path) -> Result<(), StoreError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(path, error)),
    };
    if !found.is_file() {
        let path = path.display();
        return Err(StoreError::Refused(format!("'{path}' is no regular file: name the database file itself")));
    }
    files::check_file(path, &found).map_err(|exposed| refused(&exposed))
}

fn refused(exposed: &Exposed) -> StoreError {
    StoreError::Refused(exposed.to_string())
}

fn failed(path: &Path, error: io::Error) -> StoreError {
    StoreError::Database(Box::new(PlaceError { path: path.to_owned(), source: error }))
}

/// The system refused a file operation.
#[derive(Debug, thiserror::Error)]
#[error("can't use '{}'", path.display())]
struct PlaceError {
    path: PathBuf,
    source: io::Error,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    async fn refusal(path: &Path) -> String {
        match Place::prepare(path).await.unwrap_err() {
            StoreError::Refused(text) => text,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn network_file_systems_are_told_from_local_ones() {
        let check = |magic, expected| assert_eq!(FileSystem::of(magic), expected, "{magic:x}");
        check(0xef53, FileSystem::Local);
        check(0x5846_5342, FileSystem::Local);
        check(rustix::fs::NFS_SUPER_MAGIC, FileSystem::Network("NFS"));
        check(0xff53_4d42, FileSystem::Network("CIFS"));
        check(0xfe53_4d42, FileSystem::Network("SMB2"));
        check(0x0102_1997, FileSystem::Network("9p"));
        check(0x6573_5546, FileSystem::Fuse);
    }

    #[tokio::test]
    async fn what_is_missing_is_made_for_its_owner_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/tollgate.db");
        let place = Place::prepare(&path).await.unwrap();
        assert_eq!(
            (mode(&place.path), mode(&root.path().join("a/b")), mode(&root.path().join("a"))),
            (0o600, 0o700, 0o700)
        );
    }

    #[tokio::test]
    async fn a_folder_that_others_can_write_to_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let command = format!("chmod go-w {}", root.path().display());
        for bits in [0o770, 0o707, 0o720, 0o1777] {
            chmod(root.path(), bits);
            let text = refusal(&root.path().join("tollgate.db")).await;
            assert!(text.contains(&command), "{bits:o}: {text}");
        }
        chmod(root.path(), 0o755);
        Place::prepare(&root.path().join("tollgate.db")).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_that_others_can_open_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("tollgate.db");
        fs::write(&path, "").unwrap();
        for bits in [0o640, 0o604, 0o620] {
            chmod(&path, bits);
            assert!(refusal(&path).await.contains("chmod 600"), "{bits:o}");
        }
    }

    #[tokio::test]
    async fn the_files_beside_it_are_looked_at_too() {
        for name in ["tollgate.db-wal", "tollgate.db-shm", "tollgate.db-journal"] {
            let root = tempfile::tempdir().unwrap();
            let (path, beside) = (root.path().join("tollgate.db"), root.path().join(name));
            fs::write(&beside, "").unwrap();
            chmod(&beside, 0o644);
            let text = refusal(&path).await;
            assert!(text.contains(&format!("chmod 600 {}", beside.display())), "{text}");
            chmod(&beside, 0o600);
            drop(Place::prepare(&path).await.unwrap());
            fs::remove_file(&beside).unwrap();
            symlink(root.path().join("elsewhere"), &beside).unwrap();
            assert!(refusal(&path).await.contains("no regular file"), "{name}");
        }
    }

    /// Only root can give a file away, so elsewhere there is nothing to look at.
    #[tokio::test]
    async fn what_another_user_owns_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("tollgate.db");
        drop(Place::prepare(&path).await.unwrap());
        for given in [root.path(), &path] {
            if std::os::unix::fs::chown(given, Some(65_534), None).is_err() {
                return;
            }
            let text = refusal(&path).await;
            assert!(text.contains("the id 65534") && text.contains("chown 0"), "{text}");
            std::os::unix::fs::chown(given, Some(0), None).unwrap();
        }
        Place::prepare(&path).await.unwrap();
    }

    #[tokio::test]
    async fn only_a_regular_file_is_a_database() {
        let root = tempfile::tempdir().unwrap();
        let link = root.path().join("link.db");
        symlink(root.path().join("elsewhere.db"), &link).unwrap();
        assert!(refusal(&link).await.contains("no regular file"));
        assert!(refusal(&root.path().join("a/..")).await.contains("names no file"));
    }

    #[tokio::test]
    async fn one_opens_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("tollgate.db");
        let first = Place::prepare(&path).await.unwrap();
        let folder = File::open(root.path()).unwrap();
        let attempt = || flock(&folder, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(attempt(), Err(rustix::io::Errno::WOULDBLOCK));
        drop(first);
        assert_eq!(attempt(), Ok(()));
    }
}
