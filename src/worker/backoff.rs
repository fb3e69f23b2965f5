//! The delay before the next attempt. Pure.

use std::time::Duration;

/// The upper bound of the first delay.
const BASE: Duration = Duration::from_millis(200);
/// The upper bound of every delay, and so of the time until a worker notices that the store has recovered.
const CAP: Duration = Duration::from_secs(15);

/// Exponential backoff with full jitter: `BASE`, doubled with every failure up to `CAP`, times `jitter` from 0 to 1. The
/// jitter keeps workers and machines from retrying at the same time (AWS Architecture Blog, "Exponential Backoff and
/// Jitter").
pub(crate) fn delay(failures: u32, jitter: f64) -> Duration {
    let doubled = BASE.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX));
    doubled.min(CAP).mul_f64(jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_cap_and_jitter_scales_them() {
        assert_eq!(delay(0, 1.0), BASE);
        assert_eq!(delay(3, 1.0), BASE * 8);
        assert_eq!(delay(3, 0.5), BASE * 4);
        assert_eq!(delay(3, 0.0), Duration::ZERO);
        for failures in [7, 31, 32, 63, u32::MAX] {
            assert_eq!(delay(failures, 1.0), CAP);
        }
    }
}
