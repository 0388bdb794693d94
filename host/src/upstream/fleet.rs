//! All backends together: who can serve a model, and what there is to list.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use smallvec::SmallVec;
use tokio_util::task::TaskTracker;

use super::{
    backend::{Backend, Model},
    control::Control,
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
    /// Some backend has the model, but none of them is up.
    NoneUp,
    /// Backends have the model, but none of them this operation.
    NotSpoken,
    /// No backend has the model.
    Unknown,
}

/// All configured backends.
#[derive(Debug)]
pub struct Fleet {
    backends: Vec<Arc<Backend>>,
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
        let backends = (0..).zip(&config.backends).map(|(id, config)| Arc::new(Backend::new(id, config))).collect();
        let flight = |apart| SingleFlight::new(clock.clone(), apart, tasks.clone());
        let (on_miss, on_running) = (flight(MISS_APART), flight(RUNNING_APART));
        Self {
            backends,
            control: Arc::new(control),
            clock,
            lists_cloud: config.models.allow_cloud,
            on_miss,
            on_running,
            tasks: tasks.clone(),
        }
    }

    /// All of them, by id.
    pub fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// What asks backends about themselves.
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Who can serve this model to a caller of this surface.
    pub fn candidates(&self, name: &ModelName, surface: Surface, operation: Operation) -> Candidates {
        let now_ms = self.clock.monotonic_ms();
        let (mut is_known, mut is_spoken) = (false, false);
        let mut found = Vec::new();
        for backend in &self.backends {
            let Some(model) = backend.model(name) else { continue };
            is_known = true;
            if !backend.speaks(surface, operation) {
                continue;
            }
            is_spoken = true;
            if backend.is_up() {
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
        let (backends, control) = (self.backends.clone(), Arc::clone(&self.control));
        self.on_miss
            .run(MISS_PATIENCE, move || async move {
                probe::for_each_up(&backends, |backend| probe::refresh_models(Arc::clone(&control), backend)).await;
            })
            .await;
    }

    /// Has the list of one backend read again; nobody waits for it.
    pub fn refresh_one(&self, backend: &Arc<Backend>) {
        self.tasks.spawn(probe::refresh_models(Arc::clone(&self.control), Arc::clone(backend)));
    }

    /// The models that a caller of this surface and scope may know, of backends that are up.
    fn visible(&self, surface: Surface, scope: &Scope) -> Vec<(Box<str>, Arc<Model>)> {
        let mut visible = Vec::new();
        for backend in self.speaking(surface).filter(|backend| backend.is_up()) {
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
        let models = self.speaking(Surface::OpenAi).filter(|backend| backend.is_up());
        let model = models.filter_map(|backend| backend.model(name)).find(|model| in_scope(scope, &model.key))?;
        Some(listing::openai_model_body(&OpenAiModel::from(&model.entry)))
    }

    /// `/api/ps`: what is loaded on all backends, asked anew if the last answer is older than a second.
    pub async fn running(&self, scope: &Scope) -> Bytes {
        let (backends, control) = (self.backends.clone(), Arc::clone(&self.control));
        self.on_running
            .run(RUNNING_PATIENCE, move || async move {
                probe::for_each_up(&backends, |backend| probe::refresh_running(Arc::clone(&control), backend)).await;
            })
            .await;
        let up = self.speaking(Surface::Ollama).filter(|backend| backend.is_up());
        let lists: Vec<Arc<Vec<ModelEntry>>> = up.map(|backend| backend.running()).collect();
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
        let versions = self.backends.iter().filter_map(|backend| (*backend.version()).clone());
        versions.min_by_key(|version| {
            let numbers = version.split(['.', '-', '+']).map(|part| part.parse::<u32>().unwrap_or(0));
            numbers.take(3).collect::<SmallVec<[u32; 3]>>()
        })
    }

    /// What is refused when it is asked for is not listed.
    fn may_list(&self, key: &str) -> bool {
        self.lists_cloud || !ModelName::parse(key).is_ok_and(|name| name.is_cloud())
    }

    fn speaking(&self, surface: Surface) -> impl Iterator<Item = &Arc<Backend>> {
        self.backends.iter().filter(move |backend| backend.speaks(surface, Operation::Chat))
    }

    fn any_model(&self, model: &str) -> Option<Arc<Model>> {
        let name = ModelName::parse(model).ok()?;
        self.backends.iter().find_map(|backend| backend.model(&name))
    }
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
        let able = self.speaking(surface).filter(|backend| backend.is_up() && backend.model(&name).is_some());
        u32::try_from(able.count()).unwrap_or(u32::MAX)
    }

    fn size_bytes(&self, model: &str) -> Option<u64> {
        self.any_model(model)?.entry.size_bytes
    }

    fn parameters(&self, model: &str) -> Option<u64> {
        self.any_model(model)?.entry.parameters
    }

    fn backend_name(&self, id: u32) -> Option<Arc<str>> {
        let backend = self.backends.get(usize::try_from(id).ok()?)?;
        Some(Arc::clone(backend.name()))
    }
}
