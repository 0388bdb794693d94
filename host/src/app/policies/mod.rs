//! The policies in force: the built-in ones, and those of the folder, which replace or join them.

mod book;
mod in_force;
mod listing;
mod loader;
mod slot;

use std::{
    collections::{BTreeMap, HashMap},
    fmt::{Display, Formatter, Result as FmtResult},
    mem,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use self::{
    book::Book,
    in_force::Change,
    loader::{Code, Failed, Loader, Wanted},
    slot::{Key, Loaded, Slot},
};
use super::{
    folder::{self, PolicyFiles, Unusable},
    giving_way::{Aside, NotDone},
};
use crate::{
    clock::{Clock, moment},
    config::Config,
    policy::{Capability, Chains, Observer},
    ports::control::{FailedLoad, LoadStep, PolicySource},
    usage::metrics::Metrics,
    wasm::{GuestPolicy, Runtime},
};

/// At the start, files that change while they are read are read again this often, and so long after.
const SETTLING_TRIES: u32 = 10;
const SETTLING_PAUSE: Duration = Duration::from_millis(200);

/// Policies that can't be used.
#[derive(Debug)]
pub struct PolicyProblems(Vec<String>);

impl PolicyProblems {
    /// Each of them, and why.
    pub fn list(&self) -> &[String] {
        &self.0
    }
}

impl Display for PolicyProblems {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        write!(formatter, "{}", self.0.join("\n"))
    }
}

impl std::error::Error for PolicyProblems {}

/// What is wrong with a policy's files.
#[derive(Debug)]
struct Complaint {
    text: String,
    /// The version that it is about: it isn't tried again before something changes.
    about: Option<Key>,
    /// Nor before this is approved, if anything is to be.
    waits_for: Vec<Capability>,
}

impl Complaint {
    fn of(text: String) -> Self {
        Self { text, about: None, waits_for: Vec::new() }
    }

    fn of_given_up(name: &str, version: Key) -> Self {
        let text = format!(
            "policy '{name}' is not used: it kept failing; the version before it serves until the file changes, or a reload is \
             asked for"
        );
        Self { about: Some(version), ..Self::of(text) }
    }
}

/// Files that were read already in this look, by device and number, and the policy that has them.
type Seen = HashMap<(u64, u64), String>;

/// All policies, and the set that calls use.
#[derive(Debug)]
pub struct Policies {
    loader: Arc<Loader>,
    aside: Aside,
    clock: Clock,
    observer: Arc<dyn Observer>,
    chains: Arc<ArcSwap<Chains>>,
    folder: Option<PathBuf>,
    slots: BTreeMap<String, Slot>,
    /// Versions that are no longer in force once the next set is.
    leaving: Vec<Arc<GuestPolicy>>,
    /// By policy; that of the folder itself has no name.
    complaints: BTreeMap<String, Complaint>,
    /// The last version of each policy that didn't come into force.
    failures: BTreeMap<String, FailedLoad>,
    /// Whose files changed while the last look read them.
    unsettled: Vec<String>,
    book: Arc<Book>,
    /// Told when a breaker changed.
    changed: Arc<Notify>,
    generation: u64,
}

impl Policies {
    /// Loads the built-in policies and the folder's. A policy that doesn't load stops the start: to serve without it
    /// could let pass what it is there to refuse.
    ///
    /// # Errors
    /// Every policy that doesn't load, and why.
    pub fn load(
        runtime: Runtime,
        config: &Config,
        clock: &Clock,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, PolicyProblems> {
        let (book, changed) = (Arc::<Book>::default(), Arc::<Notify>::default());
        let loader = Loader::new(runtime, config, clock.clone(), Arc::clone(&book), Arc::clone(&changed))
            .map_err(PolicyProblems)?;
        let observer: Arc<dyn Observer> = Arc::<Metrics>::clone(metrics);
        let empty = Chains::new(0, Vec::new(), clock.clone(), Arc::clone(&observer));
        let mut policies = Self {
            loader: Arc::new(loader),
            aside: Aside::default(),
            clock: clock.clone(),
            observer,
            chains: Arc::new(ArcSwap::from_pointee(empty)),
            folder: config.policies.folder.clone(),
            slots: BTreeMap::new(),
            leaving: Vec::new(),
            complaints: BTreeMap::new(),
            failures: BTreeMap::new(),
            unsettled: Vec::new(),
            book,
            changed,
            generation: 0,
        };
        policies.follow_for_sure();
        if !policies.complaints.is_empty() {
            return Err(PolicyProblems(policies.complaints.into_values().map(|complaint| complaint.text).collect()));
        }
        policies.swap();
        let book = Arc::clone(&policies.book);
        metrics.policies_from(move || book.numbers());
        Ok(policies)
    }

    /// The set in force; swapped as a whole.
    pub fn chains(&self) -> Arc<ArcSwap<Chains>> {
        Arc::clone(&self.chains)
    }

    /// The folder that is watched.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Told when a breaker changed, and [`recover`](Self::recover) has something to do.
    pub(super) fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    /// What somebody who asks for a look wants beside it: what was no longer asked is tried again, and
    /// [`follow`](Self::follow) will try again what didn't load.
    pub(super) fn forgive(&mut self) {
        self.complaints.values_mut().for_each(|complaint| complaint.about = None);
        self.slots.values_mut().for_each(|slot| slot.given_up = None);
        self.lift_quarantines();
    }

    /// Steps back from what keeps failing, then compares the folder with what is in force, loads what is new, and puts it in
    /// force. What doesn't load changes nothing, and says why, once.
    pub(super) fn follow(&mut self) {
        self.recover();
        if self.gather() {
            self.swap();
        }
    }

    /// Compares the folder with what is in force, and loads what is new. `true`: something is to be put in force.
    fn gather(&mut self) -> bool {
        self.unsettled.clear();
        let mut files = match self.folder.as_deref().map(folder::scan).transpose() {
            Ok(files) => files.unwrap_or_default(),
            Err(text) => {
                self.complain(String::new(), Complaint::of(text));
                return false;
            }
        };
        self.complaints.remove("");
        // Every name that there is, or was, or is built in.
        let built_in = self.loader.built_in().iter().map(|built_in| built_in.name.to_owned());
        for name in built_in.chain(self.slots.keys().cloned()).collect::<Vec<_>>() {
            files.entry(name).or_default();
        }
        files.retain(|name, files| {
            !files.are_cases_alone() || self.slots.contains_key(name) || self.loader.built_in_code(name).is_some()
        });
        self.complaints.retain(|name, _| files.contains_key(name));
        self.failures.retain(|name, _| files.contains_key(name));
        let (mut changes, mut seen) = (Vec::new(), self.seen(&files));
        for (name, files) in &files {
            self.recover();
            changes.extend(self.take(name, files, &mut seen));
        }
        // All at once, since a step back may have put a set in force while they were loaded.
        let has_changed = !changes.is_empty();
        changes.into_iter().for_each(|change| self.change(change));
        has_changed
    }

    /// As [`gather`](Self::gather), at the start: files that change while they are read are waited for, and complained about
    /// when that takes too long. Without them nobody would decide what they are there to decide.
    fn follow_for_sure(&mut self) {
        for _ in 0..SETTLING_TRIES {
            self.gather();
            if self.unsettled.is_empty() {
                return;
            }
            thread::sleep(SETTLING_PAUSE);
        }
        for name in mem::take(&mut self.unsettled) {
            let text = format!(
                "the files of policy '{name}' change while they are read: start the gate once they are written"
            );
            self.complain(name, Complaint::of(text));
        }
    }

    /// The files that are in force and still under their names: who has one already keeps it.
    fn seen(&self, files: &BTreeMap<String, PolicyFiles>) -> Seen {
        let known = self.slots.iter().filter_map(|(name, slot)| Some((slot.serving.identity?, name)));
        let is_there = |name: &String, identity: (u64, u64)| {
            let path = files.get(name).and_then(|files| files.component.as_deref());
            path.and_then(folder::identity).is_some_and(|now| now == identity)
        };
        known
            .filter(|(identity, name)| is_there(name, *identity))
            .map(|(identity, name)| (identity, name.clone()))
            .collect()
    }

    /// Takes what the files of one name say: what that changes in what is in force.
    fn take(&mut self, name: &str, files: &PolicyFiles, seen: &mut Seen) -> Option<Change> {
        if files.component.is_none()
            && self.slots.get(name).is_some_and(|slot| slot.serving.source == PolicySource::File)
        {
            let is_built_in = self.loader.built_in_code(name).is_some();
            match self.file_is_gone(name, is_built_in) {
                Gone::Kept => return None,
                Gone::Dropped(key) => return Some(Change::Goes(name.to_owned(), key)),
                Gone::BuiltIn => {}
            }
        }
        let wanted = match self.wanted(name, files, seen) {
            Ok(wanted) => wanted,
            Err(None) => {
                self.unsettled.push(name.to_owned());
                return None;
            }
            Err(Some(failed)) => {
                self.fails(name, &failed, None);
                return None;
            }
        };
        let key = wanted.key();
        if let Some(slot) = self.slots.get_mut(name) {
            if slot.serving.key == key {
                // The same bytes may stand in another file now.
                slot.serving.identity = wanted.code.identity();
                self.complaints.remove(name);
                return None;
            }
            if slot.given_up == Some(key) {
                self.complain(name.to_owned(), Complaint::of_given_up(name, key));
                return None;
            }
        }
        let is_known = |complaint: &Complaint| {
            complaint.about == Some(key)
                && (complaint.waits_for.is_empty() || self.loader.still_waits(name, &complaint.waits_for))
        };
        if self.complaints.get(name).is_some_and(is_known) {
            return None;
        }
        self.bring(name, wanted)
    }

    /// Loads a version, to be in force with the next set.
    fn bring(&mut self, name: &str, wanted: Wanted) -> Option<Change> {
        let key = wanted.key();
        match self.load_aside(name, wanted) {
            Ok(loaded) => {
                tracing::debug!(policy = name, step = LoadStep::Swap.as_str(), "the next set has the policy");
                Some(Change::Comes(Box::new(loaded)))
            }
            Err(failed) => {
                self.fails(name, &failed, (!failed.may_pass).then_some(key));
                None
            }
        }
    }

    /// Loads a version. Callers come first: the loader gives way to them, and what keeps failing is stepped back from meanwhile.
    fn load_aside(&mut self, name: &str, wanted: Wanted) -> Result<Loaded, Failed> {
        let inherited = self.loader.inherited(name, &wanted.code, self.slots.get(name));
        if self.generation == 0 {
            // The gate starts: nobody is served yet.
            return self.loader.load(name, &wanted, inherited);
        }
        tracing::debug!(policy = name, "the policy is about to be loaded, and callers come first");
        let (loader, name) = (Arc::clone(&self.loader), name.to_owned());
        let load = move || loader.load(&name, &wanted, inherited);
        let mut aside = mem::take(&mut self.aside);
        let loaded = aside.run(self.clock.monotonic(), load, || self.recover());
        self.aside = aside;
        loaded.unwrap_or_else(|not_done| {
            let reason = not_done.to_string();
            Err(match not_done {
                NotDone::NoThread(_) => Failed::for_now(LoadStep::Compile, reason),
                NotDone::Panicked => Failed::at(LoadStep::Compile, reason),
            })
        })
    }

    /// What the files of one name ask for; none in the error: nothing can be said now.
    fn wanted(&self, name: &str, files: &PolicyFiles, seen: &mut Seen) -> Result<Wanted, Option<Failed>> {
        let refused = |unusable| match unusable {
            Unusable::Unstable => None,
            Unusable::Refused(reason) => Some(Failed::at(LoadStep::File, reason)),
        };
        files.check(name).map_err(refused)?;
        let code = match &files.component {
            Some(path) => Code::File(folder::component(path).map_err(refused)?),
            None => self.loader.built_in_code(name).ok_or_else(|| {
                let text = format!(
                    "{name}.toml has no {name}.wasm beside it, and no built-in policy has this name: put the component \
                     there, or remove the file"
                );
                Some(Failed::at(LoadStep::File, text))
            })?,
        };
        if let Code::File(content) = &code {
            let first = seen.entry(content.identity).or_insert_with(|| name.to_owned());
            if first != name {
                let text =
                    format!("it is the same file as that of policy '{first}': remove one name, or copy the file");
                return Err(Some(Failed::at(LoadStep::File, text)));
            }
        }
        let cases = match &files.cases {
            Some(path) => Some((path.clone(), folder::cases(path).map_err(refused)?)),
            None => None,
        };
        let terms = match &files.terms {
            Some(path) => {
                let (text, digest) = folder::terms(path).map_err(refused)?;
                Some((path.clone(), text, digest))
            }
            None => None,
        };
        // Somebody puts them there just now, the component last: it is looked at again.
        if files.have_grown() {
            return Err(None);
        }
        Ok(Wanted { code, terms, cases })
    }

    /// The file of a policy that serves is gone.
    fn file_is_gone(&mut self, name: &str, is_built_in: bool) -> Gone {
        let Some(slot) = self.slots.get(name) else { return Gone::BuiltIn };
        if slot.serving.is_kept() {
            let text = match slot.serving.file.on_remove {
                Some(_) => format!(
                    "the file of policy '{name}' is gone; it is kept, so it serves on until the gate is restarted"
                ),
                None => format!(
                    "the file of policy '{name}' is gone; it authenticates, so it serves on until the gate is restarted"
                ),
            };
            self.complain(name.to_owned(), Complaint::of(text));
            return Gone::Kept;
        }
        if is_built_in {
            tracing::info!(policy = name, "the policy's file is gone: the built-in policy of its name comes back");
            return Gone::BuiltIn;
        }
        tracing::info!(policy = name, "the policy's file is gone: it is no longer asked");
        let key = slot.serving.key;
        self.complaints.remove(name);
        Gone::Dropped(key)
    }

    fn fails(&mut self, name: &str, failed: &Failed, about: Option<Key>) {
        let serving = match self.slots.get(name).map(|slot| slot.serving.source) {
            Some(PolicySource::File) => "; the version before it goes on serving",
            Some(PolicySource::BuiltIn) => "; the built-in policy goes on serving",
            None => "",
        };
        let text = format!("policy '{name}' is not used: {}{serving}", failed.reason);
        let is_news = self.complaints.get(name).is_none_or(|known| known.text != text);
        if is_news {
            self.book.failed(name, failed.step);
            let at = moment(self.clock.unix_ms());
            let failure = FailedLoad { step: failed.step, reason: failed.reason.clone(), at };
            tracing::error!(
                policy = name,
                step = failed.step.as_str(),
                problem = text,
                "a policy is not as it should be"
            );
            self.failures.insert(name.to_owned(), failure);
        }
        let waits_for = failed.waits_for.clone();
        self.complaints.insert(name.to_owned(), Complaint { text, about, waits_for });
    }

    fn complain(&mut self, name: String, complaint: Complaint) {
        if self.complaints.get(&name).is_none_or(|known| known.text != complaint.text) {
            tracing::error!(problem = complaint.text, "a policy is not as it should be");
        }
        self.complaints.insert(name, complaint);
    }
}

/// What becomes of a policy whose file is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gone {
    Kept,
    /// This version is no longer asked.
    Dropped(Key),
    /// The built-in policy of its name takes its place.
    BuiltIn,
}
