//! Where bodies are decoded: small ones on the async thread that has read them, large ones on blocking threads.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::decoding::{BatchRequest, DecodeLimits, Decoding, Inline, Work};
use super::problem::Problem;
use crate::cores::cores;
use crate::decode::Lines;
use crate::keyed_semaphores::KeyedSemaphores;
use crate::log_throttle::LogThrottle;
use crate::queue::Reservation;
use crate::server::network;
use crate::tenants::Tenant;

/// A client can repeat a body that triggers a bug.
static PANIC_LOG: LogThrottle = LogThrottle::for_clients();

/// Decodes small bodies where they were read, and large bodies on blocking threads, as many at once as there are cores: that
/// bounds the memory of decoding. A tenant, or an address without one, waits for its own large bodies first.
#[derive(Debug)]
pub(super) struct Decoder {
    limits: DecodeLimits,
    large_bodies: Arc<Semaphore>,
    by_address: KeyedSemaphores<IpAddr>,
}

impl Decoder {
    pub(super) fn new(limits: DecodeLimits) -> Self {
        let cores = cores();
        Self { limits, large_bodies: Arc::new(Semaphore::new(cores)), by_address: KeyedSemaphores::new(cores) }
    }

    /// The lines of a body, with the reservation of their bytes. `tenant` is set when the batch names it.
    pub(super) async fn decode(
        &self,
        request: BatchRequest,
        body: Bytes,
        mut reservation: Reservation,
        tenant: &mut Option<Arc<Tenant>>,
    ) -> Result<(Lines, Reservation), Problem> {
        let mut decoding = Decoding { request, limits: self.limits };
        let inline = decoding.inline(body, &mut reservation);
        *tenant = decoding.request.identity.tenant().cloned();
        let work = match inline? {
            Inline::Lines(lines) => return Ok((lines, reservation)),
            Inline::TooLarge(work) => work,
        };
        let share = decoding.request.identity.tenant().and_then(|tenant| tenant.share());
        let (mut of_tenant, mut of_address) = (None, None);
        match (share, decoding.request.client) {
            (Some(share), _) => {
                of_tenant = Some(share.decode_permits().acquire_owned().await.map_err(|_| Problem::Internal)?);
            }
            (None, Some(client)) => of_address = self.by_address.acquire(network(client)).await,
            (None, None) => {}
        }
        let permit = Arc::clone(&self.large_bodies).acquire_owned().await.map_err(|_| Problem::Internal)?;
        // The permits and the reservation move along: if the client disconnects, the work and its memory remain.
        let decoded = tokio::task::spawn_blocking(move || {
            let _permits = (of_tenant, of_address, permit);
            let lines = match work {
                Work::Decode(body) => decoding.large(&body, &mut reservation),
                Work::Write(plan) => {
                    decoding.reserve(plan.bytes() + plan.plan_bytes(), &mut reservation).map(|()| plan.write())
                }
            };
            (lines.map(|lines| (lines, reservation)), decoding.request.identity)
        });
        match decoded.await {
            Ok((lines, identity)) => {
                *tenant = identity.tenant().cloned();
                lines
            }
            Err(error) => {
                if let Some(suppressed) = PANIC_LOG.permit() {
                    tracing::error!(%error, suppressed, "decoding failed");
                }
                Err(Problem::Internal)
            }
        }
    }
}
