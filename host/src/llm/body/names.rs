//! What the names of a body's fields say: which of them callers choose, and which a careless reader could take for others.

/// Whether callers choose the names below this key: schemas, arguments of tools and the like.
///
/// At the top of a body `input` is what the model is asked (embeddings, responses), with field names of the API's own;
/// further down it is what a tool was called with.
pub(super) fn callers_name_what_is_below(key: &str, is_top: bool) -> bool {
    match key {
        "input" => !is_top,
        // What a file search found, the environment of a shell call, and the values of a stored prompt: OpenAI's
        // responses. File names by digest: Ollama's create.
        "attributes" | "env" | "variables" | "adapters" | "files" => true,
        // Tools, as they are declared and as they were called.
        "arguments" | "functions" | "input_schema" | "parameters" | "properties" | "tools" => true,
        // Shapes of an answer, in each server's words.
        "format" | "guided_json" | "json_schema" | "response_format" | "schema" | "structured_outputs" => true,
        "chat_template_kwargs" | "logit_bias" | "metadata" => true,
        _ => false,
    }
}

/// Whether a reader without regard to case could take this name only for itself.
pub(super) fn is_folded(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii() && !byte.is_ascii_uppercase();
    name.bytes().all(is_plain) || name.chars().all(is_its_own_fold)
}

/// Upper case first: `ſ` is a small letter, and only its capital shows that it stands for `s`.
fn is_its_own_fold(letter: char) -> bool {
    letter.to_uppercase().flat_map(char::to_lowercase).eq([letter])
}
