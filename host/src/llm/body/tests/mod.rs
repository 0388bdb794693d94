//! What passes, what is refused and in which words, and that splicing changes the model and nothing else.

mod properties;

use bytes::Bytes;

use super::{BodyError, Edits, IMAGE_TOKENS, JsonBody};
use crate::llm::{Operation, Surface};

fn read(text: &str) -> Result<JsonBody, BodyError> {
    JsonBody::read(&Bytes::copy_from_slice(text.as_bytes()), &["model", "name"])
}

fn good(text: &str) -> JsonBody {
    read(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn message(text: &str) -> String {
    read(text).err().map_or_else(|| panic!("{text} passed"), |error| error.to_string())
}

#[test]
fn the_first_named_field_that_holds_a_name_is_the_model() {
    fn check(text: &str, model: Option<&str>, literal: Option<&str>) {
        let body = good(text);
        assert_eq!(body.model(), model, "{text}");
        assert_eq!(body.model_range().and_then(|range| text.get(range)), literal, "{text}");
    }
    check(r#"{"model":"a"}"#, Some("a"), Some(r#""a""#));
    check(r#" { "name" : "b" , "model" :  "a" } "#, Some("a"), Some(r#""a""#));
    check(r#"{"model":"a","name":"b"}"#, Some("a"), Some(r#""a""#));
    check(r#"{"model":"","name":"b"}"#, Some("b"), Some(r#""b""#));
    check(r#"{"name":"b","model":null}"#, Some("b"), Some(r#""b""#));
    check(r#"{"model":"\u0061\"\n"}"#, Some("a\"\n"), Some(r#""\u0061\"\n""#));
    check(r#"{"\u006dodel":"é"}"#, Some("é"), Some("\"é\""));
    check(r#"{"model":" "}"#, Some(" "), Some(r#"" ""#));
    check(r#"{"model":""}"#, None, None);
    check(r#"{"options":{"model":"a"},"messages":[{"model":"a"}]}"#, None, None);
    check("{}", None, None);
}

#[test]
fn a_model_that_is_no_string_is_refused() {
    for value in ["1", "true", "[]", "{}", r#"["a"]"#, r#""\ud800""#, r#"{"a":1,"a":2}"#] {
        let text = format!(r#"{{"model":{value}}}"#);
        assert!(matches!(read(&text), Err(BodyError::WrongType { expected: "a valid string", .. })), "{text}");
        let text = format!(r#"{{"model":"a","name":{value}}}"#);
        assert!(matches!(read(&text), Err(BodyError::WrongType { expected: "a valid string", .. })), "{text}");
    }
    assert!(JsonBody::read(&Bytes::from_static(br#"{"name":1}"#), &["model"]).is_ok());
}

#[test]
fn stream_is_true_false_or_not_said() {
    assert_eq!(good(r#"{"stream":true}"#).stream(), Some(true));
    assert_eq!(good(r#"{"stream":false}"#).stream(), Some(false));
    assert_eq!(good(r#"{"stream":null}"#).stream(), None);
    assert_eq!(good(r#"{"options":{"stream":1}}"#).stream(), None);
    for value in ["1", "0.5", "-1", r#""true""#, "[true]", "{}", "[]"] {
        let text = format!(r#"{{"stream":{value}}}"#);
        assert!(matches!(read(&text), Err(BodyError::WrongType { expected: "true or false", .. })), "{text}");
    }
}

/// The largest cap that any API reads.
fn cap(body: &JsonBody) -> Option<u32> {
    let apis = [
        (Surface::Ollama, Operation::Chat),
        (Surface::OpenAi, Operation::Chat),
        (Surface::OpenAi, Operation::Respond),
        (Surface::Anthropic, Operation::Chat),
    ];
    apis.into_iter().filter_map(|(surface, operation)| body.output_cap(surface, operation)).max()
}

#[test]
fn a_cap_in_a_field_that_the_api_does_not_read_is_none() {
    for (text, surface, operation) in [
        (r#"{"max_tokens":1,"n":2}"#, Surface::Ollama, Operation::Chat),
        (r#"{"options":{"num_predict":1},"max_output_tokens":1}"#, Surface::OpenAi, Operation::Chat),
        (r#"{"max_tokens":1}"#, Surface::OpenAi, Operation::Respond),
    ] {
        assert_eq!(good(text).output_cap(surface, operation), None, "{text}");
    }
    assert_eq!(good(r#"{"n":3,"best_of":2}"#).answers(), 3);
}

#[test]
fn the_output_cap_is_the_largest_of_all() {
    fn check(text: &str, expected: Option<u32>) {
        assert_eq!(cap(&good(text)), expected, "{text}");
    }
    check(r#"{"max_tokens":5}"#, Some(5));
    check(r#"{"max_tokens":5,"max_completion_tokens":7,"max_output_tokens":6}"#, Some(7));
    check(r#"{"options":{"num_predict":9},"max_tokens":5}"#, Some(9));
    check(r#"{"options":{"num_predict":-1},"max_tokens":5}"#, Some(5));
    check(r#"{"options":{"num_predict":-2}}"#, None);
    check(r#"{"max_tokens":0}"#, None);
    // A cap is that of each answer.
    check(r#"{"max_tokens":5,"n":3}"#, Some(15));
    check(r#"{"best_of":4,"max_tokens":5,"n":2}"#, Some(20));
    check(r#"{"max_tokens":5,"n":0,"best_of":"2"}"#, Some(5));
    check(r#"{"max_tokens":4000000000,"n":3}"#, Some(u32::MAX));
    check(r#"{"n":3}"#, None);
    check(r#"{"max_tokens":null}"#, None);
    check(r#"{"options":null}"#, None);
    check(r#"{"options":{"options":{"num_predict":9}},"num_predict":9}"#, None);
    check(r#"{"messages":[{"max_tokens":9}],"options":[{"num_predict":9}]}"#, None);
    check(r#"{"max_tokens":4294967295}"#, Some(u32::MAX));
    check(r#"{"max_tokens":4294967296}"#, Some(u32::MAX));
    check(r#"{"max_tokens":99999999999999999999999999}"#, Some(u32::MAX));
    check(r#"{"max_tokens":-99999999999999999999999999}"#, None);
    check(r#"{"max_tokens":1e3}"#, Some(1000));
    check(r#"{"max_tokens":1e300}"#, Some(u32::MAX));
    check(r#"{"max_tokens":0.2}"#, Some(1));
    check(r#"{"max_tokens":-0.5}"#, None);
    check(r#"{"max_tokens":0.0}"#, None);
    check(r#"{"max_tokens":-0}"#, None);
    for value in [r#""5""#, "true", "[]", "{}", "[5]"] {
        for text in [format!(r#"{{"max_tokens":{value}}}"#), format!(r#"{{"options":{{"num_predict":{value}}}}}"#)] {
            assert!(matches!(read(&text), Err(BodyError::WrongType { expected: "a number", .. })), "{text}");
        }
    }
}

#[test]
fn a_body_is_exactly_one_object() {
    for text in ["", " \n\t"] {
        assert_eq!(read(text).err(), Some(BodyError::Empty), "{text:?}");
    }
    for text in ["[]", "null", "true", "1", "-1", "1.5", r#""model""#, r#"[{"model":"a"}]"#] {
        assert_eq!(read(text).err(), Some(BodyError::NotObject), "{text}");
    }
    for text in [r#"{"model":"a"}{"model":"b"}"#, "{} {}", "{},", "{}\0", "{}x", "{}}"] {
        assert!(matches!(read(text), Err(BodyError::TrailingData { .. })), "{text}");
    }
    for text in [
        "{",
        r#"{"a"}"#,
        r#"{"a":}"#,
        r#"{"a":1,}"#,
        "{'a':1}",
        "{a:1}",
        r#"{"a":01}"#,
        r#"{"a":NaN}"#,
        r#"{"a":+1}"#,
        r#"{"a":1e999}"#,
        "{\"a\":\"\n\"}",
        r#"{"a":"\x"}"#,
        "\u{feff}{}",
        "{1:2}",
        "{}/**/",
        r#"{"a":[1,]}"#,
    ] {
        assert!(matches!(read(text), Err(BodyError::Syntax { .. } | BodyError::TrailingData { .. })), "{text}");
    }
    assert!(read(" \r\n{ } \t").is_ok());
}

#[test]
fn a_body_is_utf_8() {
    for bad in
        [&b"{\"a\":\"\xff\"}"[..], b"{\"\xff\":1}", b"{\"model\":\"\xc3\"}", b"\xff\xfe{}", b"{\"a\":\"\xed\xa0\x80\"}"]
    {
        let read = JsonBody::read(&Bytes::from_static(bad), &["model"]);
        assert!(matches!(read, Err(BodyError::Syntax { .. })), "{bad:?}");
    }
}

#[test]
fn a_key_stands_once_in_an_object() {
    for text in [
        r#"{"model":"allowed","model":"secret"}"#,
        r#"{"model":"allowed","m\u006fdel":"secret"}"#,
        r#"{"a":{"b":[{"c":1,"c":1}]}}"#,
        r#"{"tools":[{"Any":1,"Any":2}]}"#,
        r#"{"metadata":{"x":{"y":1,"\u0079":1}}}"#,
        r#"{"":1,"":1}"#,
        r#"{"a":{"x":1},"b":1,"a":1}"#,
        r#"{"\ud83d\ude00":1,"😀":1}"#,
    ] {
        assert!(matches!(read(text), Err(BodyError::DuplicateKey { .. })), "{text}");
    }
    good(r#"{"a":{"a":{"a":1}},"b":{"a":1},"c":[{"a":1},{"a":1}],"metadata":{"k":1,"K":2}}"#);
}

#[test]
fn a_repeated_key_is_found_in_an_object_of_any_size() {
    for count in [1, 2, 15, 16, 17, 18, 33, 500] {
        let keys: Vec<String> = (0..count).map(|number| format!("\"k{number}\":{{\"k0\":1,\"x\":[]}}")).collect();
        good(&format!("{{{}}}", keys.join(",")));
        for repeated in [0, count / 2, count - 1] {
            let text = format!("{{{},\"k{repeated}\":1}}", keys.join(","));
            assert!(matches!(read(&text), Err(BodyError::DuplicateKey { .. })), "{count} {repeated}");
            let text = format!("{{{},\"\\u006b{repeated}\":1}}", keys.join(","));
            assert!(matches!(read(&text), Err(BodyError::DuplicateKey { .. })), "{count} {repeated} escaped");
        }
    }
}

#[test]
fn the_number_of_remembered_keys_is_bounded() {
    let object = |count: usize| {
        let keys: Vec<String> = (0..count).map(|number| format!("\"{number}\":0")).collect();
        format!("{{{}}}", keys.join(","))
    };
    good(&object(super::walk::MAX_OPEN_KEYS));
    assert!(matches!(read(&object(super::walk::MAX_OPEN_KEYS + 1)), Err(BodyError::TooManyKeys { .. })));
    // Keys of an object that was closed are forgotten.
    let half = object(super::walk::MAX_OPEN_KEYS / 2);
    good(&format!(r#"{{"a":{half},"b":{half},"c":{half}}}"#));
}

#[test]
fn field_names_are_in_plain_lower_case() {
    for text in [
        r#"{"model":"allowed","MODEL":"secret"}"#,
        r#"{"Stream":true}"#,
        r#"{"ſtream":true}"#,
        r#"{"\u017ftream":true}"#,
        "{\"\u{212a}eep_alive\":1}",
        r#"{"options":{"Num_predict":1}}"#,
        r#"{"messages":[{"Role":"user"}]}"#,
        r#"{"é":1,"É":1}"#,
        r#"{"ς":1}"#,
        r#"{"ß":1}"#,
        r#"{"ı":1}"#,
        r#"{"İ":1}"#,
        r#"{"Tools":[]}"#,
    ] {
        assert!(matches!(read(text), Err(BodyError::NotLowerCase { .. })), "{text}");
    }
    good(r#"{"é":1,"漢字":2,"keep_alive":3,"x-y.z $1":4,"а":{"σ":5}}"#);
}

#[test]
fn callers_name_what_stands_below_some_keys() {
    let keys = "adapters arguments attributes chat_template_kwargs env files format functions guided_json input \
        input_schema json_schema logit_bias metadata parameters properties response_format schema structured_outputs tools \
        variables";
    for key in keys.split_ascii_whitespace() {
        good(&format!(r#"{{"a":[{{"{key}":{{"Any":[{{"NAME":1,"ſ":2}}]}}}}]}}"#));
        // Beside the key the rule holds again.
        let text = format!(r#"{{"a":{{"{key}":{{"Any":1}},"Any":1}}}}"#);
        assert!(matches!(read(&text), Err(BodyError::NotLowerCase { .. })), "{text}");
    }
}

#[test]
fn what_a_model_is_asked_has_the_api_s_own_field_names() {
    for text in [
        r#"{"input":[{"role":"user","ROLE":"system","content":"x"}]}"#,
        r#"{"input":[{"type":"message","content":[{"Type":"input_text"}]}]}"#,
        r#"{"prompt":[{"Text":1}]}"#,
        r#"{"system":[{"Type":"text"}]}"#,
        r#"{"messages":[{"content":[{"Text":"x"}]}]}"#,
    ] {
        assert!(matches!(read(text), Err(BodyError::NotLowerCase { .. })), "{text}");
    }
}

#[test]
fn honest_bodies_of_all_three_apis_pass() {
    fn check(text: &str, cap: Option<u32>, stream: Option<bool>) {
        let body = good(text);
        assert_eq!((body.model(), self::cap(&body), body.stream()), (Some("m"), cap, stream), "{text}");
    }
    check(r#"{"model":"m","prompt":"Once","max_tokens":16,"logit_bias":{"50256":-100},"stop":["\n"]}"#, Some(16), None);
    check(r#"{"model":"m","prompt":["a","b"],"suffix":null,"echo":false,"stream":true}"#, None, Some(true));
    check(r#"{"model":"m","prompt":[[1,2,3],[4]],"max_tokens":1}"#, Some(1), None);
    check(r#"{"model":"m","input":"Hi","max_output_tokens":20,"stream":false}"#, Some(20), Some(false));
    check(
        r#"{"model":"m","instructions":"Be short","input":[
            {"role":"user","content":[{"type":"input_text","text":"Hi"},{"type":"input_image","image_url":"data:,"}]},
            {"type":"function_call","call_id":"c","name":"f","arguments":"{\"City\":1}"},
            {"type":"function_call_output","call_id":"c","output":"x"},
            {"type":"local_shell_call","call_id":"s","action":{"type":"exec","command":["ls"],"env":{"PATH":"/bin"}}},
            {"type":"reasoning","summary":[{"type":"summary_text","text":"s"}]}],
          "tools":[{"type":"function","name":"f","parameters":{"type":"object","properties":{"City":{"type":"string"}}}}],
          "text":{"format":{"type":"json_schema","name":"a","schema":{"properties":{"Name":{}}}}},
          "reasoning":{"effort":"low"},"metadata":{"Team":"x"},"store":false}"#,
        None,
        None,
    );
    check(
        r#"{"model":"m","max_tokens":64,"stream":true,"system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral"}}],
          "messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":[
            {"type":"thinking","thinking":"t","signature":"x"},
            {"type":"tool_use","id":"t1","name":"get","input":{"City":"Bern","unitSystem":"SI"}}]},
            {"role":"user","content":[{"type":"tool_result","tool_use_id":"t1","content":[{"type":"text","text":"x"}]}]}],
          "tools":[{"name":"get","input_schema":{"type":"object","properties":{"City":{},"unitSystem":{}}}}],
          "tool_choice":{"type":"auto"},"metadata":{"user_id":"u"},"thinking":{"type":"enabled","budget_tokens":32},
          "stop_sequences":["END"],"top_k":5}"#,
        Some(64),
        Some(true),
    );
    check(
        r#"{"model":"m","from":"b","files":{"Model-Q4_K.gguf":"sha256:0"},"adapters":{"A.gguf":"sha256:1"}}"#,
        None,
        None,
    );
}

#[test]
fn a_body_is_at_most_64_levels_deep() {
    let arrays = |count: usize| format!("{{\"a\":{}{}}}", "[".repeat(count), "]".repeat(count));
    good(&arrays(63));
    assert!(matches!(read(&arrays(64)), Err(BodyError::TooDeep { .. })));
    assert!(matches!(read(&arrays(100_000)), Err(BodyError::TooDeep { .. })));
    let objects = |count: usize| format!("{}1{}", "{\"a\":".repeat(count), "}".repeat(count));
    good(&objects(64));
    assert!(matches!(read(&objects(65)), Err(BodyError::TooDeep { .. })));
    let model = format!("{{\"model\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches!(read(&model), Err(BodyError::WrongType { .. })));
}

#[test]
fn messages_say_what_where_and_what_to_do() {
    assert_eq!(
        message("{\"model\":\"a\",\n\"options\":{\"x\":1,\"x\":2}}"),
        "the key \"x\" stands twice in one object near byte 34, in /options; write it once"
    );
    assert_eq!(
        message(r#"{"messages":[{},{"Role":"user"}]}"#),
        "the field name \"Role\" near byte 23, in /messages/1 is not in plain lower case; write it in lower case"
    );
    assert_eq!(
        message(r#"{"stream":"secret"}"#),
        "the value near byte 18, in /stream is not true or false; write true or false or leave the field out"
    );
    assert_eq!(
        message(r#"{"a":"secret" "b"}"#),
        "the body is not valid JSON near byte 15: expected `,` or `}`; send one JSON object in UTF-8"
    );
}

#[test]
fn messages_cut_keys_and_quote_no_values() {
    let long = message(&format!("{{\"{}\":1}}", "A".repeat(5000)));
    assert!(long.contains(&format!("\"{}…\"", "A".repeat(64))), "{long}");
    let deep = message(&format!("{}{{\"A\":1}}{}", "{\"aaaa\":".repeat(60), "}".repeat(60)));
    assert!(deep.len() < 200, "{deep}");
    let hostile = message("{\"A\\n\u{202e}\\u0000\":1}");
    assert!(hostile.contains("A\\n\\u{202e}\\0"), "{hostile}");
    for text in [
        r#"{"stream":"hunter2"}"#,
        r#"{"max_tokens":"hunter2"}"#,
        r#"{"model":["hunter2"]}"#,
        r#""hunter2""#,
        r#"{"prompt":"hunter2"#,
        r#"{"prompt":"hunter2\x"}"#,
        r#"{"prompt":hunter2}"#,
        r#"{"prompt":"hunter2","A":1}"#,
    ] {
        let message = message(text);
        assert!(!message.contains("hunter"), "{message}");
    }
}

fn named(model: &str) -> Edits<'_> {
    Edits { model: Some(model), asks_for_usage: false }
}

#[test]
fn a_spliced_body_shares_the_callers_bytes() {
    let bytes = Bytes::from_static(br#"{"name":"b", "model": "\u0061" ,"stream":true}"#);
    let body = JsonBody::read(&bytes, &["model", "name"]).expect("a good body");
    let [head, model, tail, ..] = body.edited(&bytes, named("x\"y"));
    assert_eq!(head, &br#"{"name":"b", "model": "#[..]);
    assert_eq!(model, &br#""x\"y""#[..]);
    assert_eq!(tail, &br#" ,"stream":true}"#[..]);
    assert_eq!(head.as_ptr(), bytes.as_ptr());
}

#[test]
fn a_body_that_cannot_be_spliced_becomes_an_empty_one() {
    let bytes = Bytes::from_static(br#"{"stream":true}"#);
    let body = JsonBody::read(&bytes, &["model"]).expect("a good body");
    assert!(body.edited(&bytes, named("x")).iter().all(Bytes::is_empty));
    let bytes = Bytes::from_static(br#"{"model":"a"}"#);
    let body = JsonBody::read(&bytes, &["model"]).expect("a good body");
    assert!(body.edited(&bytes.slice(1..), named("x")).iter().all(Bytes::is_empty));
}

#[test]
fn input_tokens_are_a_quarter_of_the_bytes_rounded_up() {
    for (padding, expected) in [("", 3), ("x", 3), ("xxx", 3), ("xxxx", 4)] {
        let body = good(&format!("{{\"a\":\"{padding}\"}} "));
        assert_eq!(body.input_tokens(), expected, "{padding}");
    }
}

#[test]
fn an_image_counts_as_a_fixed_number_of_tokens_in_every_api() {
    let png = format!("iVBORw0KGgo{}", "A".repeat(1 << 20));
    let url = format!("data:image/png;base64,{png}");
    for (body, images) in [
        (format!(r#"{{"model":"m","images":["{png}"],"prompt":"x"}}"#), 1),
        (format!(r#"{{"messages":[{{"role":"user","content":"x","images":["{png}","{png}"]}}]}}"#), 2),
        (format!(r#"{{"messages":[{{"content":[{{"type":"image_url","image_url":{{"url":"{url}"}}}}]}}]}}"#), 1),
        (format!(r#"{{"input":[{{"content":[{{"type":"input_image","image_url":"{url}"}}]}}]}}"#), 1),
        (
            format!(
                r#"{{"messages":[{{"content":[{{"type":"image","source":{{"type":"base64","data":"{png}"}}}}]}}]}}"#
            ),
            1,
        ),
    ] {
        let tokens = good(&body).input_tokens();
        let rest = tokens - images * IMAGE_TOKENS;
        assert!((5..50).contains(&rest), "{tokens}");
    }
    // As a prompt it is text, whatever it looks like.
    let text = good(&format!(r#"{{"prompt":"{png}","messages":[{{"content":"{url}"}}]}}"#)).input_tokens();
    assert!(text > 2 * (1 << 18), "{text}");
    // So is what calls itself a text, wherever it says so, and whatever the text is like.
    let source = |kind: &str| [format!(r#"{kind},"data":"{png}""#), format!(r#""data":"{png}",{kind}"#)];
    for (kind, counts_as_text) in
        [(r#""type":"text""#, true), (r#""type":"base64""#, false), (r#""type":["text"]"#, false)]
    {
        for source in source(kind) {
            let body = format!(
                r#"{{"messages":[{{"content":[{{"type":"document","source":{{"media_type":"text/plain",{source}}}}}]}}]}}"#
            );
            assert_eq!(good(&body).is_text(), counts_as_text, "{kind}");
            assert_eq!(good(&body).input_tokens() > 2 * IMAGE_TOKENS, counts_as_text, "{kind}");
        }
    }
    let mixed = format!(r#"{{"type":"text","messages":[{{"images":["{png}"]}}]}}"#);
    assert!(!good(&mixed).is_text(), "it says so of itself alone");
    // So are values under names that callers choose, and what begins as an image does and isn't one.
    for body in [
        format!(r#"{{"messages":[{{"tool_calls":[{{"function":{{"arguments":{{"url":"{png}"}}}}}}]}}]}}"#),
        format!(r#"{{"messages":[{{"content":[{{"type":"tool_use","input":{{"data":"{png}"}}}}]}}]}}"#),
        format!(r#"{{"images":["{png} and then"]}}"#),
    ] {
        let tokens = good(&body).input_tokens();
        assert!(tokens > 1 << 17, "{tokens}");
    }
}
