//! Questions about the credential itself. Apart from the others, because a component that can ask them needs a grant.

use tollgate_policy::credential;

/// The answers to questions with ` | ` between them.
pub fn answers(questions: &str) -> String {
    questions.split(" | ").map(answer).collect::<Vec<_>>().join(" | ")
}

fn answer(question: &str) -> String {
    let words: Vec<&str> = question.split(' ').collect();
    match words[..] {
        ["raw"] => credential::raw().unwrap_or_else(|| "none".to_owned()),
        ["set-attribute", name, ref values @ ..] => {
            let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
            credential::set_attribute(name, &values).map_or_else(|error| error, |()| "ok".to_owned())
        }
        ["set-values", name, count, length] => {
            let (count, length) = (count.parse().expect("a count"), length.parse().expect("a length"));
            let values = vec!["x".repeat(length); count];
            credential::set_attribute(name, &values).map_or_else(|error| error, |()| "ok".to_owned())
        }
        _ => panic!("there is no question `{question}`"),
    }
}
