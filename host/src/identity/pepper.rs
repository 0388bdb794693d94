//! The pepper: 32 random bytes in a file, which key the hashes that the store keeps.
//!
//! It is made once, at the first start; all processes on a host share it. Without it no key can be proven, so it is
//! never overwritten, and a file that looks wrong is refused rather than replaced. It may wait for the disk: load it
//! at start.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use aws_lc_rs::{digest::SHA256_OUTPUT_LEN, hmac, rand};

use super::credential::NoRandomness;
use crate::{
    files::{self, Exposed},
    ports::store::SecretHash,
};

const FILE: &str = "pepper";
const BYTES: usize = 32;
/// The hex digits and a line end, in bytes.
const LONGEST: u64 = 65;
/// Between id and secret, so that moving a digit from one to the other gives another hash. Neither contains it.
const SEPARATOR: u8 = 0;

/// Why there is no pepper.
#[derive(Debug, thiserror::Error)]
pub enum PepperError {
    /// The system refused.
    #[error("can't read or make the pepper at '{}'", path.display())]
    File {
        /// The file or its folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Somebody else could know or replace it.
    #[error("the pepper is not safe")]
    Exposed(#[from] Exposed),
    /// It holds something else.
    #[error(
        "'{0}' is not a pepper (a file with 64 hex digits): restore it from a backup; \
         with another pepper all keys stop working",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// None could be made.
    #[error("can't make a pepper")]
    NoRandomness(#[source] NoRandomness),
}

/// The key of the keyed hash. Clones share nothing that could change.
#[derive(Clone)]
pub struct Pepper(hmac::Key);

impl Pepper {
    /// Reads `pepper` in the state folder, and makes it first when there is none. Processes that start together agree.
    ///
    /// # Errors
    /// When it can't be read or made, holds something else, or is open to other users.
    pub fn load_or_create(state_dir: &Path) -> Result<Self, PepperError> {
        let path = state_dir.join(FILE);
        check_folder(state_dir)?;
        if let Some(pepper) = load(&path)? {
            return Ok(pepper);
        }
        create(state_dir, &path)?;
        // What stands there now may be another process's, which was first: that one counts.
        load(&path)?.ok_or_else(|| file_error(&path, io::ErrorKind::NotFound.into()))
    }

    /// The hash that proves a secret: HMAC-SHA-256 over the id, a separator and the secret.
    pub fn hash(&self, id: &str, secret: &str) -> SecretHash {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(id.as_bytes());
        context.update(&[SEPARATOR]);
        context.update(secret.as_bytes());
        let mut hash = SecretHash::default();
        const { assert!(size_of::<SecretHash>() == SHA256_OUTPUT_LEN) };
        hash.copy_from_slice(context.sign().as_ref());
        hash
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Pepper(…)")
    }
}

fn check_folder(folder: &Path) -> Result<(), PepperError> {
    files::make_folder(folder).map_err(|error| file_error(folder, error))?;
    let found = fs::metadata(folder).map_err(|error| file_error(folder, error))?;
    Ok(files::check_place(folder, &found)?)
}

/// None when there is no such file.
fn load(path: &Path) -> Result<Option<Pepper>, PepperError> {
    let file = match files::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_error(path, error)),
    };
    let found = file.metadata().map_err(|error| file_error(path, error))?;
    let malformed = || PepperError::Malformed { path: path.to_owned() };
    if !found.is_file() {
        return Err(malformed());
    }
    files::check_file(path, &found)?;
    let mut text = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut text).map_err(|error| file_error(path, error))?;
    let bytes = decode(&text).ok_or_else(malformed)?;
    Ok(Some(Pepper(hmac::Key::new(hmac::HMAC_SHA256, &bytes))))
}

/// Writes a new pepper under another name first, so that nobody ever reads half of one, then links it to its place,
/// which fails if one is there already.
fn create(folder: &Path, path: &Path) -> Result<(), PepperError> {
    let mut random = [0; BYTES];
    let mut name = [0; 8];
    rand::fill(&mut random)
        .and_then(|()| rand::fill(&mut name))
        .map_err(|_| PepperError::NoRandomness(NoRandomness))?;
    let draft = folder.join(format!("{FILE}.new-{:016x}", u64::from_be_bytes(name)));
    let linked = write(&draft, &encode(random)).and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => File::open(folder)?.sync_all(),
    });
    let removed = fs::remove_file(&draft);
    linked.and(removed).map_err(|error| file_error(path, error))
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn file_error(path: &Path, source: io::Error) -> PepperError {
    PepperError::File { path: path.to_owned(), source }
}

fn encode(bytes: [u8; BYTES]) -> String {
    let mut text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    text.push('\n');
    text
}

/// 64 hex digits, with or without a line end.
fn decode(text: &[u8]) -> Option<[u8; BYTES]> {
    let digits = text.strip_suffix(b"\n").unwrap_or(text);
    if digits.len() != 2 * BYTES {
        return None;
    }
    let mut bytes = [0; BYTES];
    let mut values = digits.iter().map(|digit| char::from(*digit).to_digit(16));
    for byte in &mut bytes {
        *byte = u8::try_from(values.next()?? * 16 + values.next()??).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::{MetadataExt, PermissionsExt},
        sync::Barrier,
    };

    use tempfile::{TempDir, tempdir};

    use super::*;

    /// A folder whose pepper file holds this, with this mode.
    fn folder_with(text: &str, mode: u32) -> TempDir {
        let folder = tempdir().unwrap();
        let path = folder.path().join(FILE);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        folder
    }

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn it_is_made_once_for_its_owner_alone_and_read_ever_after() {
        let root = tempdir().unwrap();
        let folder = root.path().join("state");
        let made = Pepper::load_or_create(&folder).unwrap();
        let read = Pepper::load_or_create(&folder).unwrap();
        assert_eq!(made.hash("id", "secret"), read.hash("id", "secret"));
        assert_eq!(fs::metadata(folder.join(FILE)).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        assert_eq!(names(&folder), [FILE], "no draft is left");
    }

    #[test]
    fn two_folders_have_two_peppers() {
        let (one, other) = (tempdir().unwrap(), tempdir().unwrap());
        let hash = |folder: &TempDir| Pepper::load_or_create(folder.path()).unwrap().hash("id", "secret");
        assert_ne!(hash(&one), hash(&other));
    }

    #[test]
    fn processes_that_start_together_agree() {
        for _ in 0..20 {
            let folder = tempdir().unwrap();
            let start = Barrier::new(4);
            let hashes: Vec<SecretHash> = std::thread::scope(|scope| {
                let starters: Vec<_> = (0..4)
                    .map(|_| {
                        scope.spawn(|| {
                            start.wait();
                            Pepper::load_or_create(folder.path()).unwrap().hash("id", "secret")
                        })
                    })
                    .collect();
                starters.into_iter().map(|starter| starter.join().unwrap()).collect()
            });
            assert!(hashes.iter().all(|hash| *hash == hashes[0]));
            assert_eq!(names(folder.path()), [FILE]);
        }
    }

    #[test]
    fn the_hash_is_hmac_sha_256_of_id_separator_and_secret() {
        let folder = folder_with(&"0b".repeat(32), 0o600);
        let pepper = Pepper::load_or_create(folder.path()).unwrap();
        let hex: String = pepper.hash("k1", "s3").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "49cb6c40b4ab10606097d6400b61adf0bdf56880dcc4f84e76fa92283717fcb1");
        assert_ne!(pepper.hash("k1", "s3"), pepper.hash("k1s", "3"));
        assert_ne!(pepper.hash("k1", "s3"), pepper.hash("k2", "s3"));
    }

    #[test]
    fn a_file_that_others_can_open_is_refused() {
        for mode in [0o640, 0o604, 0o620, 0o602, 0o644] {
            let folder = folder_with(&"0b".repeat(32), mode);
            let error = Pepper::load_or_create(folder.path()).unwrap_err();
            let PepperError::Exposed(exposed) = error else { panic!("{mode:o}: {error}") };
            let command = format!("chmod 600 {}", folder.path().join(FILE).display());
            assert!(exposed.to_string().contains(&command), "{exposed}");
        }
        Pepper::load_or_create(folder_with(&"0b".repeat(32), 0o400).path()).unwrap();
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_refused() {
        let folder = tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o770)).unwrap();
        let error = Pepper::load_or_create(folder.path()).unwrap_err();
        let PepperError::Exposed(exposed) = error else { panic!("{error}") };
        assert!(exposed.to_string().contains(&format!("chmod go-w {}", folder.path().display())), "{exposed}");
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn a_file_that_holds_something_else_is_refused_and_left_alone() {
        let digits = "0b".repeat(32);
        for text in [
            "",
            "\n",
            digits.get(1..).unwrap(),
            &format!("{digits}0"),
            &format!("{digits}\n\n"),
            &"zz".repeat(32),
            &"+1".repeat(32),
        ] {
            let folder = folder_with(text, 0o600);
            let error = Pepper::load_or_create(folder.path()).unwrap_err();
            assert!(matches!(error, PepperError::Malformed { .. }), "{text:?}: {error}");
            assert_eq!(fs::read_to_string(folder.path().join(FILE)).unwrap(), text);
        }
        for text in [digits.to_uppercase(), format!("{digits}\n")] {
            Pepper::load_or_create(folder_with(&text, 0o600).path()).unwrap();
        }
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let folder = tempdir().unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, folder.path().join(FILE), mode).unwrap();
        let piped = Pepper::load_or_create(folder.path()).unwrap_err();
        assert!(matches!(piped, PepperError::Malformed { .. }), "{piped}");
        fs::remove_file(folder.path().join(FILE)).unwrap();
        fs::create_dir(folder.path().join(FILE)).unwrap();
        assert!(matches!(Pepper::load_or_create(folder.path()), Err(PepperError::Malformed { .. })));
    }

    #[test]
    fn debug_and_errors_show_no_byte_of_it() {
        let folder = folder_with(&"0b".repeat(32), 0o600);
        assert_eq!(format!("{:?}", Pepper::load_or_create(folder.path()).unwrap()), "Pepper(…)");
        let folder = folder_with("c0ffee", 0o600);
        let error = Pepper::load_or_create(folder.path()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("c0ffee"));
    }
}
