//! What else happens to a request for a batch: it is forwarded to another version, or copied to it. Without `ROLLOUT_FILE` there
//! is none of this.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderName, StatusCode};
use axum::response::Response;
use bytes::Bytes;

use super::auth::Identity;
use super::problem::Problem;
use super::sqsd;
use crate::rollout::{ClientKey, Forwarded, InForce, Original, PendingCopy, Received, Rollout, draw, is_relayed};
use crate::shutdown::Shutdown;

/// What is passed on of the headers of a response, besides the request's id.
static PASSED: [HeaderName; 4] = [CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE, ACCEPT_ENCODING];

/// A request that may be forwarded or copied.
pub(super) struct Relay {
    rollout: Arc<Rollout>,
    in_force: Arc<InForce>,
    /// None of a request that is neither copied nor forwarded, and only compared.
    original: Option<Original>,
    /// Selects the request if requests are selected on their own.
    bucket: u16,
    client: Option<IpAddr>,
    is_copied: bool,
    /// Whether the request waits for more than its commit.
    waits: bool,
    /// Whether the request is from the worker tier's daemon.
    is_from_daemon: bool,
    copy: Option<PendingCopy>,
    /// The body, while the tenant is not known because its token is in there.
    body: Option<Bytes>,
    /// Whether the request was sent to the other version.
    is_sent: bool,
    /// How the other version has rejected it, if it has.
    rejected: Option<StatusCode>,
    /// Since when the request is handled here.
    handled_since: Option<Instant>,
    has_ended: bool,
}

impl Relay {
    /// The relay of a request; `None` if it is handled here alone.
    pub(super) fn of(
        rollout: &Arc<Rollout>,
        in_force: &Arc<InForce>,
        request: &Parts,
        identity: &Identity,
        client: Option<IpAddr>,
        waits: bool,
    ) -> Option<Box<Self>> {
        let InForce { plan, forward, target } = &**in_force;
        // The body is copied as received, so a token in its envelope cannot be left out.
        let has_token = matches!(identity, Identity::Unauthenticated(_));
        let to = plan.mirror.as_ref().filter(|to| target.is_some() && (to.tokens || !has_token));
        let is_copied = to.is_some_and(|to| to.percent.contains(draw()));
        if (forward.is_none() && !is_copied) || is_relayed(&request.headers) {
            return None;
        }
        let bucket = draw();
        // Most requests are neither, so their heads are not copied.
        let is_forwarded = forward.as_ref().is_some_and(|forward| match identity {
            Identity::Unauthenticated(_) => !forward.is_tripped(),
            identity => forward.selects(&plan.features, client_key(identity, client).as_ref(), bucket),
        });
        let original = if is_copied || is_forwarded { Some(Original::of(request, client)?) } else { None };
        Some(Box::new(Self {
            rollout: Arc::clone(rollout),
            in_force: Arc::clone(in_force),
            original,
            bucket,
            client,
            is_copied,
            waits,
            is_from_daemon: sqsd::is_from_daemon(&request.headers),
            copy: None,
            body: None,
            is_sent: false,
            rejected: None,
            handled_since: None,
            has_ended: false,
        }))
    }

    /// Forwards the request if it is selected, once its tenant is known. Returns the response if the other version has handled
    /// it; otherwise it is handled here.
    pub(super) async fn forward(
        &mut self,
        identity: &Identity,
        body: &mut Bytes,
        shutdown: &Shutdown,
    ) -> Result<Option<Response>, Problem> {
        if let (Some(forward), Some(original)) = (&self.in_force.forward, &self.original) {
            if matches!(identity, Identity::Unauthenticated(_)) {
                self.body = Some(body.clone());
            } else if self.is_forwarded(identity) {
                (self.is_sent, self.handled_since) = (true, None);
                // The body may share the memory of the connection's read buffer, which is larger than most bodies.
                *body = Bytes::copy_from_slice(body);
                match forward.send(original, body.clone(), self.waits, shutdown).await {
                    Forwarded::Passed(received) => return Ok(Some(self.passed_on(received))),
                    Forwarded::NotTaken => {}
                    Forwarded::Rejected(status) => self.rejected = Some(status),
                    Forwarded::Unknown => return Err(Problem::ForwardUnknown),
                }
            }
        }
        self.handled_since = Some(Instant::now());
        Ok(None)
    }

    /// Whether the request is selected. Its tenant is known.
    pub(super) fn is_forwarded(&self, identity: &Identity) -> bool {
        let client = client_key(identity, self.client);
        let forward = self.in_force.forward.as_ref().filter(|_| self.original.is_some());
        forward.is_some_and(|forward| forward.selects(&self.in_force.plan.features, client.as_ref(), self.bucket))
    }

    /// The body of a request that could not be forwarded because its tenant was not known.
    pub(super) fn take_body(&mut self) -> Option<Bytes> {
        self.body.take()
    }

    /// Prepares the copy of the batch, if it is selected.
    pub(super) fn admit_copy(&mut self, body: &Bytes) {
        let InForce { plan, target, .. } = &*self.in_force;
        if let (true, Some(to), Some(target), Some(original)) = (self.is_copied, &plan.mirror, target, &self.original) {
            self.copy = self.rollout.mirror.admit(to.tokens, target, original, body);
        }
    }

    /// Sends the copy of the batch, which is accepted.
    pub(super) fn send_copy(&mut self) {
        if let Some(copy) = self.copy.take() {
            self.rollout.mirror.send(copy);
        }
    }

    /// The response of the other version.
    fn passed_on(&self, received: Received) -> Response {
        let mut response = Response::new(Body::from(received.body));
        // The headers of the daemon are not forwarded, so the other version does not know that the request is from it.
        let is_acknowledged = self.is_from_daemon && !self.waits && received.status == StatusCode::ACCEPTED;
        *response.status_mut() = if is_acknowledged { StatusCode::OK } else { received.status };
        for name in &PASSED {
            if let Some(value) = received.headers.get(name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        response
    }

    /// Whether the response is that of the other version, or none came.
    pub(super) fn is_handled_elsewhere(&self) -> bool {
        self.is_sent && self.handled_since.is_none()
    }

    /// The request has ended. The guard compares those that were handled here with those that were forwarded.
    pub(super) fn ended<T>(&mut self, result: &Result<T, Problem>) {
        self.has_ended = true;
        let (Some(forward), Some(since)) = (&self.in_force.forward, self.handled_since) else { return };
        let status = result.as_ref().err().map(Problem::status);
        if let Some(rejected) = self.rejected {
            match status {
                None => forward.rejected(rejected),
                Some(status) if status.is_client_error() => forward.rejected_by_both(),
                Some(_) => {}
            }
        }
        // A tenant that uses up its share says nothing about this version.
        if !result.as_ref().is_err_and(Problem::is_share_full) {
            let is_error = status.is_some_and(|status| status.is_server_error());
            forward.handled_here(is_error, (!self.waits).then(|| since.elapsed()));
        }
    }
}

impl Drop for Relay {
    /// A request that has not ended was dropped because its client has left.
    fn drop(&mut self) {
        if let (false, Some(forward), Some(since)) =
            (self.has_ended || self.waits, &self.in_force.forward, self.handled_since)
        {
            forward.abandoned_here(since.elapsed());
        }
    }
}

fn client_key(identity: &Identity, client: Option<IpAddr>) -> Option<ClientKey<'_>> {
    ClientKey::new(identity.tenant().map(|tenant| tenant.name()), client)
}
