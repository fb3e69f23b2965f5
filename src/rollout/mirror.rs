//! Ghost mode: sends copies of accepted batches to another version, and counts what it responds.
//!
//! A copy is admitted when the body of its request is complete, if `MIRROR_MAX_BYTES` have space for it, and is queued when
//! its batch is accepted. Nothing waits for it: when the other server is slow, copies are dropped before they are made. A copy
//! that cannot be sent is not sent again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::MirrorTo;
use super::original::Original;
use super::outbound::{Connector, Outbound, SendError};
use crate::bound::{Bound, BoundPermit};
use crate::log_throttle::LogThrottle;
use crate::metrics::{Metrics, MirrorResult, StatusClass};

/// Tasks that send copies, each one at a time, and so the connections to the other server.
pub(super) const SENDERS: usize = 64;
/// Memory of a copy besides its body and its headers.
const COPY_BYTES: usize = 1024;
/// How long copies are dropped when the other server cannot be reached, so that real traffic pays for no attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// Another version that is away fails every copy.
static MIRROR_LOG: LogThrottle = LogThrottle::new(Duration::from_secs(10));

/// Copies batches as the plan in force has it.
pub struct Mirror {
    connector: Connector,
    response_timeout: Duration,
    metrics: Arc<Metrics>,
    bytes: Arc<Bound>,
    queue: UnboundedSender<PendingCopy>,
}

/// The copies that wait to be sent.
pub(super) struct Copies(AsyncMutex<UnboundedReceiver<PendingCopy>>);

/// The server that gets the copies.
pub(crate) struct MirrorTarget {
    outbound: Outbound,
    /// Another one gets the copies, or none.
    replaced: CancellationToken,
    /// Until when copies are dropped.
    paused_until: Mutex<Option<Instant>>,
}

/// The copy of a batch that is not accepted yet. If it is dropped, nothing is sent.
pub(crate) struct PendingCopy {
    original: Original,
    body: Bytes,
    tokens: bool,
    target: Arc<MirrorTarget>,
    _permit: BoundPermit,
}

impl Mirror {
    /// Copies of at most `max_bytes` that wait or are on their way.
    pub(super) fn new(
        connector: Connector,
        response_timeout: Duration,
        max_bytes: usize,
        metrics: Arc<Metrics>,
    ) -> (Self, Copies) {
        let (queue, receiver) = unbounded_channel();
        let bytes = Arc::new(Bound::new(max_bytes));
        let mirror = Self { connector, response_timeout, metrics, bytes, queue };
        (mirror, Copies(AsyncMutex::new(receiver)))
    }

    /// The memory of copies that wait or are on their way.
    pub fn bytes(&self) -> usize {
        self.bytes.used()
    }

    /// The server that gets the copies of a new plan. If it is another one than before, copies for that one are dropped.
    pub(super) fn replace(
        &self,
        to: Option<&MirrorTo>,
        previous: Option<&Arc<MirrorTarget>>,
    ) -> Option<Arc<MirrorTarget>> {
        if let Some(previous) = previous {
            if to.is_some_and(|to| to.url == *previous.outbound.url()) {
                return Some(Arc::clone(previous));
            }
            previous.replaced.cancel();
        }
        let outbound = Outbound::new(to?.url.clone(), self.connector.clone(), SENDERS, self.response_timeout);
        Some(Arc::new(MirrorTarget { outbound, replaced: CancellationToken::new(), paused_until: Mutex::default() }))
    }

    /// A copy of a batch, which must not be sent before that is accepted. `None` if there is no space for it, or if the other
    /// server cannot be reached.
    pub(crate) fn admit(
        &self,
        tokens: bool,
        target: &Arc<MirrorTarget>,
        original: &Original,
        body: &Bytes,
    ) -> Option<PendingCopy> {
        let bytes = COPY_BYTES + original.bytes() + body.len();
        let Some(permit) = (if target.is_paused() { None } else { self.bytes.acquire(bytes) }) else {
            self.metrics.relay.mirrored(MirrorResult::Dropped);
            return None;
        };
        // The body may share the memory of the connection's read buffer, which is larger than most bodies.
        let body = Bytes::copy_from_slice(body);
        Some(PendingCopy { original: original.clone(), body, tokens, target: Arc::clone(target), _permit: permit })
    }

    /// Queues the copy of an accepted batch.
    pub(crate) fn send(&self, copy: PendingCopy) {
        if self.queue.send(copy).is_err() {
            // The server shuts down.
            self.metrics.relay.mirrored(MirrorResult::Dropped);
        }
    }

    /// Sends copies until `stop`. What waits then is dropped.
    pub(super) async fn run(self: Arc<Self>, copies: Copies, stop: CancellationToken) {
        let copies = Arc::new(copies);
        let mut senders = JoinSet::new();
        for _ in 0..SENDERS {
            senders.spawn(Arc::clone(&self).send_copies(Arc::clone(&copies)));
        }
        tokio::select! {
            () = stop.cancelled() => {}
            _ = senders.join_next() => {}
        }
        senders.shutdown().await;
        let mut waiting = copies.0.lock().await;
        waiting.close();
        while waiting.try_recv().is_ok() {
            self.metrics.relay.mirrored(MirrorResult::Dropped);
        }
    }

    async fn send_copies(self: Arc<Self>, copies: Arc<Copies>) {
        loop {
            let next = copies.0.lock().await.recv().await;
            let Some(copy) = next else { return };
            let target = Arc::clone(&copy.target);
            let result = if target.is_paused() {
                MirrorResult::Dropped
            } else {
                tokio::select! {
                    biased;
                    () = target.replaced.cancelled() => MirrorResult::Dropped,
                    result = self.send_copy(copy) => result,
                }
            };
            self.metrics.relay.mirrored(result);
        }
    }

    async fn send_copy(&self, copy: PendingCopy) -> MirrorResult {
        let PendingCopy { original, body, tokens, target, _permit } = copy;
        let began = Instant::now();
        let url = target.outbound.url();
        let error = match target.outbound.send(original.copy(url, tokens), body).await {
            Ok(received) => {
                self.metrics.relay.mirror_response(StatusClass::of(received.status), began.elapsed());
                return MirrorResult::Sent;
            }
            Err(error) => error,
        };
        if matches!(error, SendError::NotTaken(_)) {
            target.pause(Instant::now() + PAUSE);
        }
        if let Some(suppressed) = MIRROR_LOG.permit() {
            tracing::warn!(%url, %error, suppressed, "a copy could not be sent; copies are dropped while the other server is away");
        }
        MirrorResult::Failed
    }
}

impl MirrorTarget {
    pub(super) fn close_idle(&self) {
        self.outbound.close_idle();
    }

    fn is_paused(&self) -> bool {
        self.paused_until.lock().is_some_and(|until| Instant::now() < until)
    }

    fn pause(&self, until: Instant) {
        *self.paused_until.lock() = Some(until);
    }
}
