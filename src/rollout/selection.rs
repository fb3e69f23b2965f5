//! Which keys belong to a share. It is the same on every machine and in every version, and raising a share only adds keys.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// Keys are spread over so many buckets: a share has two decimals.
const BUCKETS: u16 = 10_000;

/// The bucket of `key`, from 0 to 9999. `salt` is the name of what is rolled out, so that 1% of one and 1% of another are
/// different keys.
///
/// It is the first 8 bytes of SHA-256 of the salt, a zero byte and the key, as a big-endian number, modulo 10,000.
pub fn bucket(salt: &str, key: &str) -> u16 {
    let digest = Sha256::new().chain_update(salt).chain_update([0]).chain_update(key).finalize();
    let number = digest.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    (number % u64::from(BUCKETS)) as u16
}

/// The bucket of a request. It is drawn: with one of its id, a client could choose where its requests go.
pub(crate) fn draw() -> u16 {
    fastrand::u16(..BUCKETS)
}

/// A share, in hundredths of a percent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u16);

impl Percent {
    /// Everything.
    pub const ALL: Self = Self(BUCKETS);

    /// A share of 0 to 100 percent with at most two decimals; `None` for any other number.
    pub fn new(percent: f64) -> Option<Self> {
        let hundredths = percent * 100.0;
        let is_exact = (hundredths - hundredths.round()).abs() < 1e-6;
        (is_exact && (0.0..=f64::from(BUCKETS)).contains(&hundredths)).then_some(Self(hundredths.round() as u16))
    }

    /// The share in percent.
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// Whether it is nothing.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The number of buckets in the share.
    pub(super) fn buckets(self) -> u16 {
        self.0
    }

    /// Whether a bucket belongs to the share.
    pub(crate) fn contains(self, bucket: u16) -> bool {
        bucket < self.0
    }

    /// Whether `key` belongs to the share.
    pub fn selects(self, salt: &str, key: &str) -> bool {
        // Without a hash where the result does not depend on it.
        self.0 > 0 && (self == Self::ALL || self.contains(bucket(salt, key)))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.percent())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_the_same_in_every_version() {
        let known = [
            ("forward", "acme", 3818),
            ("forward", "", 2212),
            ("mirror", "acme", 3049),
            ("variant", "192.0.2.1", 9240),
        ];
        let found = known.map(|(salt, key, _)| bucket(salt, key));
        assert_eq!(found, known.map(|(_, _, bucket)| bucket));
        assert_ne!(bucket("a", "bc"), bucket("ab", "c"));
    }

    #[test]
    fn a_raised_share_keeps_its_keys_and_has_about_its_size() {
        let keys: Vec<String> = (0..100_000).map(|number| format!("tenant-{number}")).collect();
        let mut before = vec![false; keys.len()];
        for percent in [0.0, 0.01, 1.0, 10.0, 50.0, 99.99, 100.0] {
            let share = Percent::new(percent).unwrap();
            let selected: Vec<bool> = keys.iter().map(|key| share.selects("forward", key)).collect();
            assert!(before.iter().zip(&selected).all(|(before, now)| now >= before), "{percent}");
            let count = selected.iter().filter(|selected| **selected).count() as f64;
            let expected = percent * keys.len() as f64 / 100.0;
            // Six standard deviations.
            assert!((count - expected).abs() <= 6.0 * expected.sqrt() + 1.0, "{percent}%: {count}");
            before = selected;
        }
    }

    #[test]
    fn about_the_share_of_the_requests_is_drawn() {
        for percent in [0.0, 10.0, 100.0] {
            let share = Percent::new(percent).unwrap();
            let count = (0..10_000).filter(|_| share.contains(draw())).count() as f64;
            // Six standard deviations.
            assert!(
                (count - percent * 100.0).abs() <= 6.0 * (percent * 100.0 * (1.0 - percent / 100.0)).sqrt(),
                "{count}"
            );
        }
    }

    #[test]
    fn a_share_has_at_most_two_decimals_and_is_at_most_everything() {
        for (percent, hundredths) in [(0.0, 0), (-0.0, 0), (0.01, 1), (0.29, 29), (33.33, 3333), (100.0, 10_000)] {
            assert_eq!(Percent::new(percent), Some(Percent(hundredths)), "{percent}");
        }
        for wrong in [-0.01, 100.01, 101.0, 0.001, 33.333, f64::NAN, f64::INFINITY, 1e300] {
            assert_eq!(Percent::new(wrong), None, "{wrong}");
        }
    }
}
