//! Ramp-up: hands requests to another version, and stops when that one is clearly worse.
//!
//! A response that says that the request was rejected is not passed on: this version takes the batch. So a wrong URL, other
//! tokens or lower limits of the other version cost no batch, and count as its errors.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use axum::http::StatusCode;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::sleep_until;

use super::guard::{Guard, Judgement, Outcome, Side, Trip};
use super::original::Original;
use super::outbound::{Connector, Outbound, Received, SendError};
use super::{By, ClientKey, Feature, Features, ForwardTo};
use crate::bound::Bound;
use crate::headers::MILLPOND_REJECTION;
use crate::log_throttle::LogThrottle;
use crate::metrics::{ForwardResult, Metrics, StatusClass};
use crate::shutdown::Shutdown;

/// Forwarded requests in flight. More are handled here.
pub(super) const FORWARDS_MAX: usize = 512;
const SALT: &str = "forward";

/// Another version that is away fails every request.
static FORWARD_LOG: LogThrottle = LogThrottle::new(Duration::from_secs(10));
/// Of its own, because the remedy is another one.
static REJECTION_LOG: LogThrottle = LogThrottle::new(Duration::from_secs(10));

/// Puts what plans forward in force.
pub(super) struct Forwarder {
    pub(super) connector: Connector,
    pub(super) response_timeout: Duration,
    /// How long a shutdown waits for forwarded requests.
    pub(super) drain_timeout: Duration,
    pub(super) metrics: Arc<Metrics>,
    /// Forwarded bodies in flight; more requests are handled here. They count against `MAX_QUEUE_BYTES` as well, and must not
    /// use all of it when the other version hangs.
    pub(super) bytes: Arc<Bound>,
}

/// What is forwarded, with what the guard knows since it is in force.
pub(crate) struct Forward {
    to: ForwardTo,
    outbound: Arc<Outbound>,
    drain_timeout: Duration,
    metrics: Arc<Metrics>,
    /// Bodies in flight to the other version.
    bytes: Arc<Bound>,
    guard: Mutex<Guard>,
    /// Whether something else is in force.
    is_replaced: AtomicBool,
    tripped: OnceLock<Tripped>,
}

/// Since when nothing is forwarded, and why.
#[derive(Debug, Clone, Copy)]
pub struct Tripped {
    /// The time of the last forwarded request.
    pub since: SystemTime,
    /// What both versions did until then.
    pub why: Trip,
}

/// The result of a forwarded request.
pub(crate) enum Forwarded {
    /// The other server has responded.
    Passed(Received),
    /// The other server has not taken the request.
    NotTaken,
    /// The other server has rejected the request for what it contains. If it is accepted here, the versions differ.
    Rejected(StatusCode),
    /// The other server may have taken the request.
    Unknown,
}

impl Forwarder {
    /// What a new plan forwards; `None` for nothing. If that is the same as before, the guard keeps what it knows.
    pub(super) fn replace(
        &self,
        to: Option<&ForwardTo>,
        previous: Option<&Arc<Forward>>,
        now: Instant,
    ) -> Option<Arc<Forward>> {
        let to = to.filter(|to| !to.percent.is_zero());
        if let Some(previous) = previous {
            if to == Some(&previous.to) {
                return Some(Arc::clone(previous));
            }
            previous.is_replaced.store(true, Ordering::Relaxed);
        }
        let to = to?;
        let outbound = || Outbound::new(to.url.clone(), self.connector.clone(), FORWARDS_MAX, self.response_timeout);
        let previous = previous.filter(|previous| previous.to.url == to.url);
        Some(Arc::new(Forward {
            to: to.clone(),
            outbound: previous.map_or_else(|| Arc::new(outbound()), |previous| Arc::clone(&previous.outbound)),
            drain_timeout: self.drain_timeout,
            metrics: Arc::clone(&self.metrics),
            bytes: Arc::clone(&self.bytes),
            guard: Mutex::new(Guard::new(now)),
            is_replaced: AtomicBool::new(false),
            tripped: OnceLock::new(),
        }))
    }
}

impl Forward {
    /// Whether the guard has stopped it.
    pub(crate) fn is_tripped(&self) -> bool {
        self.tripped.get().is_some()
    }

    /// Since when nothing is forwarded, and why, if the guard has stopped it.
    pub(crate) fn tripped(&self) -> Option<Tripped> {
        self.tripped.get().copied()
    }

    /// What the guard can judge with the requests that it has seen.
    pub(crate) fn judgement(&self) -> Judgement {
        self.guard.lock().judgement(Instant::now())
    }

    /// Whether requests of this client, or a request with this bucket, are forwarded now.
    pub(crate) fn selects(&self, features: &Features, client: Option<&ClientKey<'_>>, bucket: u16) -> bool {
        let is_selected = match self.to.by {
            By::Request => self.to.percent.contains(bucket),
            By::Tenant => client.is_some_and(|client| client.selected_by(self.to.percent, SALT)),
        };
        is_selected && !self.is_tripped() && features.is_on(Feature::Forward, client)
    }

    pub(super) fn close_idle(&self) {
        self.outbound.close_idle();
    }

    /// Sends a request to the other version. `waits` for more than its commit, so its latency is not compared.
    pub(crate) async fn send(&self, original: &Original, body: Bytes, waits: bool, shutdown: &Shutdown) -> Forwarded {
        let mut in_flight = InFlight { forward: self, began: Instant::now(), waits, is_ended: false };
        let sending = async {
            let _permit = self.bytes.acquire(body.len()).ok_or(SendError::Busy)?;
            self.outbound.send(original.forwarded(self.outbound.url()), body).await
        };
        let sent = tokio::select! {
            sent = sending => sent,
            () = async {
                let began = shutdown.drain_began().await;
                sleep_until(began + self.drain_timeout).await;
            } => Err(SendError::Unknown("this server shuts down".to_owned())),
        };
        in_flight.is_ended = true;
        let elapsed = in_flight.began.elapsed();
        let (result, forwarded) = match sent {
            Ok(received) => {
                self.metrics.relay.forward_response(StatusClass::of(received.status), elapsed);
                self.received(received, (!waits).then_some(elapsed))
            }
            Err(SendError::Busy) => (ForwardResult::TakenHere, Forwarded::NotTaken),
            Err(SendError::NotTaken(error)) => {
                if let Some(suppressed) = FORWARD_LOG.permit() {
                    let url = self.outbound.url();
                    tracing::warn!(%url, error, suppressed, "a request could not be forwarded; it is handled here");
                }
                self.record(Side::Other, Outcome::Failed, None);
                (ForwardResult::TakenHere, Forwarded::NotTaken)
            }
            Err(SendError::Unknown(error)) => {
                if let Some(suppressed) = FORWARD_LOG.permit() {
                    let url = self.outbound.url();
                    tracing::warn!(%url, error, suppressed, "the outcome of a forwarded request is unknown; the client gets 503");
                }
                self.record(Side::Other, Outcome::Failed, None);
                (ForwardResult::Unknown, Forwarded::Unknown)
            }
        };
        self.metrics.relay.forwarded(result);
        forwarded
    }

    fn received(&self, received: Received, latency: Option<Duration>) -> (ForwardResult, Forwarded) {
        let status = received.status;
        if is_misdirected(status) {
            self.rejected(status);
            return (ForwardResult::TakenHere, Forwarded::NotTaken);
        }
        if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS {
            return (ForwardResult::TakenHere, Forwarded::Rejected(status));
        }
        if status.is_server_error() {
            // A tenant that uses up its share says nothing about the other version.
            if !received.headers.contains_key(MILLPOND_REJECTION) {
                self.record(Side::Other, Outcome::Failed, None);
            }
        } else {
            self.record(Side::Other, Outcome::Ok, latency);
        }
        (ForwardResult::Passed, Forwarded::Passed(received))
    }

    /// Adds a request that the other version has rejected, although this one has not.
    pub(crate) fn rejected(&self, status: StatusCode) {
        if let Some(suppressed) = REJECTION_LOG.permit() {
            tracing::warn!(
                url = %self.outbound.url(),
                %status,
                suppressed,
                "the other version has rejected a request that this one accepts; it is handled here: check that forward.url is \
                 LISTEN_ADDR of that version, and that it has the same TOKENS_FILE, ALLOWED_ORIGINS, ACK_MAX, features and limits"
            );
        }
        self.record(Side::Other, Outcome::Failed, None);
    }

    /// Adds a request that both versions have rejected.
    pub(crate) fn rejected_by_both(&self) {
        self.record(Side::Other, Outcome::Ok, None);
    }

    /// Adds a request that was handled here, with its latency if that is comparable.
    pub(crate) fn handled_here(&self, is_error: bool, latency: Option<Duration>) {
        self.record(Side::Own, if is_error { Outcome::Failed } else { Outcome::Ok }, latency.filter(|_| !is_error));
    }

    /// Adds a request that was handled here until its client left.
    pub(crate) fn abandoned_here(&self, after: Duration) {
        self.record(Side::Own, Outcome::Abandoned, Some(after));
    }

    fn record(&self, side: Side, outcome: Outcome, latency: Option<Duration>) {
        if self.is_tripped() || self.is_replaced.load(Ordering::Relaxed) {
            return;
        }
        let Some(why) = self.guard.lock().record(side, Instant::now(), outcome, latency) else { return };
        if self.tripped.set(Tripped { since: SystemTime::now(), why }).is_ok() {
            tracing::error!(
                url = %self.outbound.url(),
                %why,
                "the other version is worse than this one, so nothing is forwarded to it any more; to forward again, correct it \
                 and change percent or url of `forward` in ROLLOUT_FILE"
            );
        }
    }
}

/// Whether a response says that the request was sent to the wrong server, or to one with other settings: this version has
/// checked the route, the token and the headers already.
fn is_misdirected(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::LENGTH_REQUIRED
            | StatusCode::NOT_IMPLEMENTED
    ) || status.is_redirection()
}

/// A request on its way to the other version. If it is dropped before it has ended, its client has left.
struct InFlight<'a> {
    forward: &'a Forward,
    began: Instant,
    waits: bool,
    is_ended: bool,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if !self.is_ended {
            self.forward.metrics.relay.forwarded(ForwardResult::Abandoned);
            if !self.waits {
                self.forward.record(Side::Other, Outcome::Abandoned, Some(self.began.elapsed()));
            }
        }
    }
}
