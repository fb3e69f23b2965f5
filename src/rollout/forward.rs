//! Ramp-up: hands requests to another version, and stops when that one is clearly worse.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use axum::http::Uri;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::sleep;

use super::guard::{Guard, Side, Trip};
use super::original::Original;
use super::outbound::{Connector, Outbound, Received, SendError};
use super::{By, ClientKey, Feature, Plan, Rollout};
use crate::bound::Bound;
use crate::log_throttle::LogThrottle;
use crate::metrics::{ForwardResult, Metrics, StatusClass};
use crate::shutdown::Shutdown;

/// Forwarded requests in flight. More are handled here.
pub(super) const FORWARDS_MAX: usize = 512;
/// How long a shutdown waits for a forwarded request.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);
const SALT: &str = "forward";

/// Another version that is away fails every request.
static FORWARD_LOG: LogThrottle = LogThrottle::new(Duration::from_secs(10));

/// Forwards requests as the plan in force has it.
pub struct Forwarder {
    connector: Connector,
    response_timeout: Duration,
    metrics: Arc<Metrics>,
    bytes: Arc<Bound>,
    current: ArcSwapOption<Forward>,
    replacing: Mutex<()>,
}

/// One version of the plan, with what the guard knows since it is in force.
pub(crate) struct Forward {
    plan: Arc<Plan>,
    outbound: Arc<Outbound>,
    metrics: Arc<Metrics>,
    /// Bodies in flight to the other version.
    bytes: Arc<Bound>,
    guard: Mutex<Guard>,
    /// Whether a later version is in force.
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
    /// The other server may have taken the request.
    Unknown,
}

impl Forwarder {
    /// Forwarded bodies in flight have at most `max_bytes` together; more requests are handled here. They count against
    /// `MAX_QUEUE_BYTES` as well, and must not use all of it when the other version hangs.
    pub(super) fn new(
        connector: Connector,
        response_timeout: Duration,
        max_bytes: usize,
        metrics: Arc<Metrics>,
    ) -> Self {
        let bytes = Arc::new(Bound::new(max_bytes));
        Self {
            connector,
            response_timeout,
            metrics,
            bytes,
            current: ArcSwapOption::empty(),
            replacing: Mutex::default(),
        }
    }

    /// What is forwarded under the plan in force; `None` if nothing is.
    pub(crate) fn current(&self, rollout: &Rollout) -> Option<Arc<Forward>> {
        let current = self.current.load_full();
        let plan = rollout.plan();
        plan.forward.as_ref().filter(|to| !to.percent.is_zero())?;
        if let Some(current) = current.filter(|current| Arc::ptr_eq(&current.plan, &plan)) {
            return Some(current);
        }
        let _replacing = self.replacing.lock();
        // Again, because an older plan must not replace a newer one.
        let current = self.current.load_full();
        let plan = rollout.plan();
        let to = plan.forward.as_ref().filter(|to| !to.percent.is_zero())?;
        let outbound = match current {
            Some(current) if Arc::ptr_eq(&current.plan, &plan) => return Some(current),
            Some(current) if *current.outbound.url() == to.url => Arc::clone(&current.outbound),
            _ => Arc::new(self.outbound(&to.url)),
        };
        let new = Arc::new(Forward {
            plan: Arc::clone(&plan),
            outbound,
            metrics: Arc::clone(&self.metrics),
            bytes: Arc::clone(&self.bytes),
            guard: Mutex::new(Guard::new(Instant::now())),
            is_replaced: AtomicBool::new(false),
            tripped: OnceLock::new(),
        });
        self.replace(Some(Arc::clone(&new)));
        Some(new)
    }

    /// Puts a version of the plan in force, which the guard has not stopped yet.
    fn replace(&self, new: Option<Arc<Forward>>) {
        if let Some(old) = self.current.swap(new) {
            old.is_replaced.store(true, Ordering::Relaxed);
        }
        self.metrics.relay.forward_tripped.set(0);
    }

    /// Since when nothing is forwarded, and why, if the guard has stopped it.
    pub fn tripped(&self) -> Option<Tripped> {
        self.current.load().as_ref().and_then(|current| current.tripped.get().copied())
    }

    /// Puts each version of the plan in force without waiting for a request, and closes connections that are idle.
    pub(super) async fn run(&self, rollout: &Rollout) {
        loop {
            match self.current(rollout) {
                Some(current) => current.outbound.close_idle(),
                None => self.replace(None),
            }
            sleep(MAINTENANCE_INTERVAL).await;
        }
    }

    fn outbound(&self, url: &Uri) -> Outbound {
        Outbound::new(url.clone(), self.connector.clone(), FORWARDS_MAX, self.response_timeout)
    }
}

impl Forward {
    /// Whether the guard has stopped it.
    pub(crate) fn is_tripped(&self) -> bool {
        self.tripped.get().is_some()
    }

    /// Whether requests of this client, or this request, are forwarded now.
    pub(crate) fn selects(&self, client: Option<&ClientKey<'_>>, request_id: &str) -> bool {
        let Some(to) = self.plan.forward.as_ref().filter(|_| !self.is_tripped()) else { return false };
        let is_selected = match to.by {
            By::Request => to.percent.selects(SALT, request_id),
            By::Tenant => client.is_some_and(|client| client.selected_by(to.percent, SALT)),
        };
        is_selected && self.plan.features.is_on(Feature::Forward, client)
    }

    /// Sends a request to the other version. `waits` for more than its commit, so its latency is not compared.
    pub(crate) async fn send(&self, original: &Original, body: Bytes, waits: bool, shutdown: &Shutdown) -> Forwarded {
        let began = Instant::now();
        let sending = async {
            let _permit = self.bytes.acquire(body.len()).ok_or(SendError::Busy)?;
            self.outbound.send(original.forwarded(self.outbound.url()), body).await
        };
        let sent = tokio::select! {
            sent = sending => sent,
            () = async {
                shutdown.draining().await;
                sleep(DRAIN_TIMEOUT).await;
            } => Err(SendError::Unknown("this server shuts down".to_owned())),
        };
        let elapsed = began.elapsed();
        let metrics = &self.metrics.relay;
        let (result, forwarded) = match sent {
            Ok(received) => {
                metrics.forward_response(StatusClass::of(received.status), elapsed);
                let is_error = received.status.is_server_error();
                self.record(Side::Other, is_error, (!waits && !is_error).then_some(elapsed));
                (ForwardResult::Passed, Forwarded::Passed(received))
            }
            Err(SendError::Busy) => (ForwardResult::TakenHere, Forwarded::NotTaken),
            Err(SendError::NotTaken(error)) => {
                if let Some(suppressed) = FORWARD_LOG.permit() {
                    let url = self.outbound.url();
                    tracing::warn!(%url, error, suppressed, "a request could not be forwarded; it is handled here");
                }
                self.record(Side::Other, true, None);
                (ForwardResult::TakenHere, Forwarded::NotTaken)
            }
            Err(SendError::Unknown(error)) => {
                if let Some(suppressed) = FORWARD_LOG.permit() {
                    let url = self.outbound.url();
                    tracing::warn!(%url, error, suppressed, "the outcome of a forwarded request is unknown; the client gets 503");
                }
                self.record(Side::Other, true, None);
                (ForwardResult::Unknown, Forwarded::Unknown)
            }
        };
        metrics.forwarded(result);
        forwarded
    }

    /// Adds a request that was handled here.
    pub(crate) fn handled_here(&self, is_error: bool, latency: Option<Duration>) {
        self.record(Side::Own, is_error, latency);
    }

    fn record(&self, side: Side, is_error: bool, latency: Option<Duration>) {
        if self.is_tripped() || self.is_replaced.load(Ordering::Relaxed) {
            return;
        }
        let Some(why) = self.guard.lock().record(side, Instant::now(), is_error, latency) else { return };
        if self.tripped.set(Tripped { since: SystemTime::now(), why }).is_ok() {
            self.metrics.relay.forward_tripped.set(1);
            tracing::error!(
                url = %self.outbound.url(),
                %why,
                "the other version is worse than this one, so nothing is forwarded to it any more; to forward again, change ROLLOUT_FILE or send SIGHUP"
            );
        }
    }
}
