//! A secret that was given to the server: only its digest is kept, so that there is nothing to print.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The SHA-256 of a secret.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Keeps the digest of `secret`.
    pub fn new(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// Whether `guess` is the secret; how long that takes tells nothing of how near it came.
    pub fn is(&self, guess: &[u8]) -> bool {
        self.0.ct_eq(&Self::new(guess).0).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_itself_is_the_secret_and_it_does_not_print() {
        let secret = Secret::new(b"open sesame");
        assert!(secret.is(b"open sesame"));
        for guess in [&b""[..], b"open sesam", b"open sesame ", b"Open sesame"] {
            assert!(!secret.is(guess));
        }
        assert_eq!(format!("{secret:?}"), "Secret");
    }
}
