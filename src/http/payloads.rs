//! `POST /v1/payloads` and `POST /`: a batch, accepted whole or rejected whole.

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::ack::RequestedAck;
use super::auth::Identity;
use super::client_permits::ClientKey;
use super::decoding::BatchRequest;
use super::problem::Problem;
use super::relay::Relay;
use super::request_id::RequestId;
use super::response::{AcceptedBody, json};
use super::rollout::RequestRollout;
use super::sqsd::{self, Hold};
use super::state::ApiState;
use super::{body, origin};
use crate::config::Ack;
use crate::decode::{BatchFormat, Lines};
use crate::metrics::RequestResult;
use crate::queue::{Receipt, Reservation, Share};
use crate::rollout::Feature;
use crate::segment::JobId;
use crate::server::{ClientAddress, WireBytes};
use crate::spool;
use crate::tenants::{RateLimit, Tenant};
use crate::trace::RequestTrace;

/// The query of the route.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameters {
    ack: Option<String>,
}

impl Parameters {
    /// The requested level; the lowest without one.
    fn ack(query: Result<Query<Self>, QueryRejection>) -> Result<Ack, Problem> {
        let Query(Self { ack }) = query.map_err(|_| {
            Problem::InvalidQuery("invalid query: this route knows only `ack`, once, such as ?ack=stored")
        })?;
        match ack {
            None => Ok(Ack::Memory),
            Some(level) => level.parse().map_err(|()| Problem::InvalidQuery("ack is one of memory, disk and stored")),
        }
    }
}

/// A rejected batch, with its tenant if that is known.
pub(super) struct RejectedBatch {
    problem: Problem,
    tenant: Option<Arc<Tenant>>,
}

/// The tenant of a rejected batch, as an extension of its response.
#[derive(Clone)]
pub(super) struct RejectedTenant(pub(super) Arc<Tenant>);

impl IntoResponse for RejectedBatch {
    fn into_response(self) -> Response {
        let mut response = self.problem.into_response();
        if let Some(tenant) = self.tenant {
            response.extensions_mut().insert(RejectedTenant(tenant));
        }
        response
    }
}

pub(super) async fn post(
    State(state): State<Arc<ApiState>>,
    query: Result<Query<Parameters>, QueryRejection>,
    request: Request,
) -> Result<Response, RejectedBatch> {
    let (mut tenant, mut relay): (_, Option<Box<Relay>>) = (None, None);
    let client = request.extensions().get::<ClientAddress>().map(|ClientAddress(address)| *address);
    let rollout = RequestRollout::new(state.rollout.as_ref(), state.tenants.is_some(), client);
    let mut hold = Hold::of(&state, request.headers(), client);
    let began = Instant::now();
    let accepted = accept(&state, query, request, &rollout, &mut tenant, &mut relay, hold.as_mut()).await;
    if let Some(relay) = &mut relay {
        relay.ended(&accepted);
    }
    let is_forwarded = relay.is_some_and(|relay| relay.is_handled_elsewhere());
    if let Some(variant) = rollout.variant(tenant.as_ref()).filter(|_| !is_forwarded) {
        let result = accepted.as_ref().map_or_else(|problem| problem.outcome().result(), |_| RequestResult::Accepted);
        state.context.metrics.variants.observe(variant, result, began.elapsed());
    }
    if let (Err(problem), Some(hold)) = (&accepted, &mut hold) {
        Box::pin(hold.delay(problem)).await;
    }
    accepted.map_err(|problem| RejectedBatch { problem, tenant })
}

/// Rejects what can be rejected before the body is read, then reads, decodes and queues it. `tenant` is set as soon as it is
/// known.
async fn accept(
    state: &Arc<ApiState>,
    query: Result<Query<Parameters>, QueryRejection>,
    request: Request,
    rollout: &RequestRollout,
    tenant: &mut Option<Arc<Tenant>>,
    relay: &mut Option<Box<Relay>>,
    mut hold: Option<&mut Hold<'_>>,
) -> Result<Response, Problem> {
    let received_at = SystemTime::now();
    let (mut parts, body) = request.into_parts();
    let client = parts.extensions.get::<ClientAddress>().map(|ClientAddress(address)| *address);
    let wire = parts.extensions.remove::<WireBytes>();
    let trace = state.context.tracer.as_ref().and_then(|_| parts.extensions.remove::<Arc<RequestTrace>>());
    let id = RequestId::inserted(&parts.headers);
    origin::check(state, &parts)?;
    let identity = Identity::from_headers(&parts.headers, state.tenants.as_ref())?;
    *tenant = identity.tenant().cloned();
    if hold.is_none() {
        has_capacity(state, &identity)?;
    }
    identity.take(RateLimit::Requests, 1)?;
    let ack = RequestedAck::new(Parameters::ack(query)?, &state.settings);
    ack.check(&identity)?;
    rollout.check(ack, tenant.as_ref())?;
    let format = body::format(&parts.headers)?;
    let encoding = body::encoding(&parts.headers)?;
    if matches!((&identity, format), (Identity::Unauthenticated(_), BatchFormat::Ndjson)) {
        // NDJSON has no envelope, so no token can follow.
        return Err(Problem::NoToken);
    }
    let (max, timeout) = (state.settings.max_body_bytes, state.settings.body_timeout);
    let length = body::length(&parts.headers, parts.version, max)?;
    identity.take(RateLimit::Bytes, length.unwrap_or_default())?;
    let level = ack.level();
    let waits = level > committed_level(state);
    *relay = match (&state.rollout, rollout.in_force()) {
        (Some(rollout), Some(in_force)) => Relay::of(rollout, in_force, &parts, &identity, client, waits),
        _ => None,
    };
    let keeps_context = hold.is_some() && state.settings.sqsd_context;
    let sqsd = keeps_context.then(|| sqsd::context(&parts.headers));
    // The memory of the headers is not kept while the body arrives and the commit is awaited.
    drop(parts);
    let mut reservation = state.queue.reserve(identity.share());
    if let Some(hold) = &mut hold {
        // Of the requests that are held, each gets a job of the queue when there is one.
        let attempt = |is_held| {
            has_capacity(state, &identity)?;
            if is_held { reservation.add_job().map_err(Problem::from) } else { Ok(()) }
        };
        Box::pin(hold.until_accepted(attempt)).await?;
    }
    let timeout = hold.as_ref().map_or(timeout, |hold| hold.body_timeout(timeout));
    let mut body = body::read(body, wire, &mut reservation, max, timeout).await?;
    hold.iter_mut().for_each(|hold| hold.release());
    state.context.metrics.bytes_in.inc_by(body.len() as u64);
    if length.is_none() {
        identity.take(RateLimit::Bytes, body.len())?;
    }
    if let Some(relay) = relay {
        if let Some(response) = Box::pin(relay.forward(&identity, &mut body, &state.context.shutdown)).await? {
            return Ok(response);
        }
        relay.admit_copy(&body);
    }
    // The client whose permit a wait for the store uses. In memory mode, a wait for `disk` is one as well.
    let waiter = waits.then(|| ClientKey::new(identity.tenant().map(|tenant| tenant.name()), client));
    let body_bytes = body.len();
    let request = BatchRequest {
        format,
        encoding,
        received_at,
        id: id.clone(),
        identity,
        client,
        body_bytes,
        ack,
        rollout: rollout.clone(),
        sqsd,
        trace: trace.clone(),
    };
    let (lines, mut reservation) = state.decoder.decode(request, body, reservation, tenant).await?;
    if let Some(relay) = relay
        && let (Some(tenant), Some(mut body)) = (tenant.as_ref(), relay.take_body())
    {
        // Its token was in the envelope.
        let identity = Identity::Tenant(Arc::clone(tenant));
        if relay.is_forwarded(&identity) {
            reservation.grow_to(lines.bytes.len() + body.len())?;
        }
        if let Some(response) = Box::pin(relay.forward(&identity, &mut body, &state.context.shutdown)).await? {
            return Ok(response);
        }
    }
    if state.context.shutdown.is_intake_stopped() && !state.context.shutdown.is_draining() {
        // An operator may have seen that nothing waits. In a shutdown the process waits for this request.
        return Err(Problem::Draining);
    }
    let payloads = lines.payloads;
    if let Some(trace) = trace {
        trace.record("millpond.payloads", i64::from(payloads));
        reservation.set_trace(trace.job());
    }
    let accepted = match level {
        Ack::Memory => {
            state.queue.try_push(lines, reservation)?;
            Accepted { level, receipt: None }
        }
        Ack::Disk | Ack::Replicated | Ack::Stored => {
            acknowledged(state, lines, reservation, level, waiter.as_ref(), relay.as_deref_mut()).await?
        }
    };
    relay.iter_mut().for_each(|relay| relay.send_copy());
    let accepted = match &mut hold {
        Some(hold) if accepted.level < level => Box::pin(held_until_stored(accepted, hold)).await?,
        _ => accepted,
    };
    tenant.iter().for_each(|tenant| tenant.activity().accepted(payloads, body_bytes));
    let shows_receipt = rollout.is_on(Feature::Receipts, tenant.as_ref());
    let is_done = accepted.level == Ack::Stored || (hold.is_some() && accepted.level >= level);
    let status = if is_done { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(accepted.response(state, status, &id, payloads, shows_receipt))
}

/// Rejects a batch that would be rejected whatever its size.
fn has_capacity(state: &ApiState, identity: &Identity) -> Result<(), Problem> {
    if let Some(problem) = state.rejects_batches() {
        return Err(problem);
    }
    identity.share().and_then(Share::full).map_or(Ok(()), |full| Err(full.into()))
}

/// The level that a commit reaches.
fn committed_level(state: &ApiState) -> Ack {
    let spool = &state.context.spool;
    if spool.broker().is_some() {
        Ack::Replicated
    } else if spool.is_durable() {
        Ack::Disk
    } else {
        Ack::Memory
    }
}

/// The level that a job has reached, and its receipt.
struct Accepted {
    level: Ack,
    receipt: Option<Receipt>,
}

/// Queues a job and waits until it is committed and, if requested, stored. The wait ends early at its deadline or when the
/// server shuts down.
async fn acknowledged(
    state: &ApiState,
    lines: Lines,
    reservation: Reservation,
    level: Ack,
    waiter: Option<&ClientKey>,
    relay: Option<&mut Relay>,
) -> Result<Accepted, Problem> {
    let deadline = Instant::now() + state.settings.ack_timeout;
    let committed = committed_level(state);
    // In memory mode no level lies between queued and stored, so a request for `disk` waits for `stored`.
    let permit = waiter.filter(|_| level > committed).and_then(|client| state.stored_waits.try_acquire(client));
    let waits_for_store = permit.is_some();
    if committed == Ack::Memory {
        return wait_in_memory(state, lines, reservation, waits_for_store.then_some(deadline)).await;
    }
    let outcome = state.queue.try_push_for_commit(lines, reservation, waits_for_store)?;
    let receipt = match timeout_at(deadline, outcome).await {
        Ok(Ok(committed)) => committed?,
        // Late, or the dispatcher has exited, and the process exits with it.
        Ok(Err(_)) | Err(_) => return Err(Problem::NotConfirmed),
    };
    // A copy does not wait for the store.
    relay.into_iter().for_each(Relay::send_copy);
    let level = match waits_for_store {
        true => stored_or(state, &receipt, deadline, committed).await?,
        false => committed,
    };
    Ok(Accepted { level, receipt: Some(receipt) })
}

/// Queues a job, which accepts it, and waits until it is stored or until `deadline`, if there is one. However the wait ends,
/// the job is accepted at level memory at least.
async fn wait_in_memory(
    state: &ApiState,
    lines: Lines,
    reservation: Reservation,
    deadline: Option<Instant>,
) -> Result<Accepted, Problem> {
    let level = Ack::Memory;
    let Some(deadline) = deadline else {
        state.queue.try_push(lines, reservation)?;
        return Ok(Accepted { level, receipt: None });
    };
    let outcome = state.queue.try_push_and_watch(lines, reservation)?;
    let committed = tokio::select! {
        committed = timeout_at(deadline, outcome) => committed,
        () = state.context.shutdown.draining() => return Ok(Accepted { level, receipt: None }),
    };
    match committed {
        Ok(Ok(Ok(receipt))) => {
            let level = stored_or(state, &receipt, deadline, level).await?;
            Ok(Accepted { level, receipt: Some(receipt) })
        }
        Ok(Ok(Err(error))) => Err(error.into()),
        Ok(Err(_)) => Err(Problem::Internal),
        // The store is slow, and no segment could be opened yet.
        Err(_) => Ok(Accepted { level, receipt: None }),
    }
}

/// Waits longer for the store than other requests do, since the daemon would post the message again.
async fn held_until_stored(accepted: Accepted, hold: &mut Hold<'_>) -> Result<Accepted, Problem> {
    let Accepted { level, receipt } = accepted;
    let stored = async {
        match &receipt {
            Some(receipt) => level_when_settled(receipt, level).await,
            None => std::future::pending().await,
        }
    };
    let level = hold.until_stored(stored).await.transpose()?.unwrap_or(level);
    Ok(Accepted { level, receipt })
}

/// Waits until a committed job is stored. Returns the level that it has reached then, at the deadline, or when the server
/// shuts down: the client must get a response before the connection closes.
async fn stored_or(state: &ApiState, receipt: &Receipt, deadline: Instant, committed: Ack) -> Result<Ack, Problem> {
    tokio::select! {
        biased;
        level = timeout_at(deadline, level_when_settled(receipt, committed)) => level.unwrap_or(Ok(committed)),
        () = state.context.shutdown.draining() => Ok(committed),
    }
}

/// The level of a committed job when its segment is stored or dead.
async fn level_when_settled(receipt: &Receipt, committed: Ack) -> Result<Ack, Problem> {
    match receipt.segment.settled().await {
        // Damaged on disk after its commit.
        settled if settled.is_dead(receipt.index) => Err(Problem::NotConfirmed),
        spool::SegmentState::Stored { .. } => Ok(Ack::Stored),
        spool::SegmentState::Spooled | spool::SegmentState::Dead => Ok(committed),
    }
}

impl Accepted {
    fn response(
        &self,
        state: &ApiState,
        status: StatusCode,
        id: &RequestId,
        payloads: u32,
        shows_receipt: bool,
    ) -> Response {
        let receipt = self.receipt.as_ref().filter(|_| shows_receipt);
        json(
            status,
            &AcceptedBody {
                request_id: id.as_str(),
                payloads,
                ack: self.level.name(),
                job: receipt.map(|receipt| JobId { segment: receipt.segment.id(), index: receipt.index }),
                object: receipt.map(|receipt| state.object_name(receipt.segment.key(&state.prefix))),
            },
        )
    }
}
