//! The policy folder: which files are in it, and whether they may be used.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{self, SHA256_OUTPUT_LEN};
use rustix::fs::OFlags;

use crate::wasm::MAX_COMPONENT_BYTES;

/// Longest name of a policy.
const MAX_NAME: usize = 64;

/// Most policies in a folder.
const MAX_FILES: usize = 256;

/// What tells one version of a file from another.
pub(super) type Digest = [u8; 32];

/// One policy file.
#[derive(Debug)]
pub(super) struct PolicyFile {
    pub(super) name: String,
    path: PathBuf,
}

/// A file's content.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
    pub(super) digest: Digest,
}

/// All `NAME.wasm` files of a folder, by name.
///
/// # Errors
/// When the folder can't be read, or others can write to it.
pub(super) fn scan(folder: &Path) -> Result<Vec<PolicyFile>, String> {
    let unreadable = |error: io::Error| format!("the policy folder {} can't be read: {error}", folder.display());
    refuse_writable(folder, &fs::metadata(folder).map_err(unreadable)?)?;
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            paths.push(path);
        }
    }
    if paths.len() > MAX_FILES {
        return Err(format!("the policy folder {} holds more than {MAX_FILES} policies", folder.display()));
    }
    paths.sort();
    Ok(paths.into_iter().filter_map(file).collect())
}

fn file(path: PathBuf) -> Option<PolicyFile> {
    // A hidden file is one that is still being written, by most tools' custom.
    let name =
        path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).filter(|name| !name.starts_with('.'))?;
    Some(PolicyFile { name, path })
}

impl PolicyFile {
    /// Reads it: one file at a time stands in memory.
    ///
    /// # Errors
    /// Why it may not be used.
    pub(super) fn read(&self) -> Result<Content, String> {
        let fits = matches!(self.name.len(), 1..=MAX_NAME)
            && self.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if fits { content(&self.path) } else { Err("a policy's name is of a-z, 0-9 and -: rename the file".to_owned()) }
    }
}

/// Whether a gate would read this file as a policy.
///
/// # Errors
/// Why not, and what to do.
pub fn check_policy_file(path: &Path) -> Result<(), String> {
    let file = file(path.to_owned()).ok_or("a hidden file is no policy: rename it")?;
    if path.extension().is_none_or(|extension| extension != "wasm") {
        return Err("a policy's file is named NAME.wasm: rename it".to_owned());
    }
    file.read().map(drop)
}

/// The version of a component: the hash of its bytes.
pub fn version_of(bytes: &[u8]) -> String {
    version(&digest(bytes))
}

fn content(path: &Path) -> Result<Content, String> {
    let unreadable = |error: io::Error| format!("it can't be read: {error}");
    // Without waiting: a pipe in the folder would never open.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    let about = file.metadata().map_err(unreadable)?;
    if !about.is_file() {
        return Err("it is no regular file".to_owned());
    }
    refuse_writable(path, &about)?;
    let most = u64::try_from(MAX_COMPONENT_BYTES).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    file.by_ref().take(most + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    let digest = digest(&bytes);
    Ok(Content { bytes, digest })
}

/// The hash that tells a component from any other.
pub(super) fn digest(bytes: &[u8]) -> Digest {
    let mut digest = Digest::default();
    const { assert!(size_of::<Digest>() == SHA256_OUTPUT_LEN) };
    digest.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    digest
}

/// A digest as text.
pub(super) fn version(digest: &Digest) -> String {
    digest.iter().fold("sha256:".to_owned(), |mut text, byte| {
        text.push_str(&format!("{byte:02x}"));
        text
    })
}

/// Who can write a policy decides who may pass the gate.
fn refuse_writable(path: &Path, about: &fs::Metadata) -> Result<(), String> {
    if about.mode() & 0o002 != 0 {
        return Err(format!("everybody can write to {}; run: chmod o-w {}", path.display(), path.display()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_version_is_the_hash_as_everybody_writes_it() {
        let text = version(&digest(b"abc"));
        assert_eq!(text, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    fn names(folder: &Path) -> Vec<(String, bool)> {
        scan(folder)
            .unwrap()
            .into_iter()
            .map(|file| {
                let fits = file.read().is_ok();
                (file.name, fits)
            })
            .collect()
    }

    #[test]
    fn wasm_files_are_found_by_name_and_odd_names_are_told() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["b.wasm", "a-1.wasm", "Odd Name.wasm", ".b.wasm", "notes.txt", "a.toml"] {
            fs::write(folder.path().join(file), "x").unwrap();
        }
        fs::create_dir(folder.path().join("c.wasm")).unwrap();
        let found = [("Odd Name", false), ("a-1", true), ("b", true), ("c", false)];
        assert_eq!(names(folder.path()), found.map(|(name, fits)| (name.to_owned(), fits)));
    }

    #[test]
    fn what_everybody_can_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.wasm");
        fs::write(&file, "x").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(names(folder.path()), [("a".to_owned(), false)]);
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(scan(folder.path()).unwrap_err().contains("chmod o-w"));
    }
}
