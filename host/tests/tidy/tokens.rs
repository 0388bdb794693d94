//! Rust source as a list of words and signs, as far as the checks need it.
//!
//! Comments are gone, a literal is one token without its content, and `::` is one token. It assumes source that compiles.

/// A word, a sign, `::`, a lifetime, or `""` for a literal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

impl Token {
    pub(crate) fn is_word(&self) -> bool {
        self.text.starts_with(is_word_char)
    }
}

/// Whether the list begins with these texts.
pub(crate) fn begins_with(tokens: &[Token], texts: &[&str]) -> bool {
    tokens.len() >= texts.len() && tokens.iter().zip(texts).all(|(token, text)| token.text == *text)
}

/// All tokens of a source.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut rest = source;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let (text, length) = next(rest, first);
        if let Some(text) = text {
            found.push(Token { text: text.to_owned(), line });
        }
        let (eaten, left) = rest.split_at(length);
        line += eaten.matches('\n').count();
        rest = left;
    }
    found
}

/// The first token, none for a blank or a comment, and how many bytes it takes.
fn next(rest: &str, first: char) -> (Option<&str>, usize) {
    if rest.starts_with("//") {
        return (None, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (None, block_comment(rest));
    }
    if first.is_whitespace() {
        return (None, first.len_utf8());
    }
    if let Some(length) = raw_literal(rest).or_else(|| literal(rest)) {
        return (Some("\"\""), length);
    }
    if rest.starts_with("::") {
        return (Some("::"), 2);
    }
    let name = rest.strip_prefix("r#").or_else(|| rest.strip_prefix('\'')).unwrap_or(rest);
    let length = name.find(|c| !is_word_char(c)).unwrap_or(name.len());
    if length > 0 {
        // A lifetime keeps its tick, a raw name loses its mark.
        let length = rest.len() - name.len() + length;
        let text = rest.get(..length).map(|text| text.trim_start_matches("r#"));
        return (text, length);
    }
    (rest.get(..first.len_utf8()), first.len_utf8())
}

fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(left) = rest.get(at..).filter(|left| !left.is_empty()) {
        if left.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if left.starts_with("*/") {
            depth -= 1;
            at += 2;
        } else {
            at += left.chars().next().map_or(1, char::len_utf8);
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// `r"…"`, `r#"…"#` and their kin with `b` or `c` before them.
fn raw_literal(rest: &str) -> Option<usize> {
    let marks = rest.strip_prefix(['b', 'c']).unwrap_or(rest).strip_prefix('r')?;
    let body = marks.trim_start_matches('#');
    let hashes = marks.len() - body.len();
    let body = body.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let inside = body.find(&end)?;
    Some(rest.len() - body.len() + inside + end.len())
}

/// `"…"` and `'…'`, with `b` or `c` before them or not; none for a lifetime.
fn literal(rest: &str) -> Option<usize> {
    let quoted = rest.strip_prefix(['b', 'c']).unwrap_or(rest);
    let quote = quoted.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let body = quoted.get(1..)?;
    let is_lifetime = quote == '\'' && !body.starts_with('\\') && body.chars().nth(1) != Some('\'');
    if is_lifetime {
        return None;
    }
    let mut escaped = false;
    let end = body.find(|c| {
        let ends = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })?;
    Some(rest.len() - body.len() + end + 1)
}

#[cfg(test)]
mod tests {
    use super::tokens;

    fn check(source: &str, expected: &[&str]) {
        let found = tokens(source);
        let texts: Vec<&str> = found.iter().map(|token| token.text.as_str()).collect();
        assert_eq!(texts, expected, "{source}");
    }

    #[test]
    fn comments_and_the_insides_of_literals_are_not_seen() {
        check("a // crate::x\n/* b /* c */ d */ e", &["a", "e"]);
        check(r##"f("crate::\"x", r#"a"b"#, b"c", '"', '\'', b'\\')"##, &words("f ( L , L , L , L , L , L )"));
        check("fn g<'a>(r#type: &'a str) {}", &words("fn g < 'a > ( type : & 'a str ) { }"));
        check("use a::b;", &["use", "a", "::", "b", ";"]);
    }

    #[test]
    fn a_token_knows_its_line() {
        let found = tokens("\"two\nlines\"\n/*\n*/ here");
        assert_eq!(found.last().map(|token| token.line), Some(4));
    }

    fn words(list: &str) -> Vec<&str> {
        list.split(' ').map(|word| if word == "L" { "\"\"" } else { word }).collect()
    }
}
