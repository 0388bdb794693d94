//! The strict JSON body of a call: what may pass, and the few facts that Tollgate keeps of it.
//!
//! The bytes are a caller's and may be anything; their number was bounded before. Ollama decodes with Go's
//! `encoding/json`, which matches keys without regard to case and lets the last of two equal keys win, so
//! `{"model":"allowed","MODEL":"secret"}` would run `secret`. A body that two readers could understand differently is
//! therefore refused, and a body that passes is forwarded as it came. Nothing here builds a tree, repairs a body or
//! quotes a caller's values.

mod caps;
pub mod edit;
mod error;
mod image;
mod names;
mod walk;
mod wish;

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;

use std::ops::Range;

use bytes::Bytes;

use self::{
    caps::Caps,
    walk::{Images, Walk},
    wish::Asking,
};
pub use self::{
    error::{BodyError, Spot},
    image::IMAGE_TOKENS,
};
use super::{Operation, Surface};

/// What was read of a body that passed: exactly one JSON object, in UTF-8, at most 64 levels deep, without a key that
/// stands twice or could be taken for another.
#[derive(Clone, Debug)]
pub struct JsonBody {
    length: usize,
    model: Option<Model>,
    stream: Option<bool>,
    caps: Caps,
    answers: u32,
    images: Images,
    asking: Option<Asking>,
}

/// What is to be changed in a body on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edits<'a> {
    /// Another model.
    pub model: Option<&'a str>,
    /// Whether a stream is to tell its usage, in OpenAI's dialect. Changes nothing where [`JsonBody::may_ask_for_usage`]
    /// is false.
    pub asks_for_usage: bool,
}

/// The model's name and where its literal stands, quotes included.
#[derive(Clone, Debug)]
struct Model {
    text: String,
    literal: Range<usize>,
}

impl JsonBody {
    /// Checks a body in one pass, and keeps the first of `model_fields` that holds a name.
    ///
    /// An absent field, `null` and `""` are no name, as for Ollama; anything else but a string in one of these fields
    /// is an error.
    ///
    /// # Errors
    /// The first thing that makes the body unfit to forward.
    pub fn read(bytes: &Bytes, model_fields: &[&str]) -> Result<Self, BodyError> {
        if bytes.trim_ascii().is_empty() {
            return Err(BodyError::Empty);
        }
        // Text is known to be text once, and not string by string; what isn't is told where it stops being so.
        match str::from_utf8(bytes) {
            Ok(text) => Self::walked(bytes, model_fields, serde_json::Deserializer::from_str(text)),
            Err(_) => Self::walked(bytes, model_fields, serde_json::Deserializer::from_slice(bytes)),
        }
    }

    fn walked<'de>(
        bytes: &'de Bytes,
        model_fields: &[&str],
        mut deserializer: serde_json::Deserializer<impl serde_json::de::Read<'de>>,
    ) -> Result<Self, BodyError> {
        let mut walk = Walk::new(model_fields);
        if let Err(error) = walk.body(&mut deserializer) {
            return Err(error::explain(walk.into_refusal(), &error, bytes));
        }
        if let Err(error) = deserializer.end() {
            return Err(BodyError::TrailingData { offset: error::offset_of(&error, bytes) });
        }
        let found = walk.into_found();
        let model = found.model.and_then(|(text, literal)| Some(Model { text, literal: range_of(literal, bytes)? }));
        let asking = found.wish.asking(bytes);
        let walk::Found { stream, caps, answers, images, .. } = found;
        Ok(Self { length: bytes.len(), model, stream, caps, answers, images, asking })
    }

    /// The model's name as the caller wrote it, unescaped; never empty.
    pub fn model(&self) -> Option<&str> {
        self.model.as_ref().map(|model| model.text.as_str())
    }

    /// Where the model's JSON string stands in the body, in bytes, quotes included.
    pub fn model_range(&self) -> Option<Range<usize>> {
        self.model.as_ref().map(|model| model.literal.clone())
    }

    /// What the caller wrote at `/stream`; the operation's default applies where this is none.
    pub fn stream(&self) -> Option<bool> {
        self.stream
    }

    /// The most output tokens that the caller asks for: the largest of the caps that this API reads, for as many answers as
    /// it asks for, never 0.
    ///
    /// A fraction is rounded up. None means that the caller set no cap.
    pub fn output_cap(&self, surface: Surface, operation: Operation) -> Option<u32> {
        // A cap is that of each answer.
        self.caps.of(surface, operation).map(|cap| cap.saturating_mul(self.answers))
    }

    /// How many answers the caller asks for at once (`n`, `best_of`); at least 1.
    pub fn answers(&self) -> u32 {
        self.answers
    }

    /// A rough estimate of the call's input tokens: those of its text, and [`IMAGE_TOKENS`] for each image.
    pub fn input_tokens(&self) -> u32 {
        let text = text_tokens(self.length.saturating_sub(self.images.bytes));
        text.saturating_add(self.images.count.saturating_mul(IMAGE_TOKENS))
    }

    /// Whether an estimate of its tokens says something of how long its text is: it has no images.
    pub fn is_text(&self) -> bool {
        self.images.count == 0
    }

    /// Whether the caller left `stream_options.include_usage` unsaid, false or null, so that it can be asked for.
    pub fn may_ask_for_usage(&self) -> bool {
        self.asking.is_some()
    }

    /// The body with these edits, as slices to send one after the other; all else is the caller's bytes, uncopied.
    ///
    /// `bytes` must be those that were read. Where they are not, or a model is given and the body names none, the slices are
    /// empty: a backend refuses an empty body, and the caller's own model must not run in place of the one that was checked.
    pub fn edited(&self, bytes: &Bytes, edits: Edits<'_>) -> [Bytes; 5] {
        let asking = self.asking.as_ref().filter(|_| edits.asks_for_usage);
        let asking = asking.map(|Asking { range, text }| (range.clone(), Bytes::from_static(text.as_bytes())));
        let model = match (edits.model, &self.model) {
            (None, _) => None,
            (Some(name), Some(model)) => Some((model.literal.clone(), literal_of(name))),
            (Some(_), None) => return Default::default(),
        };
        if bytes.len() != self.length {
            return Default::default();
        }
        let (first, second) = match (asking, model) {
            (Some(asking), Some(model)) if model.0.start < asking.0.start => (Some(model), Some(asking)),
            (None, model) => (model, None),
            (asking, model) => (asking, model),
        };
        let end = |edit: &Option<Edit>, from| edit.as_ref().map_or(from, |(range, _)| range.end);
        let start = |edit: &Option<Edit>| edit.as_ref().map_or(self.length, |(range, _)| range.start);
        let (first_end, second_start) = (end(&first, self.length), start(&second));
        [
            bytes.slice(..start(&first)),
            first.map_or_else(Bytes::new, |(_, text)| text),
            bytes.slice(first_end..second_start),
            second.as_ref().map_or_else(Bytes::new, |(_, text)| text.clone()),
            bytes.slice(end(&second, self.length)..),
        ]
    }
}

/// A range of a body, and what stands there instead.
type Edit = (Range<usize>, Bytes);

fn literal_of(name: &str) -> Bytes {
    Bytes::from(serde_json::Value::from(name).to_string())
}

/// The host's rough estimate of the tokens in so many bytes of text, rounded up.
///
/// English text has about four bytes per token. The estimate only sizes a reservation; what a call costs in the end is
/// what the backend counted.
pub fn text_tokens(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(4)).unwrap_or(u32::MAX)
}

/// Where `part`, borrowed from `whole`, stands in it; none when it was not borrowed from there.
fn range_of(part: &str, whole: &[u8]) -> Option<Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    let range = start..start.checked_add(part.len())?;
    (whole.get(range.clone())? == part.as_bytes()).then_some(range)
}
