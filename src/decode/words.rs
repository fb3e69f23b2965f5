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
    fn only_ascii_letters_are_converted_to_lower_case() {
        for byte in 0..=u8::MAX {
            let lowered = to_ascii_lower(u64::from_ne_bytes([byte; 8]));
            assert_eq!(lowered, u64::from_ne_bytes([byte.to_ascii_lowercase(); 8]), "{byte}");
        }
    }
}
