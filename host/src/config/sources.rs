//! Where a configuration comes from, and the one tree that file, environment and `--set` are merged into.
//!
//! Every value keeps a mark of its origin. The process's own environment and current folder are never looked at: both
//! come in as arguments. Nothing here knows a key.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, util};

use super::error::Problem;

/// The file that is read when none is named.
const FILE_NAME: &str = "tollgate.toml";
/// Longest configuration file, in bytes.
const FILE_LENGTH_MAX: u64 = 1024 * 1024;
/// Every environment variable that is read begins so, in capitals.
const PREFIX: &str = "TOLLGATE__";
/// Deepest list or table in a value from the environment or `--set`: figment reads them by recursion.
const DEPTH_MAX: usize = 16;

/// Everything a configuration may come from. Later sources win: file, environment, `--set`.
#[derive(Clone, Default)]
pub struct Sources {
    /// The file named with `--config`; without one, `tollgate.toml` in `directory` is read if it is there.
    pub file: Option<PathBuf>,
    /// The `KEY=VALUE` texts of `--set`, in the order given; of two with one key the later wins.
    pub sets: Vec<String>,
    /// Environment variables; only names that begin with `TOLLGATE__` are read.
    pub environment: Vec<(String, String)>,
    /// The current folder, as an absolute path.
    pub directory: PathBuf,
}

impl fmt::Debug for Sources {
    /// Values may be secrets, and the environment is full of other programs' ones, so both are only counted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("file", &self.file)
            .field("sets", &self.sets.len())
            .field("environment", &self.environment.len())
            .field("directory", &self.directory)
            .finish()
    }
}

/// The source that has the last word on a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The configuration file.
    File,
    /// An environment variable.
    Environment,
    /// A `--set` on the command line.
    Set,
}

impl Origin {
    fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Environment => "environment",
            Self::Set => "--set",
        }
    }
}

/// The merged tree.
#[derive(Debug)]
pub(super) struct Merged {
    figment: Figment,
    root: Value,
    file_label: String,
    file_folder: PathBuf,
    directory: PathBuf,
}

impl Merged {
    /// A tree without any value, in which every key has its default.
    pub(super) fn empty(directory: &Path) -> Self {
        Self {
            figment: Figment::new(),
            root: Value::from(Dict::new()),
            file_label: FILE_NAME.to_owned(),
            file_folder: directory.to_owned(),
            directory: directory.to_owned(),
        }
    }

    /// Reads and merges all of `sources`. An entry of the environment or `--set` that can't be read is left out and
    /// becomes a problem.
    ///
    /// # Errors
    /// A file that can't be read: without its values, the rest would be full of problems that nobody made.
    pub(super) fn read(sources: &Sources) -> Result<(Self, Vec<Problem>), Problem> {
        let mut merged = Self::empty(&sources.directory);
        let file = merged.find_file(sources).and_then(|text| text.map(|text| parse_file(&text)).transpose());
        if let Some(tree) = file.map_err(|message| problem("", &merged.file_label, message))? {
            merged.add(Origin::File, tree);
        }
        let mut problems = Vec::new();
        for (key, entry) in environment(&sources.environment) {
            let tree = entry.and_then(|text| nested(&key, text));
            merged.add_entry(Origin::Environment, &key, tree, &mut problems);
        }
        for set in &sources.sets {
            // A text without a key is not repeated: it may be the value of something.
            let (key, text) = set.split_once('=').unwrap_or(("", ""));
            let key = key.trim();
            merged.add_entry(Origin::Set, key, nested(key, text), &mut problems);
        }
        merged.root = merged.figment.find_value("").unwrap_or_else(|_| Value::from(Dict::new()));
        Ok((merged, problems))
    }

    /// The tree of one file's text, which is named `label` to people.
    ///
    /// # Errors
    /// A text that is no TOML.
    pub(super) fn of_text(text: &str, label: &str) -> Result<Self, Problem> {
        let mut merged = Self::empty(Path::new("."));
        label.clone_into(&mut merged.file_label);
        merged.add(Origin::File, parse_file(text).map_err(|message| problem("", label, message))?);
        merged.root = merged.figment.find_value("").unwrap_or_else(|_| Value::from(Dict::new()));
        Ok(merged)
    }

    /// The tree itself.
    pub(super) fn root(&self) -> &Value {
        &self.root
    }

    /// The source of `value`, or the file when it stands nowhere.
    pub(super) fn origin(&self, value: Option<&Value>) -> Origin {
        let metadata = value.and_then(|value| self.figment.get_metadata(value.tag()));
        let is_from = |origin: &Origin| metadata.is_some_and(|metadata| metadata.name == origin.name());
        [Origin::Environment, Origin::Set].into_iter().find(is_from).unwrap_or(Origin::File)
    }

    /// How `origin` is named to people.
    pub(super) fn label(&self, origin: Origin) -> &str {
        if origin == Origin::File { &self.file_label } else { origin.name() }
    }

    /// The folder against which a relative path from `origin` resolves; a default resolves like one from the file.
    pub(super) fn folder(&self, origin: Origin) -> &Path {
        if origin == Origin::File { &self.file_folder } else { &self.directory }
    }

    /// Text of the file, and notes its name and folder. `None` when no file was named and there is none.
    fn find_file(&mut self, sources: &Sources) -> Result<Option<String>, String> {
        let Some(named) = &sources.file else {
            return match read_text(&self.directory.join(FILE_NAME)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                read => read.map(Some).map_err(|error| format!("can't be read: {error}")),
            };
        };
        let path = self.directory.join(named);
        self.file_label = named.display().to_string();
        path.parent().unwrap_or(&self.directory).clone_into(&mut self.file_folder);
        read_text(&path).map(Some).map_err(|error| format!("can't be read: {error}"))
    }

    fn add_entry(&mut self, origin: Origin, key: &str, tree: Result<Dict, String>, problems: &mut Vec<Problem>) {
        match tree {
            Ok(tree) => self.add(origin, tree),
            Err(message) => problems.push(problem(key, origin.name(), message)),
        }
    }

    fn add(&mut self, origin: Origin, tree: Dict) {
        self.figment = std::mem::take(&mut self.figment).merge(Layer { origin, tree });
    }
}

/// One tree with one origin, in figment's terms.
struct Layer {
    origin: Origin,
    tree: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(Cow::Borrowed(self.origin.name()))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.tree.clone())]))
    }
}

fn problem(key: &str, source: &str, message: String) -> Problem {
    Problem { key: key.to_owned(), source: source.to_owned(), message, hint: None }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_LENGTH_MAX + 1).read_to_string(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|length| length <= FILE_LENGTH_MAX) {
        return Ok(text);
    }
    Err(io::Error::new(io::ErrorKind::FileTooLarge, "longer than 1 MiB"))
}

fn parse_file(text: &str) -> Result<Dict, String> {
    Toml::from_str(text).map_err(|error| {
        // The parser's own text quotes the line, which may hold a secret; its message alone doesn't.
        let message = error.message().replace('\n', ", ");
        let before = error.span().and_then(|span| text.get(..span.start));
        match before {
            Some(before) => {
                let line = before.matches('\n').count() + 1;
                let column = before.rsplit('\n').next().map_or(0, |start| start.chars().count()) + 1;
                format!("not TOML: line {line}, column {column}: {message}")
            }
            None => format!("not TOML: {message}"),
        }
    })
}

/// The variables that are ours as `section.key` with their text, by name, so that a section comes before its keys. A
/// key that two variables spell differently is an error, because the environment has no order by which one of them
/// could win.
fn environment(variables: &[(String, String)]) -> Vec<(String, Result<&str, String>)> {
    let mut ours: Vec<(String, &str)> = variables
        .iter()
        .filter_map(|(name, text)| Some((name.strip_prefix(PREFIX)?, text)))
        .map(|(name, text)| (name.to_ascii_lowercase().replace("__", "."), text.as_str()))
        .collect();
    ours.sort();
    let mut seen = HashSet::new();
    ours.into_iter()
        .map(|(key, text)| {
            let is_first = seen.insert(key.clone());
            let entry = is_first.then_some(text).ok_or_else(|| "two environment variables set this key".to_owned());
            (key, entry)
        })
        .collect()
}

/// `text`, read as a TOML value or else taken as it is, under the dotted `key`.
fn nested(key: &str, text: &str) -> Result<Dict, String> {
    if key.is_empty() || key.split('.').any(str::is_empty) {
        return Err("not a key with a value, like server.listen=127.0.0.1:8080".to_owned());
    }
    if key.split('.').count() > DEPTH_MAX || depth(text) > DEPTH_MAX {
        return Err(format!("nested more than {DEPTH_MAX} deep"));
    }
    let value = text.parse::<Value>().unwrap_or_else(|never| match never {});
    util::nest(key, value).into_dict().ok_or_else(|| "not a key with a value".to_owned())
}

/// The deepest nesting of brackets in `text`, at least: quotes are not looked at.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}
