//! Policies of `examples/gallery` that do nothing without settings do what their names say with some.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use http::{HeaderMap, Method};
use tollgate::{
    clock::Clock,
    llm::{
        Surface,
        body::JsonBody,
        model_name::ModelName,
        operations::{self, Match},
    },
    policy::{
        AdmitVerdict, AuthenticateVerdict, Call, Chains, Exchange, ExchangeHead, FaultKind, Grants, Head, Hook,
        Observer, Presented, Principal, RequestBody, Scheme,
    },
    ports::{
        catalogue::{Catalogue, NoBackends},
        keys::{Proof, Scope},
        limits::LimitSet,
    },
    wasm::{Runtime, RuntimeConfig},
    wire::bounded::BufferBudget,
};

use crate::support::{guest, proxy::START_UNIX_MS};

#[derive(Debug)]
struct Unheard;

impl Observer for Unheard {
    fn asked(&self, _: &str, _: Hook, _: Duration, _: Option<FaultKind>) {}
}

/// Backends that have one model.
#[derive(Debug)]
struct Only(&'static str);

impl Catalogue for Only {
    fn candidates(&self, model: &str, _: Surface, _: &Scope) -> u32 {
        u32::from(model == self.0)
    }
    fn size_bytes(&self, model: &str) -> Option<u64> {
        NoBackends.size_bytes(model)
    }
    fn parameters(&self, model: &str) -> Option<u64> {
        NoBackends.parameters(model)
    }
    fn backend_name(&self, id: u32) -> Option<Arc<str>> {
        NoBackends.backend_name(id)
    }
}

/// A set with this policy alone, which has all grants.
fn chains(name: &str, settings: &str, catalogue: Arc<dyn Catalogue>) -> Chains {
    let config = RuntimeConfig {
        cpu_budget: Duration::from_millis(100),
        memory_bytes: 64 << 20,
        masked_headers: Vec::new(),
        default_limits: LimitSet::default(),
        ready_instances: 1,
        cache: None,
    };
    let (clock, _) = Clock::manual(START_UNIX_MS);
    let runtime = Runtime::start(config, clock.clone(), catalogue).unwrap();
    let policy = runtime.load(&name.into(), &guest::gallery(name), settings, Grants::ALL);
    let policy = policy.unwrap_or_else(|error| panic!("{name}: {error}"));
    Chains::new(1, vec![Arc::new(policy)], clock, Arc::new(Unheard))
}

fn exchange(seed: u64, credential: Option<&str>, body: &str) -> Arc<Exchange> {
    let Match::Row(row, _) = operations::find(&Method::POST, "/v1/chat/completions") else { panic!("no such row") };
    let exchange = Exchange::new(ExchangeHead {
        request_id: "gallery".into(),
        row,
        seed,
        peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
        path: "/v1/chat/completions".into(),
        headers: HeaderMap::new(),
        credential: credential.map(Into::into),
        proof: Proof::NotAKey,
    });
    let bytes = body.to_owned().into();
    exchange.note_body(RequestBody { bytes, cap: 10_000, buffers: BufferBudget::new(1 << 20) });
    Arc::new(exchange)
}

/// The model that the call runs in the end, and its body; or the code of the rejection.
fn admitted(chains: &Chains, seed: u64, model: &str) -> Result<(String, String), String> {
    let text = format!(r#"{{"model":"{model}","messages":[]}}"#);
    let exchange = exchange(seed, None, &text);
    let json = JsonBody::read(exchange.body().unwrap(), &["model"]).unwrap();
    let call = Call::of(exchange.row(), ModelName::parse(model).ok().as_ref(), Some(&json), 0);
    let principal = Principal { subject: "k".into(), user: None };
    match chains.admit(&exchange, &call, &principal).unwrap() {
        AdmitVerdict::Reject(rejection) => Err(rejection.code),
        AdmitVerdict::Admit { edited: None, .. } => Ok((call.model.to_string(), text)),
        AdmitVerdict::Admit { edited: Some(edited), .. } => {
            let body = edited.exchange.body().unwrap();
            Ok((edited.call.model.to_string(), String::from_utf8(body.to_vec()).unwrap()))
        }
    }
}

#[tokio::test]
async fn alias_runs_the_first_model_of_the_name_that_is_up() {
    let settings = r#"{ "fast": ["llama3.2:3b", "qwen3:4b"] }"#;
    let some = chains("alias", settings, Arc::new(Only("qwen3:4b")));
    let body = r#"{"model":"qwen3:4b","messages":[]}"#.to_owned();
    assert_eq!(admitted(&some, 1, "Fast"), Ok(("qwen3:4b".to_owned(), body)));
    assert_eq!(admitted(&some, 1, "other").unwrap().0, "other:latest", "no alias");
    let none = chains("alias", settings, Arc::new(NoBackends));
    assert_eq!(admitted(&none, 1, "fast"), Err("alias_without_model".to_owned()));
}

#[tokio::test]
async fn canary_models_sends_about_its_share_to_the_other_model() {
    let settings = r#"{ "from": "llama3.1:8b", "to": "llama3.2:3b", "percent": 20 }"#;
    let canary = chains("canary-models", settings, Arc::new(Only("llama3.2:3b")));
    let moved = (0..1000).filter(|seed| admitted(&canary, *seed, "llama3.1:8b").unwrap().0 == "llama3.2:3b").count();
    assert!((150..250).contains(&moved), "{moved} of 1000 went there");
    assert!((0..50).all(|seed| admitted(&canary, seed, "big:1").unwrap().0 == "big:1"), "another model stays");
}

#[tokio::test]
async fn jwt_knows_the_bearer_of_a_token_that_its_secret_signed() {
    // HS256 over `sub` "ann" and an `exp` in the year 2100, by the secret below.
    const TOKEN: &str = concat!(
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4iLCJleHAiOjQxMDI0NDQ4MDB9.",
        "zdOvMn4i1BBICDRkWRHElIk_0sj2TxO7kuyZUvgBY1c"
    );
    let check = |secret: &str, token: &str| {
        let chains = chains("jwt", &format!(r#"{{"secret":"{secret}"}}"#), Arc::new(NoBackends));
        let exchange = exchange(1, Some(token), "{}");
        let row = exchange.row();
        let head = Head { surface: row.surface, operation: row.operation, body_bytes: None };
        let presented = Presented { scheme: Scheme::Bearer, key_id: None };
        match chains.authenticate(&exchange, &head, Some(&presented)).unwrap() {
            AuthenticateVerdict::Allow { subject, policy, .. } => format!("{policy}/{subject}"),
            AuthenticateVerdict::Reject(rejection) => rejection.code,
            AuthenticateVerdict::Unknown => "unknown".to_owned(),
        }
    };
    let secret = "a secret of thirty-two bytes, ok!";
    assert_eq!(check(secret, TOKEN), "jwt/ann");
    assert_eq!(check(secret, &TOKEN.replace("Jhbm4i", "Jib2Ii")), "invalid_token", "somebody else's name");
    assert_eq!(check("another secret of thirty-two bytes", TOKEN), "invalid_token");
    assert_eq!(check(secret, "some-other-token"), "unknown");
}
