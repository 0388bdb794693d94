//! A form of a table made into a request: an honest one, with one part replaced.

use super::table::{Form, Outcome, Part, Table, fill};

const CHAT: &str = r#"{"model":"llama3:latest","messages":[]}"#;
const NAMED: &str = r#"{"model":"llama3:latest"}"#;

/// The keys that the gate knows.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) caller: String,
    pub(super) manager: String,
}

/// Lines of a head without their ends, in order.
type Lines = Vec<Vec<u8>>;

/// A request, in parts.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: Vec<u8>,
    target: Vec<u8>,
    lines: Lines,
    body: Vec<u8>,
    /// What is sent instead, where the framing is what is tried.
    raw: Option<Vec<u8>>,
    /// The fields of HTTP/2, where they are what is tried.
    fields: Option<Fields>,
}

/// The fields of an HTTP/2 request and its data, if it has any.
#[derive(Clone, Debug)]
pub(super) struct Fields {
    pub(super) fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) body: Option<Vec<u8>>,
}

impl Request {
    /// An honest request at this path, with the part of it that the table is about as the form has it.
    pub(super) fn of(table: &Table, form: &Form, path: &str, keys: &Keys) -> Self {
        let key = if table.part == Part::Managed { &keys.manager } else { &keys.caller };
        let text = filled(form.text, path, key);
        let mut request = Self {
            method: b"POST".to_vec(),
            target: path.into(),
            lines: vec![format!("authorization: Bearer {key}").into_bytes()],
            body: CHAT.into(),
            raw: None,
            fields: None,
        };
        match table.part {
            Part::Target => request.target = text,
            Part::Method | Part::Managed => {
                let at = text.iter().skip(1).position(|byte| *byte == b' ').map_or(text.len(), |at| at + 1);
                request.method = text[..at].to_vec();
                request.target = text.get(at + 1..).unwrap_or_default().to_vec();
                if table.part == Part::Managed {
                    request.body = if request.method == b"HEAD" { Vec::new() } else { NAMED.into() };
                }
            }
            Part::Headers => request.lines.extend(lines(&text)),
            Part::Credential => request.lines = lines(&text),
            Part::Body => request.body = text,
            Part::Framing => {
                let head = format!("POST {path} HTTP/1.1\r\nhost: gate\r\nauthorization: Bearer {key}\r\n");
                // Where a second request follows, nothing but its framing may end the connection.
                let is_last = matches!(form.http1, Outcome::Passed(_)) && !form.text.contains("{smuggled}");
                let close: &[u8] = if is_last { b"connection: close\r\n" } else { b"" };
                request.raw = Some([head.as_bytes(), close, &text].concat());
            }
            Part::Whole => request.raw = Some(text),
            Part::Fields => request.fields = Some(fields(&text)),
        }
        request
    }

    /// As HTTP/1.1 has it; the last request of its connection unless the framing is what is tried.
    pub(super) fn http1(&self) -> Vec<u8> {
        if let Some(raw) = &self.raw {
            return raw.clone();
        }
        let mut bytes = [&self.method, &b" "[..], &self.target, b" HTTP/1.1\r\nhost: gate\r\n"].concat();
        for line in &self.lines {
            bytes.extend_from_slice(line);
            bytes.extend_from_slice(b"\r\n");
        }
        let end = format!("connection: close\r\ncontent-length: {}\r\n\r\n", self.body.len());
        bytes.extend_from_slice(end.as_bytes());
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// As HTTP/2 has it.
    pub(super) fn http2(&self, authority: &str) -> Fields {
        if let Some(fields) = &self.fields {
            return fields.clone();
        }
        let honest: [(&[u8], &[u8]); 4] = [
            (b":method", &self.method),
            (b":scheme", b"https"),
            (b":authority", authority.as_bytes()),
            (b":path", &self.target),
        ];
        let mut fields: Vec<_> = honest.map(|(name, value)| (name.to_vec(), value.to_vec())).into();
        for line in &self.lines {
            // A name may hold what is tried, save a colon, which only begins one.
            let at = line.iter().skip(1).position(|byte| *byte == b':').map_or(0, |at| at + 1);
            fields.push((line[..at].to_ascii_lowercase(), line[at + 1..].trim_ascii_start().to_vec()));
        }
        Fields { fields, body: (!self.body.is_empty()).then(|| self.body.clone()) }
    }
}

fn filled(text: &str, path: &str, key: &str) -> Vec<u8> {
    let (length, hex) = (CHAT.len().to_string(), format!("{:x}", CHAT.len()));
    let auth = format!("authorization: Bearer {key}\r\n");
    let body = format!("connection: close\r\ncontent-length: {length}\r\n\r\n{CHAT}");
    let smuggled = format!("POST /api/generate HTTP/1.1\r\nhost: x\r\n{auth}{body}");
    let honest = format!(":method POST | :scheme https | :authority gate | :path {path}");
    let is_fields = text.contains(" | ") || text == "{honest}";
    let credential = if is_fields { format!("authorization Bearer {key}") } else { auth };
    let words = [
        ("path", path),
        ("key", key),
        ("auth", &credential),
        ("chat", CHAT),
        ("len", &length),
        ("hex", &hex),
        ("body", &body),
        ("smuggled", &smuggled),
        ("honest", &honest),
    ];
    fill(text, &words)
}

fn lines(text: &[u8]) -> Lines {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(2).position(|window| window == b"\r\n") {
        lines.push(rest[..at].to_vec());
        rest = &rest[at + 2..];
    }
    lines.push(rest.to_vec());
    lines
}

/// `NAME VALUE | NAME VALUE | {end}`.
fn fields(text: &[u8]) -> Fields {
    let mut rest = text.to_vec();
    let has_body = !rest.ends_with(b" | {end}");
    if !has_body {
        rest.truncate(rest.len() - b" | {end}".len());
    }
    let mut fields = Vec::new();
    let mut rest = rest.as_slice();
    loop {
        let at = rest.windows(3).position(|window| window == b" | ").unwrap_or(rest.len());
        let (name, value) = rest[..at].split_at(rest[..at].iter().position(|byte| *byte == b' ').unwrap());
        fields.push((name.to_vec(), value[1..].to_vec()));
        match rest.get(at + 3..) {
            Some(after) => rest = after,
            None => break,
        }
    }
    Fields { fields, body: has_body.then(|| CHAT.into()) }
}
