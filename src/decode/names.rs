//! The member names of the objects that are open, and whether one object has a name twice.
//!
//! Two names are the same if a reader takes them for one column: escapes are resolved, and letters are compared without
//! their case, ASCII letters for DuckDB, all letters for Spark (docs/readers.md).
//!
//! A name is kept as a hash with a key of the process's own, so that a sender cannot choose names with equal hashes, and
//! each name is compared once, when its object ends: the cost grows with the names and not with their square.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::LazyLock;

/// An object of at most so many members needs no table: its names are compared where their hashes may be equal.
const FEW: usize = 16;
/// The two small letters of a capital sigma are one: Spark takes names for the same whose capitals are the same.
const SIGMA: char = 'σ';
const FINAL_SIGMA: char = 'ς';
/// Slots of a table for each name, so that it is half empty.
const SLOTS_PER_NAME: usize = 2;
const ONES: u64 = u64::from_ne_bytes([1; 8]);
const HIGH_BITS: u64 = ONES << 7;

/// A member's name.
#[derive(Debug, Clone)]
pub(super) struct Name {
    hash: u64,
    /// Where it stands in the text, without its quotes.
    start: u32,
    end: u32,
}

impl Name {
    pub(super) fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// The names of the objects that are open, the innermost last.
#[derive(Debug)]
pub(super) struct Names {
    open: Vec<Name>,
    /// Indexes into the names of one object, from 1; 0 is an empty slot.
    table: Vec<u32>,
    keys: (u64, u64),
}

impl Names {
    pub(super) fn new() -> Self {
        Self { open: Vec::new(), table: Vec::new(), keys: *KEYS }
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Adds a name of the innermost object, which stands in `range` of the text and has an escape or not. Says whether it
    /// took the long way, which a name with escapes or beyond ASCII does.
    pub(super) fn push(&mut self, text: &str, range: Range<usize>, has_escape: bool) -> bool {
        let name = text.get(range.clone()).unwrap_or_default();
        let is_plain = !has_escape && name.is_ascii();
        let hash = if is_plain { self.hash(name.as_bytes()) } else { self.hash(canonical(name).as_bytes()) };
        // The scanner takes no text that is longer than 32 bits count.
        self.open.push(Name { hash, start: range.start as u32, end: range.end as u32 });
        !is_plain
    }

    /// Ends the innermost object, whose names begin at `first`: the second of two that are the same, if there are any.
    pub(super) fn end_object(&mut self, text: &str, first: usize) -> Option<Name> {
        let names = self.open.get(first..).unwrap_or_default();
        let twice = match names.len() {
            0 | 1 => None,
            count if count <= FEW => among_few(text, names),
            _ => among_many(text, names, &mut self.table),
        };
        let twice = twice.cloned();
        self.open.truncate(first);
        twice
    }

    /// The hash of a name as if its ASCII letters were lower case.
    fn hash(&self, name: &[u8]) -> u64 {
        let (chunks, rest) = name.as_chunks::<8>();
        let mut hash = self.keys.0 ^ name.len() as u64;
        for chunk in chunks {
            hash = self.mix(hash ^ lower(u64::from_le_bytes(*chunk)));
        }
        let last = rest.iter().fold(0, |last, byte| last << 8 | u64::from(*byte));
        self.mix(hash ^ lower(last))
    }

    /// Both halves of a product, as in wyhash.
    fn mix(&self, word: u64) -> u64 {
        let product = u128::from(word) * u128::from(self.keys.1);
        product as u64 ^ (product >> 64) as u64
    }
}

/// Drawn anew by each process.
static KEYS: LazyLock<(u64, u64)> = LazyLock::new(|| {
    let random = RandomState::new();
    // Odd, so that no bit of a word is lost in a product.
    (random.hash_one(0), random.hash_one(1) | 1)
});

/// The ASCII capitals among eight bytes as small letters.
fn lower(word: u64) -> u64 {
    let low = word & !HIGH_BITS;
    let from_a = low + ONES * (0x80 - b'A' as u64);
    let over_z = low + ONES * (0x7f - b'Z' as u64);
    let capitals = !word & (from_a ^ over_z) & HIGH_BITS;
    word | capitals >> 2
}

fn among_few<'n>(text: &str, names: &'n [Name]) -> Option<&'n Name> {
    // A bit for each hash that was seen: where a name's is not set, it is new.
    let mut seen = 0_u64;
    for (at, name) in names.iter().enumerate() {
        let bit = 1 << (name.hash >> 58);
        if seen & bit != 0 {
            let before = names.get(..at).unwrap_or_default();
            if before.iter().any(|other| is_same(text, other, name)) {
                return Some(name);
            }
        }
        seen |= bit;
    }
    None
}

/// Open addressing with linear probing.
fn among_many<'n>(text: &str, names: &'n [Name], table: &mut Vec<u32>) -> Option<&'n Name> {
    let slots = (names.len() * SLOTS_PER_NAME).next_power_of_two();
    table.clear();
    table.resize(slots, 0);
    let mask = slots - 1;
    for (place, name) in (1..).zip(names) {
        let mut slot = name.hash as usize & mask;
        loop {
            match table.get_mut(slot) {
                Some(free @ 0) => {
                    *free = place;
                    break;
                }
                Some(taken) => {
                    let other = names.get(*taken as usize - 1);
                    if other.is_some_and(|other| is_same(text, other, name)) {
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

fn is_same(text: &str, one: &Name, other: &Name) -> bool {
    one.hash == other.hash && {
        let [one, other] = [one, other].map(|name| text.get(name.range()).unwrap_or_default());
        one.eq_ignore_ascii_case(other) || canonical(one) == canonical(other)
    }
}

/// A name without escapes and capitals. Each letter is lowered by itself, whatever stands around it.
fn canonical(name: &str) -> String {
    let name = unescaped(name);
    let mut lowered = String::with_capacity(name.len());
    for letter in name.chars() {
        match letter {
            FINAL_SIGMA => lowered.push(SIGMA),
            _ if letter.is_ascii() => lowered.push(letter.to_ascii_lowercase()),
            _ => lowered.extend(letter.to_lowercase()),
        }
    }
    lowered
}

/// The text that a string of JSON spells, given without its quotes.
pub(super) fn unescaped(name: &str) -> Cow<'_, str> {
    if !name.contains('\\') {
        return Cow::Borrowed(name);
    }
    // Its grammar has been checked, and that no half of a surrogate pair is in it.
    serde_json::from_str(&format!("\"{name}\"")).map_or(Cow::Borrowed(name), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name that `names` have twice.
    fn twice(names: &[&str]) -> Option<String> {
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
    fn names_are_the_same_whatever_their_case_and_their_escapes() {
        let same = [
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
        for (one, other) in same {
            assert_eq!(twice(&["x", one, "y", other, "z"]).as_deref(), Some(other), "{one} {other}");
        }
        for (one, other) in
            [("a", "b"), ("[", "{"), ("@", "`"), ("a", "a\0"), ("", r"\u0000"), ("é", "e"), ("_", "\x7f")]
        {
            assert_eq!(twice(&["x", one, "y", other, "z"]), None, "{one} {other}");
        }
    }

    #[test]
    fn letters_alone_are_lowered() {
        for byte in 0..=u8::MAX {
            let lowered = lower(u64::from_ne_bytes([byte; 8]));
            assert_eq!(lowered, u64::from_ne_bytes([byte.to_ascii_lowercase(); 8]), "{byte}");
        }
    }

    #[test]
    fn among_many_names_two_are_found_wherever_they_stand() {
        for count in [2, FEW, FEW + 1, 1000] {
            let names: Vec<String> = (0..count).map(|number| format!("name {number}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            assert_eq!(twice(&names), None, "{count}");
            for at in [0, count / 2, count - 1] {
                let again = names[at].to_uppercase();
                assert_eq!(twice(&[&names[..], &[&again]].concat()), Some(again.clone()), "{at} of {count}");
            }
        }
    }
}
