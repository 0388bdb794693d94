//! What the policies beside this folder share: a call asks for imports by header, and reads in the rejection what they
//! answered.
//!
//! - `x-ask-at` names the hook; at any other the policies have no opinion.
//! - `x-ask` holds the questions, with ` | ` between them; the answers come in the same shape.
//! - With `x-answer: log` the answers go to the log, and the call goes on; with `x-answer: spelled` each letter is told with
//!   a hyphen behind it, so that the gate doesn't know in it what it blanks.
//! - `{+}` in a question is taken out: a way to hand over what the gate would have blanked.

mod questions;
pub mod raw;
mod rules;

pub use rules::charge;

use tollgate_policy::{Reason, Rejection, env, rejection, request};

/// What one call asks of one hook.
pub struct Asked(String);

impl Asked {
    /// The questions of this call, if they are for this hook.
    pub fn at(hook: &str) -> Option<Self> {
        let is_here = request::header("x-ask-at").is_some_and(|at| at == hook);
        is_here.then(|| Self(request::header("x-ask").unwrap_or_default().replace("{+}", "")))
    }

    /// The questions as they are.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The text as words, for what only one hook can do.
    pub fn words(&self) -> Vec<&str> {
        self.0.split(' ').collect()
    }

    /// All answers as a rejection; none when they go to the log.
    pub fn answer(&self) -> Option<Rejection> {
        if let Some(code) = self.0.strip_prefix("code ") {
            return Some(rejection(Reason::Forbidden, code, "its code is asked for"));
        }
        let text = answers(&self.0);
        if is_wanted("log") {
            env::log(env::Level::Info, &format!("answers {text}"));
            return None;
        }
        Some(told(text))
    }
}

/// The answers to questions with ` | ` between them.
pub fn answers(questions: &str) -> String {
    questions.split(" | ").map(questions::answer).collect::<Vec<_>>().join(" | ")
}

/// A rejection whose message the test reads.
pub fn told(text: String) -> Rejection {
    let text = if is_wanted("spelled") { text.chars().flat_map(|letter| [letter, '-']).collect() } else { text };
    rejection(Reason::Forbidden, "asked", &text)
}

/// Whether the answers are wanted so.
fn is_wanted(way: &str) -> bool {
    request::header("x-answer").is_some_and(|wanted| wanted == way)
}
