//! Lists of models: read from a backend's answer, merged, and written again for a caller.
//!
//! Assumes that the answer's length was capped by whoever read it from the wire. A backend's text is not trusted
//! beyond that: lists and names have bounds, and what isn't readable is unknown, never guessed.
//!
//! Never decides who may see a model, and never changes an entry: what a backend said of a model is repeated as it was.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use jiff::Timestamp;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// The most models that one backend may list.
pub const ENTRIES_MAX: usize = 10_000;

/// The most bytes that a model's name may have in a list; a longer one is skipped.
pub const NAME_MAX_BYTES: usize = 256;

/// The most characters of a reason why a list can't be read.
const REASON_MAX_CHARS: usize = 200;

/// One model as one backend lists it. What the backend didn't say, or said in no readable way, is `None`.
#[derive(Clone, Debug)]
pub struct ModelEntry {
    /// The backend's own spelling of the name: 1 to [`NAME_MAX_BYTES`] bytes, no control characters.
    pub name: String,
    /// The size of the model: on disk in a list of tags, in memory in a list of running models.
    pub size_bytes: Option<u64>,
    /// How many parameters the model has, as exactly as the backend rounds it.
    pub parameters: Option<u64>,
    /// When the model last changed; for an OpenAI server's model, when it was created.
    pub modified_at: Option<Timestamp>,
    /// The digest of the model's manifest.
    pub digest: Option<String>,
    /// Who made it, as an OpenAI server tells.
    pub owned_by: Option<String>,
    /// The whole entry as the backend wrote it: one JSON object.
    pub raw: Box<RawValue>,
}

/// A backend's list could not be read. The text is bounded: it may repeat what the backend wrote, but only so much.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer to {request} is not a list of models ({reason}): check the backend's url and kind")]
pub struct ListingError {
    request: &'static str,
    reason: String,
}

impl ListingError {
    fn new(request: &'static str, source: &serde_json::Error) -> Self {
        Self { request, reason: source.to_string().chars().take(REASON_MAX_CHARS).collect() }
    }
}

/// Reads the answer to Ollama's `GET /api/tags`.
///
/// # Errors
///
/// When it isn't JSON of that shape: the list or an entry is missing or of another type, a name isn't text, or there
/// are more than [`ENTRIES_MAX`] entries.
pub fn parse_tags(answer: &[u8]) -> Result<Vec<ModelEntry>, ListingError> {
    ollama_entries(answer).map_err(|source| ListingError::new("GET /api/tags", &source))
}

/// Reads the answer to Ollama's `GET /api/ps`.
///
/// # Errors
///
/// As [`parse_tags`].
pub fn parse_running(answer: &[u8]) -> Result<Vec<ModelEntry>, ListingError> {
    ollama_entries(answer).map_err(|source| ListingError::new("GET /api/ps", &source))
}

/// Reads the answer to OpenAI's `GET /v1/models`.
///
/// # Errors
///
/// As [`parse_tags`].
pub fn parse_models(answer: &[u8]) -> Result<Vec<ModelEntry>, ListingError> {
    openai_entries(answer).map_err(|source| ListingError::new("GET /v1/models", &source))
}

/// Both kinds of server write `null` for a list without entries (an empty Go slice), so that counts as empty; a list
/// that isn't there does not, hence the `deserialize_with`.
#[derive(Debug, Deserialize)]
struct OllamaList<'a> {
    #[serde(borrow, deserialize_with = "Option::deserialize")]
    models: Option<Entries<'a>>,
}

#[derive(Debug, Deserialize)]
struct OpenAiList<'a> {
    #[serde(borrow, deserialize_with = "Option::deserialize")]
    data: Option<Entries<'a>>,
}

/// The entries of a list, not yet read; at most [`ENTRIES_MAX`].
#[derive(Debug, Default)]
struct Entries<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(EntriesVisitor).map(Self)
    }
}

#[derive(Debug)]
struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of models")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = list.next_element()? {
            if entries.len() == ENTRIES_MAX {
                return Err(A::Error::custom(format_args!("more than {ENTRIES_MAX} models")));
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}

/// Only the names must have their type: servers that imitate Ollama put `""` where a size or a date belongs.
#[derive(Debug, Deserialize)]
struct OllamaModel {
    model: Option<String>,
    name: Option<String>,
    #[serde(default)]
    size: Value,
    #[serde(default)]
    modified_at: Value,
    #[serde(default)]
    digest: Value,
    #[serde(default)]
    details: Value,
}

#[derive(Debug, Deserialize)]
struct OpenAiObject {
    id: Option<String>,
    #[serde(default)]
    created: Value,
    #[serde(default)]
    owned_by: Value,
}

fn ollama_entries(answer: &[u8]) -> Result<Vec<ModelEntry>, serde_json::Error> {
    let list: OllamaList<'_> = serde_json::from_slice(answer)?;
    let mut entries = Vec::new();
    for raw in list.models.unwrap_or_default().0 {
        let object: OllamaModel = read_object(raw)?;
        let Some(name) = [object.model, object.name].into_iter().flatten().find(|name| !name.is_empty()) else {
            continue;
        };
        if is_listable(&name) {
            entries.push(ModelEntry {
                name,
                size_bytes: object.size.as_u64().filter(|size| *size > 0),
                parameters: object.details.get("parameter_size").and_then(Value::as_str).and_then(parse_count),
                modified_at: object.modified_at.as_str().and_then(|text| text.parse().ok()),
                digest: text(&object.digest),
                owned_by: None,
                raw: raw.to_owned(),
            });
        }
    }
    Ok(entries)
}

fn openai_entries(answer: &[u8]) -> Result<Vec<ModelEntry>, serde_json::Error> {
    let list: OpenAiList<'_> = serde_json::from_slice(answer)?;
    let mut entries = Vec::new();
    for raw in list.data.unwrap_or_default().0 {
        let object: OpenAiObject = read_object(raw)?;
        let Some(name) = object.id.filter(|name| is_listable(name)) else { continue };
        let created = object.created.as_i64().filter(|seconds| *seconds > 0);
        entries.push(ModelEntry {
            name,
            size_bytes: None,
            parameters: None,
            modified_at: created.and_then(|seconds| Timestamp::from_second(seconds).ok()),
            digest: None,
            owned_by: text(&object.owned_by),
            raw: raw.to_owned(),
        });
    }
    Ok(entries)
}

/// Reads one entry, which must be an object: serde would take a list for a struct too.
fn read_object<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Result<T, serde_json::Error> {
    if !raw.get().starts_with('{') {
        return Err(serde_json::Error::custom("an entry of the list is not an object"));
    }
    serde_json::from_str(raw.get())
}

fn is_listable(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_MAX_BYTES && !name.contains(char::is_control)
}

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// Reads Ollama's short form of a number of parameters: `8.0B`, `137M`, `1.5T`, `500K`, or plain digits.
fn parse_count(text: &str) -> Option<u64> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(digits_end)?;
    let unit: u64 = match suffix {
        "" => 1,
        "K" | "k" => 1_000,
        "M" | "m" => 1_000_000,
        "B" | "b" => 1_000_000_000,
        "T" | "t" => 1_000_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // Twelve places are one part in the largest unit; nothing real has more.
    let places = u32::try_from(fraction.len()).ok().filter(|places| *places <= 12)?;
    let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(unit) / 10_u128.pow(places);
    let count = whole.parse::<u64>().ok()?.checked_mul(unit)?.checked_add(u64::try_from(part).ok()?)?;
    (count > 0).then_some(count)
}

/// One entry for each key, in the order of the keys: the one that was modified last, and of equals the first.
pub fn merge<'k, 'a>(lists: impl Iterator<Item = (&'k str, &'a ModelEntry)>) -> Vec<&'a ModelEntry> {
    let mut newest: BTreeMap<&str, &ModelEntry> = BTreeMap::new();
    for (key, entry) in lists {
        let kept = newest.entry(key).or_insert(entry);
        if entry.modified_at > kept.modified_at {
            *kept = entry;
        }
    }
    newest.into_values().collect()
}

#[derive(Debug, Serialize)]
struct OllamaBody<'a> {
    models: Vec<&'a RawValue>,
}

/// The answer to `/api/tags`, from entries of [`parse_tags`], in the order given.
pub fn tags_body(entries: &[&ModelEntry]) -> Bytes {
    encode(&OllamaBody { models: entries.iter().map(|entry| &*entry.raw).collect() })
}

/// The answer to `/api/ps`, from entries of [`parse_running`], in the order given.
pub fn running_body(entries: &[&ModelEntry]) -> Bytes {
    tags_body(entries)
}

/// One model as OpenAI's API shows it.
#[derive(Clone, Copy, Debug)]
pub struct OpenAiModel<'a> {
    /// The name to ask for it.
    pub id: &'a str,
    /// When it was made, in seconds since 1970; 0 if nobody knows.
    pub created: i64,
    /// Who made it.
    pub owned_by: &'a str,
}

impl<'a> From<&'a ModelEntry> for OpenAiModel<'a> {
    /// Ollama doesn't say who made a model and its own `/v1/models` answers `library`, so that stands in. A date before
    /// 1970 is Go's zero time, which means that there is none.
    fn from(entry: &'a ModelEntry) -> Self {
        Self {
            id: &entry.name,
            created: entry.modified_at.map_or(0, |time| time.as_second().max(0)),
            owned_by: entry.owned_by.as_deref().unwrap_or("library"),
        }
    }
}

#[derive(Debug, Serialize)]
struct OpenAiModelBody<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    owned_by: &'a str,
}

impl<'a> From<&OpenAiModel<'a>> for OpenAiModelBody<'a> {
    fn from(model: &OpenAiModel<'a>) -> Self {
        Self { id: model.id, object: "model", created: model.created, owned_by: model.owned_by }
    }
}

#[derive(Debug, Serialize)]
struct OpenAiModelsBody<'a> {
    object: &'static str,
    data: Vec<OpenAiModelBody<'a>>,
}

/// The answer to `/v1/models`, in the order given.
pub fn openai_models_body(items: &[OpenAiModel<'_>]) -> Bytes {
    encode(&OpenAiModelsBody { object: "list", data: items.iter().map(OpenAiModelBody::from).collect() })
}

/// The answer to `/v1/models/{id}`.
pub fn openai_model_body(item: &OpenAiModel<'_>) -> Bytes {
    encode(&OpenAiModelBody::from(item))
}

fn encode(body: &impl Serialize) -> Bytes {
    Bytes::from(serde_json::to_vec(body).expect("strings, numbers and JSON that was read always encode"))
}

#[cfg(test)]
mod tests;
