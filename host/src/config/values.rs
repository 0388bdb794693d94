//! One value of the configuration, from what was written to what is meant.
//!
//! Every function here looks at a single value and knows neither its key nor its neighbours. Numbers, durations, sizes
//! and texts all come with bounds. A complaint tells what was expected and never repeats a text.

use std::fmt::Display;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use figment::value::Value;
use http::HeaderName;

use super::error::Complaint;

/// A checked value, or why there is none.
pub(super) type Checked<T> = Result<T, Complaint>;

/// Longest text that is read, in bytes: the longest path that Linux takes.
const TEXT_LENGTH_MAX: usize = 4096;

/// A text without control characters.
pub(super) fn text(value: &Value) -> Checked<String> {
    let text = match value {
        Value::String(_, text) => text.clone(),
        Value::Char(_, character) => character.to_string(),
        Value::Num(..) | Value::Bool(..) => return Err(wrong_type("text", value).with_hint("put it in double quotes")),
        _ => return Err(wrong_type("text", value)),
    };
    if text.is_empty() {
        return Err(Complaint::new("may not be empty").with_hint("leave the key out for the default"));
    }
    if text.len() > TEXT_LENGTH_MAX || text.contains(char::is_control) {
        return Err(Complaint::new(format!(
            "must be a text of at most {TEXT_LENGTH_MAX} bytes without control characters"
        )));
    }
    Ok(text)
}

/// True or false; never a number, never a text.
pub(super) fn boolean(value: &Value) -> Checked<bool> {
    value.to_bool().ok_or_else(|| wrong_type("true or false", value).with_hint("write true or false, without quotes"))
}

/// A path as it was written; the caller resolves it.
pub(super) fn path(value: &Value) -> Checked<PathBuf> {
    text(value).map(PathBuf::from)
}

/// A whole number within `range`.
pub(super) fn whole<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(&Value) -> Checked<T> {
    move |value| {
        let hint = || format!("write a whole number from {} to {}", range.start(), range.end());
        let number = match value {
            Value::Num(_, number) if number.to_f64().is_some() => {
                return Err(Complaint::new("a fraction can't be used here").with_hint(hint()));
            }
            Value::Num(_, number) => number.to_u128_lossy().and_then(|number| u64::try_from(number).ok()),
            Value::String(_, text) if text.parse::<f64>().is_ok() => {
                return Err(wrong_type("a whole number", value).with_hint("write the number without quotes"));
            }
            _ => return Err(wrong_type("a whole number", value).with_hint(hint())),
        };
        number
            .filter(|number| range.contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| Complaint::new("out of range").with_hint(hint()))
    }
}

/// A whole number from 1 to `max`.
pub(super) fn count(max: u64) -> impl Fn(&Value) -> Checked<NonZeroUsize> {
    move |value| {
        let number = whole::<usize>(1..=max)(value)?;
        NonZeroUsize::new(number).ok_or_else(|| Complaint::new("may not be 0"))
    }
}

/// A duration with its unit, such as `30s`, within `range`.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&Value) -> Checked<Duration> {
    move |value| {
        let Value::String(_, text) = value else {
            return Err(wrong_type("a duration", value).with_hint("write it in quotes with its unit, like \"30s\""));
        };
        let duration = humantime::parse_duration(text).map_err(|_| {
            Complaint::new("not a duration").with_hint("write a number with its unit, like \"30s\", \"2ms\" or \"5m\"")
        })?;
        let (least, most) = (humantime::format_duration(*range.start()), humantime::format_duration(*range.end()));
        within(duration, &range, least, most)
    }
}

/// A number of bytes, bare or with a unit, such as `64KiB`, within `range`.
pub(super) fn size(range: RangeInclusive<u64>) -> impl Fn(&Value) -> Checked<u64> {
    move |value| {
        let hint = "write a number of bytes, or one with a unit, like \"64KiB\"";
        let bytes = match value {
            Value::Num(_, number) if number.to_f64().is_none() => {
                number.to_u128_lossy().map(|bytes| u64::try_from(bytes).unwrap_or(u64::MAX))
            }
            Value::String(_, text) => text.trim().parse::<ByteSize>().ok().map(|size| size.as_u64()),
            _ => return Err(wrong_type("a size", value).with_hint(hint)),
        };
        let bytes = bytes.ok_or_else(|| Complaint::new("not a size").with_hint(hint))?;
        within(bytes, &range, size_text(*range.start()), size_text(*range.end()))
    }
}

/// An IP address with a port.
pub(super) fn address(value: &Value) -> Checked<SocketAddr> {
    let hint = "write an IP address and a port, like \"127.0.0.1:8080\" or \"[::1]:8080\"";
    text(value)?.parse().map_err(|_| Complaint::new("not an address with a port").with_hint(hint))
}

/// The name of a header.
pub(super) fn header_name(value: &Value) -> Checked<HeaderName> {
    HeaderName::try_from(text(value)?).map_err(|_| Complaint::new("not the name of a header"))
}

/// A host's name as a URL has it, without scheme and port, in small letters.
pub(super) fn host_name(value: &Value) -> Checked<String> {
    const NAME_LENGTH_MAX: usize = 253;
    let name = text(value)?.to_ascii_lowercase();
    let label = |label: &str| {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(fits)
    };
    if name.len() <= NAME_LENGTH_MAX && name.split('.').all(label) {
        return Ok(name);
    }
    Err(Complaint::new("not the name of a host")
        .with_hint("write it without scheme and port, like \"gate.example.com\""))
}

/// One of `options`, by its name.
pub(super) fn choice<T: Copy>(options: &'static [(&'static str, T)]) -> impl Fn(&Value) -> Checked<T> {
    move |value| {
        let written = text(value)?;
        options.iter().find(|(name, _)| *name == written).map(|(_, option)| *option).ok_or_else(|| {
            let names: Vec<String> = options.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            let complaint = Complaint::new(format!("must be one of {}", names.join(", ")));
            match nearest(&written, options.iter().map(|(name, _)| *name)) {
                Some(name) => complaint.with_hint(format!("did you mean \"{name}\"?")),
                None => complaint,
            }
        })
    }
}

/// The name that `written` was probably meant to be: one or two slips away, and never just any name.
pub(super) fn nearest<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const NAME_LENGTH_MAX: usize = 64;
    if written.len() > NAME_LENGTH_MAX {
        return None;
    }
    let written = written.to_ascii_lowercase().replace('-', "_");
    names
        .map(|name| (strsim::damerau_levenshtein(&written, name), name))
        .filter(|(slips, name)| *slips <= (name.len() / 3).clamp(1, 3))
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, name)| name)
}

/// `bytes` in the largest unit that divides it: `64KiB`, `1GiB`, `1000B`.
pub(super) fn size_text(bytes: u64) -> String {
    let units = [("TiB", bytesize::TIB), ("GiB", bytesize::GIB), ("MiB", bytesize::MIB), ("KiB", bytesize::KIB)];
    match units.iter().find(|(_, unit)| bytes != 0 && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

/// The complaint about a value of another kind than `expected`.
pub(super) fn wrong_type(expected: &str, value: &Value) -> Complaint {
    let found = match value {
        Value::String(..) | Value::Char(..) => "a text",
        Value::Bool(..) => "true or false",
        Value::Num(_, number) if number.to_f64().is_some() => "a fraction",
        Value::Num(..) => "a number",
        Value::Empty(..) => "nothing",
        Value::Dict(..) => "a table",
        Value::Array(..) => "a list",
    };
    Complaint::new(format!("expected {expected}, found {found}"))
}

fn within<T: PartialOrd>(value: T, range: &RangeInclusive<T>, least: impl Display, most: impl Display) -> Checked<T> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(Complaint::new("out of range").with_hint(format!("choose from {least} to {most}")))
}
