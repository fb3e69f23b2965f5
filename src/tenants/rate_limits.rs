//! The rate limiters of a tenant: requests, payloads and bytes, each with a limiter of its own (GCRA, from governor).

use std::num::NonZeroU32;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::RateLimits;

/// A batch of this many payloads is always accepted within a burst, however low the limit is.
const PAYLOADS_BURST_MIN: u64 = 10_000;
/// governor counts cells, in whole nanoseconds per cell. At higher rates a cell has several units, so that it takes at
/// least a microsecond, and rounding changes the rate by at most a thousandth.
const CELLS_PER_SECOND_MAX: u64 = 1_000_000;

/// One of the limits in the file of tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateLimit {
    /// `requests_per_second`.
    Requests,
    /// `payloads_per_second`.
    Payloads,
    /// `bytes_per_second`, of bodies as sent.
    Bytes,
}

impl RateLimit {
    /// The name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests_per_second",
            Self::Payloads => "payloads_per_second",
            Self::Bytes => "bytes_per_second",
        }
    }

    /// What it counts.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Payloads => "payloads",
            Self::Bytes => "bytes",
        }
    }
}

/// How a limit was exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateLimitExceeded {
    /// The amount is available after this time.
    RetryAfter(Duration),
    /// The amount exceeds a burst, so it is never available.
    AboveBurst {
        /// The maximum amount.
        burst: u64,
    },
}

/// The rate limiters of one tenant. A request that one of them rejects has used the limits that were checked before.
#[derive(Debug)]
pub struct RateLimiters<C: Clock = MonotonicClock> {
    requests: Option<Limiter<C>>,
    payloads: Option<Limiter<C>>,
    bytes: Option<Limiter<C>>,
}

impl RateLimiters {
    pub(super) fn new(limits: &RateLimits, max_body_bytes: usize) -> Self {
        Self::with_clock(limits, max_body_bytes, &MonotonicClock)
    }
}

impl<C: Clock + Clone> RateLimiters<C> {
    fn with_clock(limits: &RateLimits, max_body_bytes: usize, clock: &C) -> Self {
        let limiter = |per_second: Option<u64>, min_burst: u64| {
            let burst = per_second?.saturating_mul(limits.burst_seconds).max(min_burst);
            Some(Limiter::new(per_second?, burst, clock.clone()))
        };
        Self {
            requests: limiter(limits.requests_per_second, 1),
            payloads: limiter(limits.payloads_per_second, PAYLOADS_BURST_MIN),
            bytes: limiter(limits.bytes_per_second, max_body_bytes as u64),
        }
    }
}

impl<C: Clock> RateLimiters<C> {
    /// Takes `amount` from `limit`.
    ///
    /// # Errors
    /// [`RateLimitExceeded`]; then nothing was taken.
    pub fn take(&self, limit: RateLimit, amount: usize) -> Result<(), RateLimitExceeded> {
        let limiter = match limit {
            RateLimit::Requests => &self.requests,
            RateLimit::Payloads => &self.payloads,
            RateLimit::Bytes => &self.bytes,
        };
        limiter.as_ref().map_or(Ok(()), |limiter| limiter.take(amount as u64))
    }
}

#[derive(Debug)]
struct Limiter<C: Clock> {
    limiter: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
    clock: C,
    units_per_cell: u64,
    /// In units.
    burst: u64,
}

impl<C: Clock + Clone> Limiter<C> {
    fn new(per_second: u64, burst: u64, clock: C) -> Self {
        let units_per_cell = per_second.div_ceil(CELLS_PER_SECOND_MAX).max(1);
        let cells =
            u32::try_from(burst.div_ceil(units_per_cell)).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX);
        let nanos = (u128::from(units_per_cell) * 1_000_000_000 / u128::from(per_second.max(1))) as u64;
        // The period is not zero, because a cell takes a microsecond or more.
        let quota = Quota::with_period(Duration::from_nanos(nanos)).unwrap_or(Quota::per_second(NonZeroU32::MIN));
        let limiter = RateLimiter::direct_with_clock(quota.allow_burst(cells), clock.clone());
        Self { limiter, clock, units_per_cell, burst }
    }
}

impl<C: Clock> Limiter<C> {
    fn take(&self, amount: u64) -> Result<(), RateLimitExceeded> {
        let above_burst = RateLimitExceeded::AboveBurst { burst: self.burst };
        let cells = u32::try_from(amount.div_ceil(self.units_per_cell)).map_err(|_| above_burst)?;
        let Some(cells) = NonZeroU32::new(cells) else { return Ok(()) };
        match self.limiter.check_n(cells) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => Err(RateLimitExceeded::RetryAfter(not_until.wait_time_from(self.clock.now()))),
            Err(_) => Err(above_burst),
        }
    }
}

/// The monotonic clock of the system, as the time since its first use.
#[derive(Debug, Clone, Copy)]
pub struct MonotonicClock;

impl Clock for MonotonicClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;
    use proptest::prelude::*;

    use super::*;

    const BODY_MAX_BYTES: usize = 1000;

    fn rate_limiters(limits: &RateLimits) -> (RateLimiters<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (RateLimiters::with_clock(limits, BODY_MAX_BYTES, &clock), clock)
    }

    #[test]
    fn after_the_burst_the_limit_is_available_at_its_rate() {
        let limits = RateLimits { requests_per_second: Some(10), burst_seconds: 2, ..RateLimits::default() };
        let (limiters, clock) = rate_limiters(&limits);
        assert_eq!((0..20).find(|_| limiters.take(RateLimit::Requests, 1).is_err()), None);
        let Err(RateLimitExceeded::RetryAfter(wait)) = limiters.take(RateLimit::Requests, 1) else {
            panic!("the burst is used up")
        };
        assert_eq!(wait, Duration::from_millis(100));
        clock.advance(wait);
        assert_eq!(limiters.take(RateLimit::Requests, 1), Ok(()), "the wait is sufficient");
        assert!(limiters.take(RateLimit::Requests, 1).is_err());
        assert_eq!(
            [RateLimit::Payloads, RateLimit::Bytes].map(|limit| limiters.take(limit, usize::MAX)),
            [Ok(()), Ok(())]
        );
    }

    #[test]
    fn the_largest_body_and_10_000_payloads_fit_into_every_burst() {
        let limits = RateLimits { payloads_per_second: Some(1), bytes_per_second: Some(1), ..RateLimits::default() };
        let (limiters, clock) = rate_limiters(&limits);
        assert_eq!(limiters.take(RateLimit::Bytes, BODY_MAX_BYTES), Ok(()));
        assert_eq!(limiters.take(RateLimit::Payloads, 10_001), Err(RateLimitExceeded::AboveBurst { burst: 10_000 }));
        assert_eq!(limiters.take(RateLimit::Payloads, 10_000), Ok(()));
        assert_eq!(
            limiters.take(RateLimit::Payloads, 10_000),
            Err(RateLimitExceeded::RetryAfter(Duration::from_secs(10_000)))
        );
        clock.advance(Duration::from_secs(10_000));
        assert_eq!(limiters.take(RateLimit::Payloads, 10_000), Ok(()), "the burst is available again");
        assert_eq!(
            limiters.take(RateLimit::Payloads, usize::MAX),
            Err(RateLimitExceeded::AboveBurst { burst: 10_000 })
        );
    }

    proptest! {
        #[test]
        fn the_average_rate_is_the_limit(rate in 1..=1_000_000_000_u64, each in 1..1000_u64) {
            let limits = RateLimits { bytes_per_second: Some(rate), ..RateLimits::default() };
            let (limiters, clock) = rate_limiters(&limits);
            // After the burst, the rate allows about a hundred pieces in a second.
            let piece = (rate / 100).max(each) as usize;
            while limiters.take(RateLimit::Bytes, piece).is_ok() {}
            let (mut taken, mut passed) = (0, Duration::ZERO);
            for _ in 0..300 {
                match limiters.take(RateLimit::Bytes, piece) {
                    Ok(()) => taken += piece as u64,
                    Err(RateLimitExceeded::RetryAfter(wait)) => {
                        clock.advance(wait);
                        passed += wait;
                    }
                    Err(RateLimitExceeded::AboveBurst { .. }) => panic!("a piece is smaller than the burst"),
                }
            }
            let expected = rate as f64 * passed.as_secs_f64();
            prop_assert!((taken as f64 - expected).abs() <= 0.02 * expected + piece as f64, "{taken} of {expected}");
        }
    }
}
