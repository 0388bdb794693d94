//! What policies change in a call that is only tried, told for people: which fields, which headers, which model.
//!
//! Header values stay out: policies put credentials for backends there. So does text of the body, which may be what a caller
//! wrote: of that only the place and the length are told.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::policy::Edited;

/// Changes of one policy that are told; it can't make more.
const MOST_TOLD: usize = 64;

/// Longest place or value that is told whole, in characters.
const MOST_CHARS: usize = 80;

/// The call as it was told last.
#[derive(Debug, Default)]
pub(super) struct EditStory {
    model: String,
    body: Bytes,
    upstream: Vec<String>,
    response: Vec<String>,
}

impl EditStory {
    /// A call that nobody has changed.
    pub(super) fn of(model: &str, body: Bytes) -> Self {
        Self { model: model.to_owned(), body, ..Self::default() }
    }

    /// What is another now.
    pub(super) fn tell(&mut self, call: &Edited) -> Vec<String> {
        let mut told = Vec::new();
        if *call.call.model != self.model {
            told.push(format!("model {} becomes {}", self.model, call.call.model));
            self.model = call.call.model.to_string();
        }
        if let Some(body) = call.body.as_ref().map(|body| body.read.bytes.clone()) {
            let read = |bytes: &Bytes| serde_json::from_slice::<Value>(bytes).unwrap_or_default();
            compare("", &read(&self.body), &read(&body), &mut told);
            self.body = body;
        }
        let headers = [
            ("header for the backend", &call.headers.upstream, &mut self.upstream),
            ("header for the caller", &call.headers.response, &mut self.response),
        ];
        for (which, now, known) in headers {
            let names: Vec<String> = now.keys().map(ToString::to_string).collect();
            told.extend(names.iter().filter(|name| !known.contains(name)).map(|name| format!("{which}: {name}")));
            *known = names;
        }
        told.truncate(MOST_TOLD);
        told
    }
}

/// The places at which two values differ. What is new is told member by member.
fn compare(at: &str, old: &Value, new: &Value, told: &mut Vec<String>) {
    if told.len() >= MOST_TOLD || old == new {
        return;
    }
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        told.push(format!("{at} = {}", kind(new)));
        return;
    };
    let pointer = |name: &str| short(&format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")));
    for (name, value) in new {
        let nothing = Value::Object(Map::new());
        match (old.get(name), value) {
            (Some(known), _) => compare(&pointer(name), known, value, told),
            (None, Value::Object(members)) if !members.is_empty() => compare(&pointer(name), &nothing, value, told),
            (None, _) => told.push(format!("{} = {}", pointer(name), kind(value))),
        }
    }
    told.extend(old.keys().filter(|name| !new.contains_key(*name)).map(|name| format!("{} removed", pointer(name))));
}

/// What a value is. Text may be the caller's, so only its length is told.
fn kind(value: &Value) -> String {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => short(&value.to_string()),
        Value::String(text) => format!("a text of {} bytes", text.len()),
        Value::Array(items) => format!("a list of length {}", items.len()),
        Value::Object(members) => format!("an object of size {}", members.len()),
    }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(MOST_CHARS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(old: &Value, new: &Value, expected: &[&str]) {
        let mut told = Vec::new();
        compare("", old, new, &mut told);
        told.sort();
        assert_eq!(told, expected);
    }

    #[test]
    fn what_differs_is_told_by_its_place() {
        let old = json!({"model": "a", "options": {"num_ctx": 1, "seed": 7}, "stop": ["x"], "same": [1]});
        let new = json!({"model": "a", "options": {"num_ctx": 8192}, "stop": ["y", "z"], "same": [1], "k/p": true});
        check(
            &old,
            &new,
            &["/k~1p = true", "/options/num_ctx = 8192", "/options/seed removed", "/stop = a list of length 2"],
        );
    }

    #[test]
    fn no_text_of_a_body_is_told() {
        let old = json!({"system": "private", "messages": [{"content": "private"}], "format": "private"});
        let new = json!({
            "system": "private é", "messages": [{"content": "private"}, {"content": "private"}], "format": null,
            "options": {"stop": "private", "deep": {"er": ["private"], "none": {}}},
        });
        let expected = [
            "/format = null",
            "/messages = a list of length 2",
            "/options/deep/er = a list of length 1",
            "/options/deep/none = an object of size 0",
            "/options/stop = a text of 7 bytes",
            "/system = a text of 10 bytes",
        ];
        check(&old, &new, &expected);
        check(&json!({"a": "private"}), &json!({"a": {"b": "private"}}), &["/a = an object of size 1"]);
    }

    #[test]
    fn a_long_name_or_number_is_cut() {
        let told = short(&"é".repeat(500));
        assert_eq!(told.chars().count(), MOST_CHARS + 1, "{told}");
        assert_eq!(short("1"), "1");
    }
}
