//! The one pass over a body: a serde visitor that checks every key and keeps what the body's facts need.
//!
//! Serde's errors carry only text, so a refusal is put aside in the walk and serde is stopped with an error that nobody
//! reads. The keys of all objects that are open stand on one stack, so a body of many small objects allocates once.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{
    caps::{CapField, Caps},
    image,
    names::{callers_name_what_is_below, is_folded},
    wish::Wish,
};

/// The deepest nesting of objects and arrays; the body's own object is the first level. The parser stops at 128.
pub(super) const MAX_DEPTH: usize = 64;
/// The most keys of all open objects together, which bounds the memory of the check for duplicates.
pub(super) const MAX_OPEN_KEYS: usize = 65_536;
/// Up to this many keys of an object are compared one by one.
const SCANNED_KEYS: usize = 16;

/// The state of the pass.
#[derive(Debug)]
pub(super) struct Walk<'de, 'f> {
    model_fields: &'f [&'f str],
    model: Option<Candidate<'de>>,
    stream: Option<bool>,
    caps: Caps,
    answers: u32,
    images: Images,
    /// Whether the object whose values are read calls itself a text.
    says_text: bool,
    wish: Wish<'de>,
    /// The key whose value is read, where the wish is said.
    wish_key: Option<&'de str>,
    open_keys: Vec<Cow<'de, str>>,
    refusal: Stop<'de>,
}

/// What a finished walk has found: the model's text with its literal, and the rest.
#[derive(Debug)]
pub(super) struct Found<'de> {
    pub(super) model: Option<(String, &'de str)>,
    pub(super) stream: Option<bool>,
    pub(super) caps: Caps,
    /// How many answers are asked for; at least 1.
    pub(super) answers: u32,
    pub(super) images: Images,
    pub(super) wish: Wish<'de>,
}

/// The images of a body: how many, and how long they are together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Images {
    pub(super) count: u32,
    pub(super) bytes: usize,
}

impl Images {
    fn without(self, others: Self) -> Self {
        Self { count: self.count.saturating_sub(others.count), bytes: self.bytes.saturating_sub(others.bytes) }
    }
}

/// Why a walk was stopped; no fault means that the parser stopped it.
#[derive(Debug, Default)]
pub(super) struct Stop<'de> {
    pub(super) fault: Option<Flaw<'de>>,
    /// Keys and indices from the inside out.
    pub(super) path: Vec<Cow<'de, str>>,
}

/// What the walk itself refuses.
#[derive(Debug)]
pub(super) enum Flaw<'de> {
    NotObject,
    TooDeep,
    TooManyKeys,
    DuplicateKey(Cow<'de, str>),
    NotLowerCase(Cow<'de, str>),
    WrongType(&'static str),
}

/// A name found in one of the model fields; the lowest rank wins.
#[derive(Debug)]
struct Candidate<'de> {
    rank: usize,
    text: String,
    literal: &'de str,
}

/// What a value means to the walk.
#[derive(Clone, Copy, Debug)]
enum Role {
    Body,
    Model(usize),
    Stream,
    OutputCap(CapField),
    /// How many answers are asked for at once.
    Answers,
    Options,
    StreamOptions,
    IncludeUsage,
    /// Perhaps an image, or a list of them.
    Image,
    /// What the object around it calls itself.
    Kind,
    Plain,
}

impl Role {
    /// Whether its value may be an object or an array.
    fn may_hold_more(self) -> bool {
        match self {
            Self::Plain
            | Self::Image
            | Self::Kind
            | Self::Answers
            | Self::Options
            | Self::StreamOptions
            | Self::IncludeUsage => true,
            Self::Body | Self::Model(_) | Self::Stream | Self::OutputCap(_) => false,
        }
    }
}

impl<'de, 'f> Walk<'de, 'f> {
    pub(super) fn new(model_fields: &'f [&'f str]) -> Self {
        Self {
            model_fields,
            model: None,
            stream: None,
            caps: Caps::default(),
            answers: 1,
            images: Images::default(),
            says_text: false,
            wish: Wish::default(),
            wish_key: None,
            open_keys: Vec::new(),
            refusal: Stop::default(),
        }
    }

    /// Walks one value, which must be an object.
    pub(super) fn body<D: Deserializer<'de>>(&mut self, deserializer: D) -> Result<(), D::Error> {
        Node { walk: self, role: Role::Body, depth: 0, names_are_free: false }.deserialize(deserializer)
    }

    pub(super) fn into_found(self) -> Found<'de> {
        let model = self.model.map(|candidate| (candidate.text, candidate.literal));
        let Self { stream, caps, answers, images, wish, .. } = self;
        Found { model, stream, caps, answers, images, wish }
    }

    pub(super) fn into_refusal(self) -> Stop<'de> {
        self.refusal
    }

    fn refuse<T, E: Error>(&mut self, fault: Flaw<'de>) -> Result<T, E> {
        self.refusal.fault = Some(fault);
        Err(E::custom("refused"))
    }

    /// Checks the next key of an object and pushes it on the stack.
    fn open_key<E: Error>(&mut self, object: &mut Object<'de>, key: Cow<'de, str>) -> Result<(), E> {
        if !object.names_are_free && !is_folded(&key) {
            return self.refuse(Flaw::NotLowerCase(key));
        }
        if self.open_keys.len() >= MAX_OPEN_KEYS {
            return self.refuse(Flaw::TooManyKeys);
        }
        let earlier = self.open_keys.get(object.first_key..).unwrap_or_default();
        let is_repeated = match object.index(earlier) {
            Some(index) => !index.insert(key.clone()),
            None => earlier.contains(&key),
        };
        if is_repeated {
            return self.refuse(Flaw::DuplicateKey(key));
        }
        self.open_keys.push(key);
        Ok(())
    }

    fn role_of(&self, key: &str, parent: Role) -> Role {
        match parent {
            Role::Body => match self.model_fields.iter().position(|field| *field == key) {
                Some(rank) => Role::Model(rank),
                None => match key {
                    "stream" => Role::Stream,
                    "max_tokens" => Role::OutputCap(CapField::MaxTokens),
                    "max_completion_tokens" => Role::OutputCap(CapField::MaxCompletionTokens),
                    "max_output_tokens" => Role::OutputCap(CapField::MaxOutputTokens),
                    "n" | "best_of" => Role::Answers,
                    "options" => Role::Options,
                    "stream_options" => Role::StreamOptions,
                    key if image::may_stand_under(key) => Role::Image,
                    _ => Role::Plain,
                },
            },
            Role::Options if key == "num_predict" => Role::OutputCap(CapField::NumPredict),
            Role::StreamOptions if key == "include_usage" => Role::IncludeUsage,
            _ if image::may_stand_under(key) => Role::Image,
            _ if key == "type" => Role::Kind,
            _ => Role::Plain,
        }
    }

    fn keep_model<E: Error>(&mut self, rank: usize, raw: &'de RawValue) -> Result<(), E> {
        let literal = raw.get();
        if literal == "null" {
            return Ok(());
        }
        // The raw text was only skipped; decoding it finds what is no string, and half a surrogate pair within one.
        let Ok(text) = serde_json::from_str::<String>(literal) else {
            return self.refuse(Flaw::WrongType("a valid string"));
        };
        let wins = self.model.as_ref().is_none_or(|current| rank < current.rank);
        if wins && !text.is_empty() {
            self.model = Some(Candidate { rank, text, literal });
        }
        Ok(())
    }

    /// The value of this key comes next; where the wish is said, it is left alone until the value says otherwise.
    fn note_key(&mut self, role: Role, key: Option<&'de str>) {
        if matches!(role, Role::StreamOptions | Role::IncludeUsage) {
            self.wish = Wish::Left;
            self.wish_key = key;
        }
    }
}

/// An object whose keys are being read.
#[derive(Debug)]
struct Object<'de> {
    /// Where its keys begin on the stack.
    first_key: usize,
    names_are_free: bool,
    index: Option<HashSet<Cow<'de, str>>>,
}

impl<'de> Object<'de> {
    /// The keys so far as a set, once there are too many to compare one by one.
    fn index(&mut self, earlier: &[Cow<'de, str>]) -> Option<&mut HashSet<Cow<'de, str>>> {
        if earlier.len() < SCANNED_KEYS {
            return None;
        }
        Some(self.index.get_or_insert_with(|| earlier.iter().cloned().collect()))
    }
}

/// One value of the body, about to be read.
#[derive(Debug)]
struct Node<'w, 'de, 'f> {
    walk: &'w mut Walk<'de, 'f>,
    role: Role,
    /// How many objects and arrays stand around it.
    depth: usize,
    /// Whether it stands below a key whose contents callers name themselves.
    names_are_free: bool,
}

impl<'de> Node<'_, 'de, '_> {
    /// What to do with a value that holds nothing the walk keeps.
    fn pass<E: Error>(self) -> Result<(), E> {
        match self.role {
            Role::Plain
            | Role::Image
            | Role::Kind
            | Role::Answers
            | Role::Options
            | Role::StreamOptions
            | Role::IncludeUsage => Ok(()),
            Role::Body => self.walk.refuse(Flaw::NotObject),
            Role::Model(_) => self.walk.refuse(Flaw::WrongType("a valid string")),
            Role::Stream => self.walk.refuse(Flaw::WrongType("true or false")),
            Role::OutputCap(_) => self.walk.refuse(Flaw::WrongType("a number")),
        }
    }

    fn number<E: Error>(self, number: u32) -> Result<(), E> {
        match self.role {
            Role::OutputCap(field) => self.walk.caps.keep(field, number),
            Role::Answers => self.walk.answers = self.walk.answers.max(number),
            _ => return self.pass(),
        }
        Ok(())
    }

    fn note_null(self) {
        if let Some(key) = self.walk.wish_key {
            self.walk.wish = Wish::Null(key);
        }
    }

    fn note_off(self) {
        if let Some(key) = self.walk.wish_key {
            self.walk.wish = Wish::Off(key);
        }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_, 'de, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.role {
            Role::Model(rank) => self.walk.keep_model(rank, Deserialize::deserialize(deserializer)?),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Node<'_, 'de, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        match self.role {
            Role::Body => return self.pass(),
            Role::IncludeUsage => self.note_off(),
            Role::StreamOptions => self.note_null(),
            _ => {}
        }
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        match self.role {
            Role::Stream => self.walk.stream = Some(value),
            Role::IncludeUsage if !value => self.note_off(),
            _ => return self.pass(),
        }
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.number(u32::try_from(value).unwrap_or(u32::MAX))
    }

    /// The parser calls this for negative numbers only, which mean that there is no cap.
    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.number(u32::try_from(value.max(0)).unwrap_or(u32::MAX))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.number(ceiling(value))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        match self.role {
            Role::Image if image::is_image(text) => {
                let images = &mut self.walk.images;
                images.count = images.count.saturating_add(1);
                images.bytes = images.bytes.saturating_add(text.len());
            }
            Role::Kind if text == "text" => self.walk.says_text = true,
            _ => {}
        }
        self.pass()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let Self { walk, role, depth, names_are_free } = self;
        if !role.may_hold_more() {
            return Node { walk, role, depth, names_are_free }.pass();
        }
        if depth >= MAX_DEPTH {
            return walk.refuse(Flaw::TooDeep);
        }
        let role = if matches!(role, Role::Image) { Role::Image } else { Role::Plain };
        for index in 0_usize.. {
            let element = Node { walk: &mut *walk, role, depth: depth + 1, names_are_free };
            match access.next_element_seed(element) {
                Ok(Some(())) => {}
                Ok(None) => break,
                Err(error) => {
                    walk.refusal.path.push(Cow::Owned(index.to_string()));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let Self { walk, role: parent, depth, names_are_free } = self;
        if !matches!(parent, Role::Body) && !parent.may_hold_more() {
            return Node { walk, role: parent, depth, names_are_free }.pass();
        }
        if matches!(parent, Role::StreamOptions)
            && let Some(key) = walk.wish_key
        {
            walk.wish = Wish::Options(key);
        }
        if depth >= MAX_DEPTH {
            return walk.refuse(Flaw::TooDeep);
        }
        let first_key = walk.open_keys.len();
        let mut object = Object { first_key, names_are_free, index: None };
        let (mut is_text, mut under_data) = (false, Images::default());
        while let Some(key) = access.next_key_seed(Key)? {
            walk.open_key(&mut object, key.clone())?;
            let role = walk.role_of(&key, parent);
            let unescaped = if let Cow::Borrowed(key) = key { Some(key) } else { None };
            walk.note_key(role, unescaped);
            let is_top = matches!(parent, Role::Body);
            // Where callers choose the names, a name says nothing about the value.
            let role = if names_are_free && matches!(role, Role::Image) { Role::Plain } else { role };
            let names_are_free = names_are_free || callers_name_what_is_below(&key, is_top);
            let before = walk.images;
            let value = Node { walk: &mut *walk, role, depth: depth + 1, names_are_free };
            if let Err(error) = access.next_value_seed(value) {
                walk.refusal.path.push(key);
                return Err(error);
            }
            // What stands below has answered for itself, and left this as it found it.
            is_text |= std::mem::take(&mut walk.says_text);
            if key == "data" {
                under_data = walk.images.without(before);
            }
        }
        if is_text {
            // Anthropic's documents hold plain text under the key of images.
            walk.images = walk.images.without(under_data);
        }
        walk.open_keys.truncate(first_key);
        Ok(())
    }
}

/// Reads a key; only one with escapes in it is copied.
#[derive(Debug)]
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_borrowed_str<E: Error>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

/// A number of tokens written with a point or an exponent, rounded up; 0 for none.
///
/// Rust offers no checked conversion from floats, so the digits are read back.
fn ceiling(tokens: f64) -> u32 {
    if tokens <= 0.0 {
        return 0;
    }
    format!("{:.0}", tokens.ceil()).parse().unwrap_or(u32::MAX)
}
