//! The admin token: who may steer a running gate. `admin.token` in the state folder holds it, for its owner alone.
//!
//! It is made at the first start, and never overwritten. It is read from the file whenever it is needed, so that a new
//! one counts at once, and one that others could know or replace counts no more. It may wait for the disk: never on a
//! worker's thread. The token itself is never printed, by `Debug` neither.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use aws_lc_rs::{constant_time::verify_slices_are_equal, rand};
use rustix::process::geteuid;

use super::credential::NoRandomness;
use crate::files;

const FILE: &str = "admin.token";
/// By this, those who look for leaked secrets find it.
const PREFIX: &str = "tga_";
const BYTES: usize = 32;
/// A whole token, in bytes: the prefix and the hex digits.
const LENGTH: usize = PREFIX.len() + 2 * BYTES;

/// Why there is no admin token.
#[derive(Debug, thiserror::Error)]
pub enum AdminTokenError {
    /// There is none yet.
    #[error(
        "there is no admin token at '{}': `tollgate serve` makes it when it starts; use the configuration that the gate \
         runs with",
        path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("can't read or make the admin token at '{}'", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Somebody else could replace it.
    #[error("other users can write to '{0}', and so could replace the admin token: run `chmod go-w {0}`", path.display())]
    FolderExposed {
        /// The folder.
        path: PathBuf,
    },
    /// Somebody else could know it.
    #[error(
        "other users can open the admin token '{0}': run `chmod 600 {0}`, or better `rm {0}` and restart the gate, which \
         makes a new one",
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else wrote it.
    #[error(
        "the admin token '{0}' belongs to another user (uid {owner}): run `chown {expected} {0}`, or remove it and restart \
         the gate",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose it should be.
        expected: u32,
    },
    /// It holds something else.
    #[error("'{0}' holds no admin token: remove it and restart the gate, which makes a new one", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// None could be made.
    #[error("can't make an admin token")]
    NoRandomness(#[source] NoRandomness),
}

/// The text that proves an operator.
#[derive(Clone)]
pub struct AdminToken(Box<str>);

impl AdminToken {
    /// The file that holds it.
    pub fn file(state_dir: &Path) -> PathBuf {
        state_dir.join(FILE)
    }

    /// Reads `admin.token` in the state folder.
    ///
    /// # Errors
    /// When there is none, or none that may be used.
    pub fn load(state_dir: &Path) -> Result<Self, AdminTokenError> {
        let path = state_dir.join(FILE);
        let file = match files::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(AdminTokenError::Missing { path }),
            Err(source) => return Err(AdminTokenError::File { path, source }),
        };
        let failed = |source| AdminTokenError::File { path: path.clone(), source };
        let folder = fs::metadata(state_dir).map_err(failed)?;
        if folder.mode() & 0o022 != 0 {
            return Err(AdminTokenError::FolderExposed { path: state_dir.to_owned() });
        }
        let about = file.metadata().map_err(failed)?;
        if !about.is_file() {
            return Err(AdminTokenError::Malformed { path });
        }
        if about.mode() & 0o077 != 0 {
            return Err(AdminTokenError::Exposed { path });
        }
        // Root may steer a gate of another user; that user is whose the folder is.
        let own = geteuid().as_raw();
        if about.uid() != own && about.uid() != folder.uid() {
            return Err(AdminTokenError::Foreign { path, owner: about.uid(), expected: folder.uid() });
        }
        let mut text = String::new();
        let most = u64::try_from(LENGTH + 2).unwrap_or(u64::MAX);
        match file.take(most).read_to_string(&mut text) {
            Err(error) if error.kind() != io::ErrorKind::InvalidData => Err(failed(error)),
            _ => Self::parse(&text).ok_or(AdminTokenError::Malformed { path }),
        }
    }

    /// Reads `admin.token` in the state folder, which is there, and makes it first when there is none. Processes that start
    /// together agree.
    ///
    /// # Errors
    /// When it can't be made, or there is none that may be used.
    pub fn load_or_create(state_dir: &Path) -> Result<Self, AdminTokenError> {
        match Self::load(state_dir) {
            Err(AdminTokenError::Missing { path }) => create(state_dir, &path)?,
            loaded => return loaded,
        }
        // What stands there now may be another process's, which was first: that one counts.
        Self::load(state_dir)
    }

    /// Whether this is the token; takes as long for any text of its length.
    pub fn is(&self, presented: &[u8]) -> bool {
        verify_slices_are_equal(self.0.as_bytes(), presented).is_ok()
    }

    /// The token itself, to present it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The token, with or without a line end.
    fn parse(text: &str) -> Option<Self> {
        let token = text.strip_suffix('\n').unwrap_or(text);
        let digits = token.strip_prefix(PREFIX)?;
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        (token.len() == LENGTH && is_hex).then(|| Self(token.into()))
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AdminToken(…)")
    }
}

/// Writes a new token under another name first, so that nobody ever reads half of one, then links it to its place, which
/// fails if one is there already.
fn create(folder: &Path, path: &Path) -> Result<(), AdminTokenError> {
    let mut random = [0; BYTES];
    let mut name = [0; 8];
    rand::fill(&mut random)
        .and_then(|()| rand::fill(&mut name))
        .map_err(|_| AdminTokenError::NoRandomness(NoRandomness))?;
    let text = random.iter().map(|byte| format!("{byte:02x}")).fold(PREFIX.to_owned(), |text, digits| text + &digits);
    let draft = folder.join(format!("{FILE}.new-{:016x}", u64::from_be_bytes(name)));
    let linked = write(&draft, &text).and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => File::open(folder)?.sync_all(),
    });
    let removed = fs::remove_file(&draft);
    linked.and(removed).map_err(|source| AdminTokenError::File { path: path.to_owned(), source })
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, thread};

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn the_first_start_makes_a_token_for_its_owner_alone_and_later_ones_find_it() {
        let folder = folder();
        let made = AdminToken::load_or_create(folder.path()).unwrap();
        let file = folder.path().join(FILE);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{}\n", made.expose()));
        assert!(made.expose().starts_with("tga_") && made.expose().len() == 68);
        assert!(AdminToken::load_or_create(folder.path()).unwrap().is(made.expose().as_bytes()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn those_who_start_together_agree() {
        let folder = folder();
        let tokens: Vec<AdminToken> = thread::scope(|scope| {
            let starting: Vec<_> =
                (0..8).map(|_| scope.spawn(|| AdminToken::load_or_create(folder.path()).unwrap())).collect();
            starting.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (first, rest) = tokens.split_first().unwrap();
        assert!(rest.iter().all(|token| token.is(first.expose().as_bytes())));
    }

    #[test]
    fn only_the_whole_token_is_the_token() {
        let token = AdminToken::load_or_create(folder().path()).unwrap();
        let text = token.expose();
        let (most, last) = text.split_at(67);
        let digits = text.trim_start_matches(PREFIX);
        let flipped = format!("{most}{}", if last == "0" { '1' } else { '0' });
        for wrong in ["", PREFIX, most, digits, &format!("{text}0"), &text.to_uppercase(), &flipped] {
            assert!(!token.is(wrong.as_bytes()), "{wrong}");
        }
        assert!(token.is(text.as_bytes()));
        assert!(!format!("{token:?}").contains(digits), "it shows itself");
    }

    #[test]
    fn a_new_file_counts_and_what_is_no_token_is_refused_and_stays() {
        let folder = folder();
        let file = folder.path().join(FILE);
        AdminToken::load_or_create(folder.path()).unwrap();
        let digits = "0a".repeat(32);
        let other = format!("{PREFIX}{digits}");
        fs::write(&file, &other).unwrap();
        assert!(AdminToken::load(folder.path()).unwrap().is(other.as_bytes()), "without a line end as well");
        for text in ["", PREFIX, &digits, &format!("{other}\n\n"), &format!("{other}0"), &other.to_uppercase()] {
            fs::write(&file, text).unwrap();
            let refused = AdminToken::load_or_create(folder.path()).unwrap_err();
            assert!(matches!(refused, AdminTokenError::Malformed { .. }), "{text:?}: {refused:?}");
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        fs::write(&file, [0xff; 68]).unwrap();
        assert!(matches!(AdminToken::load(folder.path()), Err(AdminTokenError::Malformed { .. })));
    }

    #[test]
    fn what_others_can_know_or_replace_is_refused_with_what_to_run() {
        let folder = folder();
        let file = folder.path().join(FILE);
        assert!(matches!(AdminToken::load(folder.path()), Err(AdminTokenError::Missing { .. })));
        AdminToken::load_or_create(folder.path()).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let refused = AdminToken::load_or_create(folder.path()).unwrap_err().to_string();
            assert!(refused.contains(&format!("chmod 600 {}", file.display())), "{mode:o}: {refused}");
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o770)).unwrap();
        let refused = AdminToken::load(folder.path()).unwrap_err().to_string();
        assert!(refused.contains(&format!("chmod go-w {}", folder.path().display())), "{refused}");
    }

    #[test]
    fn the_token_of_another_user_is_refused() {
        let folder = folder();
        AdminToken::load_or_create(folder.path()).unwrap();
        let file = folder.path().join(FILE);
        if !geteuid().is_root() {
            return;
        }
        std::os::unix::fs::chown(&file, Some(4_711), None).unwrap();
        let refused = AdminToken::load(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("uid 4711") && refused.contains("chown 0 "), "{refused}");
        // Root steers the gate of the user whose folder and token it is.
        std::os::unix::fs::chown(folder.path(), Some(4_711), None).unwrap();
        AdminToken::load(folder.path()).unwrap();
    }
}
