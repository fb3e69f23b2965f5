//! Eight bytes at a time, as a little-endian word.

const ONES: u64 = u64::from_ne_bytes([1; 8]);
const HIGH_BITS: u64 = ONES << 7;

/// A name of at most seven ASCII characters without escapes that begins at `start`, as a little-endian word, and its length.
#[inline]
pub(super) fn short_name(bytes: &[u8], start: usize) -> Option<(u64, usize)> {
    let word = word_at(bytes, start)?;
    let hits = special_bytes(word);
    let end = hits.trailing_zeros() & !7;
    let is_quote = hits != 0 && (word >> end) & 0xff == u64::from(b'"');
    let name = word & !(u64::MAX << (end & 63));
    (is_quote && name & HIGH_BITS == 0).then_some((name, (end / 8) as usize))
}

/// The offset of the next quote, backslash or control character, or of the end.
#[inline]
pub(super) fn find_special(bytes: &[u8], mut offset: usize) -> usize {
    while let Some(word) = word_at(bytes, offset) {
        let hits = special_bytes(word);
        if hits != 0 {
            return offset + (hits.trailing_zeros() / 8) as usize;
        }
        offset += 8;
    }
    while bytes.get(offset).is_some_and(|byte| *byte >= 0x20 && !matches!(byte, b'"' | b'\\')) {
        offset += 1;
    }
    offset
}

/// Eight bytes from `offset` on; none near the end.
#[inline]
fn word_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}

/// The high bits of the quotes, backslashes and control characters among eight bytes, of which only the lowest is exact.
#[inline]
fn special_bytes(word: u64) -> u64 {
    let controls = word.wrapping_sub(ONES * 0x20);
    let quotes = (word ^ (ONES * b'"' as u64)).wrapping_sub(ONES);
    let backslashes = (word ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
    // A borrow only sets bits above the first true hit.
    (controls | quotes | backslashes) & !word & HIGH_BITS
}

/// Converts the ASCII capitals among eight bytes to lower case.
pub(super) fn to_ascii_lower(word: u64) -> u64 {
    let low = word & !HIGH_BITS;
    let at_least_a = low + ONES * (0x80 - b'A' as u64);
    let above_z = low + ONES * (0x7f - b'Z' as u64);
    let capitals = !word & (at_least_a ^ above_z) & HIGH_BITS;
    word | capitals >> 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_at_most_seven_ascii_characters_without_escapes_is_short() {
        for length in 0..=7 {
            let name = &"aZ_9~ {"[..length];
            let mut word = [0; 8];
            word[..length].copy_from_slice(name.as_bytes());
            let text = format!("{{\"{name}\":12345678");
            assert_eq!(short_name(text.as_bytes(), 2), Some((u64::from_le_bytes(word), length)), "{name}");
        }
        for text in ["12345678\":1", "a\\\"b\":12345", "\u{e9}\":123456", "a\n\":12345678", "a\":12", ""] {
            assert_eq!(short_name(text.as_bytes(), 0), None, "{text}");
        }
    }

    #[test]
    fn the_next_special_byte_is_found_at_any_position() {
        for special in 0..=u8::MAX {
            let is_special = special < 0x20 || matches!(special, b'"' | b'\\');
            for at in 0..20 {
                let mut text = [b'x'; 20];
                text[at] = special;
                assert_eq!(find_special(&text, 0), if is_special { at } else { text.len() }, "{special} at {at}");
                assert_eq!(find_special(&text, at + 1), text.len(), "{special} at {at}");
            }
        }
    }

    #[test]
    fn only_ascii_letters_are_converted_to_lower_case() {
        for byte in 0..=u8::MAX {
            let lowered = to_ascii_lower(u64::from_ne_bytes([byte; 8]));
            assert_eq!(lowered, u64::from_ne_bytes([byte.to_ascii_lowercase(); 8]), "{byte}");
        }
    }
}
