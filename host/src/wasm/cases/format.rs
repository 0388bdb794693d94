//! The shape of a case in JSON. Everything has a default but the name, the hook and what is expected.

use std::{collections::BTreeMap, net::IpAddr};

use http::{HeaderName, HeaderValue};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::{Map, Value};

use crate::{
    llm::{Operation, Surface},
    policy::{End, Hook, Scheme},
    ports::{keys::Standing, limits::LimitName},
};

/// What stands in a case about an edited call.
pub(super) const EDITED: [&str; 4] = ["model", "body", "upstream-headers", "response-headers"];

/// What a problem is with, and what it is.
type Problem = (String, String);

/// One case.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Case {
    pub(super) name: String,
    #[serde(deserialize_with = "hook")]
    pub(super) hook: Hook,
    /// In place of the policy's own.
    #[serde(default)]
    pub(super) settings: Option<Map<String, Value>>,
    #[serde(default, deserialize_with = "moment")]
    pub(super) clock: Option<Timestamp>,
    #[serde(default)]
    pub(super) head: Option<Head>,
    #[serde(default)]
    pub(super) presented: Option<Presented>,
    #[serde(default)]
    pub(super) call: Option<Call>,
    #[serde(default)]
    pub(super) principal: Option<Principal>,
    #[serde(default)]
    pub(super) backends: Option<Vec<Backend>>,
    #[serde(default)]
    pub(super) outcome: Option<Outcome>,
    #[serde(default)]
    pub(super) request: Request,
    #[serde(default)]
    pub(super) keys: Keys,
    #[serde(default)]
    pub(super) principals: Principals,
    #[serde(default)]
    pub(super) catalogue: Catalogue,
    #[serde(default)]
    pub(super) state: State,
    #[serde(default)]
    pub(super) env: Env,
    pub(super) expect: Value,
    /// The call as the policy's edits leave it, or "none".
    #[serde(default)]
    pub(super) edits: Option<Value>,
    /// Every line that the policy writes.
    #[serde(default)]
    pub(super) log: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Head {
    #[serde(deserialize_with = "surface")]
    pub(super) surface: Option<Surface>,
    #[serde(deserialize_with = "operation")]
    pub(super) operation: Option<Operation>,
    pub(super) body_bytes: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Presented {
    #[serde(deserialize_with = "scheme")]
    pub(super) scheme: Scheme,
    #[serde(default)]
    pub(super) key_id: Option<Box<str>>,
    /// All of it, for a policy that may read it.
    #[serde(default)]
    pub(super) credential: Option<Box<str>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Call {
    #[serde(deserialize_with = "surface")]
    pub(super) surface: Option<Surface>,
    #[serde(deserialize_with = "operation")]
    pub(super) operation: Option<Operation>,
    pub(super) model: Option<String>,
    pub(super) body_bytes: Option<u64>,
    pub(super) input_tokens: Option<u32>,
    pub(super) output_cap: Option<u32>,
    pub(super) streaming: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Principal {
    pub(super) subject: Box<str>,
    #[serde(default)]
    pub(super) user: Option<Box<str>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Backend {
    pub(super) id: u32,
    #[serde(default)]
    pub(super) weight: Option<u32>,
    #[serde(default)]
    pub(super) in_flight: u32,
    #[serde(default)]
    pub(super) model_in_flight: u32,
    #[serde(default)]
    pub(super) capacity: Option<u32>,
    #[serde(default)]
    pub(super) queued: u32,
    #[serde(default)]
    pub(super) first_token_us: Option<u32>,
    #[serde(default)]
    pub(super) tokens_per_second_milli: Option<u32>,
    #[serde(default)]
    pub(super) errors_permille: u16,
    #[serde(default)]
    pub(super) resident: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Outcome {
    #[serde(deserialize_with = "end")]
    pub(super) end: Option<End>,
    pub(super) status: Option<u16>,
    pub(super) backend: Option<u32>,
    pub(super) input_tokens: u32,
    pub(super) output_tokens: u32,
    pub(super) estimated: bool,
    pub(super) first_token_us: Option<u32>,
    pub(super) total_us: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Request {
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Option<Value>,
    pub(super) peer: Option<IpAddr>,
    pub(super) path: Option<Box<str>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Keys {
    pub(super) verify: Option<Key>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Key {
    pub(super) id: Box<str>,
    #[serde(default)]
    pub(super) user: Option<Box<str>>,
    #[serde(deserialize_with = "standing")]
    pub(super) standing: Standing,
    #[serde(default)]
    pub(super) expires_at_ms: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Principals {
    pub(super) limits: Vec<HeldLimit>,
    pub(super) attributes: BTreeMap<Box<str>, Vec<Box<str>>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct HeldLimit {
    pub(super) holder: Holder,
    #[serde(deserialize_with = "limit_name")]
    pub(super) name: LimitName,
    #[serde(default)]
    pub(super) of_model: bool,
    pub(super) value: u64,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Holder {
    Key,
    User,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Catalogue {
    pub(super) models: BTreeMap<String, Model>,
    pub(super) backend_names: BTreeMap<u32, String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Model {
    pub(super) candidates: u32,
    pub(super) size_bytes: Option<u64>,
    pub(super) parameters: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct State {
    pub(super) counters: BTreeMap<String, i64>,
    /// Values are bytes; here they are text.
    pub(super) values: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Env {
    /// Where `random` starts.
    pub(super) seed: u64,
}

impl Case {
    /// A call with default facts at this hook.
    pub(super) fn default_at(hook: Hook) -> Self {
        Self {
            name: format!("a plain call at {}", hook.as_str()),
            hook,
            settings: None,
            clock: None,
            head: None,
            presented: None,
            call: None,
            principal: None,
            backends: None,
            outcome: None,
            request: Request::default(),
            keys: Keys::default(),
            principals: Principals::default(),
            catalogue: Catalogue::default(),
            state: State::default(),
            env: Env::default(),
            expect: Value::Null,
            edits: None,
            log: None,
        }
    }

    /// The case's own settings, as JSON text.
    pub(super) fn settings_text(&self) -> Option<String> {
        self.settings.as_ref().map(|settings| Value::Object(settings.clone()).to_string())
    }

    /// What only the whole case shows to be wrong.
    pub(super) fn check(&self) -> Result<(), Problem> {
        let facts = [
            ("head", self.head.is_some(), &[Hook::Authenticate][..]),
            ("presented", self.presented.is_some(), &[Hook::Authenticate]),
            ("call", self.call.is_some(), &Hook::WITH_CALLER),
            ("principal", self.principal.is_some(), &Hook::WITH_CALLER),
            ("backends", self.backends.is_some(), &[Hook::Route]),
            ("outcome", self.outcome.is_some(), &[Hook::Settle]),
        ];
        for (fact, is_there, hooks) in facts {
            if is_there && !hooks.contains(&self.hook) {
                return Err((
                    fact.to_owned(),
                    format!("the hook `{}` isn't told this; leave it out", self.hook.as_str()),
                ));
            }
        }
        if self.backends.as_ref().is_some_and(Vec::is_empty) {
            return Err(("backends".to_owned(), "a gate without backends doesn't ask; name one at least".to_owned()));
        }
        for (name, value) in &self.request.headers {
            let fits = HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok();
            if !fits {
                return Err((format!("request.headers.{name}"), "this is no header".to_owned()));
            }
        }
        self.edits.as_ref().map_or(Ok(()), |edits| check_edits(self.hook, edits))?;
        check_expected(self.hook, &self.expect)
    }
}

/// The decision's own case must be one that the hook has; what stands in it shows in the comparison.
fn check_expected(hook: Hook, expect: &Value) -> Result<(), Problem> {
    let (words, variants): (&[&str], &[&str]) = match hook {
        Hook::Authenticate => (&["abstain"], &["allow", "reject"]),
        Hook::Admit => (&["abstain"], &["admit", "reject"]),
        Hook::Route => (&["abstain"], &["pick", "ranked", "reject"]),
        Hook::Settle => (&["done"], &[]),
    };
    let fits = match expect {
        Value::String(word) => words.contains(&word.as_str()),
        Value::Object(fields) if fields.contains_key("fault") => {
            fields.keys().all(|name| matches!(name.as_str(), "fault" | "detail"))
        }
        Value::Object(fields) => fields.len() == 1 && fields.keys().all(|name| variants.contains(&name.as_str())),
        _ => false,
    };
    if fits {
        return Ok(());
    }
    let variants = variants.iter().chain(&["fault"]).map(|name| format!("{{\"{name}\": …}}"));
    let known: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).chain(variants).collect();
    Err(("expect".to_owned(), format!("the hook `{}` answers one of {}", hook.as_str(), known.join(", "))))
}

/// What is expected of edits is that there are none, or what the call is with them.
fn check_edits(hook: Hook, edits: &Value) -> Result<(), Problem> {
    let wrong = |problem: String| Err(("edits".to_owned(), problem));
    if hook != Hook::Admit {
        return wrong(format!("the hook `{}` changes no calls; leave it out", hook.as_str()));
    }
    match edits {
        Value::String(word) if word == "none" => Ok(()),
        Value::Object(fields) if fields.keys().all(|field| EDITED.contains(&field.as_str())) => Ok(()),
        _ => wrong(format!("write \"none\", or an object of {}", EDITED.join(", "))),
    }
}

fn named<'de, D: Deserializer<'de>, T: Copy>(deserializer: D, known: &[(&str, T)]) -> Result<T, D::Error> {
    let word = String::deserialize(deserializer)?;
    known.iter().find(|(name, _)| *name == word).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        D::Error::custom(format!("'{word}' is none of {}", names.join(", ")))
    })
}

fn moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let known = text.parse().map_err(|_| format!("'{text}' is no moment; write one like 2026-03-02T09:30:00Z"));
    known.map(Some).map_err(D::Error::custom)
}

fn hook<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Hook, D::Error> {
    named(deserializer, &Hook::ALL.map(|hook| (hook.as_str(), hook)))
}

fn surface<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Surface>, D::Error> {
    let all = [Surface::Ollama, Surface::OpenAi, Surface::Anthropic, Surface::Other];
    named(deserializer, &all.map(|surface| (surface.as_str(), Some(surface))))
}

fn operation<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Operation>, D::Error> {
    let all = [
        Operation::Generate,
        Operation::Chat,
        Operation::Complete,
        Operation::Respond,
        Operation::Embed,
        Operation::Transcribe,
        Operation::Show,
        Operation::Listing,
        Operation::Manage,
        Operation::Other,
    ];
    named(deserializer, &all.map(|operation| (operation.as_str(), Some(operation))))
}

fn scheme<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Scheme, D::Error> {
    let known = [
        ("bearer", Scheme::Bearer),
        ("api-key-header", Scheme::ApiKeyHeader),
        ("basic", Scheme::Basic),
        ("other", Scheme::Other),
    ];
    named(deserializer, &known)
}

fn end<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<End>, D::Error> {
    let known = [("complete", End::Complete), ("client-left", End::ClientLeft), ("failed", End::Failed)];
    named(deserializer, &known.map(|(name, end)| (name, Some(end))))
}

fn standing<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Standing, D::Error> {
    let all = [Standing::Active, Standing::Disabled, Standing::Expired, Standing::Revoked];
    named(deserializer, &all.map(|standing| (standing.as_str(), standing)))
}

fn limit_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<LimitName, D::Error> {
    named(deserializer, &LimitName::ALL.map(|name| (name.as_str(), name)))
}
