//! A gate for a test: its own state folder, free ports, a clock that stands still until it is moved, and one key.

use std::{
    fmt::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use http::Method;
use serde_json::Value;
use tempfile::TempDir;
use tollgate::{
    app::App,
    clock::{Clock, Hand},
    config::{Config, Sources},
    identity::{FreshKey, Pepper},
    ports::{
        keys::{KeyState, Scope},
        limits::{LimitChange, LimitName},
        store::{NewKey, NewUser, Store},
    },
    store::SqliteStore,
    upstream::fleet::Fleet,
};

use super::{Answer, LlmServer, until};

/// When a test's clock starts: Wednesday 2026-06-10, 12:00 UTC.
pub const START_UNIX_MS: u64 = 1_781_092_800_000;

/// A gate to be.
pub struct Builder {
    folder: TempDir,
    toml: String,
    backends: String,
    users: Vec<NewUser>,
    keys: Vec<NewKey>,
    pepper: Pepper,
    key: FreshKey,
    has_policies: bool,
}

/// A running gate.
pub struct TestProxy {
    app: App,
    folder: TempDir,
    key: String,
    client: reqwest::Client,
    config: Config,
    clock: Clock,
    /// Moves the gate's clock.
    pub hand: Hand,
}

impl TestProxy {
    /// A gate without backends, with one key that has no limit of its own.
    pub fn builder() -> Builder {
        let folder = tempfile::tempdir().unwrap();
        let pepper = Pepper::load_or_create(&folder.path().join("state")).unwrap();
        let (toml, backends) = (String::new(), String::new());
        let key = FreshKey::generate().unwrap();
        let (users, keys, has_policies) = (Vec::new(), Vec::new(), false);
        let mut builder = Builder { folder, toml, backends, users, keys, pepper, key, has_policies };
        let default = builder.new_key("default", &builder.key);
        builder.keys.push(default);
        builder
    }

    /// A gate before these servers.
    pub async fn before(servers: &[&LlmServer]) -> Self {
        servers.iter().fold(Self::builder(), |builder, server| builder.backend(server)).start().await
    }

    /// One more gate, on ports of its own, with the same state folder and clock.
    pub(crate) async fn another(&self) -> App {
        start(&self.config, &self.clock).await
    }

    pub fn address(&self) -> SocketAddr {
        self.app.data_plane()
    }

    /// The gate's backends.
    pub fn fleet(&self) -> &Fleet {
        self.app.fleet()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    /// A client that follows no redirects and shares its connections.
    pub fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// A request with the gate's key.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, self.url(path)).bearer_auth(&self.key)
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path).send().await.unwrap()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_as(&self.key, path, body).await
    }

    pub async fn post_as(&self, key: &str, path: &str, body: &Value) -> Answer {
        let request = self.client.post(self.url(path)).bearer_auth(key).body(body.to_string());
        Answer::of(request.send().await.unwrap()).await
    }

    /// The body as it is, with the gate's key.
    pub async fn post_text(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        Answer::of(self.request(Method::POST, path).body(body).send().await.unwrap()).await
    }

    /// An answer of the admin listener, without a token.
    pub async fn admin(&self, path: &str) -> Answer {
        let url = format!("http://{}{path}", self.app.admin());
        Answer::of(self.client.get(url).send().await.unwrap()).await
    }

    /// An answer of the admin API, with the token.
    pub(crate) async fn api(&self, method: Method, path: &str) -> Answer {
        let url = format!("http://{}{path}", self.app.admin());
        Answer::of(self.client.request(method, url).bearer_auth(self.admin_token()).send().await.unwrap()).await
    }

    /// Where the admin listener is.
    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.app.admin()
    }

    /// What proves an operator.
    pub(crate) fn admin_token(&self) -> String {
        std::fs::read_to_string(self.admin_token_file()).unwrap().trim_end().to_owned()
    }

    /// Where that stands.
    pub(crate) fn admin_token_file(&self) -> PathBuf {
        self.folder.path().join("state/admin.token")
    }

    /// A number in the metrics, by all that stands before it in its line; 0 while there is no such line.
    pub async fn metric(&self, series: &str) -> f64 {
        let metrics = self.admin("/metrics").await.body;
        let mut lines = metrics.lines().filter_map(|line| line.rsplit_once(' '));
        lines.find(|(name, _)| *name == series).map_or(0.0, |(_, value)| value.parse().unwrap())
    }

    /// Waits until a number in the metrics is this one.
    pub async fn until_metric(&self, series: &str, value: f64) {
        until(&format!("{series} {value}"), || async { self.metric(series).await == value }).await;
    }

    /// Waits until the gate knows that a backend is up, or down.
    pub async fn until_backend_is(&self, name: &str, up: bool) {
        let series = format!("tollgate_backend_up{{backend=\"{name}\"}}");
        self.until_metric(&series, if up { 1.0 } else { 0.0 }).await;
    }

    /// Waits until no call is in progress.
    pub async fn until_idle(&self) {
        self.until_metric("tollgate_requests_in_flight", 0.0).await;
    }

    /// The store that the gate reads: what the command line would write.
    pub async fn store(&self) -> SqliteStore {
        SqliteStore::open(&self.folder.path().join("state/tollgate.db")).await.unwrap()
    }

    pub async fn set_key_state(&self, key: &str, state: KeyState) {
        let store = self.store().await;
        store.set_key_state(key, state).await.unwrap();
        store.close().await;
    }

    /// Moves the clock, and waits until the gate trusts its keys again: it reads the store by the real time.
    pub(crate) async fn advance(&self, by: Duration) {
        self.hand.advance(by);
        let is_fresh = async || self.admin("/readyz").await.json()["keys"] == "fresh";
        until("the keys' reading", is_fresh).await;
    }

    /// Asks the gate to stop, and waits until it has.
    pub(crate) async fn stop(self) {
        self.app.stop().await;
    }

    /// Stops the gate, and starts it again on its folder.
    pub(crate) async fn restart(self) -> Self {
        self.app.stop().await;
        let app = self.beside().await;
        Self { app, ..self }
    }

    /// Stops the gate, and has it start again on its folder, which must fail: why it does.
    pub(crate) async fn restart_fails(&self) -> String {
        self.app.stop().await;
        let starting = Box::pin(App::start(load(self.folder.path()), self.clock.clone()));
        starting.await.map(drop).expect_err("the start fails").to_string()
    }

    /// Another gate on this one's folder.
    pub(crate) async fn beside(&self) -> App {
        let config = load(self.folder.path());
        Box::pin(App::start(config, self.clock.clone())).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The policy folder.
    pub fn policies(&self) -> PathBuf {
        self.folder.path().join("policies.d")
    }

    /// The gate's folder, with `state` and `tollgate.toml` in it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Puts a policy into the folder the way people should: whole, by renaming.
    pub fn put_policy(&self, name: &str, component: &[u8]) {
        put_policy(&self.policies(), name, component);
    }

    /// Puts a policy's `.toml` into the folder, whole.
    pub(crate) fn put_policy_terms(&self, name: &str, toml: &str) {
        let part = self.policies().join(format!(".{name}.part"));
        std::fs::write(&part, toml).unwrap();
        std::fs::rename(part, self.policies().join(format!("{name}.toml"))).unwrap();
    }

    /// What the gate says of one policy.
    pub(crate) async fn policy_status(&self, name: &str) -> Value {
        let list = self.api(Method::GET, "/api/v1/policies").await.json();
        let policies = list["policies"].as_array().unwrap().clone();
        policies.into_iter().find(|policy| policy["name"] == name).unwrap_or_default()
    }
}

impl Builder {
    /// A backend before which the gate stands.
    pub fn backend(self, server: &LlmServer) -> Self {
        let (name, url) = (server.name(), server.url());
        self.backend_at(name, &url, "ollama")
    }

    pub fn backend_at(mut self, name: &str, url: &str, kind: &str) -> Self {
        write!(self.backends, "\n[[backends]]\nname = \"{name}\"\nurl = \"{url}\"\nkind = \"{kind}\"\n").unwrap();
        self
    }

    /// A backend with so many times the weight of one without.
    pub fn weighted_backend(mut self, server: &LlmServer, weight: u32) -> Self {
        self = self.backend(server);
        self.backend_line(&format!("weight = {weight}"))
    }

    /// One more line of the backend that was added last.
    pub(crate) fn backend_line(mut self, line: &str) -> Self {
        writeln!(self.backends, "{line}").unwrap();
        self
    }

    /// A line of configuration, with its section in the key: `limits.requests_per_minute = 3`.
    pub fn set(mut self, line: &str) -> Self {
        writeln!(self.toml, "{line}").unwrap();
        self
    }

    /// The gate's folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// One more key; answers its text.
    pub fn add_key(&mut self, name: &str, change: impl FnOnce(&mut NewKey)) -> String {
        let key = FreshKey::generate().unwrap();
        let mut new = self.new_key(name, &key);
        change(&mut new);
        self.keys.push(new);
        key.text().to_owned()
    }

    /// A user with these limits, whose keys are yet to come.
    pub(crate) fn user(mut self, name: &str, limits: Vec<LimitChange>) -> Self {
        let name = name.to_owned();
        self.users.push(NewUser { name, attributes: Vec::new(), limits, created_at_ms: START_UNIX_MS });
        self
    }

    /// Changes the gate's own key.
    pub fn with_key(mut self, change: impl FnOnce(&mut NewKey)) -> Self {
        change(&mut self.keys[0]);
        self
    }

    /// Lets the gate's own key manage.
    pub(crate) fn managing(self) -> Self {
        self.with_key(|key| key.may_manage = true)
    }

    /// An empty policy folder.
    pub fn policy_folder(mut self) -> Self {
        if !self.has_policies {
            self.has_policies = true;
            std::fs::create_dir(self.folder.path().join("policies.d")).unwrap();
            self = self.set("policies.folder = \"policies.d\"");
        }
        self
    }

    /// A policy that is there from the start.
    pub fn policy(self, name: &str, component: &[u8]) -> Self {
        let builder = self.policy_folder();
        put_policy(&builder.folder.path().join("policies.d"), name, component);
        builder
    }

    /// The `.toml` of a policy, there from the start.
    pub(crate) fn policy_terms(self, name: &str, toml: &str) -> Self {
        let builder = self.policy_folder();
        std::fs::write(builder.folder.path().join("policies.d").join(format!("{name}.toml")), toml).unwrap();
        builder
    }

    /// The configuration as it will be loaded.
    pub fn config(&self) -> Config {
        let file = self.folder.path().join("tollgate.toml");
        let defaults = "state_dir = \"state\"\nserver.listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\n\
                        upstream.probe_interval = \"50ms\"\nserver.drain_timeout = \"2s\"\n";
        let overridden = |line: &&str| !self.toml.lines().any(|own| own.split('=').next() == line.split('=').next());
        let defaults: Vec<&str> = defaults.lines().filter(overridden).collect();
        std::fs::write(&file, format!("{}\n{}{}", defaults.join("\n"), self.toml, self.backends)).unwrap();
        load(self.folder.path())
    }

    pub async fn start(self) -> TestProxy {
        let (clock, hand) = Clock::manual(START_UNIX_MS);
        let config = self.stored().await;
        let app = start(&config, &clock).await;
        let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        TestProxy { app, folder: self.folder, key: self.key.text().to_owned(), client, config, clock, hand }
    }

    /// The gate as a folder for the real binary to serve from, and its key.
    pub(crate) async fn write(self) -> (TempDir, String) {
        self.stored().await;
        (self.folder, self.key.text().to_owned())
    }

    /// The configuration, with all keys in its store.
    async fn stored(&self) -> Config {
        let config = self.config();
        let store = SqliteStore::open(&config.store.path).await.unwrap();
        for user in &self.users {
            store.create_user(user.clone()).await.unwrap();
        }
        for key in &self.keys {
            store.create_key(key.clone()).await.unwrap();
        }
        store.close().await;
        config
    }

    fn new_key(&self, name: &str, key: &FreshKey) -> NewKey {
        NewKey {
            id: key.id().to_owned(),
            name: name.to_owned(),
            user: None,
            limits: Vec::new(),
            scope: Scope::AllModels,
            may_manage: false,
            attributes: Vec::new(),
            expires_at_ms: None,
            created_at_ms: START_UNIX_MS,
            hash: self.pepper.hash(key.id(), key.secret()),
        }
    }
}

async fn start(config: &Config, clock: &Clock) -> App {
    let starting = Box::pin(App::start(config.clone(), clock.clone()));
    starting.await.unwrap_or_else(|error| panic!("{error}"))
}

/// The configuration of a gate's folder.
fn load(folder: &Path) -> Config {
    let file = Some(folder.join("tollgate.toml"));
    let sources = Sources { file, directory: folder.to_owned(), ..Sources::default() };
    Config::load(&sources).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Gives a key its own limit of requests a minute.
pub fn rpm(limit: u64) -> impl FnOnce(&mut NewKey) {
    move |key| key.limits.push(overall(LimitName::RequestsPerMinute, limit))
}

/// A limit for all models together.
pub(crate) fn overall(name: LimitName, limit: u64) -> LimitChange {
    LimitChange { model: None, name, limit: Some(limit) }
}

/// A limit for one model alone, by its canonical name.
pub(crate) fn of_model(model: &str, name: LimitName, limit: u64) -> LimitChange {
    LimitChange { model: Some(model.to_owned()), ..overall(name, limit) }
}

fn put_policy(folder: &Path, name: &str, component: &[u8]) {
    let part = folder.join(format!(".{name}.part"));
    std::fs::write(&part, component).unwrap();
    std::fs::rename(part, folder.join(format!("{name}.wasm"))).unwrap();
}
