//! The member names of open objects, and the search for duplicates among them.
//!
//! Two names are equal if a reader uses the same column for both: escapes are resolved, and letters are compared without
//! case. DuckDB folds ASCII letters, Spark folds all letters (docs/readers.md).
//!
//! Names are compared once, when their object ends, by a hash whose key is random for each process. So clients cannot
//! choose names with equal hashes, and the cost is linear in the number of names.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::LazyLock;

use super::words::to_ascii_lower;

/// The names of an object with at most this many members are compared without a hash table.
const SMALL_OBJECT_MAX: usize = 16;
/// The initial capacity for names: most payloads have fewer.
const USUAL_NAMES: usize = 32;
/// Spark compares upper case, so the two lower-case forms of sigma are equal.
const SIGMA: char = 'σ';
const FINAL_SIGMA: char = 'ς';
/// Half of the slots stay empty.
const SLOTS_PER_NAME: usize = 2;

/// The name of a member.
#[derive(Debug, Clone)]
pub(super) struct MemberName {
    hash: u64,
    /// Its position in the text, without quotes.
    start: u32,
    end: u32,
}

impl MemberName {
    pub(super) fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// The names of all open objects. The innermost object is last.
#[derive(Debug)]
pub(super) struct Names {
    open: Vec<MemberName>,
    /// A hash table of indexes into the names of one object, from 1; 0 is an empty slot.
    table: Vec<u32>,
    keys: (u64, u64),
}

impl Names {
    pub(super) fn new() -> Self {
        Self { open: Vec::with_capacity(USUAL_NAMES), table: Vec::new(), keys: *KEYS }
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Adds the name in `range` of the text to the innermost object. Returns whether the name had to be folded, because it
    /// has escapes or non-ASCII letters.
    pub(super) fn push(&mut self, text: &str, range: Range<usize>, has_escape: bool) -> bool {
        let is_folded = has_escape || !text.as_bytes().get(range.clone()).is_some_and(<[u8]>::is_ascii);
        let hash = if is_folded {
            let name = fold(text.get(range.clone()).unwrap_or_default());
            self.hash(name.as_bytes(), 0..name.len())
        } else {
            self.hash(text.as_bytes(), range.clone())
        };
        self.add(hash, range);
        is_folded
    }

    /// Adds a name of at most seven ASCII characters without escapes, given as a little-endian word, to the innermost object.
    #[inline]
    pub(super) fn push_short(&mut self, name: u64, range: Range<usize>) {
        self.add(self.end_hash(self.begin_hash(range.len()), name, range.len()), range);
    }

    fn add(&mut self, hash: u64, range: Range<usize>) {
        // `Batch::parse` rejects longer texts.
        self.open.push(MemberName { hash, start: range.start as u32, end: range.end as u32 });
    }

    /// Removes the names from `first` on, which are those of the innermost object. Returns the second name of a duplicate.
    pub(super) fn end_object(&mut self, text: &str, first: usize) -> Option<MemberName> {
        let names = self.open.get(first..).unwrap_or_default();
        let duplicate = match names.len() {
            0 | 1 => None,
            count if count <= SMALL_OBJECT_MAX => find_in_small(text, names),
            _ => find_by_table(text, names, &mut self.table),
        };
        let duplicate = duplicate.cloned();
        self.open.truncate(first);
        duplicate
    }

    /// Hashes the name in `range` of `text` with its ASCII letters in lower case.
    fn hash(&self, text: &[u8], range: Range<usize>) -> u64 {
        let (chunks, rest) = text.get(range.clone()).unwrap_or_default().as_chunks::<8>();
        let mut hash = self.begin_hash(range.len());
        for chunk in chunks {
            hash = self.mix(hash ^ to_ascii_lower(u64::from_le_bytes(*chunk)));
        }
        if rest.is_empty() {
            return hash;
        }
        // One load of the eight bytes before the end instead of one for each byte of the rest.
        let last = match text.get(..range.end).and_then(<[u8]>::last_chunk) {
            Some(eight) => u64::from_le_bytes(*eight) >> (64 - 8 * rest.len()),
            None => rest.iter().rev().fold(0, |last, byte| last << 8 | u64::from(*byte)),
        };
        self.end_hash(hash, last, rest.len())
    }

    fn begin_hash(&self, length: usize) -> u64 {
        self.keys.0 ^ length as u64
    }

    /// Adds the last `count` bytes, at most seven, of a name.
    fn end_hash(&self, hash: u64, last: u64, count: usize) -> u64 {
        if count == 0 { hash } else { self.mix(hash ^ to_ascii_lower(last)) }
    }

    /// Combines both halves of a product, as in wyhash.
    fn mix(&self, word: u64) -> u64 {
        let product = u128::from(word) * u128::from(self.keys.1);
        product as u64 ^ (product >> 64) as u64
    }
}

/// Random for each process.
static KEYS: LazyLock<(u64, u64)> = LazyLock::new(|| {
    let random = RandomState::new();
    // An odd factor loses no bit.
    (random.hash_one(0), random.hash_one(1) | 1)
});

fn find_in_small<'n>(text: &str, names: &'n [MemberName]) -> Option<&'n MemberName> {
    // A Bloom filter of the hashes.
    let mut seen = 0_u64;
    for (index, name) in names.iter().enumerate() {
        let bit = 1 << (name.hash >> 58);
        if seen & bit != 0 {
            let before = names.get(..index).unwrap_or_default();
            if before.iter().any(|other| is_equal(text, other, name)) {
                return Some(name);
            }
        }
        seen |= bit;
    }
    None
}

/// Open addressing with linear probing.
fn find_by_table<'n>(text: &str, names: &'n [MemberName], table: &mut Vec<u32>) -> Option<&'n MemberName> {
    let slots = (names.len() * SLOTS_PER_NAME).next_power_of_two();
    table.clear();
    table.resize(slots, 0);
    let mask = slots - 1;
    for (index, name) in (1..).zip(names) {
        let mut slot = name.hash as usize & mask;
        loop {
            match table.get_mut(slot) {
                Some(free @ 0) => {
                    *free = index;
                    break;
                }
                Some(taken) => {
                    let other = names.get(*taken as usize - 1);
                    if other.is_some_and(|other| is_equal(text, other, name)) {
                        return Some(name);
                    }
                }
                None => break,
            }
            slot = (slot + 1) & mask;
        }
    }
    None
}

fn is_equal(text: &str, one: &MemberName, other: &MemberName) -> bool {
    one.hash == other.hash && {
        let [one, other] = [one, other].map(|name| text.get(name.range()).unwrap_or_default());
        one.eq_ignore_ascii_case(other) || fold(one) == fold(other)
    }
}

/// A name without escapes and in lower case. The lower case of a letter does not depend on the letters around it.
fn fold(name: &str) -> String {
    let name = unescape(name);
    let mut folded = String::with_capacity(name.len());
    for letter in name.chars() {
        match letter {
            FINAL_SIGMA => folded.push(SIGMA),
            _ if letter.is_ascii() => folded.push(letter.to_ascii_lowercase()),
            _ => folded.extend(letter.to_lowercase()),
        }
    }
    folded
}

/// The text of a valid JSON string, given without its quotes.
pub(super) fn unescape(name: &str) -> Cow<'_, str> {
    if !name.contains('\\') {
        return Cow::Borrowed(name);
    }
    // The scanner has checked it.
    serde_json::from_str(&format!("\"{name}\"")).map_or(Cow::Borrowed(name), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn duplicate(names: &[&str]) -> Option<String> {
        let text: String = names.concat();
        let mut open = Names::new();
        let mut start = 0;
        for name in names {
            open.push(&text, start..start + name.len(), name.contains('\\'));
            start += name.len();
        }
        let found = open.end_object(&text, 0).map(|name| text[name.range()].to_owned());
        assert_eq!(open.len(), 0);
        found
    }

    #[test]
    fn case_and_escapes_do_not_distinguish_names() {
        let equal = [
            ("a", "a"),
            ("a", "A"),
            ("a", r"\u0061"),
            (r"\u0041", "a"),
            ("a/b", r"A\/B"),
            ("É", "é"),
            ("É", r"\u00e9"),
            ("Σ", "σ"),
            ("ΟΔΟΣ", "οδος"),
            ("οδοσ", "οδος"),
            ("İ", "i̇"),
            ("\u{212a}", "k"),
            ("", ""),
            ("a longer name than eight bytes", "a Longer name than eight byteS"),
        ];
        for (one, other) in equal {
            assert_eq!(duplicate(&["x", one, "y", other, "z"]).as_deref(), Some(other), "{one} {other}");
        }
        for (one, other) in
            [("a", "b"), ("[", "{"), ("@", "`"), ("a", "a\0"), ("", r"\u0000"), ("é", "e"), ("_", "\x7f")]
        {
            assert_eq!(duplicate(&["x", one, "y", other, "z"]), None, "{one} {other}");
        }
    }

    #[test]
    fn names_with_equal_hashes_are_compared() {
        let name = |start| MemberName { hash: 1, start, end: start + 1 };
        assert!(is_equal("aAb", &name(0), &name(1)));
        assert!(!is_equal("aAb", &name(0), &name(2)));
    }

    #[test]
    fn duplicates_are_found_at_any_position() {
        for count in [2, SMALL_OBJECT_MAX, SMALL_OBJECT_MAX + 1, 1000] {
            let names: Vec<String> = (0..count).map(|number| format!("name {number}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            assert_eq!(duplicate(&names), None, "{count}");
            for at in [0, count / 2, count - 1] {
                let again = names[at].to_uppercase();
                assert_eq!(duplicate(&[&names[..], &[&again]].concat()), Some(again.clone()), "{at} of {count}");
            }
        }
    }
}
