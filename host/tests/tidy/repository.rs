//! The files that git keeps, or would keep, read once; and what a check found in them.
//!
//! New files count before they are added, ignored ones never. Files that are not text are left out.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

/// One thing to mend.
#[derive(Debug)]
pub(crate) struct Finding {
    path: String,
    line: usize,
    advice: String,
}

impl Finding {
    /// `line` counts from 1.
    pub(crate) fn new(path: &str, line: usize, advice: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, advice: advice.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.advice)
    }
}

/// One text file; its path is relative to the root, with `/` between its parts.
#[derive(Debug)]
pub(crate) struct TextFile {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl TextFile {
    /// Its lines, counted from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }
}

/// All text files of the repository, sorted by path.
#[derive(Debug)]
pub(crate) struct Repository {
    root: PathBuf,
    files: Vec<TextFile>,
}

impl Repository {
    /// The repository that this test was built from.
    pub(crate) fn open() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("host/ lies in the root of the repository")
            .to_owned();
        let files = kept_by_git(&root)
            .into_iter()
            .filter_map(|path| {
                let text = std::fs::read_to_string(root.join(&path)).ok()?;
                (!text.contains('\0')).then_some(TextFile { path, text })
            })
            .collect();
        Self { root, files }
    }

    /// A repository of these files only, to try a check on.
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let files =
            files.iter().map(|(path, text)| TextFile { path: (*path).to_owned(), text: (*text).to_owned() }).collect();
        Self { root: PathBuf::new(), files }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &TextFile> {
        self.files.iter()
    }

    pub(crate) fn rust_files(&self) -> impl Iterator<Item = &TextFile> {
        self.files().filter(|file| file.path.ends_with(".rs"))
    }

    pub(crate) fn file(&self, path: &str) -> Option<&TextFile> {
        self.files().find(|file| file.path == path)
    }
}

fn kept_by_git(root: &Path) -> Vec<String> {
    // A checkout that belongs to another user, as in a container, is still ours to read.
    let output = Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .expect("git lists the files to check: install git");
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git lists the files to check; run this in a clone: {problem}");
    let listed = String::from_utf8_lossy(&output.stdout);
    let mut paths: Vec<String> = listed.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect();
    paths.sort();
    paths.dedup();
    paths
}
