//! The routes of the admin listener, for operators and their tools. All except `/live` require `ADMIN_TOKEN` if it is set.

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
use hyper::body::Incoming;
use hyper::service::Service;
use serde::Serialize;

use crate::context::PipelineContext;
use crate::digest::Digest;
use crate::health::{Outage, Side};
use crate::queue::QueueDepth;
use crate::rfc3339;
use crate::server::Peer;

const PROMETHEUS_TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The state that the admin routes show.
pub struct Admin {
    context: PipelineContext,
    depth: QueueDepth,
}

impl Admin {
    /// The state of the pipeline and the queue.
    pub fn new(context: PipelineContext, depth: QueueDepth) -> Self {
        Self { context, depth }
    }
}

/// The admin routes as a service.
#[derive(Clone)]
pub struct AdminService {
    routes: Router,
    guard: Arc<Guard>,
    address: IpAddr,
}

impl AdminService {
    /// `/metrics`, `/live` and `/ready`, behind `token` if there is one.
    pub fn new(admin: Admin, token: Option<Digest>) -> Self {
        let guard = Arc::new(Guard::new(token, admin.context.metrics.admin_token_failures.clone()));
        let routes = Router::new()
            .route("/metrics", get(metrics))
            .route("/live", get(|| async { "ok\n" }))
            .route("/ready", get(ready))
            .with_state(Arc::new(admin));
        Self { routes, guard, address: Ipv4Addr::UNSPECIFIED.into() }
    }

    /// The service for a connection of `peer`.
    pub fn for_peer(&self, peer: &Peer) -> Self {
        Self { address: peer.address(), ..self.clone() }
    }
}

impl Service<Request<Incoming>> for AdminService {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        if let Some(rejection) = self.guard.reject(&request, self.address) {
            return Box::pin(std::future::ready(Ok(rejection)));
        }
        let mut routes = self.routes.clone();
        Box::pin(async move { tower::Service::call(&mut routes, request.map(Body::new)).await })
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    match admin.context.metrics.render(
        admin.depth.now(),
        admin.context.backlog.waiting(),
        admin.context.spool.space().map_or(0, |space| space.used()),
    ) {
        Ok(text) => ([(CONTENT_TYPE, PROMETHEUS_TEXT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot render the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// The response of `/ready`: 200 if there are no reasons against readiness, else 503.
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
    /// The same time (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    since_time: Option<String>,
}

impl Reason {
    fn of(what: &'static str, outage: Outage) -> Self {
        let since = outage.since.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).ok();
        let since_time = since.map(|_| rfc3339::with_seconds(outage.since));
        Self { what, detail: Some(outage.message), since, since_time }
    }

    fn now(what: &'static str) -> Self {
        Self { what, detail: None, since: None, since_time: None }
    }
}

async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    let mut reasons = Vec::new();
    if admin.context.shutdown.is_draining() {
        reasons.push(Reason::now("draining"));
    }
    let health = &admin.context.health;
    let failing = |side| health.segments.outage(side);
    let outages = [
        ("spool", health.spool_outage().or_else(|| failing(Side::Spool))),
        ("store", health.store_outage().or_else(|| failing(Side::Store))),
    ];
    reasons.extend(outages.into_iter().filter_map(|(what, outage)| Some(Reason::of(what, outage?))));
    if admin.context.spool.space().is_some_and(|space| space.is_nearly_full()) {
        reasons.push(Reason::now("spool full"));
    }
    let unadopted = admin.context.spool.unadopted();
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
