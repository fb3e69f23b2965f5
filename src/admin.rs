//! The admin listener's routes: for operators and their tools, never public. With `ADMIN_TOKEN`, all but `/live` ask for it.

mod guard;

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use guard::Guard;
pub(crate) use guard::is_local;
use hyper::body::Incoming;
use hyper::service::Service;
use serde::Serialize;
use time::OffsetDateTime;

use crate::digest::Digest;
use crate::health::{Health, Outage, Side};
use crate::http::Peer;
use crate::metrics::Metrics;
use crate::pipeline::PipelineContext;
use crate::queue::QueueDepth;
use crate::shutdown::Shutdown;
use crate::spool::{Backlog, Spool};

const PROMETHEUS_TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What the admin routes look at.
pub struct Admin {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    depth: QueueDepth,
    backlog: Arc<Backlog>,
    spool: Arc<Spool>,
    shutdown: Shutdown,
}

impl Admin {
    /// Looks at these.
    pub fn new(context: &PipelineContext, depth: QueueDepth) -> Self {
        let PipelineContext { spool, backlog, health, metrics, shutdown } = context.clone();
        Self { health, metrics, depth, backlog, spool, shutdown }
    }
}

/// The admin routes as a service for a listener.
#[derive(Clone)]
pub struct AdminService {
    routes: Router,
    guard: Arc<Guard>,
    address: IpAddr,
}

impl AdminService {
    /// `/metrics`, `/live`, `/ready`; for those who have the token, if there is one.
    pub fn new(admin: Admin, token: Option<Digest>) -> Self {
        let guard = Arc::new(Guard::new(token, admin.metrics.admin_token_failures.clone()));
        let routes = Router::new()
            .route("/metrics", get(metrics))
            .route("/live", get(|| async { "ok\n" }))
            .route("/ready", get(ready))
            .with_state(Arc::new(admin));
        Self { routes, guard, address: Ipv4Addr::UNSPECIFIED.into() }
    }

    /// The same for a connection whose other end is known.
    pub fn of(&self, peer: &Peer) -> Self {
        Self { address: peer.address(), ..self.clone() }
    }
}

impl Service<Request<Incoming>> for AdminService {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        if let Some(refusal) = self.guard.refusal(&request, self.address) {
            return Box::pin(std::future::ready(Ok(refusal)));
        }
        let mut routes = self.routes.clone();
        Box::pin(async move { tower::Service::call(&mut routes, request.map(Body::new)).await })
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    match admin.metrics.render(
        admin.depth.now(),
        admin.backlog.waiting(),
        admin.spool.space().map_or(0, |space| space.used()),
    ) {
        Ok(text) => ([(CONTENT_TYPE, PROMETHEUS_TEXT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot render the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// What `/ready` says: 200 when there are no reasons against, else 503.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    reasons: Vec<Reason>,
}

#[derive(Serialize)]
struct Reason {
    what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// Seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
    /// The same as RFC 3339 has it, in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    since_time: Option<String>,
}

impl Reason {
    fn of(what: &'static str, trouble: Outage) -> Self {
        let since = trouble.since.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).ok();
        Self { what, detail: Some(trouble.message), since, since_time: since.and_then(rfc3339) }
    }

    fn now(what: &'static str) -> Self {
        Self { what, detail: None, since: None, since_time: None }
    }
}

/// Seconds since 1970 as a time in UTC.
fn rfc3339(seconds: u64) -> Option<String> {
    let at = OffsetDateTime::from_unix_timestamp(seconds.try_into().ok()?).ok()?;
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second) = at.to_hms();
    Some(format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z", u8::from(month)))
}

async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    let mut reasons = Vec::new();
    if admin.shutdown.is_draining() {
        reasons.push(Reason::now("draining"));
    }
    let health = &admin.health;
    let failing = |side| health.segments.outage(side);
    let troubles = [
        ("spool", health.spool_outage().or_else(|| failing(Side::Spool))),
        ("store", health.store_outage().or_else(|| failing(Side::Store))),
    ];
    reasons.extend(troubles.into_iter().filter_map(|(what, trouble)| Some(Reason::of(what, trouble?))));
    if admin.spool.space().is_some_and(|space| space.is_nearly_full()) {
        reasons.push(Reason::now("spool full"));
    }
    let unadopted = admin.spool.unadopted();
    if unadopted.failing > 0 {
        reasons.push(Reason { detail: unadopted.reason, ..Reason::now("spool folders not adopted") });
    }
    if admin.depth.is_full() {
        reasons.push(Reason::now("queue full"));
    }
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let readiness = Readiness { ready: reasons.is_empty(), reasons };
    let body = serde_json::to_vec(&readiness).unwrap_or_default();
    (status, [(CONTENT_TYPE, JSON)], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339_has_it() {
        assert_eq!(rfc3339(0).as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(rfc3339(1_795_732_628).as_deref(), Some("2026-11-26T22:37:08Z"));
    }
}
