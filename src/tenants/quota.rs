//! What a tenant may send in a time: requests, payloads and bytes, each by a limiter of its own (GCRA, by governor), which
//! is a number and two constants.

use std::num::NonZeroU32;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota as Cells, RateLimiter};

use super::RateLimits;

/// A batch of up to so many payloads is never too large for a limit on payloads a second, however low that is.
const PAYLOADS_AT_ONCE: u64 = 10_000;
/// governor counts in whole nanoseconds a cell. A faster rate is counted in cells of several units, so that a cell takes at
/// least a microsecond, and rounding changes no rate by more than a thousandth.
const CELLS_PER_SECOND_MAX: u64 = 1_000_000;

/// A limit, as the file names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateLimit {
    /// `requests_per_second`.
    Requests,
    /// `payloads_per_second`.
    Payloads,
    /// `bytes_per_second`, of bodies as they are sent.
    Bytes,
}

impl RateLimit {
    /// As it is written in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests_per_second",
            Self::Payloads => "payloads_per_second",
            Self::Bytes => "bytes_per_second",
        }
    }
}

/// What is over a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateLimitExceeded {
    /// It may come after this time.
    RetryAfter(Duration),
    /// It is more than may ever come at once.
    AboveBurst {
        /// So much may.
        burst: u64,
    },
}

/// The limits of one tenant and what it has used of them. What is refused by one limit has used those before it.
#[derive(Debug)]
pub struct RateLimiters<C: Clock = Monotonic> {
    requests: Option<Rate<C>>,
    payloads: Option<Rate<C>>,
    bytes: Option<Rate<C>>,
}

impl RateLimiters {
    pub(super) fn new(limits: &RateLimits, max_body_bytes: usize) -> Self {
        Self::with_clock(limits, max_body_bytes, &Monotonic)
    }
}

impl<C: Clock + Clone> RateLimiters<C> {
    fn with_clock(limits: &RateLimits, max_body_bytes: usize, clock: &C) -> Self {
        let rate = |per_second: Option<u64>, at_once| {
            per_second.map(|per_second| Rate::new(per_second, limits.burst_seconds, at_once, clock.clone()))
        };
        Self {
            requests: rate(limits.requests_per_second, 1),
            payloads: rate(limits.payloads_per_second, PAYLOADS_AT_ONCE),
            bytes: rate(limits.bytes_per_second, max_body_bytes as u64),
        }
    }
}

impl<C: Clock> RateLimiters<C> {
    /// Takes `amount` of what `limit` allows.
    ///
    /// # Errors
    /// [`RateLimitExceeded`]; nothing was taken then.
    pub fn take(&self, limit: RateLimit, amount: usize) -> Result<(), RateLimitExceeded> {
        let rate = match limit {
            RateLimit::Requests => &self.requests,
            RateLimit::Payloads => &self.payloads,
            RateLimit::Bytes => &self.bytes,
        };
        rate.as_ref().map_or(Ok(()), |rate| rate.take(amount as u64))
    }
}

#[derive(Debug)]
struct Rate<C: Clock> {
    limiter: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
    clock: C,
    /// Units in a cell.
    cell: u64,
    at_once: u64,
}

impl<C: Clock + Clone> Rate<C> {
    /// So much a second; at once as much as in `burst_seconds`, and `at_once` at the least.
    fn new(per_second: u64, burst_seconds: u64, at_once: u64, clock: C) -> Self {
        let cell = per_second.div_ceil(CELLS_PER_SECOND_MAX).max(1);
        let at_once = per_second.saturating_mul(burst_seconds).max(at_once);
        let burst = u32::try_from(at_once.div_ceil(cell)).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX);
        // Not zero: a cell takes a microsecond or more.
        let nanos = (u128::from(cell) * 1_000_000_000 / u128::from(per_second.max(1))) as u64;
        let cells = Cells::with_period(Duration::from_nanos(nanos)).unwrap_or(Cells::per_second(NonZeroU32::MIN));
        let limiter = RateLimiter::direct_with_clock(cells.allow_burst(burst), clock.clone());
        Self { limiter, clock, cell, at_once }
    }
}

impl<C: Clock> Rate<C> {
    fn take(&self, amount: u64) -> Result<(), RateLimitExceeded> {
        let never = RateLimitExceeded::AboveBurst { burst: self.at_once };
        let cells = u32::try_from(amount.div_ceil(self.cell)).map_err(|_| never)?;
        let Some(cells) = NonZeroU32::new(cells) else { return Ok(()) };
        match self.limiter.check_n(cells) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(later)) => Err(RateLimitExceeded::RetryAfter(later.wait_time_from(self.clock.now()))),
            Err(_) => Err(never),
        }
    }
}

/// The system's monotonic clock, as time since it was first looked at.
#[derive(Debug, Clone, Copy)]
pub struct Monotonic;

impl Clock for Monotonic {
    type Instant = Duration;

    fn now(&self) -> Duration {
        static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
        BEGAN.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;
    use proptest::prelude::*;

    use super::*;

    const BODY_MAX_BYTES: usize = 1000;

    fn quota(limits: &RateLimits) -> (RateLimiters<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (RateLimiters::with_clock(limits, BODY_MAX_BYTES, &clock), clock)
    }

    #[test]
    fn a_limit_is_saved_up_for_as_long_as_the_file_says_and_then_comes_at_its_rate() {
        let limits = RateLimits { requests_per_second: Some(10), burst_seconds: 2, ..RateLimits::default() };
        let (quota, clock) = quota(&limits);
        assert_eq!((0..20).find(|_| quota.take(RateLimit::Requests, 1).is_err()), None);
        let Err(RateLimitExceeded::RetryAfter(wait)) = quota.take(RateLimit::Requests, 1) else {
            panic!("that was the burst")
        };
        assert_eq!(wait, Duration::from_millis(100));
        clock.advance(wait);
        assert_eq!(quota.take(RateLimit::Requests, 1), Ok(()), "the wait that it tells is enough");
        assert!(quota.take(RateLimit::Requests, 1).is_err());
        assert_eq!(
            [RateLimit::Payloads, RateLimit::Bytes].map(|limit| quota.take(limit, usize::MAX)),
            [Ok(()), Ok(())]
        );
    }

    #[test]
    fn the_largest_body_and_a_batch_of_ten_thousand_are_not_refused_for_ever_and_a_larger_batch_is_told_so() {
        let limits = RateLimits { payloads_per_second: Some(1), bytes_per_second: Some(1), ..RateLimits::default() };
        let (quota, clock) = quota(&limits);
        assert_eq!(quota.take(RateLimit::Bytes, BODY_MAX_BYTES), Ok(()));
        assert_eq!(quota.take(RateLimit::Payloads, 10_001), Err(RateLimitExceeded::AboveBurst { burst: 10_000 }));
        assert_eq!(quota.take(RateLimit::Payloads, 10_000), Ok(()));
        assert_eq!(
            quota.take(RateLimit::Payloads, 10_000),
            Err(RateLimitExceeded::RetryAfter(Duration::from_secs(10_000)))
        );
        clock.advance(Duration::from_secs(10_000));
        assert_eq!(quota.take(RateLimit::Payloads, 10_000), Ok(()), "what was used is paid back, too");
        assert_eq!(quota.take(RateLimit::Payloads, usize::MAX), Err(RateLimitExceeded::AboveBurst { burst: 10_000 }));
    }

    proptest! {
        #[test]
        fn over_time_the_rate_is_what_the_file_says(rate in 1..=1_000_000_000_u64, each in 1..1000_u64) {
            let limits = RateLimits { bytes_per_second: Some(rate), ..RateLimits::default() };
            let (quota, clock) = quota(&limits);
            // Pieces that the rate allows about a hundred of in a second, after what may come at once is used up.
            let piece = (rate / 100).max(each) as usize;
            while quota.take(RateLimit::Bytes, piece).is_ok() {}
            let (mut taken, mut passed) = (0, Duration::ZERO);
            for _ in 0..300 {
                match quota.take(RateLimit::Bytes, piece) {
                    Ok(()) => taken += piece as u64,
                    Err(RateLimitExceeded::RetryAfter(wait)) => {
                        clock.advance(wait);
                        passed += wait;
                    }
                    Err(RateLimitExceeded::AboveBurst { .. }) => panic!("a piece is less than a burst"),
                }
            }
            let most = rate as f64 * passed.as_secs_f64();
            prop_assert!((taken as f64 - most).abs() <= 0.02 * most + piece as f64, "{taken} of {most}");
        }
    }
}
