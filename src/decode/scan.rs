//! Scans JSON in one pass: the grammar of RFC 8259, and the checks beyond it.
//!
//! The recursion is as deep as the values nest. Memory is only allocated for the member names of open objects. The work is
//! counted in steps, so a body that decompresses to a thousand times its size costs what its values cost and not its bytes.

use std::borrow::Cow;

use super::names::{Names, unescape};
use super::number::{self, Number};
use super::words::{find_special, short_name};

/// The maximum number of names in an object and all objects that contain it.
pub(super) const OPEN_NAMES_MAX: usize = 65_536;
/// The limit of Spark's reader.
const NAME_MAX_BYTES: usize = 50_000;
/// The steps of a name that has escapes or non-ASCII letters: a base, one for so many bytes, and some for each letter,
/// whose lower case is looked up. An escape may be such a letter, so with escapes fewer bytes make a step.
const FOLDED_NAME_STEPS: usize = 16;
const FOLDED_NAME_BYTES_PER_STEP: usize = 8;
const ESCAPED_NAME_BYTES_PER_STEP: usize = 2;
const FOLDED_LETTER_STEPS: usize = 2;
/// The steps of a number whose range has to be checked: a base, and one for so many bytes.
const NUMBER_STEPS: usize = 4;
const NUMBER_BYTES_PER_STEP: usize = 8;
/// The part of a name that an error repeats.
const SHOWN_NAME_CHARS: usize = 80;

/// Why scanning stopped.
#[derive(Debug)]
pub(super) enum ScanError {
    /// The reason is for the client. The offset is in the text.
    Invalid {
        reason: String,
        offset: usize,
    },
    TooManySteps,
}

/// Scans a text from front to back.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    text: &'a str,
    /// The text up to the end of the current line.
    input: &'a [u8],
    offset: usize,
    is_strict: bool,
    max_depth: usize,
    steps_left: usize,
    names: Names,
}

/// The error is boxed, so that the result of each value fits in a register.
type ScanResult<T = ()> = Result<T, Box<ScanError>>;

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str, is_strict: bool, max_depth: usize, max_steps: usize) -> Self {
        let (input, names) = (text.as_bytes(), Names::new());
        Self { text, input, offset: 0, is_strict, max_depth, steps_left: max_steps, names }
    }

    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.input.get(self.offset).copied()
    }

    pub(super) fn skip_whitespace(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.offset += 1;
        }
    }

    /// Limits the input to the line that ends at `end`. Even an empty line costs a step.
    pub(super) fn begin_line(&mut self, end: usize) -> ScanResult {
        self.input = self.text.as_bytes().get(..end).unwrap_or_default();
        self.spend(1)
    }

    pub(super) fn end_line(&mut self) {
        self.offset = self.input.len() + 1;
    }

    /// Skips the bracket that opens an array or object. Returns true, and skips `close`, if that follows.
    #[inline]
    pub(super) fn open(&mut self, close: u8) -> bool {
        self.offset += 1;
        self.skip_whitespace();
        let is_empty = self.peek() == Some(close);
        self.offset += usize::from(is_empty);
        is_empty
    }

    /// Skips the comma before the next element and returns true, or skips `close` and returns false.
    #[inline]
    pub(super) fn next_element(&mut self, close: u8) -> ScanResult<bool> {
        self.skip_whitespace();
        match self.peek() {
            Some(b',') => {
                self.offset += 1;
                self.skip_whitespace();
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.offset += 1;
                Ok(false)
            }
            _ if close == b']' => Err(self.expected("`,` or `]`", "an array")),
            _ => Err(self.expected("`,` or `}`", "an object")),
        }
    }

    /// Scans a value at `depth` levels within its payload.
    pub(super) fn value(&mut self, depth: usize) -> ScanResult<&'a str> {
        let start = self.offset;
        self.any(depth)?;
        Ok(self.text.get(start..self.offset).unwrap_or_default())
    }

    /// Scans the name of a member and the colon after it. Returns the name without escapes.
    pub(super) fn member(&mut self) -> ScanResult<Cow<'a, str>> {
        let start = self.offset + 1;
        self.name()?;
        let name = unescape(self.text.get(start..self.offset - 1).unwrap_or_default());
        self.colon()?;
        Ok(name)
    }

    /// Checks for duplicates among the names that [`member`](Self::member) has returned.
    pub(super) fn end_members(&mut self) -> ScanResult {
        self.end_names(0)
    }

    /// The error for an unexpected byte, or for the end of the input.
    #[cold]
    pub(super) fn expected(&self, expected: &str, inside: &str) -> Box<ScanError> {
        let reason = match self.peek() {
            Some(_) => format!("not JSON: expected {expected}"),
            None => format!("not JSON: the text ends inside {inside}"),
        };
        Box::new(ScanError::Invalid { reason, offset: self.offset })
    }

    #[cold]
    fn invalid<T>(&self, offset: usize, reason: impl Into<String>) -> ScanResult<T> {
        Err(Box::new(ScanError::Invalid { reason: reason.into(), offset }))
    }

    fn spend(&mut self, steps: usize) -> ScanResult {
        self.steps_left = self.steps_left.checked_sub(steps).ok_or_else(|| Box::new(ScanError::TooManySteps))?;
        Ok(())
    }

    fn any(&mut self, depth: usize) -> ScanResult {
        self.spend(1)?;
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            _ => Err(self.expected("a value", "a value")),
        }
    }

    fn check_depth(&self, depth: usize) -> ScanResult {
        if depth > self.max_depth {
            return self.invalid(self.offset, format!("nested deeper than {} levels", self.max_depth));
        }
        Ok(())
    }

    fn array(&mut self, depth: usize) -> ScanResult {
        self.check_depth(depth)?;
        if self.open(b']') {
            return Ok(());
        }
        loop {
            self.any(depth)?;
            if !self.next_element(b']')? {
                return Ok(());
            }
        }
    }

    fn object(&mut self, depth: usize) -> ScanResult {
        self.check_depth(depth)?;
        if self.open(b'}') {
            return Ok(());
        }
        let first_name = self.names.len();
        loop {
            self.name()?;
            self.colon()?;
            self.any(depth)?;
            if !self.next_element(b'}')? {
                return self.end_names(first_name);
            }
        }
    }

    fn colon(&mut self) -> ScanResult {
        self.skip_whitespace();
        if self.peek() != Some(b':') {
            return Err(self.expected("`:`", "an object"));
        }
        self.offset += 1;
        self.skip_whitespace();
        Ok(())
    }

    fn name(&mut self) -> ScanResult {
        if self.peek() != Some(b'"') {
            return Err(self.expected("the name of a member, in quotes", "an object"));
        }
        let start = self.offset + 1;
        if let Some((name, length)) = short_name(self.input, start)
            && self.names.len() < OPEN_NAMES_MAX
        {
            self.offset = start + length + 1;
            if self.is_strict {
                self.names.push_short(name, start..start + length);
            }
            return self.spend(1);
        }
        let has_escape = self.string()?;
        if !self.is_strict {
            return self.spend(1);
        }
        let end = self.offset - 1;
        if end - start > NAME_MAX_BYTES {
            return self.invalid(start, format!("the name of a member has more than {NAME_MAX_BYTES} bytes"));
        }
        if self.names.len() >= OPEN_NAMES_MAX {
            let reason = format!(
                "more than {OPEN_NAMES_MAX} member names in nested objects: split the payload, or set READERS=any"
            );
            return self.invalid(start, reason);
        }
        let name = self.input.get(start..end).unwrap_or_default();
        let is_folded = self.names.push(self.text, start..end, has_escape);
        self.spend(if is_folded { folded_name_steps(name, has_escape) } else { 1 })
    }

    fn end_names(&mut self, first: usize) -> ScanResult {
        let Some(duplicate) = self.names.end_object(self.text, first) else { return Ok(()) };
        let range = duplicate.range();
        let name = self.text.get(range.clone()).unwrap_or_default();
        let shown: String = name.chars().take(SHOWN_NAME_CHARS).collect();
        let dots = if shown.len() < name.len() { "…" } else { "" };
        let reason = format!(
            "duplicate member \"{shown}{dots}\" in one object (readers do not distinguish upper and lower case): rename one \
             of them"
        );
        self.invalid(range.start.saturating_sub(1), reason)
    }

    fn literal(&mut self, literal: &[u8]) -> ScanResult {
        for byte in literal {
            if self.peek() != Some(*byte) {
                return Err(self.expected("a value", "a value"));
            }
            self.offset += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> ScanResult {
        match number::scan(self.input, self.offset) {
            Ok(Number { end, needs_range_check }) => {
                let start = std::mem::replace(&mut self.offset, end);
                if !needs_range_check || !self.is_strict {
                    return Ok(());
                }
                self.spend(NUMBER_STEPS + (end - start) / NUMBER_BYTES_PER_STEP)?;
                match number::out_of_range(self.text.get(start..end).unwrap_or_default()) {
                    Some(reason) => self.invalid(start, reason),
                    None => Ok(()),
                }
            }
            Err(offset) => {
                self.offset = offset;
                Err(self.expected("a digit", "a number"))
            }
        }
    }

    /// Scans a string with its quotes. Returns whether it has an escape.
    fn string(&mut self) -> ScanResult<bool> {
        let mut has_escape = false;
        self.offset += 1;
        loop {
            self.offset = find_special(self.input, self.offset);
            match self.peek() {
                Some(b'"') => {
                    self.offset += 1;
                    return Ok(has_escape);
                }
                Some(b'\\') => {
                    has_escape = true;
                    self.escape()?;
                }
                Some(_) => {
                    return self.invalid(self.offset, "not JSON: control character in a string: escape it");
                }
                None => return self.invalid(self.offset, "not JSON: the text ends inside a string"),
            }
        }
    }

    fn escape(&mut self) -> ScanResult {
        self.spend(1)?;
        let start = self.offset;
        match self.input.get(start + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.offset += 2;
                Ok(())
            }
            Some(b'u') => {
                let is_paired = match self.code_unit()? {
                    0xd800..=0xdbff => {
                        self.input.get(self.offset..self.offset + 2) == Some(b"\\u")
                            && matches!(self.code_unit()?, 0xdc00..=0xdfff)
                    }
                    unit => !matches!(unit, 0xdc00..=0xdfff),
                };
                if is_paired {
                    return Ok(());
                }
                self.invalid(start, "unpaired surrogate in an escape: send both halves, or U+FFFD")
            }
            Some(_) => self.invalid(start, "not JSON: invalid escape"),
            None => {
                self.offset = self.input.len();
                Err(self.expected("an escape", "a string"))
            }
        }
    }

    /// The UTF-16 code unit of `\uXXXX`.
    fn code_unit(&mut self) -> ScanResult<u32> {
        self.offset += 2;
        let mut unit = 0;
        for _ in 0..4 {
            let Some(digit) = self.peek().and_then(|byte| char::from(byte).to_digit(16)) else {
                return Err(self.expected("a hexadecimal digit", "a string"));
            };
            unit = unit << 4 | digit;
            self.offset += 1;
        }
        Ok(unit)
    }
}

fn folded_name_steps(name: &[u8], has_escape: bool) -> usize {
    // The first byte of each non-ASCII letter is 0xc0 or more.
    let letters = name.iter().filter(|byte| **byte >= 0xc0).count();
    let bytes_per_step = if has_escape { ESCAPED_NAME_BYTES_PER_STEP } else { FOLDED_NAME_BYTES_PER_STEP };
    FOLDED_NAME_STEPS + name.len() / bytes_per_step + FOLDED_LETTER_STEPS * letters
}
