//! How long to wait before the next attempt. Pure.

use std::time::Duration;

/// The first wait is at most this.
const BASE: Duration = Duration::from_millis(200);
/// No wait is longer: also the longest that a worker may sleep on after the store has come back.
const CAP: Duration = Duration::from_secs(15);

/// Exponential backoff with full jitter: anything from nothing to `BASE` doubled with every failure, up to `CAP`, as
/// `jitter` goes from 0 to 1. The spread is what keeps many workers, and many machines, from coming back in step (AWS
/// Architecture Blog, "Exponential Backoff and Jitter").
pub(crate) fn delay(failures: u32, jitter: f64) -> Duration {
    let doubled = BASE.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX));
    doubled.min(CAP).mul_f64(jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_cap_and_jitter_covers_all_of_them() {
        assert_eq!(delay(0, 1.0), BASE);
        assert_eq!(delay(3, 1.0), BASE * 8);
        assert_eq!(delay(3, 0.5), BASE * 4);
        assert_eq!(delay(3, 0.0), Duration::ZERO);
        for failures in [7, 31, 32, 63, u32::MAX] {
            assert_eq!(delay(failures, 1.0), CAP);
        }
    }
}
