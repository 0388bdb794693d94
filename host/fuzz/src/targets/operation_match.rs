//! The operation table: a path that is taken is the row's own text, with a parameter that is nothing but a name.

use http::Method;

use crate::llm::{
    model_name::ModelName,
    operations::{Match, PARAMETER_MAX_BYTES, Pattern, ROWS, find},
};

const METHODS: [Method; 6] = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS];

/// Tries any path; the first byte chooses the method.
pub fn check(input: &[u8]) {
    let Some((method, path)) = input.split_first() else { return };
    let Ok(path) = std::str::from_utf8(path) else { return };
    let method = &METHODS[usize::from(*method) % METHODS.len()];
    match find(method, path) {
        Match::Row(row, parameter) => {
            assert!(row.methods.contains(method), "{method} {path:?}");
            fits(row.pattern, path, parameter.as_deref());
        }
        Match::WrongMethod { allow, .. } => {
            assert!(allow.split(", ").all(|allowed| allowed != method.as_str()), "{method} {path:?}: {allow}");
            let allowed = allow.split(", ").next().expect("a path of the table takes a method");
            let allowed = Method::from_bytes(allowed.as_bytes()).expect("a method's name");
            assert!(matches!(find(&allowed, path), Match::Row(..)), "{allowed} {path:?}");
        }
        Match::Unknown { .. } => {
            assert!(!ROWS.iter().any(|row| is_exactly(row.pattern, path)), "{path:?} stands in the table");
        }
    }
}

fn is_exactly(pattern: Pattern, path: &str) -> bool {
    matches!(pattern, Pattern::Exact(exact) if exact == path)
}

fn fits(pattern: Pattern, path: &str, parameter: Option<&str>) {
    if is_exactly(pattern, path) {
        assert_eq!(parameter, None, "{path:?}");
        return;
    }
    let parameter = parameter.expect("a path that is not the row's own text has a parameter");
    assert!(!parameter.is_empty() && parameter.len() <= PARAMETER_MAX_BYTES, "{path:?}");
    assert!(!parameter.contains(char::is_control), "{path:?}: {parameter:?}");
    let Pattern::Rest(prefix) = pattern else {
        // A segment is not decoded: it stands at the path's end as it was sent, behind the row's own text.
        let prefix = path.strip_suffix(parameter).expect("a segment is what was sent");
        assert!(prefix.ends_with('/') && format!("{pattern:?}").contains(prefix), "{pattern:?} {path:?}");
        assert!(!parameter.contains(['/', '\\', '%', '?', '#']), "{path:?}");
        assert!(!matches!(parameter, "." | ".."), "{path:?}");
        return;
    };
    let raw = path.strip_prefix(prefix).expect("the row's own text comes first");
    assert!(raw.contains('%') || raw == parameter, "{path:?}: only percent signs are decoded");
    // The one use of such a parameter is as a model's name: there no part of it can lead elsewhere.
    if let Ok(name) = ModelName::parse(parameter) {
        assert!(name.spelling().split(['/', ':']).all(|part| !matches!(part, "" | "." | "..")), "{path:?}");
    }
}
