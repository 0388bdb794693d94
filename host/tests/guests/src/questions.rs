//! The questions: each is the name of an import and its arguments, or of something that a guest may try.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    hint::black_box,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tollgate_policy::{catalogue, edits, env, keys, principals, request, state};

/// The answer to one question; a question that makes no sense is a panic, and so a fault.
pub fn answer(question: &str) -> String {
    let (name, rest) = question.split_once(' ').unwrap_or((question, ""));
    if is_done(name, rest) {
        return "done".to_owned();
    }
    edited(name, rest)
        .or_else(|| about_call(name, rest))
        .or_else(|| about_gate(name, rest))
        .unwrap_or_else(|| about_itself(name, rest))
}

/// Does what has no answer, if this is its name.
fn is_done(name: &str, rest: &str) -> bool {
    let words: Vec<&str> = rest.split(' ').collect();
    match name {
        "put" => state::put(words[0], words[1].as_bytes(), number(words[2])),
        "put-bytes" => state::put("bytes", &vec![7; number(rest)], 0),
        "log" => env::log(env::Level::Info, rest),
        "log-header" => env::log(env::Level::Warn, &request::header(rest).unwrap_or_default()),
        "log-bytes" => env::log(env::Level::Error, &"x".repeat(number(rest))),
        "print" => println!("{rest}"),
        "print-error" => eprintln!("{rest}"),
        "print-header" => println!("{}", request::header(rest).unwrap_or_default()),
        "spin" => spin(number(rest)),
        "sleep" => std::thread::sleep(Duration::from_millis(number(rest))),
        "exit" => std::process::exit(number(rest)),
        _ => return false,
    }
    true
}

/// What became of an edit, if this is the name of one: `ok`, or why not.
fn edited(name: &str, rest: &str) -> Option<String> {
    let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
    let edited = match name {
        "set-model" => edits::set_model(rest),
        "set-json" => edits::set_json(first, second),
        "set-json-of" => edits::set_json(first, &format!("\"{}\"", "x".repeat(number(second)))),
        "remove-json" => edits::remove_json(rest),
        "set-upstream-header" => edits::set_upstream_header(first, second),
        "set-response-header" => edits::set_response_header(first, second),
        // What no header of a request can carry.
        "set-two-lines" => edits::set_response_header(first, &format!("{second}\r\nx-second: 1")),
        _ => return None,
    };
    Some(edited.map_or_else(|error| error, |()| "ok".to_owned()))
}

fn about_call(name: &str, rest: &str) -> Option<String> {
    Some(match name {
        "header" => or_none(request::header(rest)),
        "json" => or_none(request::json(rest)),
        "json-length" => request::json(rest).map_or(0, |json| json.len()).to_string(),
        "peer" => request::peer(),
        "peer-in" => request::peer_in(rest).to_string(),
        "path" => request::path(),
        "prefix-hash" => or_none(request::prefix_hash(number(rest))),
        "limit" => limit(rest),
        "limits" => limits(rest),
        "attribute" => principals::attribute(rest).join("+"),
        "verify" => or_none(keys::verify().map(|key| format!("{key:?}"))),
        _ => return None,
    })
}

fn limit(rest: &str) -> String {
    let words: Vec<&str> = rest.split(' ').collect();
    let holder = if words[0] == "user" { principals::Holder::User } else { principals::Holder::Key };
    or_none(principals::limit(holder, words[1], words.get(2).copied()))
}

/// Each as holder, name and value, with a star behind those of the model; sorted, because their order means nothing.
fn limits(model: &str) -> String {
    let held = principals::limits(model).into_iter();
    let told = held.map(|held| {
        let star = if held.of_model { "*" } else { "" };
        format!("{:?} {:?} {}{star}", held.holder, held.name, held.value)
    });
    let mut told: Vec<String> = told.collect();
    told.sort();
    told.join(", ")
}

fn about_gate(name: &str, rest: &str) -> Option<String> {
    let words: Vec<&str> = rest.split(' ').collect();
    Some(match name {
        "candidates" => catalogue::candidates(rest).to_string(),
        "size-bytes" => or_none(catalogue::size_bytes(rest)),
        "parameters" => or_none(catalogue::parameters(rest)),
        "backend-name" => or_none(catalogue::backend_name(number(rest))),
        "add" => state::add(words[0], number(words[1]), number(words[2])).to_string(),
        "add-key-of" => state::add(&"k".repeat(number(rest)), 1, 0).to_string(),
        "get" => or_none(state::get(rest).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())),
        "now" => env::now_ms().to_string(),
        "calls" => (0..number::<u32>(rest)).fold(0, |_, _| env::now_ms()).to_string(),
        "random" => env::random().to_string(),
        "local" => match env::local_now(rest) {
            Ok(now) => format!(
                "{}-{:02}-{:02} {} {:02}:{:02}:{:02}",
                now.year, now.month, now.day, now.weekday, now.hour, now.minute, now.second
            ),
            Err(error) => error,
        },
        _ => return None,
    })
}

/// What a guest may find out without asking the gate.
#[expect(clippy::disallowed_methods, reason = "these clocks are what is asked about")]
fn about_itself(name: &str, rest: &str) -> String {
    match name {
        "wasi-now" => SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis().to_string(),
        "wasi-elapsed" => {
            let start = Instant::now();
            spin(number(rest));
            start.elapsed().as_nanos().to_string()
        }
        "wasi-random" => RandomState::new().build_hasher().finish().to_string(),
        "say" => rest.to_owned(),
        "variables" => std::env::vars().count().to_string(),
        "arguments" => std::env::args().count().to_string(),
        _ => panic!("there is no question `{name}`"),
    }
}

fn spin(turns: u64) {
    for turn in 0..turns {
        black_box(turn);
    }
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("`{text}` is no number"))
}

fn or_none(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}
