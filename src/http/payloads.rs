//! `POST /v1/payloads` and `POST /`: a batch, taken whole or refused whole.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::time::{Instant, timeout_at};

use super::ack::AskedAck;
use super::connection::WireBytes;
use super::decoding::{Work, decode};
use super::peer::ClientAddress;
use super::places::Client;
use super::request_id::RequestId;
use super::sender::Sender;
use super::{Edge, Problem, body, origin, query};
use crate::config::Ack;
use crate::decode::{Form, Lines};
use crate::queue::{Receipt, Reservation, Share};
use crate::segment::JobId;
use crate::spool;
use crate::tenants::{Limit, Tenant};

/// Room for an answer, so that it is not moved as it is written.
const ANSWER_USUAL_BYTES: usize = 384;

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Decides what can be decided before the body is read, reads it, decodes it and queues it.
pub(super) async fn post(State(edge): State<Arc<Edge>>, request: Request) -> Result<Response, Problem> {
    let received_at = SystemTime::now();
    let (mut parts, body) = request.into_parts();
    let wire = parts.extensions.remove::<WireBytes>();
    let client = parts.extensions.get::<ClientAddress>().copied();
    let id = RequestId::found(&parts.headers);
    origin::check(&edge, &parts)?;
    let sender = Sender::of(&parts.headers, edge.tenants.as_ref())?;
    if let Some(problem) = edge.closed() {
        return Err(problem);
    }
    if let Some(full) = sender.share().and_then(Share::full) {
        return Err(Problem::full(full, edge.retry_after()));
    }
    sender.take(Limit::Requests, 1)?;
    let ack = AskedAck::new(asked(parts.uri.query())?, &edge.settings);
    ack.check(&sender)?;
    let form = body::form(&parts.headers)?;
    let encoding = body::encoding(&parts.headers)?;
    if matches!((&sender, form), (Sender::Unnamed(_), Form::Ndjson)) {
        // There is no envelope in which a token could still come.
        return Err(Problem::NoToken);
    }
    let (most, within) = (edge.settings.max_body_bytes, edge.settings.body_timeout);
    let length = body::length(&parts.headers, parts.version, most)?;
    sender.take(Limit::Bytes, length.unwrap_or_default())?;
    // Nothing of the headers is kept while the body comes, and while the commit is waited for: they are memory that no queue
    // counts.
    drop(parts);
    let (body, reservation) = body::read(body, wire, &edge.queue, sender.share(), most, within).await?;
    edge.context.metrics.bytes_in.inc_by(body.len() as u64);
    if length.is_none() {
        sender.take(Limit::Bytes, body.len())?;
    }
    // Whose place among those who wait for the store it is, if it may wait: in memory mode for `disk` as well.
    let least = if edge.context.spool.is_durable() { Ack::Disk } else { Ack::Memory };
    let waiter = (ack.level() > least).then(|| {
        let address = client.map(|ClientAddress(address)| address);
        Client::new(sender.tenant().map(Tenant::name), address)
    });
    let work = Work::new(&edge, (form, encoding), received_at, id.clone(), sender, body.len());
    let work = work.sent_from(client).asking(ack);
    let (lines, reservation) = decode(&edge, work, body, reservation).await?;
    let payloads = lines.payloads;
    let level = ack.level();
    let accepted = match level {
        Ack::Memory => {
            let pushed = edge.queue.try_push(lines, reservation);
            pushed.map_err(|error| Problem::refused(error, edge.retry_after()))?;
            Accepted { level, receipt: None }
        }
        Ack::Disk | Ack::Stored => confirmed(&edge, lines, reservation, level, waiter.as_ref()).await?,
    };
    Ok(accepted.answer(&edge, &id, payloads))
}

/// What was reached, and where the job is.
struct Accepted {
    level: Ack,
    receipt: Option<Receipt>,
}

/// Queues a job, and waits until it is committed and, if that is asked for, stored; or until the time is over, or the server
/// stops.
async fn confirmed(
    edge: &Edge,
    lines: Lines,
    reservation: Reservation,
    level: Ack,
    waiter: Option<&Client>,
) -> Result<Accepted, Problem> {
    let deadline = Instant::now() + edge.settings.ack_timeout;
    let committed = if edge.context.spool.is_durable() { Ack::Disk } else { Ack::Memory };
    // In memory there is nothing between being queued and being stored: more than was asked for is promised.
    let place = waiter.filter(|_| level > committed).and_then(|client| edge.stored_waits.begin(client));
    let waits_for_store = place.is_some();
    if committed == Ack::Memory {
        return waited_for_in_memory(edge, lines, reservation, waits_for_store.then_some(deadline)).await;
    }
    let pushed = edge.queue.try_push_for_commit(lines, reservation, waits_for_store);
    let outcome = pushed.map_err(|error| Problem::refused(error, edge.retry_after()))?;
    let receipt = match timeout_at(deadline, outcome).await {
        Ok(Ok(Ok(receipt))) => receipt,
        Ok(Ok(Err(error))) => return Err(Problem::not_committed(&error, edge.retry_after())),
        // The dispatcher is gone, and the process goes with it.
        Ok(Err(_)) => return Err(Problem::Internal),
        Err(_) => return Err(Problem::NotConfirmed { retry_after: edge.retry_after() }),
    };
    let level = match waits_for_store {
        true => settled(edge, &receipt, deadline, committed).await?,
        false => committed,
    };
    Ok(Accepted { level, receipt: Some(receipt) })
}

/// Queues a job that is accepted with that, and waits until it is stored, or until the deadline, if there is one: whatever
/// comes of the wait, the job is in memory, and that is what is answered.
async fn waited_for_in_memory(
    edge: &Edge,
    lines: Lines,
    reservation: Reservation,
    deadline: Option<Instant>,
) -> Result<Accepted, Problem> {
    let level = Ack::Memory;
    let Some(deadline) = deadline else {
        let pushed = edge.queue.try_push(lines, reservation);
        pushed.map_err(|error| Problem::refused(error, edge.retry_after()))?;
        return Ok(Accepted { level, receipt: None });
    };
    let pushed = edge.queue.try_push_and_watch(lines, reservation);
    let outcome = pushed.map_err(|error| Problem::refused(error, edge.retry_after()))?;
    let committed = tokio::select! {
        committed = timeout_at(deadline, outcome) => committed,
        () = edge.context.shutdown.draining() => return Ok(Accepted { level, receipt: None }),
    };
    match committed {
        Ok(Ok(Ok(receipt))) => {
            let level = settled(edge, &receipt, deadline, level).await?;
            Ok(Accepted { level, receipt: Some(receipt) })
        }
        Ok(Ok(Err(error))) => Err(Problem::not_committed(&error, edge.retry_after())),
        Ok(Err(_)) => Err(Problem::Internal),
        // No segment could be opened for it yet: the store is slow.
        Err(_) => Ok(Accepted { level, receipt: None }),
    }
}

/// The level that a job has reached when it is stored, at the deadline, or when the server stops: a sender is not to be cut
/// off without an answer then.
async fn settled(edge: &Edge, receipt: &Receipt, deadline: Instant, committed: Ack) -> Result<Ack, Problem> {
    let state = tokio::select! {
        biased;
        state = timeout_at(deadline, receipt.segment.settled()) => state.ok(),
        () = edge.context.shutdown.draining() => None,
    };
    match state {
        // It was damaged on disk between its commit and its upload.
        Some(state) if state.is_dead(receipt.index) => Err(Problem::NotConfirmed { retry_after: edge.retry_after() }),
        Some(spool::State::Stored { .. }) => Ok(Ack::Stored),
        Some(spool::State::Spooled | spool::State::Dead) | None => Ok(committed),
    }
}

/// The level that the query asks for; the least if it asks for none.
fn asked(query: Option<&str>) -> Result<Ack, Problem> {
    match query::parameter(query, "ack", "stored")? {
        None => Ok(Ack::Memory),
        Some(level) => {
            level.parse().map_err(|()| Problem::InvalidQuery("ack is one of memory, disk and stored".to_owned()))
        }
    }
}

impl Accepted {
    fn answer(&self, edge: &Edge, id: &RequestId, payloads: u32) -> Response {
        let status = if self.level == Ack::Stored { StatusCode::OK } else { StatusCode::ACCEPTED };
        let (id, level) = (id.as_str(), self.level.name());
        let mut body = String::with_capacity(ANSWER_USUAL_BYTES);
        // A string takes whatever is written to it.
        let _: fmt::Result = write!(body, "{{\"request_id\":\"{id}\",\"payloads\":{payloads},\"ack\":\"{level}\"");
        if let Some(Receipt { segment, index }) = &self.receipt {
            let job = JobId { segment: segment.id(), index: *index };
            let _: fmt::Result = write!(body, ",\"job\":\"{job}\",\"object\":");
            super::jobs::push_object(&mut body, edge, segment.key(&edge.prefix));
        }
        body.push_str("}\n");
        let mut response = (status, Body::from(body)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, JSON);
        response
    }
}
