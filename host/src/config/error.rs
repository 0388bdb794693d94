//! What can be wrong with a configuration, as values and as lines of text.
//!
//! Problems are gathered, never thrown one at a time: whoever fixes a file wants the whole list. A message says what
//! was expected and never repeats a text value, because a URL or a misplaced key may carry a secret.

use std::fmt;

/// One thing to put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The full key, such as `backends[1].url`; empty when the problem is the whole file.
    pub key: String,
    /// Where the value came from: the file as it was named, `environment` or `--set`.
    pub source: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it, where there is something to add.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = match self.key.as_str() {
            "" => format!("{}: {}", self.source, self.message),
            key => format!("{key} ({}): {}", self.source, self.message),
        };
        if let Some(hint) = &self.hint {
            line.push_str("; ");
            line.push_str(hint);
        }
        // A quoted TOML key or a path may hold a line break, which would pass for a problem of its own.
        f.write_str(&line.replace(char::is_control, "\u{fffd}"))
    }
}

/// Every problem of a configuration; never empty. Prints one problem a line, then their number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    problems: Vec<Problem>,
}

impl ConfigErrors {
    /// Wraps `problems`, or answers `None` when there are none.
    pub(super) fn of(problems: Vec<Problem>) -> Option<Self> {
        (!problems.is_empty()).then_some(Self { problems })
    }

    /// The problems, in the order in which the configuration is read.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl From<Problem> for ConfigErrors {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        match self.problems.len() {
            1 => f.write_str("1 problem in the configuration"),
            count => write!(f, "{count} problems in the configuration"),
        }
    }
}

/// Why a value can't be used, before it is known which key it stood under.
#[derive(Debug)]
pub(super) struct Complaint {
    /// What is wrong.
    pub(super) message: String,
    /// What to do about it.
    pub(super) hint: Option<String>,
}

impl Complaint {
    /// A complaint that explains itself.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// The same complaint with a way out.
    pub(super) fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(key: &str, hint: Option<&str>) -> Problem {
        Problem {
            key: key.to_owned(),
            source: "tollgate.toml".to_owned(),
            message: "unknown key".to_owned(),
            hint: hint.map(str::to_owned),
        }
    }

    #[test]
    fn each_problem_is_a_line_and_the_count_comes_last() {
        let errors =
            ConfigErrors::of(vec![problem("server.lisen", Some("did you mean `listen`?")), problem("x", None)]);
        assert_eq!(
            errors.unwrap().to_string(),
            "server.lisen (tollgate.toml): unknown key; did you mean `listen`?\nx (tollgate.toml): unknown key\n\
             2 problems in the configuration"
        );
    }

    #[test]
    fn a_problem_of_the_whole_file_names_no_key() {
        assert_eq!(problem("", None).to_string(), "tollgate.toml: unknown key");
    }

    #[test]
    fn a_key_with_a_line_break_stays_on_its_line() {
        assert_eq!(problem("a\nb", None).to_string(), "a\u{fffd}b (tollgate.toml): unknown key");
    }

    #[test]
    fn no_problem_is_no_error() {
        assert_eq!(ConfigErrors::of(Vec::new()), None);
    }
}
