//! Requests of the daemon of worker environments of AWS Elastic Beanstalk (sqsd), which posts each message of an SQS queue as a
//! batch. Its requests have `X-Aws-Sqsd-Msgid`.
//!
//! Only a 200 deletes the message. After any other response the daemon ignores `Retry-After` and posts the message again after
//! `ErrorVisibilityTimeout`, 2 s by default; after ten attempts the message goes to the dead letter queue. So a request that
//! cannot be accepted now is held until it can be, and a rejection that may not be repeated is delayed. Nothing of a held request
//! is in memory but its charge as a request in flight. A message that is accepted, but not at the requested level yet, is held as
//! well: each repetition of it would be stored.
//!
//! Source: AWS Elastic Beanstalk Developer Guide, "Elastic Beanstalk worker environments" and "General options for all
//! environments", `aws:elasticbeanstalk:sqsd`.

use std::net::IpAddr;
use std::time::Duration;

use axum::http::HeaderMap;
use prometheus::IntGauge;
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep_until};

use super::client_permits::{ClientKey, ClientPermit, ClientPermits};
use super::problem::Problem;
use super::state::ApiState;
use crate::headers::X_AWS_SQSD_MSGID;
use crate::shutdown::Shutdown;

/// The longest time from the headers of a request to the end of its hold. Ten attempts take five minutes then. With
/// [`HELD_BODY_TIMEOUT`] and the default of `ACK_TIMEOUT` it is below the 60 s for which nginx waits for a response.
const HOLD_MAX: Duration = Duration::from_secs(30);
/// How often a held request checks whether it can be accepted.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// A held request has a job of the queue reserved while its body arrives. The daemon is on the same machine.
const HELD_BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Precedes the names of all headers of the daemon.
const PREFIX: &str = "x-aws-sqsd-";

/// Whether a request is one of the daemon. Any client can send the header. It gets no right by it.
pub(super) fn is_from_daemon(headers: &HeaderMap) -> bool {
    headers.contains_key(X_AWS_SQSD_MSGID)
}

/// The headers of the daemon as a JSON object, by their names without the prefix. Values that are not UTF-8 are left out.
pub(super) fn context(headers: &HeaderMap) -> String {
    let member = |(name, value): (&axum::http::HeaderName, &axum::http::HeaderValue)| {
        let name = name.as_str().strip_prefix(PREFIX)?;
        Some((name.to_owned(), Value::from(str::from_utf8(value.as_bytes()).ok()?)))
    };
    // Of several values of a name, the map keeps the last.
    Value::from(headers.iter().filter_map(member).collect::<Map<_, _>>()).to_string()
}

/// The wait of a request of the daemon for its acceptance or for its rejection.
pub(super) struct Hold<'s> {
    permits: &'s ClientPermits,
    gauge: &'s IntGauge,
    shutdown: &'s Shutdown,
    client: ClientKey,
    until: Instant,
    /// Set from the first wait on.
    permit: Option<HoldPermit<'s>>,
}

/// The right to be held.
struct HoldPermit<'s> {
    _permit: ClientPermit<'s>,
    gauge: &'s IntGauge,
}

impl<'s> Hold<'s> {
    /// The hold of a request that has just arrived; none unless it is from the daemon.
    pub(super) fn of(state: &'s ApiState, headers: &HeaderMap, client: Option<IpAddr>) -> Option<Self> {
        let (permits, gauge, shutdown) = (&state.holds, &state.context.metrics.requests_held, &state.context.shutdown);
        is_from_daemon(headers).then(|| Self::new(permits, gauge, shutdown, ClientKey::new(None, client)))
    }

    fn new(permits: &'s ClientPermits, gauge: &'s IntGauge, shutdown: &'s Shutdown, client: ClientKey) -> Self {
        Self { permits, gauge, shutdown, client, until: Instant::now() + HOLD_MAX, permit: None }
    }

    /// Repeats `attempt` until it succeeds, or fails in a way that does not pass, or the hold ends. The parameter of `attempt` is
    /// whether the request was held before.
    pub(super) async fn until_accepted(
        &mut self,
        mut attempt: impl FnMut(bool) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        loop {
            match attempt(self.permit.is_some()) {
                Err(problem) if problem.is_temporary() && self.wait(CHECK_INTERVAL).await => {}
                result => return result,
            }
        }
    }

    /// The timeout of the body. One that arrives after a hold is given less time.
    pub(super) fn body_timeout(&self, timeout: Duration) -> Duration {
        if self.permit.is_some() { timeout.min(HELD_BODY_TIMEOUT) } else { timeout }
    }

    /// Ends the hold of a request whose body has arrived.
    pub(super) fn release(&mut self) {
        self.permit = None;
    }

    /// Waits before a rejection that the daemon should not repeat at once.
    pub(super) async fn delay(&mut self, problem: &Problem) {
        if problem.is_temporary() {
            self.wait(HOLD_MAX).await;
        }
    }

    /// Waits for `stored` after the request's own timeout, to the end of the hold or to the shutdown. The daemon would post the message
    /// again at once.
    pub(super) async fn until_stored<T>(&mut self, stored: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            stored = stored => Some(stored),
            _ = self.wait(HOLD_MAX) => None,
        }
    }

    /// Waits for `time`, to the end of the hold or to the shutdown. False without a wait if that has come, or if too many requests
    /// are held.
    async fn wait(&mut self, time: Duration) -> bool {
        let now = Instant::now();
        if now >= self.until || self.shutdown.is_draining() {
            return false;
        }
        if self.permit.is_none() {
            self.permit = self.permits.try_acquire(&self.client).map(|permit| HoldPermit::new(permit, self.gauge));
        }
        if self.permit.is_none() {
            return false;
        }
        tokio::select! {
            () = sleep_until(self.until.min(now + time)) => {}
            // The connection is about to close, and the daemon posts the message again, to this process or to another one.
            () = self.shutdown.draining() => {}
        }
        true
    }
}

impl<'s> HoldPermit<'s> {
    fn new(permit: ClientPermit<'s>, gauge: &'s IntGauge) -> Self {
        gauge.inc();
        Self { _permit: permit, gauge }
    }
}

impl Drop for HoldPermit<'_> {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    struct Parts {
        permits: ClientPermits,
        gauge: IntGauge,
        shutdown: Shutdown,
    }

    impl Parts {
        fn new(max: usize) -> Self {
            let gauge = IntGauge::new("held", "held").unwrap();
            Self { permits: ClientPermits::new(max), gauge, shutdown: Shutdown::default() }
        }

        fn hold(&self) -> Hold<'_> {
            Hold::new(&self.permits, &self.gauge, &self.shutdown, ClientKey::new(None, None))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_held_until_it_is_accepted() {
        let parts = Parts::new(4);
        let (mut hold, began) = (parts.hold(), Instant::now());
        let mut attempts = 0;
        let accepted = hold.until_accepted(|is_held| {
            attempts += 1;
            assert_eq!((is_held, parts.gauge.get()), (attempts > 1, i64::from(attempts > 1)));
            if attempts < 4 { Err(Problem::QueueFull) } else { Ok(()) }
        });
        accepted.await.unwrap();
        assert_eq!(began.elapsed(), CHECK_INTERVAL * 3);
        assert_eq!(hold.body_timeout(HOLD_MAX), HELD_BODY_TIMEOUT);
        hold.release();
        assert_eq!((parts.gauge.get(), hold.body_timeout(HOLD_MAX)), (0, HOLD_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_ends_after_its_longest_time_and_a_rejection_is_delayed_to_the_same_time() {
        let parts = Parts::new(4);
        let (mut hold, began) = (parts.hold(), Instant::now());
        let problem = hold.until_accepted(|_| Err(Problem::SpoolFull)).await.unwrap_err();
        assert!(matches!(problem, Problem::SpoolFull));
        assert_eq!(began.elapsed(), HOLD_MAX);
        hold.delay(&problem).await;
        assert_eq!(began.elapsed(), HOLD_MAX, "it was held for that already");
        drop(hold);
        let (mut hold, began) = (parts.hold(), Instant::now());
        hold.delay(&Problem::NotConfirmed).await;
        assert_eq!(began.elapsed(), HOLD_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_retry_does_not_change_is_rejected_at_once() {
        let parts = Parts::new(4);
        let (mut hold, began) = (parts.hold(), Instant::now());
        assert!(hold.until_accepted(|_| Err(Problem::UnsupportedType)).await.is_err());
        for problem in [Problem::InvalidToken, Problem::NoToken, Problem::TooLarge(String::new())] {
            hold.delay(&problem).await;
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_beyond_the_limit_and_during_a_shutdown_are_rejected_at_once() {
        // One client may hold a quarter.
        let parts = Parts::new(4);
        let (mut first, mut second, began) = (parts.hold(), parts.hold(), Instant::now());
        first.delay(&Problem::QueueFull).await;
        second.delay(&Problem::QueueFull).await;
        assert_eq!(began.elapsed(), HOLD_MAX);
        drop(first);
        let (mut third, began) = (parts.hold(), Instant::now());
        let held = async {
            let problem = third.until_accepted(|_| Err(Problem::QueueFull)).await;
            assert!(problem.is_err());
        };
        let stop = async {
            sleep_until(began + CHECK_INTERVAL * 5 / 2).await;
            parts.shutdown.drain();
        };
        tokio::join!(held, stop);
        assert_eq!(began.elapsed(), CHECK_INTERVAL * 5 / 2);
    }

    #[test]
    fn the_context_has_the_headers_of_the_daemon_and_no_other() {
        let headers = HeaderMap::from_iter(
            [
                ("x-aws-sqsd-msgid", &b"m-1"[..]),
                ("x-aws-sqsd-attr-colour", b"a \"b\" \xc3\xa9"),
                ("x-aws-sqsd-attr-bytes", b"\xff"),
                ("authorization", b"Bearer t"),
                ("x-aws-sqsd", b"x"),
            ]
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())),
        );
        assert!(is_from_daemon(&headers) && !is_from_daemon(&HeaderMap::new()));
        assert_eq!(context(&headers), "{\"attr-colour\":\"a \\\"b\\\" é\",\"msgid\":\"m-1\"}");
    }
}
