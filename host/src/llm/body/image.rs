//! Which texts of a body are images, so that they don't count as text: in base64 they are a hundred times as long.

/// Tokens that one image counts as, whatever its size: about the most that one takes in the APIs that say so (Anthropic
/// scales images down to some 1,600 tokens, `OpenAI` stays below that); local models take 256 to 3,000. What the model
/// counted settles the call in any case.
pub const IMAGE_TOKENS: u32 = 1_600;

/// How PNG, JPEG, GIF and WebP begin in base64.
const BEGINNINGS: [&str; 4] = ["iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR"];

/// Whether a value may be an image under this key: Ollama's `images`, `OpenAI`'s `image_url` with its `url`, Anthropic's `data`.
pub(super) fn may_stand_under(key: &str) -> bool {
    matches!(key, "images" | "image_url" | "url" | "data")
}

/// Whether this text is an image: base64 of one, bare or as a `data:` URL, and nothing but base64: prose that begins as an
/// image does is prose.
pub(super) fn is_image(text: &str) -> bool {
    let bare = match text.strip_prefix("data:image/") {
        Some(rest) => rest.split_once(";base64,").map_or("", |(_, bare)| bare),
        None => text,
    };
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    BEGINNINGS.iter().any(|beginning| bare.starts_with(beginning)) && bare.bytes().all(is_base64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_told_by_how_they_begin() {
        for (text, expected) in [
            ("iVBORw0KGgoAAAANSUhEUg", true),
            ("/9j/4AAQSkZJRg", true),
            ("data:image/png;base64,iVBORw0KGgoAAAANSUhEUg", true),
            ("data:image/webp;base64,UklGRhIAAABXRUJQ", true),
            ("data:image/png;base64,Once upon a time", false),
            ("data:image/png,iVBORw0KGgo", false),
            ("/9j/ once upon a time", false),
            ("https://example.com/a.png", false),
            ("JVBERi0xLjQ", false),
            ("", false),
        ] {
            assert_eq!(is_image(text), expected, "{text}");
        }
    }
}
