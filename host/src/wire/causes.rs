//! An error with all that caused it, on one line, for the log.

use std::error::Error;

/// The error's text and those of its causes, from the outside in.
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
