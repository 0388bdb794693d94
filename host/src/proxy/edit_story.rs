//! What policies change in a call that is only tried, told for people: which fields, which headers, which model.
//!
//! Header values stay out: policies put credentials for backends there.

use bytes::Bytes;
use serde_json::Value;

use crate::policy::Edited;

/// Changes of one policy that are told; it can't make more.
const MOST_TOLD: usize = 64;

/// Longest value that is told whole, in characters.
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

/// The places at which two values differ.
fn compare(at: &str, old: &Value, new: &Value, told: &mut Vec<String>) {
    if told.len() >= MOST_TOLD || old == new {
        return;
    }
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        told.push(format!("{at} = {}", short(new)));
        return;
    };
    let pointer = |name: &str| format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
    for (name, value) in new {
        match old.get(name) {
            Some(known) => compare(&pointer(name), known, value, told),
            None => told.push(format!("{} = {}", pointer(name), short(value))),
        }
    }
    told.extend(old.keys().filter(|name| !new.contains_key(*name)).map(|name| format!("{} removed", pointer(name))));
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(MOST_CHARS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_differs_is_told_by_its_place() {
        let old = json!({"model": "a", "options": {"num_ctx": 1, "seed": 7}, "stop": ["x"], "same": [1]});
        let new = json!({"model": "a", "options": {"num_ctx": 8192}, "stop": ["y"], "same": [1], "k/p": "5m"});
        let mut told = Vec::new();
        compare("", &old, &new, &mut told);
        told.sort();
        assert_eq!(told, ["/k~1p = \"5m\"", "/options/num_ctx = 8192", "/options/seed removed", "/stop = [\"y\"]"]);
    }

    #[test]
    fn a_long_value_is_cut() {
        let told = short(&json!("é".repeat(500)));
        assert_eq!(told.chars().count(), MOST_CHARS + 1, "{told}");
        assert_eq!(short(&json!(1)), "1");
    }
}
