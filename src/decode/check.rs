//! What is checked beyond the grammar, each over the bytes of one value.

use memchr::{memchr, memchr2_iter};

use super::{Invalid, MAX_DEPTH};

const BOM: &[u8] = b"\xef\xbb\xbf";

/// The body as text.
pub(super) fn utf8(body: &[u8]) -> Result<&str, Invalid> {
    if body.starts_with(BOM) {
        let reason = "the body begins with a byte order mark, which JSON does not allow: leave it out".to_owned();
        return Err(Invalid { reason, payload: None, byte: 0 });
    }
    std::str::from_utf8(body).map_err(|error| Invalid {
        reason: "the body is not UTF-8".to_owned(),
        payload: None,
        byte: error.valid_up_to(),
    })
}

/// What is wrong with a value that is JSON: the reason, and the offset in the value.
pub(super) fn value(json: &str) -> Result<(), (String, usize)> {
    let json = json.as_bytes();
    if let Some(at) = too_deep(json) {
        return Err((format!("nested deeper than {MAX_DEPTH} levels"), at));
    }
    if let Some(at) = lone_surrogate(json) {
        return Err(("half of a surrogate pair: send both halves, or U+FFFD".to_owned(), at));
    }
    Ok(())
}

/// Where `json` first nests deeper than [`MAX_DEPTH`].
fn too_deep(json: &[u8]) -> Option<usize> {
    // Brackets in strings count here, so this may call for the exact look where none is needed, never the other way.
    memchr2_iter(b'{', b'[', json).nth(MAX_DEPTH)?;
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, byte) in json.iter().enumerate() {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'{' | b'[') => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Some(at);
                }
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// Where `json`, whose grammar has been checked, first escapes one half of a surrogate pair without the other.
fn lone_surrogate(json: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = json.get(from..).and_then(|rest| memchr(b'\\', rest)).map(|found| from + found) {
        from = match code_unit(json, at) {
            None => at + 2,
            Some(0xd800..=0xdbff) if matches!(code_unit(json, at + 6), Some(0xdc00..=0xdfff)) => at + 12,
            Some(0xd800..=0xdfff) => return Some(at),
            Some(_) => at + 6,
        };
    }
    None
}

/// The UTF-16 code unit that `\uXXXX` at `at` stands for; none for any other escape.
fn code_unit(json: &[u8], at: usize) -> Option<u16> {
    let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}
