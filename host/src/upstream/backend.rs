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
use http::HeaderValue;
use tokio::sync::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use super::{
    ability,
    declared::{DeclaredBackend, Origin},
    once_more::OnceMore,
    pool::Pool,
    recent::Recent,
};
use crate::{
    config::{BackendKind, BackendUrl},
    llm::{Operation, Surface, listing::ModelEntry, model_name::ModelName},
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

/// One declared backend. Its lists and counts are read without a lock.
#[derive(Debug)]
pub struct Backend {
    id: u32,
    name: Arc<str>,
    url: BackendUrl,
    host: HeaderValue,
    pool: Pool,
    kind: BackendKind,
    speaks_anthropic: bool,
    origin: Origin,
    weight: AtomicU32,
    is_up: AtomicBool,
    was_probed: AtomicBool,
    is_drained: AtomicBool,
    retired: CancellationToken,
    in_flight: AtomicU32,
    recent: Recent,
    models: ArcSwap<Models>,
    running: ArcSwap<Vec<ModelEntry>>,
    version: ArcSwap<Option<String>>,
    reading: Mutex<()>,
    on_change: OnceMore,
}

/// A backend as operators see it, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendStatus {
    /// Stable while this process runs, and never used again in it.
    pub id: u32,
    /// As declared.
    pub name: Arc<str>,
    /// Where it is; it holds no secret.
    pub url: BackendUrl,
    /// What it speaks.
    pub kind: BackendKind,
    /// What policies are told as its weight.
    pub weight: u32,
    /// Whether an `openai` server was declared to answer in Anthropic's API too.
    pub speaks_anthropic: bool,
    /// Who wants it.
    pub origin: Origin,
    /// Whether it answered when last asked.
    pub is_up: bool,
    /// Whether it gets no new calls.
    pub is_drained: bool,
    /// Calls that it serves now.
    pub in_flight: u32,
    /// How many models it has, as far as it was asked.
    pub models: usize,
    /// Its version, as far as it said one.
    pub version: Option<String>,
}

impl Backend {
    /// A backend that nothing is known of yet: it counts as down.
    pub fn new(id: u32, declared: &DeclaredBackend) -> Self {
        let DeclaredBackend { config, origin, is_drained } = declared;
        let host = HeaderValue::from_str(config.url.authority().as_str());
        Self {
            host: host.expect("the authority of a URL has no control characters"),
            pool: Pool::default(),
            id,
            name: config.name.as_str().into(),
            url: config.url.clone(),
            kind: config.kind,
            speaks_anthropic: config.anthropic,
            origin: *origin,
            weight: AtomicU32::new(config.weight),
            is_up: AtomicBool::new(false),
            was_probed: AtomicBool::new(false),
            is_drained: AtomicBool::new(*is_drained),
            retired: CancellationToken::new(),
            in_flight: AtomicU32::new(0),
            recent: Recent::default(),
            models: ArcSwap::default(),
            running: ArcSwap::default(),
            version: ArcSwap::default(),
            reading: Mutex::default(),
            on_change: OnceMore::default(),
        }
    }

    /// Stable while this process runs, and never used again in it.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// As declared.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Where it is.
    pub fn url(&self) -> &BackendUrl {
        &self.url
    }

    /// Its name in a request's `host` header.
    pub(super) fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// Its connections that wait for a call.
    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Closes connections that have waited too long for a call.
    pub fn sweep(&self, now_ms: u64) {
        self.pool.sweep(now_ms);
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

    /// Whether it is what is declared here. Its weight, and whether it is drained, may change while it stays itself.
    pub(super) fn is(&self, declared: &DeclaredBackend) -> bool {
        let DeclaredBackend { config, origin, .. } = declared;
        let speaks_alike = self.kind == config.kind && self.speaks_anthropic == config.anthropic;
        *self.name == *config.name && self.url == config.url && speaks_alike && self.origin == *origin
    }

    /// Takes over what may change while it stays itself.
    pub(super) fn follow(&self, declared: &DeclaredBackend) {
        self.weight.store(declared.config.weight, Ordering::Relaxed);
        if self.is_drained.swap(declared.is_drained, Ordering::Relaxed) != declared.is_drained {
            let told = if declared.is_drained { "the backend is drained" } else { "the backend is drained no more" };
            tracing::info!(backend = &*self.name, "{told}");
        }
    }

    /// Whether it gets no new calls; those that it serves go on.
    pub fn is_drained(&self) -> bool {
        self.is_drained.load(Ordering::Relaxed)
    }

    /// Whether calls may go to it now: it answers, and it isn't drained.
    pub fn takes_calls(&self) -> bool {
        self.is_up() && !self.is_drained()
    }

    /// It is no longer declared: no new calls go to it, those that it serves go on.
    pub(super) fn retire(&self) {
        self.is_drained.store(true, Ordering::Relaxed);
        self.retired.cancel();
        self.pool.clear();
    }

    /// Is cancelled when it is no longer declared.
    pub fn retired(&self) -> &CancellationToken {
        &self.retired
    }

    /// As operators see it now.
    pub fn status(&self) -> BackendStatus {
        BackendStatus {
            id: self.id,
            name: Arc::clone(&self.name),
            url: self.url.clone(),
            kind: self.kind,
            weight: self.weight.load(Ordering::Relaxed),
            speaks_anthropic: self.speaks_anthropic,
            origin: self.origin,
            is_up: self.is_up(),
            is_drained: self.is_drained(),
            in_flight: self.in_flight(),
            models: self.models.load().len(),
            version: (**self.version.load()).clone(),
        }
    }

    /// Calls that it serves now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// To be held while its lists are read: a reading that began earlier must not be noted later.
    pub(super) async fn reading(&self) -> MutexGuard<'_, ()> {
        self.reading.lock().await
    }

    /// Whether its lists are being read again after a change.
    pub(super) fn on_change(&self) -> &OnceMore {
        &self.on_change
    }

    /// Whether it was asked yet whether it is up.
    pub fn was_probed(&self) -> bool {
        self.was_probed.load(Ordering::Relaxed)
    }

    /// Notes that it was asked; true the first time.
    pub fn note_probed(&self) -> bool {
        !self.was_probed.swap(true, Ordering::Relaxed)
    }

    /// Its version, as far as it said one.
    pub fn version(&self) -> Arc<Option<String>> {
        self.version.load_full()
    }

    /// Whether it can answer such a call, as far as its kind and its version tell.
    pub fn speaks(&self, surface: Surface, operation: Operation) -> bool {
        match self.kind {
            BackendKind::Ollama => {
                let version = self.version.load();
                version.as_ref().as_deref().is_none_or(|version| ability::ollama_has(version, surface, operation))
            }
            BackendKind::OpenAi => match surface {
                Surface::OpenAi => true,
                Surface::Anthropic => self.speaks_anthropic,
                Surface::Ollama | Surface::Other => false,
            },
        }
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
            weight: self.weight.load(Ordering::Relaxed),
            in_flight: self.in_flight(),
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
    model: Option<Arc<Model>>,
}

impl Busy {
    /// Counts a call of this model on this backend.
    pub fn new(backend: Arc<Backend>, model: Arc<Model>) -> Self {
        let mut busy = Self::without_model(backend);
        model.load.in_flight.fetch_add(1, Ordering::Relaxed);
        busy.model = Some(model);
        busy
    }

    /// Counts a call that is about no model in particular: one that manages the backend.
    pub fn without_model(backend: Arc<Backend>) -> Self {
        backend.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { backend, model: None }
    }

    /// Which backend.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// The first piece of the answer came so long after the request.
    pub fn note_first_token(&self, us: u32) {
        if let Some(model) = &self.model {
            note(&model.load.first_token_us, us);
        }
    }

    /// The model wrote so many tokens within this time. What came at once, or is a word or two, tells no speed.
    pub fn note_speed(&self, tokens: u64, took: Duration) {
        let Some(model) = self.model.as_ref().filter(|_| tokens >= SPEED_TOKENS && took >= SPEED_TIME) else { return };
        let milli = u128::from(tokens) * 1_000_000_000 / took.as_micros().max(1);
        note(&model.load.tokens_per_second_milli, u32::try_from(milli).unwrap_or(u32::MAX));
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
        if let Some(model) = &self.model {
            model.load.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
