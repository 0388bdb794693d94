//! The raw side of the configuration: reads sections key by key, and notes every problem instead of stopping at the
//! first.
//!
//! A section remembers the keys it was asked for, so whatever else stands in it is unknown and reported when the
//! section is left. A value that can't be used is replaced by its default for the rest of the reading; since a problem
//! was noted, nobody ever runs with it.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Value};

use super::error::{Complaint, Problem};
use super::sources::Merged;
use super::values::{self, Checked};

/// Most characters of an unknown key that are repeated.
const KEY_LENGTH_MAX: usize = 64;

/// A reading in progress: the tree and the problems found so far.
#[derive(Debug)]
pub(super) struct Reader {
    merged: Merged,
    problems: RefCell<Vec<Problem>>,
}

impl Reader {
    /// Starts a reading of `merged` that already knows of `problems`.
    pub(super) fn new(merged: Merged, problems: Vec<Problem>) -> Self {
        Self { merged, problems: RefCell::new(problems) }
    }

    /// Reads the whole tree with `read`.
    pub(super) fn root<T>(&self, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        Section::new(self, String::new(), Some(self.merged.root())).read(read)
    }

    /// Notes a problem between several keys, given by their full names. It is put down to the first of them that is
    /// set. When one of the keys is a problem already, it was replaced by its default, and comparing that would
    /// only mislead.
    pub(super) fn complain_between(&self, keys: &[&str], complaint: Complaint) {
        let is_known = |key: &&str| self.problems.borrow().iter().any(|problem| problem.key == *key);
        if keys.iter().any(is_known) {
            return;
        }
        let is_set = |key: &&&str| self.merged.root().find_ref(key).is_some();
        if let Some(key) = keys.iter().find(is_set).or_else(|| keys.first()) {
            self.note((*key).to_owned(), self.merged.root().find_ref(key), complaint);
        }
    }

    /// Ends the reading and hands over what was found.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    fn note(&self, key: String, value: Option<&Value>, complaint: Complaint) {
        let source = self.merged.label(self.merged.origin(value)).to_owned();
        let problem = Problem { key, source, message: complaint.message, hint: complaint.hint };
        self.problems.borrow_mut().push(problem);
    }
}

/// One table of the tree, or one that nobody wrote, in which every key has its default.
#[derive(Debug)]
pub(super) struct Section<'a> {
    reader: &'a Reader,
    path: String,
    value: Option<&'a Value>,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// The value under `key`, if it is set and can be used.
    pub(super) fn optional<T>(&mut self, key: &'static str, parse: impl FnOnce(&Value) -> Checked<T>) -> Option<T> {
        let value = self.take(key)?;
        parse(value).map_err(|complaint| self.complain(key, complaint)).ok()
    }

    /// The value under `key`, or `default`.
    pub(super) fn or<T>(&mut self, key: &'static str, default: T, parse: impl FnOnce(&Value) -> Checked<T>) -> T {
        self.optional(key, parse).unwrap_or(default)
    }

    /// The value under `key`, which has to be there.
    pub(super) fn required<T>(&mut self, key: &'static str, parse: impl FnOnce(&Value) -> Checked<T>) -> Option<T> {
        // What isn't a table at all is reported as such, not key by key.
        if self.take(key).is_none() && self.dict().is_some() {
            self.complain(key, Complaint::new("missing").with_hint(format!("add {key} = …")));
        }
        self.optional(key, parse)
    }

    /// The table under `key`, read with `read`; without one, `read` sees an empty table.
    pub(super) fn table<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Self) -> T) -> T {
        let value = self.take(key);
        Section::new(self.reader, self.full(key), value).read(read)
    }

    /// The table under `key`, read with `read`, if there is one.
    pub(super) fn optional_table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<T> {
        let value = self.take(key)?;
        Section::new(self.reader, self.full(key), Some(value)).read(read)
    }

    /// Every table of the list under `key`, read with `read`; at most `max` of them.
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        max: usize,
        mut read: impl FnMut(&mut Self) -> Option<T>,
    ) -> Vec<T> {
        let hint = format!("write a [[{key}]] table for each");
        let items = self.items(key, max, &hint);
        items.filter_map(|(path, item)| Section::new(self.reader, path, Some(item)).read(&mut read)).collect()
    }

    /// Every usable value of the list under `key`; at most `max` of them.
    pub(super) fn list<T>(&mut self, key: &'static str, max: usize, parse: impl Fn(&Value) -> Checked<T>) -> Vec<T> {
        let items = self.items(key, max, "write a list, like [\"a\", \"b\"]");
        let parsed = items
            .map(|(path, item)| parse(item).map_err(|complaint| self.reader.note(path, Some(item), complaint)).ok());
        parsed.flatten().collect()
    }

    /// The same; none when nothing stands under `key`, which may mean something else than an empty list.
    pub(super) fn optional_list<T>(
        &mut self,
        key: &'static str,
        max: usize,
        parse: impl Fn(&Value) -> Checked<T>,
    ) -> Option<Vec<T>> {
        self.take(key)?;
        Some(self.list(key, max, parse))
    }

    /// Notes a problem with `key` of this section.
    pub(super) fn complain(&self, key: &str, complaint: Complaint) {
        // A missing key has no source of its own; the section that lacks it has.
        let value = self.dict().and_then(|dict| dict.get(key)).or(self.value);
        self.reader.note(self.full(key), value, complaint);
    }

    /// `path`, as written under `key`, made absolute: against the file's folder, or the current one if the value isn't
    /// from the file.
    pub(super) fn resolve(&self, key: &str, path: &Path) -> PathBuf {
        let value = self.dict().and_then(|dict| dict.get(key));
        let folder = self.reader.merged.folder(self.reader.merged.origin(value));
        // Collecting the components drops the `.` in the middle of `folder/./name`.
        folder.join(path).components().collect()
    }

    fn new(reader: &'a Reader, path: String, value: Option<&'a Value>) -> Self {
        Self { reader, path, value, known: Vec::new() }
    }

    /// Reads this section and then reports the keys that nobody asked for.
    fn read<T>(mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        if let Some(value) = self.value
            && value.as_dict().is_none()
        {
            self.reader.note(self.path.clone(), self.value, values::wrong_type("a table", value));
        }
        let answer = read(&mut self);
        for key in self.dict().into_iter().flat_map(Dict::keys) {
            if !self.known.contains(&key.as_str()) {
                self.complain_unknown(key);
            }
        }
        answer
    }

    fn complain_unknown(&self, key: &str) {
        let hint = match values::nearest(key, self.known.iter().copied()) {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("known here: {}", self.known.join(", ")),
        };
        let value = self.dict().and_then(|dict| dict.get(key));
        let shown: String = key.chars().take(KEY_LENGTH_MAX).collect();
        self.reader.note(self.full(&shown), value, Complaint::new("unknown key").with_hint(hint));
    }

    /// The items of the list under `key` with their full names; a missing or unusable list has none.
    fn items(
        &mut self,
        key: &'static str,
        max: usize,
        hint: &str,
    ) -> impl Iterator<Item = (String, &'a Value)> + use<'a> {
        let items = self.take(key).and_then(|value| {
            let Some(items) = value.as_array() else {
                self.complain(key, values::wrong_type("a list", value).with_hint(hint));
                return None;
            };
            if items.len() > max {
                self.complain(key, Complaint::new(format!("has more than {max} entries")));
            }
            Some(items)
        });
        let path = self.full(key);
        let items = items.into_iter().flatten().take(max).enumerate();
        items.map(move |(index, item)| (format!("{path}[{index}]"), item))
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Value> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.dict().and_then(|dict| dict.get(key))
    }

    fn dict(&self) -> Option<&'a Dict> {
        self.value.and_then(Value::as_dict)
    }

    fn full(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}
