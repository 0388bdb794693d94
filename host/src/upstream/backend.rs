//! One backend: what it serves, whether it is up, and how busy it is.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;

use super::recent::Recent;
use crate::{
    config::{self, BackendKind, BackendUrl},
    llm::{listing::ModelEntry, model_name::ModelName},
    policy,
};

/// A model on one backend.
#[derive(Debug)]
pub struct Model {
    /// As the backend describes it.
    pub entry: ModelEntry,
    /// What tells it apart: its canonical name; on an OpenAI server its exact name.
    pub key: Box<str>,
    load: Arc<ModelLoad>,
}

/// How busy a backend is with one model. Outlives the lists in which the model stands.
#[derive(Debug, Default)]
struct ModelLoad {
    in_flight: AtomicU32,
    /// Moving averages; 0 until the first answer.
    first_token_us: AtomicU32,
    tokens_per_second_milli: AtomicU32,
}

/// Fewer tokens say nothing of a model's speed.
const SPEED_TOKENS: u64 = 4;

/// In less time a stream was not written but read from a buffer.
const SPEED_TIME: Duration = Duration::from_millis(1);

type Models = HashMap<Box<str>, Arc<Model>>;

/// One configured backend. Its lists and counts are read without a lock.
#[derive(Debug)]
pub struct Backend {
    id: u32,
    name: Arc<str>,
    url: BackendUrl,
    kind: BackendKind,
    weight: u32,
    is_up: AtomicBool,
    in_flight: AtomicU32,
    recent: Recent,
    models: ArcSwap<Models>,
    running: ArcSwap<Vec<ModelEntry>>,
    version: ArcSwap<Option<String>>,
}

impl Backend {
    /// A backend that nothing is known of yet: it counts as down.
    pub fn new(id: u32, config: &config::Backend) -> Self {
        Self {
            id,
            name: config.name.as_str().into(),
            url: config.url.clone(),
            kind: config.kind,
            weight: config.weight,
            is_up: AtomicBool::new(false),
            in_flight: AtomicU32::new(0),
            recent: Recent::default(),
            models: ArcSwap::default(),
            running: ArcSwap::default(),
            version: ArcSwap::default(),
        }
    }

    /// Stable while this process runs.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// As configured.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Where it is.
    pub fn url(&self) -> &BackendUrl {
        &self.url
    }

    /// What it speaks.
    pub fn kind(&self) -> BackendKind {
        self.kind
    }

    /// Whether it answered when last asked.
    pub fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// Notes whether it answers; true when that is news.
    pub fn note_up(&self, is_up: bool) -> bool {
        self.is_up.swap(is_up, Ordering::Relaxed) != is_up
    }

    /// Its version, as far as it said one.
    pub fn version(&self) -> Arc<Option<String>> {
        self.version.load_full()
    }

    /// Notes its version.
    pub fn note_version(&self, version: Option<String>) {
        self.version.store(Arc::new(version));
    }

    /// Takes a new list of models. How busy it is with each stays known.
    pub fn note_models(&self, entries: Vec<ModelEntry>) {
        let old = self.models.load();
        let new = entries.into_iter().filter_map(|entry| {
            let key = self.key_of(&entry.name)?;
            let load = old.get(&key).map(|model| Arc::clone(&model.load)).unwrap_or_default();
            Some((key.clone(), Arc::new(Model { entry, key, load })))
        });
        self.models.store(Arc::new(new.collect()));
    }

    /// Takes a new list of loaded models.
    pub fn note_running(&self, entries: Vec<ModelEntry>) {
        self.running.store(Arc::new(entries));
    }

    /// All its models.
    pub fn models(&self) -> Arc<Models> {
        self.models.load_full()
    }

    /// The models loaded when last asked.
    pub fn running(&self) -> Arc<Vec<ModelEntry>> {
        self.running.load_full()
    }

    /// The model that a caller's name means here.
    pub fn model(&self, name: &ModelName) -> Option<Arc<Model>> {
        let key = match self.kind {
            BackendKind::Ollama => name.canonical(),
            BackendKind::OpenAi => name.spelling(),
        };
        self.models.load().get(key).cloned()
    }

    /// What tells a model of this name apart; none when it is no name.
    pub fn key_of(&self, name: &str) -> Option<Box<str>> {
        match self.kind {
            BackendKind::Ollama => ModelName::parse(name).ok().map(|name| name.canonical().into()),
            BackendKind::OpenAi => Some(name.into()),
        }
    }

    /// A call to it has ended.
    pub fn note_end(&self, failed: bool, now_ms: u64) {
        self.recent.note(failed, now_ms);
    }

    /// What policies are told of it, for a call of this model.
    pub fn facts(&self, model: &Model, now_ms: u64) -> policy::Backend {
        let known = |average: &AtomicU32| Some(average.load(Ordering::Relaxed)).filter(|average| *average > 0);
        let running = self.running.load();
        policy::Backend {
            id: self.id,
            weight: self.weight,
            in_flight: self.in_flight.load(Ordering::Relaxed),
            model_in_flight: model.load.in_flight.load(Ordering::Relaxed),
            capacity: None,
            queued: 0,
            first_token_us: known(&model.load.first_token_us),
            tokens_per_second_milli: known(&model.load.tokens_per_second_milli),
            errors_permille: self.recent.errors_permille(now_ms),
            resident: running.iter().any(|entry| entry.name == model.entry.name),
        }
    }
}

/// A call that a backend serves now; it counts as in flight until this is dropped.
#[derive(Debug)]
pub struct Busy {
    backend: Arc<Backend>,
    model: Arc<Model>,
}

impl Busy {
    /// Counts a call of this model on this backend.
    pub fn new(backend: Arc<Backend>, model: Arc<Model>) -> Self {
        backend.in_flight.fetch_add(1, Ordering::Relaxed);
        model.load.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { backend, model }
    }

    /// Which backend.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// The first piece of the answer came so long after the request.
    pub fn note_first_token(&self, us: u32) {
        note(&self.model.load.first_token_us, us);
    }

    /// The model wrote so many tokens within this time. What came at once, or is a word or two, tells no speed.
    pub fn note_speed(&self, tokens: u64, took: Duration) {
        if tokens < SPEED_TOKENS || took < SPEED_TIME {
            return;
        }
        let milli = u128::from(tokens) * 1_000_000_000 / took.as_micros().max(1);
        note(&self.model.load.tokens_per_second_milli, u32::try_from(milli).unwrap_or(u32::MAX));
    }
}

/// Takes a figure into an average in which the newest counts an eighth. Two at the same moment may count as one.
fn note(average: &AtomicU32, new: u32) {
    let old = average.load(Ordering::Relaxed);
    let new = if old == 0 { new } else { old - old / 8 + new / 8 };
    average.store(new.max(1), Ordering::Relaxed);
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.backend.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.model.load.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
