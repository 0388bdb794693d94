//! Tests of lists of models: what is read, what is refused, and what is written again.

use super::*;

const TAGS: &str = r#"{"models":[
    {"name":"llama3:latest","model":"llama3:latest","modified_at":"2024-05-04T14:56:49.277302595-07:00",
     "size":4661224676,"digest":"365c0bd3c000","details":{"parent_model":"","format":"gguf","families":null,
     "parameter_size":"8.0B","quantization_level":"Q4_0"},"capabilities":["completion"]},
    {"name":"nomic-embed-text:latest","size":"","modified_at":"","digest":"","details":{"parameter_size":""}}]}"#;

fn tagged(name: &str, modified_at: &str) -> ModelEntry {
    let answer = format!(r#"{{"models":[{{"name":"{name}","modified_at":"{modified_at}"}}]}}"#);
    parse_tags(answer.as_bytes()).unwrap().remove(0)
}

fn text_of(body: &Bytes) -> &str {
    std::str::from_utf8(body).unwrap()
}

#[test]
fn tags_are_read_and_what_is_unreadable_is_unknown() {
    let entries = parse_tags(TAGS.as_bytes()).unwrap();
    let [llama, nomic] = entries.as_slice() else { panic!("{entries:?}") };
    assert_eq!(llama.name, "llama3:latest");
    assert_eq!((llama.size_bytes, llama.parameters), (Some(4_661_224_676), Some(8_000_000_000)));
    assert_eq!(llama.digest.as_deref(), Some("365c0bd3c000"));
    assert_eq!(llama.modified_at.unwrap().to_string(), "2024-05-04T21:56:49.277302595Z");
    assert_eq!(nomic.name, "nomic-embed-text:latest");
    assert_eq!((nomic.size_bytes, nomic.parameters, nomic.modified_at), (None, None, None));
    assert_eq!((&nomic.digest, &nomic.owned_by), (&None, &None));
}

#[test]
fn the_model_field_names_the_model_before_the_name_field() {
    let check = |entry: &str, expected: &[&str]| {
        let entries = parse_tags(format!(r#"{{"models":[{entry}]}}"#).as_bytes()).unwrap();
        let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, expected, "{entry}");
    };
    check(r#"{"name":"a","model":"b"}"#, &["b"]);
    check(r#"{"name":"a","model":""}"#, &["a"]);
    check(r#"{"name":"a","model":null}"#, &["a"]);
    check(r#"{"name":"Tim/Llama3:8B"}"#, &["Tim/Llama3:8B"]);
    check(r#"{}, {"name":""}, {"name":"a\nb"}, {"name":"c"}"#, &["c"]);
    let longest = "x".repeat(NAME_MAX_BYTES);
    check(&format!(r#"{{"name":"{longest}"}}, {{"name":"{longest}x"}}"#), &[&longest]);
}

#[test]
fn a_list_that_is_null_is_empty_and_one_that_is_absent_is_refused() {
    assert!(parse_tags(br#"{"models":null}"#).unwrap().is_empty());
    assert!(parse_running(br#"{"models":[]}"#).unwrap().is_empty());
    assert!(parse_models(br#"{"object":"list","data":null}"#).unwrap().is_empty());
    let error = parse_running(br#"{"data":[]}"#).unwrap_err().to_string();
    assert!(error.contains("GET /api/ps") && error.contains("missing field `models`"), "{error}");
    let error = parse_models(br#"{"models":[]}"#).unwrap_err().to_string();
    assert!(error.contains("GET /v1/models") && error.contains("missing field `data`"), "{error}");
}

#[test]
fn garbage_is_refused_with_a_reason_of_bounded_length() {
    let check = |answer: &str, reason: &str| {
        let error = parse_tags(answer.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(reason) && error.chars().count() < 400, "{answer}: {error}");
    };
    check("", "EOF");
    check("<html>", "expected value");
    check(r#"{"models":[]} x"#, "trailing characters");
    check(r#"{"models":{}}"#, "expected a list of models");
    check(r#"{"models":[],"models":[]}"#, "duplicate field");
    check(r#"{"models":["llama3"]}"#, "not an object");
    check(r#"{"models":[["llama3","llama3"]]}"#, "not an object");
    check(r#"{"models":[{"name":7}]}"#, "expected a string");
    check(r#"{"models":[{"name":"a","name":"b"}]}"#, "duplicate field");
    check(&format!(r#"{{"models":"{}"}}"#, "x".repeat(100_000)), "invalid type");
    assert!(parse_tags(b"{\"models\":[{\"name\":\"\xff\"}]}").is_err());
}

#[test]
fn a_list_has_a_bound() {
    let list = |length: usize| format!(r#"{{"models":[{}]}}"#, vec![r#"{"name":"a"}"#; length].join(","));
    assert_eq!(parse_tags(list(ENTRIES_MAX).as_bytes()).unwrap().len(), ENTRIES_MAX);
    let error = parse_tags(list(ENTRIES_MAX + 1).as_bytes()).unwrap_err().to_string();
    assert!(error.contains("more than 10000 models"), "{error}");
}

#[test]
fn numbers_of_parameters_are_read_exactly() {
    let check = |text: &str, expected: Option<u64>| assert_eq!(parse_count(text), expected, "{text:?}");
    check("8.0B", Some(8_000_000_000));
    check("8b", Some(8_000_000_000));
    check("137M", Some(137_000_000));
    check("134.52M", Some(134_520_000));
    check("1.5T", Some(1_500_000_000_000));
    check("500K", Some(500_000));
    check("999", Some(999));
    check("18446744T", Some(18_446_744_000_000_000_000));
    for unreadable in [
        "",
        "B",
        "0",
        "0.0B",
        "-8B",
        "+8B",
        "8x7B",
        "8 B",
        ".5B",
        "8.B",
        "1.2.3B",
        "8e9",
        "18446745T",
        "1.0000000000001B",
        "８B",
    ] {
        check(unreadable, None);
    }
}

#[test]
fn the_newest_entry_of_a_key_wins_whatever_its_time_zone() {
    let older = tagged("older", "2024-05-04T23:00:00+02:00");
    let newer = tagged("newer", "2024-05-04T22:00:00Z");
    let undated = tagged("undated", "");
    let merged = |list: &[(&str, &ModelEntry)]| -> Vec<String> {
        merge(list.iter().copied()).into_iter().map(|entry| entry.name.clone()).collect()
    };
    assert_eq!(merged(&[("k", &older), ("k", &newer), ("k", &undated)]), ["newer"]);
    assert_eq!(merged(&[("k", &undated), ("k", &newer), ("k", &older)]), ["newer"]);
    assert_eq!(merged(&[("k", &undated), ("k", &tagged("second", ""))]), ["undated"]);
    assert_eq!(merged(&[("z", &older), ("a", &undated), ("m", &newer)]), ["undated", "newer", "older"]);
}

#[test]
fn an_entry_is_repeated_as_the_backend_wrote_it() {
    let entry = r#"{"name":"a:latest", "model":"a:latest","size_vram":5,"context_length":4096,"x":1e400}"#;
    let answer = format!(r#"{{"models":[ {entry} ]}}"#);
    let entries = parse_running(answer.as_bytes()).unwrap();
    let entries: Vec<&ModelEntry> = entries.iter().collect();
    assert_eq!(text_of(&running_body(&entries)), format!(r#"{{"models":[{entry}]}}"#));
    assert_eq!(text_of(&tags_body(&[])), r#"{"models":[]}"#);
}

#[test]
fn models_are_shown_in_openais_shape() {
    let answer =
        br#"{"object":"list","data":[{"id":"org/m","object":"model","created":1700000000,"owned_by":"vllm"}]}"#;
    let listed = parse_models(answer).unwrap().remove(0);
    let dated = tagged("llama3:latest", "2024-05-04T14:56:49.277302595-07:00");
    let undated = tagged("q\\\"", "0001-01-01T00:00:00Z");
    assert_eq!(
        text_of(&openai_models_body(&[(&dated).into(), (&listed).into()])),
        concat!(
            r#"{"object":"list","data":["#,
            r#"{"id":"llama3:latest","object":"model","created":1714859809,"owned_by":"library"},"#,
            r#"{"id":"org/m","object":"model","created":1700000000,"owned_by":"vllm"}]}"#
        )
    );
    assert_eq!(text_of(&openai_models_body(&[])), r#"{"object":"list","data":[]}"#);
    assert_eq!(
        text_of(&openai_model_body(&(&undated).into())),
        r#"{"id":"q\"","object":"model","created":0,"owned_by":"library"}"#
    );
}
