//! All backends together: who can serve a model, and what there is to list.
//!
//! The set of backends is swapped as a whole: a call sees one set, and no lock.

use std::{
    ops::RangeInclusive,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::{
    backend::{Backend, BackendStatus, Model},
    control::Control,
    declared::{self, DeclaredBackend},
    probe,
    single_flight::SingleFlight,
};
use crate::{
    clock::Clock,
    config::Config,
    llm::{
        Operation, Surface,
        listing::{self, ModelEntry, OpenAiModel},
        model_name::ModelName,
    },
    policy,
    ports::{catalogue::Catalogue, keys::Scope},
};

/// Lists are read again for an unknown model at most so often, and a caller waits at most so long for it.
const MISS_APART: Duration = Duration::from_secs(5);
const MISS_PATIENCE: Duration = Duration::from_secs(1);

/// What is loaded is asked at most so often, and a caller waits at most so long for it.
const RUNNING_APART: Duration = Duration::from_secs(1);
const RUNNING_PATIENCE: Duration = Duration::from_secs(2);

/// A backend that can serve a call, with what policies are told of it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Which backend.
    pub backend: Arc<Backend>,
    /// The model there, in the backend's own spelling.
    pub model: Arc<Model>,
    /// What policies are told.
    pub facts: policy::Backend,
}

/// Who can serve a model.
#[derive(Debug)]
pub enum Candidates {
    /// These backends; at least one.
    Some(Vec<Candidate>),
    /// Some backend has the model, but none of them is up and takes calls.
    NoneUp,
    /// Backends have the model, but none of them this operation.
    NotSpoken,
    /// No backend has the model.
    Unknown,
}

/// The set of backends at one moment, by id.
type Backends = Vec<Arc<Backend>>;

/// All declared backends.
#[derive(Debug)]
pub struct Fleet {
    backends: ArcSwap<Backends>,
    /// Ids that no backend has had. Held while the set changes.
    ids: Mutex<RangeInclusive<u32>>,
    changed: watch::Sender<()>,
    control: Arc<Control>,
    clock: Clock,
    lists_cloud: bool,
    on_miss: SingleFlight,
    on_running: SingleFlight,
    tasks: TaskTracker,
}

impl Fleet {
    /// The backends of a configuration; nothing is known of them before they are probed.
    pub fn new(config: &Config, control: Control, clock: Clock, tasks: &TaskTracker) -> Self {
        let flight = |apart| SingleFlight::new(clock.clone(), apart, tasks.clone());
        let (on_miss, on_running) = (flight(MISS_APART), flight(RUNNING_APART));
        let mut ids = 0..=u32::MAX;
        let configured: Vec<_> = config.backends.iter().map(DeclaredBackend::of_config).collect();
        let backends = declared::next(&[], &configured, &mut ids).into_iter().map(|(backend, _)| backend).collect();
        Self {
            backends: ArcSwap::from_pointee(backends),
            ids: Mutex::new(ids),
            changed: watch::Sender::new(()),
            control: Arc::new(control),
            clock,
            tasks: tasks.clone(),
            lists_cloud: config.models.allow_cloud,
            on_miss,
            on_running,
        }
    }

    /// Makes the backends those that are declared. Whose name, address and kind stay keeps all that is known of it. A new
    /// one gets calls once it was probed. One that is gone, or drained, gets no new calls; those that it serves go on.
    pub fn apply(&self, declared: &[DeclaredBackend]) {
        // Two who apply at once must not both start from the same set.
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let present = self.backends.load_full();
        let next = declared::next(&present, declared, &mut ids);
        let is_among = |backend: &Backend, set: &Backends| set.iter().any(|other| other.id() == backend.id());
        let mut is_change = false;
        for (backend, declared) in &next {
            backend.follow(declared);
            if !is_among(backend, &present) {
                is_change = true;
                tracing::info!(backend = &**backend.name(), url = %backend.url(), "a backend has come");
            }
        }
        let next: Arc<Backends> = Arc::new(next.into_iter().map(|(backend, _)| backend).collect());
        self.backends.store(Arc::clone(&next));
        for gone in present.iter().filter(|backend| !is_among(backend, &next)) {
            gone.retire();
            is_change = true;
            tracing::info!(backend = &**gone.name(), url = %gone.url(), "a backend has gone");
        }
        drop(ids);
        if is_change {
            self.changed.send_replace(());
        }
    }

    /// All of them now, by id.
    pub fn backends(&self) -> Vec<Arc<Backend>> {
        Vec::clone(&self.backends.load())
    }

    /// The backend of this name, up or not, drained or not.
    pub fn named(&self, name: &str) -> Option<Arc<Backend>> {
        self.backends.load().iter().find(|backend| **backend.name() == *name).map(Arc::clone)
    }

    /// All of them as operators see them, by id.
    pub fn describe(&self) -> Vec<BackendStatus> {
        self.backends.load().iter().map(|backend| backend.status()).collect()
    }

    /// Tells when backends have come or gone.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Reads a backend's lists again because they have changed there, without waiting for it. While they are being read
    /// for this reason, they are read once more after that, for all who ask meanwhile.
    pub fn refresh_one(&self, backend: &Arc<Backend>) {
        if !backend.on_change().begin() {
            return;
        }
        let (control, backend) = (Arc::clone(&self.control), Arc::clone(backend));
        self.tasks.spawn(async move {
            loop {
                probe::refresh(&control, &backend).await;
                if backend.on_change().is_done() {
                    return;
                }
            }
        });
    }

    /// What asks backends about themselves.
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Closes connections to a backend that have waited too long for a call.
    pub fn sweep(&self, backend: &Backend) {
        backend.sweep(self.clock.ticked_ms());
    }

    /// Who can serve this model to a caller of this surface.
    pub fn candidates(&self, name: &ModelName, surface: Surface, operation: Operation) -> Candidates {
        let now_ms = self.clock.ticked_ms();
        let (mut is_known, mut is_spoken) = (false, false);
        let mut found = Vec::new();
        for backend in self.backends.load().iter() {
            let Some(model) = backend.model(name) else { continue };
            is_known = true;
            if !backend.speaks(surface, operation) {
                continue;
            }
            is_spoken = true;
            if backend.takes_calls() {
                let facts = backend.facts(&model, now_ms);
                found.push(Candidate { backend: Arc::clone(backend), model, facts });
            }
        }
        match found.is_empty() {
            false => Candidates::Some(found),
            true if is_spoken => Candidates::NoneUp,
            true if is_known => Candidates::NotSpoken,
            true => Candidates::Unknown,
        }
    }

    /// Reads all lists again, for a model that nobody has: once for all who ask at the same time, and not too often.
    pub async fn look_again(&self) {
        let (backends, control) = (self.backends.load_full(), Arc::clone(&self.control));
        self.on_miss
            .run(MISS_PATIENCE, move || async move {
                probe::for_each_up(&backends, |backend| probe::refresh_models(Arc::clone(&control), backend)).await;
            })
            .await;
    }

    /// The models that a caller of this surface and scope may know, of backends that take calls.
    fn visible(&self, surface: Surface, scope: &Scope) -> Vec<(Box<str>, Arc<Model>)> {
        let mut visible = Vec::new();
        for backend in self.serving(surface) {
            let models = backend.models();
            let allowed = models.values().filter(|model| in_scope(scope, &model.key) && self.may_list(&model.key));
            visible.extend(allowed.map(|model| (model.key.clone(), Arc::clone(model))));
        }
        visible
    }

    /// `/api/tags`: the models of all backends, once each.
    pub fn tags(&self, scope: &Scope) -> Bytes {
        let visible = self.visible(Surface::Ollama, scope);
        listing::tags_body(&listing::merge(visible.iter().map(|(key, model)| (&**key, &model.entry))))
    }

    /// `/v1/models`: the models of all backends, once each.
    pub fn openai_models(&self, scope: &Scope) -> Bytes {
        let visible = self.visible(Surface::OpenAi, scope);
        let merged = listing::merge(visible.iter().map(|(key, model)| (&**key, &model.entry)));
        listing::openai_models_body(&merged.into_iter().map(OpenAiModel::from).collect::<Vec<_>>())
    }

    /// `/v1/models/{id}`: one model; none when the caller may not know it.
    pub fn openai_model(&self, name: &ModelName, scope: &Scope) -> Option<Bytes> {
        let serving = self.serving(Surface::OpenAi);
        let mut models = serving.iter().filter_map(|backend| backend.model(name));
        let model = models.find(|model| in_scope(scope, &model.key))?;
        Some(listing::openai_model_body(&OpenAiModel::from(&model.entry)))
    }

    /// `/api/ps`: what is loaded on all backends, asked anew if the last answer is older than a second.
    pub async fn running(&self, scope: &Scope) -> Bytes {
        let (backends, control) = (self.backends.load_full(), Arc::clone(&self.control));
        self.on_running
            .run(RUNNING_PATIENCE, move || async move {
                probe::for_each_up(&backends, |backend| probe::refresh_running(Arc::clone(&control), backend)).await;
            })
            .await;
        let serving = self.serving(Surface::Ollama);
        let lists: Vec<Arc<Vec<ModelEntry>>> = serving.iter().map(|backend| backend.running()).collect();
        let keyed: Vec<(String, &ModelEntry)> = lists
            .iter()
            .flat_map(|list| list.iter())
            .filter_map(|entry| Some((ModelName::parse(&entry.name).ok()?.canonical().to_owned(), entry)))
            .filter(|(key, _)| in_scope(scope, key) && self.may_list(key))
            .collect();
        listing::running_body(&listing::merge(keyed.iter().map(|(key, entry)| (key.as_str(), *entry))))
    }

    /// The lowest version that an Ollama backend names: what all of them can do.
    pub fn version(&self) -> Option<String> {
        let backends = self.backends.load();
        let versions = backends.iter().filter_map(|backend| (*backend.version()).clone());
        versions.min_by_key(|version| {
            let numbers = version.split(['.', '-', '+']).map(|part| part.parse::<u32>().unwrap_or(0));
            numbers.take(3).collect::<SmallVec<[u32; 3]>>()
        })
    }

    /// What is refused when it is asked for is not listed.
    fn may_list(&self, key: &str) -> bool {
        self.lists_cloud || !ModelName::parse(key).is_ok_and(|name| name.is_cloud())
    }

    /// The backends that serve this surface and take calls now.
    fn serving(&self, surface: Surface) -> Backends {
        let backends = self.backends.load();
        backends.iter().filter(|backend| speaks(backend, surface) && backend.takes_calls()).map(Arc::clone).collect()
    }

    fn any_model(&self, model: &str) -> Option<Arc<Model>> {
        let name = ModelName::parse(model).ok()?;
        self.backends.load().iter().find_map(|backend| backend.model(&name))
    }
}

/// Whether it speaks the dialect at all; a single operation may want a newer version.
fn speaks(backend: &Backend, surface: Surface) -> bool {
    backend.speaks(surface, Operation::Chat)
}

/// Scopes hold canonical names; an OpenAI server's exact name is read as one.
fn in_scope(scope: &Scope, key: &str) -> bool {
    match scope {
        Scope::AllModels => true,
        Scope::Models(_) => ModelName::parse(key).is_ok_and(|name| scope.allows(name.canonical())),
    }
}

impl Catalogue for Fleet {
    fn candidates(&self, model: &str, surface: Surface, scope: &Scope) -> u32 {
        let Ok(name) = ModelName::parse(model) else { return 0 };
        if !scope.allows(name.canonical()) {
            return 0;
        }
        let backends = self.backends.load();
        let able = backends.iter().filter(|backend| speaks(backend, surface) && backend.takes_calls());
        u32::try_from(able.filter(|backend| backend.model(&name).is_some()).count()).unwrap_or(u32::MAX)
    }

    fn size_bytes(&self, model: &str) -> Option<u64> {
        self.any_model(model)?.entry.size_bytes
    }

    fn parameters(&self, model: &str) -> Option<u64> {
        self.any_model(model)?.entry.parameters
    }

    fn backend_name(&self, id: u32) -> Option<Arc<str>> {
        let backends = self.backends.load();
        let at = backends.binary_search_by_key(&id, |backend| backend.id()).ok()?;
        Some(Arc::clone(backends.get(at)?.name()))
    }
}
