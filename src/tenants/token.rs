//! The digest of a token.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

/// A longer token is nobody's: whoever sends one is not to have us work through it.
const TOKEN_MAX_BYTES: usize = 4096;

/// The SHA-256 of a token. It is compared in constant time and not printed: a short token could be found from it.
#[derive(Clone, Copy)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of a token; none of one that nobody has.
    pub fn of(token: &[u8]) -> Option<Self> {
        (1..=TOKEN_MAX_BYTES).contains(&token.len()).then(|| Self(Sha256::digest(token).into()))
    }

    /// Whether it is the digest of no bytes at all, as a slip in a script makes it.
    pub(super) fn is_of_nothing(&self) -> bool {
        *self == Self(Sha256::digest([]).into())
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Digest {}

impl Hash for Digest {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.0.hash(hasher);
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a digest)")
    }
}

impl FromStr for Digest {
    type Err = ();

    /// Reads 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut bytes = [0; 32];
        if text.len() != 2 * bytes.len() || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(());
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| ())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| ())?;
        }
        Ok(Self(bytes))
    }
}
