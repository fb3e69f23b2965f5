//! The state that the handlers share.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::client_permits::ClientPermits;
use super::decoder::Decoder;
use super::decoding::DecodeLimits;
use super::in_flight::InFlight;
use super::problem::Problem;
use crate::audit::AuditLog;
use crate::config::{HttpSettings, ReceiptObject, Role, Settings};
use crate::context::PipelineContext;
use crate::log_throttle::LogThrottle;
use crate::queue::JobQueue;
use crate::rollout::Rollout;
use crate::store::Store;
use crate::tenants::Tenants;

/// Requests that may wait for the state of a job; the others get the current state.
const WAITS_MAX: usize = 1024;
/// Requests that may wait until their job is stored; the others get their response with the commit, at that level.
const STORED_WAITS_MAX: usize = 2048;
/// Concurrent lookups in the store, for jobs of other machines.
const LOOKUPS_MAX: usize = 32;
/// Requests of the worker tier's daemon that are held; the others are rejected at once. One client may hold a quarter of them,
/// which is more than the 100 connections that a daemon can have.
const HELD_MAX: usize = 1024;

/// A spool that drains and fills can be full many times a minute.
static SPOOL_FULL_LOG: LogThrottle = LogThrottle::new(Duration::from_secs(60));

/// The state that the handlers share.
pub struct ApiState {
    pub(super) settings: HttpSettings,
    pub(super) role: Role,
    pub(super) prefix: String,
    pub(super) queue: JobQueue,
    pub(super) context: PipelineContext,
    pub(super) store: Arc<Store>,
    /// Without tenants, requests need no token.
    pub(super) tenants: Option<Arc<Tenants>>,
    /// What is rolled out; none without `ROLLOUT_FILE`.
    pub(super) rollout: Option<Arc<Rollout>>,
    pub(super) waits: ClientPermits,
    pub(super) stored_waits: ClientPermits,
    pub(super) lookups: ClientPermits,
    /// Requests of the worker tier's daemon that are held.
    pub(super) holds: ClientPermits,
    pub(super) in_flight: InFlight,
    /// Whether requests in flight are limited for each address, as connections are.
    pub(super) limits_addresses: bool,
    pub(super) decoder: Decoder,
    pub(super) audit: AuditLog,
}

impl ApiState {
    /// Handlers push to `queue`, and look up jobs of other machines in `store`.
    pub fn new(
        settings: &Settings,
        queue: JobQueue,
        context: PipelineContext,
        store: Arc<Store>,
        tenants: Option<Arc<Tenants>>,
        rollout: Option<Arc<Rollout>>,
    ) -> Self {
        let mut http = settings.http.clone();
        let max_held = tenants.as_ref().map_or(queue.max_bytes(), |tenants| tenants.max_share_bytes());
        // A batch that the tenant's share of the queue, or an empty spool, cannot hold would be retried for ever.
        let max_lines =
            if context.spool.is_durable() { max_held.min(settings.spool.max_batch_bytes()) } else { max_held };
        http.max_body_bytes = http.max_body_bytes.min(max_lines);
        Self {
            decoder: Decoder::new(DecodeLimits::new(&http, max_held, max_lines)),
            settings: http,
            role: settings.role,
            prefix: settings.prefix.clone(),
            queue,
            in_flight: InFlight::new(Arc::clone(&context.metrics)),
            limits_addresses: settings.transport.max_connections_per_address.is_some(),
            context,
            store,
            tenants,
            rollout,
            waits: ClientPermits::new(WAITS_MAX),
            stored_waits: ClientPermits::new(STORED_WAITS_MAX),
            lookups: ClientPermits::new(LOOKUPS_MAX),
            holds: ClientPermits::new(HELD_MAX),
            audit: AuditLog::default(),
        }
    }

    /// Why every batch is rejected now; `None` if batches are accepted.
    pub(super) fn rejects_batches(&self) -> Option<Problem> {
        if !self.role.accepts() {
            return Some(Problem::NoFrontEnd);
        }
        if self.context.shutdown.is_intake_stopped() {
            return Some(Problem::Draining);
        }
        if self.context.spool.is_nearly_full() {
            if let Some(suppressed) = SPOOL_FULL_LOG.permit() {
                tracing::warn!(suppressed, "the spool is full; batches are rejected until uploads free space");
            }
            return Some(Problem::SpoolFull);
        }
        self.queue.is_full().then_some(Problem::QueueFull)
    }

    /// The name of an object in responses. Only tenants may see the location of the store, if the operator wants that.
    pub(super) fn object_name<'k>(&self, key: &'k str) -> Cow<'k, str> {
        match self.settings.receipt_object {
            ReceiptObject::Key => key.into(),
            ReceiptObject::Location => format!("{}/{key}", self.store.location()).into(),
        }
    }
}
