//! The tables: one form in each line, behind what becomes of it.
//!
//! - a number is the status of a refusal, or of an answer that the gate gives alone: nothing reaches a backend;
//! - `>` passes: the backend gets it at the path where it was tried, or at the one that stands behind the mark;
//! - `cut` gets no answer, and `reset` an error of HTTP/2;
//! - with two of them and a bar between, the second is for HTTP/2, where `-` says that it can't be sent.

use std::fmt;

/// What becomes of a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A backend gets it, at this path or the one where it was tried.
    Passed(Option<&'static str>),
    /// The gate answers with this status.
    Answered(u16),
    /// The connection ends without an answer.
    Cut,
    /// The call, or the connection, ends with an error of HTTP/2.
    Reset,
}

/// One line.
#[derive(Debug)]
pub(super) struct Form {
    file: &'static str,
    line: usize,
    pub(super) http1: Outcome,
    pub(super) http2: Option<Outcome>,
    /// As it is written, escapes and all.
    pub(super) text: &'static str,
}

/// What a line of a table is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Target,
    Method,
    Headers,
    Credential,
    Framing,
    Whole,
    Body,
    Managed,
    Fields,
}

/// One file.
#[derive(Debug)]
pub(super) struct Table {
    file: &'static str,
    text: &'static str,
    pub(super) part: Part,
    /// Whether its forms say at which path they are tried.
    pub(super) names_paths: bool,
}

const fn table(file: &'static str, text: &'static str, part: Part, names_paths: bool) -> Table {
    Table { file, text, part, names_paths }
}

const TARGETS: Table = table("targets", include_str!("targets.txt"), Part::Target, true);
const METHODS: Table = table("methods", include_str!("methods.txt"), Part::Method, true);
const HEADERS: Table = table("headers", include_str!("headers.txt"), Part::Headers, false);
const CREDENTIALS: Table = table("credentials", include_str!("credentials.txt"), Part::Credential, false);
const BODIES: Table = table("bodies", include_str!("bodies.txt"), Part::Body, false);
const MANAGED: Table = table("managed", include_str!("managed.txt"), Part::Managed, true);
const FRAMING: Table = table("framing", include_str!("framing.txt"), Part::Framing, false);
const HEADS: Table = table("heads", include_str!("heads.txt"), Part::Whole, true);
const FRAMES: Table = table("frames", include_str!("frames.txt"), Part::Fields, true);

pub(super) const HTTP1: &[Table] = &[TARGETS, METHODS, HEADERS, CREDENTIALS, BODIES, MANAGED, FRAMING, HEADS];
pub(super) const HTTP2: &[Table] = &[TARGETS, METHODS, HEADERS, CREDENTIALS, BODIES, MANAGED, FRAMES];

impl Table {
    pub(super) fn forms(&self) -> Vec<Form> {
        let lines = (1..).zip(self.text.lines()).filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        lines.map(|(line, text)| self.form(line, text)).collect()
    }

    fn form(&self, line: usize, written: &'static str) -> Form {
        let (outcome, text) = written.split_once("  ").unwrap_or_else(|| panic!("{}:{line}: {written}", self.file));
        let (http1, http2) = outcome.split_once('|').unwrap_or((outcome, outcome));
        let http2 = (http2 != "-").then(|| Outcome::read(http2));
        Form { file: self.file, line, http1: Outcome::read(http1), http2, text }
    }
}

impl Outcome {
    fn read(text: &'static str) -> Self {
        match (text, text.strip_prefix('>')) {
            ("cut", _) => Self::Cut,
            ("reset", _) => Self::Reset,
            (_, Some("")) => Self::Passed(None),
            (_, Some(path)) => Self::Passed(Some(path)),
            (status, None) => Self::Answered(status.parse().unwrap_or_else(|_| panic!("`{status}` is no outcome"))),
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.file, self.line, self.text)
    }
}

/// The bytes of a form: these words put in, `{TEXT*N}` repeated, `\xNN` and the usual escapes read.
pub(super) fn fill(text: &str, words: &[(&str, &str)]) -> Vec<u8> {
    // First the escapes: the words hold bytes of their own.
    let mut bytes = unescaped(text);
    for (word, value) in words {
        bytes = replaced(&bytes, format!("{{{word}}}").as_bytes(), value.as_bytes());
    }
    repeated(&bytes)
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next().unwrap() {
            b'0' => 0,
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b's' => b' ',
            b'x' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => other,
        });
    }
    bytes
}

fn replaced(bytes: &[u8], word: &[u8], value: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(word.len()).position(|window| window == word) {
        all.extend_from_slice(&rest[..at]);
        all.extend_from_slice(value);
        rest = &rest[at + word.len()..];
    }
    all.extend_from_slice(rest);
    all
}

/// `{TEXT*N}` becomes the text so many times.
fn repeated(bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    let mut rest = bytes;
    while let Some((byte, after)) = rest.split_first() {
        match repetition(rest) {
            Some((text, times, length)) => {
                all.extend(text.repeat(times));
                rest = &rest[length..];
            }
            None => {
                all.push(*byte);
                rest = after;
            }
        }
    }
    all
}

/// Text, times and length of a repetition, if the bytes begin with one.
fn repetition(bytes: &[u8]) -> Option<(&[u8], usize, usize)> {
    let inner = bytes.strip_prefix(b"{")?;
    let end = inner.iter().position(|byte| *byte == b'}')?;
    let (text, times) = inner[..end].split_at_checked(1)?;
    let times = std::str::from_utf8(times.strip_prefix(b"*")?).ok()?.parse().ok()?;
    Some((text, times, end + 2))
}

#[test]
fn a_form_is_read_as_it_is_written() {
    assert_eq!(fill(r"\x41\0\s{y*3}{key}{[*2}{", &[("key", "{y*2}")]), b"A\0 yyyyy[[{");
    assert_eq!(Outcome::read(">/a"), Outcome::Passed(Some("/a")));
}
