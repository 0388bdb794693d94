//! Tests of the operation table: every row is reached, and by no other spelling of its path.

use super::*;

const METHODS: [Method; 6] = [Method::GET, Method::HEAD, Method::POST, Method::DELETE, Method::PUT, Method::OPTIONS];

/// An honest path of the row.
fn sample(row: &Row) -> String {
    match row.pattern {
        Pattern::Exact(path) => path.to_owned(),
        Pattern::Segment(prefix) | Pattern::Digest(prefix) => format!("{prefix}sha256:0a"),
        Pattern::Rest(prefix) => format!("{prefix}llama3"),
    }
}

fn assert_unknown(path: &str, surface: Surface) {
    for method in &METHODS {
        match find(method, path) {
            Match::Unknown { surface: found } => assert_eq!(found, surface, "{path}"),
            other => panic!("{method} {path}: {other:?}"),
        }
    }
}

#[test]
fn no_other_spelling_of_a_path_is_in_the_table() {
    let ollama = "/api/pull/ /api//pull /api/./pull /api/x/../pull /api/pull%3Fa /api/pull%23a /api/pull?a /api/pull#a \
        /api/..%2Fapi/pull /api/%2e%2e/v1/models /api/%70ull /api/pul%6C /api/pull%00 /api/pull%20 /api/pull%2F \
        /api/pull; /api/pull;a=b /api/pull. /api/pull/. /api/pull/.. /api/pull/../pull /api/PULL /api/Pull \
        /api/pull\\ /api/..\\pull /api/%252e%252e/pull /api/pull\u{301} /api/ｐull /api/pull\0 /api/\u{200b}pull \
        /api/chat/ /api/chat/. /api/cha /api/chatt /api/tags/ /api/show%20 /api/generate%09 /api /api/ /api/status/ \
        /api/blobs /api/blobs/ /api/blobs/. /api/blobs/.. /api/blobs/../pull /api/blobs/..%2Fpull /api/blobs/a/b \
        /api/blobs//a /api/blobs/sha256:a%00 /api/user/keys/ /api/user/keys/a/b /api/user/keys/..";
    for path in ollama.split(' ').filter(|path| !path.is_empty()) {
        assert_unknown(path, Surface::Ollama);
    }
    let openai = "/v1 /v1/ /v1/models/ /v1/./models /v1//models /v1/chat/completions/ /v1/chat//completions \
        /v1/Chat/completions /v1/%63hat/completions /v1/completions/ /v1/completion /v1/responses/ /v1/responses/resp_1 \
        /v1/embeddings/ /v1/../api/pull /v1/audio/transcriptions /v1/images/generations /v1/files /v1/batches /v1/moderations";
    for path in openai.split(' ').filter(|path| !path.is_empty()) {
        assert_unknown(path, Surface::OpenAi);
    }
    for path in ["/v1/messages/", "/v1/messages/count_tokens", "/v1/messages/batches", "/v1/messages/x/y"] {
        assert_unknown(path, Surface::Anthropic);
    }
    assert_unknown("/v1/messagesx", Surface::OpenAi);
    let other = "//api/pull /./api/pull /API/pull /Api/chat /%61pi/pull /x/../api/pull /api%2Fpull /api;/pull \\api\\pull \
        api/pull /apipull //v1/models /V1/models /v1%2Fmodels http://x/api/pull //x/api/pull // /? /. /.. * /index.html \
        /k/op_x/api/pull";
    for path in other.split(' ').filter(|path| !path.is_empty()) {
        assert_unknown(path, Surface::Other);
    }
    assert_unknown("", Surface::Other);
    assert_unknown(" /api/pull", Surface::Other);
    assert_unknown("/api/pull ", Surface::Ollama);
}

#[test]
fn one_byte_more_or_less_is_another_path() {
    let honest: Vec<String> = ROWS.iter().map(sample).collect();
    let strange = ["/", ".", "%", ";", "?", "#", "\\", " ", "\0", "%2F", "%2e", "a", "A", "é"];
    for (path, row) in honest.iter().zip(ROWS) {
        let Pattern::Exact(_) = row.pattern else { continue };
        for at in 0..=path.len() {
            let (head, tail) = path.split_at(at);
            let shorter = tail.get(1..).map(|tail| format!("{head}{tail}"));
            for spelling in strange.iter().map(|text| format!("{head}{text}{tail}")).chain(shorter) {
                for method in &METHODS {
                    match find(method, &spelling) {
                        Match::Row(found, None) => assert_eq!(sample(found), spelling),
                        Match::Row(found, Some(_)) => assert_eq!(found.pattern, Pattern::Rest("/v1/models/")),
                        Match::WrongMethod { .. } => {
                            assert!(honest.contains(&spelling) || spelling.starts_with("/v1/models/"), "{spelling}")
                        }
                        Match::Unknown { .. } => {}
                    }
                }
            }
        }
    }
}

#[test]
fn every_row_is_reached_by_its_methods_and_by_no_other() {
    for row in ROWS {
        let path = sample(row);
        for method in &METHODS {
            match find(method, &path) {
                Match::Row(found, param) => {
                    assert_eq!(std::ptr::eq(found, row), row.methods.contains(method), "{method} {path}");
                    assert_eq!(param.is_some(), !matches!(row.pattern, Pattern::Exact(_)), "{path}");
                }
                Match::WrongMethod { allow, surface } => {
                    assert!(!row.methods.contains(method), "{method} {path}");
                    let same_path = ROWS.iter().filter(|other| other.pattern == row.pattern);
                    let methods: Vec<&str> = same_path.flat_map(|row| row.methods).map(Method::as_str).collect();
                    assert_eq!((allow, surface), (methods.join(", "), row.surface));
                }
                Match::Unknown { .. } => panic!("{method} {path} isn't found"),
            }
        }
    }
}

#[test]
fn no_two_rows_overlap() {
    for (at, row) in ROWS.iter().enumerate() {
        for method in row.methods {
            let fits = |other: &&Row| other.methods.contains(method) && other.pattern.fit(&sample(row)).is_ok();
            assert_eq!(ROWS.iter().filter(fits).count(), 1, "row {at}: {method} {:?}", row.pattern);
        }
    }
}

#[test]
fn head_is_taken_where_ollama_takes_it() {
    let with_head: Vec<String> = ROWS.iter().filter(|row| row.methods.contains(&Method::HEAD)).map(sample).collect();
    assert_eq!(with_head, ["/", "/api/version", "/api/tags", "/api/blobs/sha256:0a"]);
    match find(&Method::HEAD, "/api/ps") {
        Match::WrongMethod { allow, surface } => assert_eq!((allow.as_str(), surface), ("GET", Surface::Ollama)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_row_says_fits_its_class() {
    for row in ROWS {
        let path = sample(row);
        assert_eq!(row.charged, row.class == Class::Inference, "{path}");
        assert_eq!(row.operation == Operation::Manage, row.class == Class::Management, "{path}");
        assert_eq!(row.body == BodyMode::Json, !row.model_fields.is_empty(), "{path}");
        assert_eq!(row.body == BodyMode::Json, row.cap.bytes(INFERENCE_CAP_BYTES) > 0, "{path}");
        let streams = ["/api/chat", "/api/generate", "/api/pull", "/api/push", "/api/create"];
        assert_eq!(row.stream_default, streams.contains(&path.as_str()), "{path}");
        assert_eq!(row.answer == Source::Nobody, row.class == Class::Denied, "{path}");
        if let Source::Backend(upstream) = row.answer {
            assert!([Pattern::Exact(upstream.path), Pattern::Digest(upstream.path)].contains(&row.pattern), "{path}");
            assert_eq!(row.methods, std::slice::from_ref(upstream.method), "{path}");
        }
        let is_sent = matches!(row.class, Class::Inference | Class::Management) || path == "/api/show";
        assert_eq!(matches!(row.answer, Source::Backend(_)), is_sent, "{path}");
    }
}

#[test]
fn every_model_that_a_management_operation_touches_is_named_in_its_row() {
    let fields = |path: &str| match find(if path == "/api/delete" { &Method::DELETE } else { &Method::POST }, path) {
        Match::Row(row, _) => (row.model_fields, row.more_models),
        other => panic!("{path}: {other:?}"),
    };
    for path in ["/api/pull", "/api/push", "/api/delete"] {
        assert_eq!(fields(path), (&["model", "name"][..], &[][..]), "{path}");
    }
    assert_eq!(fields("/api/create"), (&["model", "name"][..], &["from"][..]));
    assert_eq!(fields("/api/copy"), (&["source"][..], &["destination"][..]));
}

#[test]
fn a_model_in_the_path_is_decoded_once_and_stays_a_name() {
    let check = |raw: &str, expected: Option<&str>| {
        let path = format!("/v1/models/{raw}");
        match (find(&Method::GET, &path), expected) {
            (Match::Row(row, Some(param)), Some(name)) => {
                assert_eq!((row.class, row.answer), (Class::Show, Source::Gate(Own::Model)));
                assert_eq!(param, name, "{raw}");
                assert_eq!(matches!(param, Cow::Owned(_)), raw.contains('%'), "{raw}");
            }
            (Match::Unknown { surface: Surface::OpenAi }, None) => {}
            (other, _) => panic!("{raw}: {other:?}"),
        }
    };
    check("llama3", Some("llama3"));
    check("llama3:8b-q4_0", Some("llama3:8b-q4_0"));
    check("hf.co/bartowski/x:Q4", Some("hf.co/bartowski/x:Q4"));
    check("hf.co%2Fbartowski%2fx%3AQ4", Some("hf.co/bartowski/x:Q4"));
    check("%2Fmodels%2Fa.gguf", Some("/models/a.gguf"));
    check("..%2F..%2Fapi%2Fpull", Some("../../api/pull"));
    check("a%252Fb", Some("a%2Fb"));
    check("a+b", Some("a+b"));
    check("%C3%A9", Some("é"));
    for refused in
        ["", "%", "a%", "a%2", "a%2g", "a%g2", "%+1a", "%00", "a%00b", "a\0", "%0a", "a%0D%0Ab", "%ff", "%C3"]
    {
        check(refused, None);
    }
    check(&"a".repeat(PARAMETER_MAX_BYTES), Some(&"a".repeat(PARAMETER_MAX_BYTES)));
    check(&"%61".repeat(PARAMETER_MAX_BYTES), Some(&"a".repeat(PARAMETER_MAX_BYTES)));
    check(&"a".repeat(PARAMETER_MAX_BYTES + 1), None);
    check(&"%61".repeat(PARAMETER_MAX_BYTES + 1), None);
}
