//! `tollgate explain`: what would become of a call on the running gate, and who decides it.

use std::{
    fs,
    io::{self, Read},
    net::IpAddr,
    path::PathBuf,
};

use clap::{Args, ValueEnum};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{
    Format,
    admin_client::{AdminClient, PATIENCE},
    limits_show,
    output::{self, Failure},
};
use crate::{
    config::Config,
    ports::explanation::{ExplainedRefusal, ExplainedStep, Explanation},
};

/// Longest file that is sent as a body, in bytes: the admin listener takes twice as many, and escapes make it longer.
const MOST_BODY: u64 = 512 << 10;

/// Longest key that is read from the standard input, in bytes.
const MOST_KEY: u64 = 4 << 10;

/// The call to try.
#[derive(Debug, Args)]
pub(super) struct Explain {
    #[command(flatten)]
    caller: Caller,
    /// The model that is asked for; put into the body where one is given
    #[arg(long, required_unless_present_any = ["body", "path"])]
    model: Option<String>,
    /// Which API is spoken: its chat is called
    #[arg(long, value_enum, default_value_t = Surface::Ollama)]
    surface: Surface,
    /// The path of another operation, e.g. /api/embed
    #[arg(long, conflicts_with = "surface")]
    path: Option<String>,
    /// The method, where the path takes several
    #[arg(long)]
    method: Option<String>,
    /// Ask for a stream
    #[arg(long)]
    stream: bool,
    /// File with the call's JSON body; its length is what token estimates go by
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// A header of the call; may be repeated
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// The address that the call comes from, 127.0.0.1 by default
    #[arg(long, value_name = "ADDRESS")]
    peer: Option<IpAddr>,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct Caller {
    /// A key as its caller presents it, which must be proven; - reads it from the standard input, where nobody else sees it
    #[arg(long, value_name = "KEY")]
    key: Option<Secret>,
    /// A key by its id, or its name where only one has it: taken for proven, since your admin token lets you ask
    #[arg(long, value_name = "ID")]
    key_id: Option<String>,
}

/// A key, which is never printed.
#[derive(Clone)]
struct Secret(String);

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Surface {
    /// POST /api/chat
    Ollama,
    /// POST /v1/chat/completions
    Openai,
    /// POST /v1/messages
    Anthropic,
}

impl Surface {
    fn chat(self) -> &'static str {
        match self {
            Self::Ollama => "/api/chat",
            Self::Openai => "/v1/chat/completions",
            Self::Anthropic => "/v1/messages",
        }
    }
}

pub(super) async fn answer(asked: Explain, config: &Config, format: Format) -> Result<(), Failure> {
    let question = question(asked)?;
    let client = AdminClient::with_token(config)?;
    let answer = client.tell(Method::POST, "/api/v1/explain", Some(question.to_string()), PATIENCE).await?;
    let explanation: Explanation = answer.success()?;
    match format {
        Format::Json => output::json(&explanation),
        Format::Table => {
            print(explanation);
            Ok(())
        }
    }
}

fn question(asked: Explain) -> Result<Value, Failure> {
    let body = body(&asked)?;
    let Explain { caller: Caller { key, key_id }, surface, path, method, header, peer, .. } = asked;
    let key = match key {
        Some(Secret(key)) if key == "-" => Some(key_from_input()?),
        key => key.map(|Secret(key)| key),
    };
    let mut question = Map::new();
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            question.insert(name.to_owned(), Value::from(value));
        }
    };
    put("key", key);
    put("key_id", key_id);
    put("method", method);
    put("path", Some(path.unwrap_or_else(|| surface.chat().to_owned())));
    put("body", body);
    put("peer", peer.map(|peer| peer.to_string()));
    question.insert("headers".to_owned(), Value::Object(headers(&header)?));
    Ok(Value::Object(question))
}

/// The key on the first line.
fn key_from_input() -> Result<String, Failure> {
    let mut text = String::new();
    let read = io::stdin().take(MOST_KEY).read_to_string(&mut text);
    read.map_err(|error| Failure::failed(format!("the key can't be read from the standard input: {error}")))?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

fn headers(lines: &[String]) -> Result<Map<String, Value>, Failure> {
    let pair = |line: &String| {
        let (name, value) = line.split_once(':')?;
        Some((name.trim().to_ascii_lowercase(), Value::from(value.trim())))
    };
    let wrong = || Failure::usage("a header is written like --header 'x-team: blue'");
    lines.iter().map(|line| pair(line).ok_or_else(wrong)).collect()
}

/// The file as it is, or with what the other flags set in it; without a file what they say alone.
fn body(asked: &Explain) -> Result<Option<String>, Failure> {
    let mut members = Map::new();
    if let Some(model) = &asked.model {
        members.insert("model".to_owned(), json!(model));
    }
    if asked.stream {
        members.insert("stream".to_owned(), json!(true));
    }
    let Some(path) = &asked.body else {
        return Ok((!members.is_empty()).then(|| Value::Object(members).to_string()));
    };
    let shown = path.display();
    let failed = |error: io::Error| Failure::failed(format!("{shown} can't be read: {error}"));
    let mut text = String::new();
    fs::File::open(path).map_err(failed)?.take(MOST_BODY + 1).read_to_string(&mut text).map_err(failed)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MOST_BODY {
        return Err(Failure::failed(format!("{shown} has more than {MOST_BODY} bytes: a call to try is shorter")));
    }
    if members.is_empty() {
        return Ok(Some(text));
    }
    match serde_json::from_str::<Map<String, Value>>(&text) {
        Ok(mut body) => {
            body.extend(members);
            Ok(Some(Value::Object(body).to_string()))
        }
        Err(error) => {
            let message = format!("{shown} is no JSON object, so --model and --stream can't be put into it: {error}");
            Err(Failure::failed(message))
        }
    }
}

fn print(explanation: Explanation) {
    let Explanation { generation, operation, model, steps, limits, limits_source, backends, refusal } = explanation;
    let operation = operation.unwrap_or_else(|| "a call that the gate doesn't know".to_owned());
    let model = model.map_or_else(String::new, |model| format!(", model {model}"));
    output::result(&format!("{operation}{model}, by the policies of generation {generation}\n"));
    if !steps.is_empty() {
        output::table(&["STAGE", "BY", "DECISION", "CODE", "DETAIL"], steps.into_iter().map(row).collect());
    }
    if !limits.is_empty() {
        let source = limits_source.unwrap_or_default();
        output::result(&format!("\nlimits before this call (figures: {source})"));
        limits_show::print(limits);
    }
    output::result("");
    match refusal {
        Some(refusal) => print_refusal(&refusal),
        None if backends.is_empty() => output::result("the gate answers the call itself"),
        None => output::result(&format!("the call goes to {}", backends.join(", then, if that can't be reached, "))),
    }
}

fn row(step: ExplainedStep) -> Vec<String> {
    let ExplainedStep { stage, policy, version, decision, code, detail, edits, charges } = step;
    let by = match (policy, version) {
        // As much of the hash as tells versions apart at a glance.
        (Some(policy), Some(version)) => {
            let version: String = version.chars().take("sha256:".len() + 12).collect();
            format!("{policy}@{version}")
        }
        (Some(policy), None) => policy,
        (None, _) => "the gate".to_owned(),
    };
    let charges = charges.into_iter().map(|charge| format!("charges {charge}"));
    let details: Vec<String> =
        Some(detail).filter(|detail| !detail.is_empty()).into_iter().chain(edits).chain(charges).collect();
    vec![stage, by, decision, code.unwrap_or_else(|| "-".to_owned()), details.join("\n")]
}

fn print_refusal(refusal: &ExplainedRefusal) {
    let ExplainedRefusal { stage, policy, blame, status, code, headers, body, private } = refusal;
    let by = policy.as_ref().map_or_else(|| "the gate".to_owned(), |policy| format!("policy {policy}"));
    output::result(&format!("refused at {stage} by {by} ({blame}): {status} {code}; the caller reads"));
    headers.iter().for_each(|(name, value)| output::result(&format!("{name}: {value}")));
    output::result(&format!("\n{body}"));
    if let Some(private) = private {
        output::note(&format!("the log says: {private}"));
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        explain: Explain,
    }

    fn asked(arguments: &[&str]) -> Result<Explain, clap::Error> {
        Line::try_parse_from([&["tollgate"], arguments].concat()).map(|line| line.explain)
    }

    #[test]
    fn flags_become_a_question() {
        let asked = asked(&["--key", "op_k_s", "--model", "m", "--stream", "--header", "X-Team: blue: 1"]).unwrap();
        assert!(!format!("{asked:?}").contains("op_k_s"));
        let question = question(asked).unwrap();
        assert_eq!(question["headers"], json!({"x-team": "blue: 1"}));
        assert_eq!((&question["key"], &question["path"]), (&json!("op_k_s"), &json!("/api/chat")));
        let body: Value = serde_json::from_str(question["body"].as_str().unwrap()).unwrap();
        assert_eq!(body, json!({"model": "m", "stream": true}));
    }

    #[test]
    fn a_body_of_a_file_is_sent_as_it_is_or_with_the_model_that_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), r#"{ "model": "a",  "prompt": "x" }"#).unwrap();
        let path = file.path().to_str().unwrap();
        let sent =
            |arguments: &[&str]| body(&asked(&[&["--body", path], arguments].concat()).unwrap()).unwrap().unwrap();
        assert_eq!(sent(&[]), r#"{ "model": "a",  "prompt": "x" }"#);
        let changed: Value = serde_json::from_str(&sent(&["--model", "b"])).unwrap();
        assert_eq!(changed, json!({"model": "b", "prompt": "x"}));
        fs::write(file.path(), "[]").unwrap();
        assert!(body(&asked(&["--body", path, "--stream"]).unwrap()).is_err());
    }

    #[test]
    fn a_call_needs_a_model_a_body_or_a_path_and_at_most_one_caller() {
        assert!(asked(&["--key-id", "k"]).is_err());
        assert!(asked(&["--key-id", "k", "--path", "/api/tags"]).is_ok());
        assert!(asked(&["--key-id", "k", "--key", "op_k_s", "--model", "m"]).is_err());
        assert!(asked(&["--model", "m"]).is_ok(), "a stranger's call can be tried as well");
    }
}
