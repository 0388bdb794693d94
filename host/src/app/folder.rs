//! The policy folder: which files are in it, and whether they may be used.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{self, SHA256_OUTPUT_LEN};
use rustix::fs::OFlags;

use crate::{
    files,
    wasm::{MAX_CASES_BYTES, MAX_COMPONENT_BYTES},
};

/// Longest name of a policy.
const MAX_NAME: usize = 64;

/// Most policies in a folder.
const MAX_FILES: usize = 256;

/// Longest `NAME.toml`, in bytes.
const MAX_TERMS_BYTES: usize = 256 << 10;

/// What stands behind a policy's name in that of its cases, before `.json`.
const CASES_SUFFIX: &str = ".cases";

/// What tells one version of a file from another.
pub(super) type Digest = [u8; 32];

/// The files of one policy.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PolicyFiles {
    /// `NAME.wasm`.
    pub(super) component: Option<PathBuf>,
    /// `NAME.toml`.
    pub(super) terms: Option<PathBuf>,
    /// `NAME.cases.json`.
    pub(super) cases: Option<PathBuf>,
    /// `NAME.cwasm`, which is never used.
    native: Option<PathBuf>,
}

/// A file's content.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
    pub(super) digest: Digest,
    /// Device and number: two names of one file have the same.
    pub(super) identity: (u64, u64),
}

/// Why a file is not used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// It changed while it was read: it is looked at again when that is over.
    Unstable,
    /// What is wrong, and what to do.
    Refused(String),
}

/// All policies of a folder, by name.
///
/// # Errors
/// When the folder can't be read, or others can write to it.
pub(super) fn scan(folder: &Path) -> Result<BTreeMap<String, PolicyFiles>, String> {
    let unreadable = |error: io::Error| format!("the policy folder {} can't be read: {error}", folder.display());
    let opened = File::open(folder).map_err(unreadable)?;
    let about = opened.metadata().map_err(unreadable)?;
    files::check_trusted(folder, &opened, &about).map_err(|exposed| exposed.to_string())?;
    let mut policies: BTreeMap<String, PolicyFiles> = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let Some(name) = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()) else { continue };
        // A hidden file is one that is still being written, by most tools' custom.
        if name.starts_with('.') {
            continue;
        }
        let extension = path.extension().and_then(|extension| extension.to_str());
        let is_cases = extension == Some("json") && name.ends_with(CASES_SUFFIX);
        let name = match name.strip_suffix(CASES_SUFFIX) {
            Some(of) if is_cases => of.to_owned(),
            _ => name,
        };
        let of = |policies: &mut BTreeMap<String, PolicyFiles>, set: fn(&mut PolicyFiles, PathBuf)| {
            set(policies.entry(name.clone()).or_default(), path.clone());
        };
        match extension {
            Some("wasm") => of(&mut policies, |files, path| files.component = Some(path)),
            Some("toml") => of(&mut policies, |files, path| files.terms = Some(path)),
            Some("json") if is_cases => of(&mut policies, |files, path| files.cases = Some(path)),
            Some("cwasm") => of(&mut policies, |files, path| files.native = Some(path)),
            _ => continue,
        }
        if policies.len() > MAX_FILES {
            return Err(format!("the policy folder {} holds more than {MAX_FILES} policies", folder.display()));
        }
    }
    Ok(policies)
}

impl PolicyFiles {
    /// Whether there is nothing that they could be the cases of.
    pub(super) fn are_cases_alone(&self) -> bool {
        self.component.is_none() && self.terms.is_none() && self.native.is_none() && self.cases.is_some()
    }

    /// Whether what belongs to the component came after the folder was listed: without it the component isn't what somebody
    /// put there.
    pub(super) fn have_grown(&self) -> bool {
        let Some(component) = &self.component else { return false };
        let came = |known: &Option<PathBuf>, extension| known.is_none() && component.with_extension(extension).exists();
        came(&self.terms, "toml") || came(&self.cases, "cases.json")
    }

    /// Whether they may be used by their names.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub(super) fn check(&self, name: &str) -> Result<(), Unusable> {
        let fits = matches!(name.len(), 1..=MAX_NAME)
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if !fits {
            let text = "a policy's name is of a-z, 0-9 and -: rename the file";
            return Err(Unusable::Refused(text.to_owned()));
        }
        if self.native.is_some() {
            let text = format!(
                "{name}.cwasm is compiled code, which is never taken from a policy folder: remove it, and put the \
                 component {name}.wasm there that it was made from"
            );
            return Err(Unusable::Refused(text));
        }
        Ok(())
    }
}

/// Whether a gate would read this file as a policy, and what lies beside it.
///
/// # Errors
/// Why not, and what to do.
pub fn check_policy_file(path: &Path) -> Result<(), String> {
    if path.extension().is_none_or(|extension| extension != "wasm") {
        return Err("a policy's file is named NAME.wasm: rename it".to_owned());
    }
    let name = path.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
    if name.starts_with('.') {
        return Err("a hidden file is no policy: rename it".to_owned());
    }
    let beside = |ending: &str| Some(path.with_extension(ending)).filter(|path| path.exists());
    let files = PolicyFiles { component: Some(path.to_owned()), native: beside("cwasm"), ..PolicyFiles::default() };
    let checked = files
        .check(&name)
        .and_then(|()| component(path))
        .and_then(|_| beside("toml").map_or(Ok(()), |path| terms(&path).map(drop)))
        .and_then(|()| beside("cases.json").map_or(Ok(()), |path| cases(&path).map(drop)));
    checked.map_err(|unusable| match unusable {
        Unusable::Unstable => format!("{} changes while it is read: try again", path.display()),
        Unusable::Refused(text) => text,
    })
}

/// The version of a component: the hash of its bytes.
pub fn version_of(bytes: &[u8]) -> String {
    version(&digest(bytes))
}

/// Reads a component: one file at a time stands in memory.
///
/// # Errors
/// Why it may not be used.
pub(super) fn component(path: &Path) -> Result<Content, Unusable> {
    content(path, MAX_COMPONENT_BYTES)
}

/// Reads a `NAME.toml`.
///
/// # Errors
/// Why it may not be used.
pub(super) fn terms(path: &Path) -> Result<(String, Digest), Unusable> {
    let Content { bytes, digest, .. } = content(path, MAX_TERMS_BYTES)?;
    let text = String::from_utf8(bytes).map_err(|_| Unusable::Refused(format!("{} is no UTF-8", path.display())))?;
    Ok((text, digest))
}

/// Reads a `NAME.cases.json`.
///
/// # Errors
/// Why it may not be used.
pub(super) fn cases(path: &Path) -> Result<Content, Unusable> {
    content(path, MAX_CASES_BYTES)
}

fn content(path: &Path, most: usize) -> Result<Content, Unusable> {
    let refused = |text: String| Unusable::Refused(text);
    let unreadable = |error: io::Error| refused(format!("{} can't be read: {error}", path.display()));
    // Without waiting: a pipe in the folder would never open.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    let about = file.metadata().map_err(unreadable)?;
    if !about.is_file() {
        return Err(refused(format!("{} is no regular file", path.display())));
    }
    files::check_trusted(path, &file, &about).map_err(|exposed| refused(exposed.to_string()))?;
    check_place(path)?;
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    if about.len() > most {
        return Err(refused(format!("{} has {} bytes; at most {most} are taken", path.display(), about.len())));
    }
    let mut bytes = Vec::new();
    file.by_ref().take(most + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    let after = file.metadata().map_err(unreadable)?;
    let stamp = |about: &fs::Metadata| (about.len(), about.mtime(), about.mtime_nsec());
    if stamp(&about) != stamp(&after) || u64::try_from(bytes.len()).ok() != Some(after.len()) {
        return Err(Unusable::Unstable);
    }
    let digest = digest(&bytes);
    Ok(Content { bytes, digest, identity: (about.dev(), about.ino()) })
}

/// Where a link leads to must be as safe as where it stands.
fn check_place(path: &Path) -> Result<(), Unusable> {
    let refused = |text: String| Unusable::Refused(text);
    let unreadable = |error: io::Error| refused(format!("{} can't be read: {error}", path.display()));
    if !fs::symlink_metadata(path).map_err(unreadable)?.is_symlink() {
        return Ok(());
    }
    let target = fs::canonicalize(path).map_err(unreadable)?;
    let Some(place) = target.parent() else { return Ok(()) };
    let opened = File::open(place).map_err(unreadable)?;
    let about = opened.metadata().map_err(unreadable)?;
    files::check_trusted(place, &opened, &about).map_err(|exposed| refused(exposed.to_string()))
}

/// Which file stands at this path, by device and number; none where none can be seen.
pub(super) fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|about| (about.dev(), about.ino()))
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_version_is_the_hash_as_everybody_writes_it() {
        let text = version(&digest(b"abc"));
        assert_eq!(text, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    fn refused(read: Result<Content, Unusable>) -> String {
        match read.unwrap_err() {
            Unusable::Refused(text) => text,
            Unusable::Unstable => panic!("it did not change"),
        }
    }

    #[test]
    fn files_are_found_by_name_and_odd_names_are_told() {
        let folder = tempfile::tempdir().unwrap();
        for file in [
            "b.wasm",
            "a-1.wasm",
            "Odd Name.wasm",
            ".b.wasm",
            "notes.txt",
            "a-1.toml",
            "c.toml",
            "d.cwasm",
            "b.cases.json",
            "notes.json",
        ] {
            fs::write(folder.path().join(file), "x").unwrap();
        }
        let found: Vec<(String, bool, bool, bool)> = scan(folder.path())
            .unwrap()
            .into_iter()
            .map(|(name, files)| {
                let fits = files.check(&name).is_ok();
                (name, files.component.is_some(), files.terms.is_some(), fits)
            })
            .collect();
        let expected = [
            ("Odd Name", true, false, false),
            ("a-1", true, true, true),
            ("b", true, false, true),
            ("c", false, true, true),
            ("d", false, false, false),
        ];
        assert_eq!(found, expected.map(|(name, has, has_terms, fits)| (name.to_owned(), has, has_terms, fits)));
        let all = scan(folder.path()).unwrap();
        let with_cases: Vec<&str> =
            all.iter().filter(|(_, files)| files.cases.is_some()).map(|(name, _)| name.as_str()).collect();
        assert_eq!(with_cases, ["b"]);
    }

    #[test]
    fn what_came_after_the_folder_was_listed_is_missed_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let put = |file: &str| fs::write(folder.path().join(file), "x").unwrap();
        let of_a = || scan(folder.path()).unwrap().remove("a").unwrap();
        put("a.wasm");
        put("b.toml");
        let alone = of_a();
        assert!(!alone.have_grown());
        put("a.cases.json");
        assert!(alone.have_grown());
        let with_cases = of_a();
        assert!(!with_cases.have_grown());
        put("a.toml");
        assert!(with_cases.have_grown());
        assert!(!of_a().have_grown());
    }

    #[test]
    fn what_others_can_write_is_refused_wherever_a_link_leads() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link, place) =
            (folder.path().join("a.wasm"), folder.path().join("b.wasm"), folder.path().join("place"));
        fs::write(&file, "x").unwrap();
        assert_eq!(component(&file).unwrap().bytes, b"x");
        for mode in [0o666, 0o664, 0o646] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            assert!(refused(component(&file)).contains("chmod go-w"), "{mode:o}");
        }
        fs::create_dir(&place).unwrap();
        fs::write(place.join("x"), "x").unwrap();
        symlink(place.join("x"), &link).unwrap();
        assert!(component(&link).is_ok());
        fs::set_permissions(&place, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(refused(component(&link)).contains("chmod go-w"));
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(scan(folder.path()).unwrap_err().contains("chmod go-w"));
    }

    #[test]
    fn what_is_no_file_or_too_large_is_refused_without_being_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("folder")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), rustix::fs::Mode::RUSR).unwrap();
        symlink(at("nowhere"), at("link")).unwrap();
        File::create(at("huge")).unwrap().set_len(1 << 30).unwrap();
        fs::write(at("text"), b"\xff").unwrap();
        assert!(refused(component(&at("folder"))).contains("is no regular file"));
        assert!(refused(component(&at("pipe"))).contains("is no regular file"));
        assert!(refused(component(&at("link"))).contains("can't be read"));
        assert!(refused(component(&at("huge"))).contains("has 1073741824 bytes; at most 67108864 are taken"));
        let Err(Unusable::Refused(text)) = terms(&at("text")) else { panic!("it is no text") };
        assert!(text.contains("is no UTF-8"), "{text}");
    }

    #[test]
    fn two_names_of_one_file_have_one_identity() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("a"), "x").unwrap();
        fs::write(at("c"), "x").unwrap();
        fs::hard_link(at("a"), at("b")).unwrap();
        let identity = |name: &str| component(&at(name)).unwrap().identity;
        assert_eq!(identity("a"), identity("b"));
        assert_ne!(identity("a"), identity("c"));
    }
}
