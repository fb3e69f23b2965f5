//! The admin listener's routes: for operators and their tools, never public. With `ADMIN_TOKEN`, all but `/live` ask for it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::body::Incoming;
use hyper::service::Service;
use serde::Serialize;

use crate::digest::Digest;
use crate::dispatcher::Outlet;
use crate::health::{Health, Side, Trouble};
use crate::http::bearer;
use crate::metrics::Metrics;
use crate::queue::Depth;
use crate::spool::{Backlog, Spool};

const PROMETHEUS_TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const BEARER: HeaderValue = HeaderValue::from_static("Bearer realm=\"millpond admin\"");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What the admin routes look at.
pub struct Admin {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    depth: Depth,
    backlog: Arc<Backlog>,
    spool: Arc<Spool>,
}

impl Admin {
    /// Looks at these.
    pub fn new(outlet: &Outlet, depth: Depth) -> Self {
        let Outlet { spool, backlog, health, metrics } = outlet.clone();
        Self { health, metrics, depth, backlog, spool }
    }
}

/// The admin routes as a service for a listener.
#[derive(Clone)]
pub struct AdminService {
    routes: Router,
    token: Option<Digest>,
}

impl AdminService {
    /// `/metrics`, `/live`, `/ready`; for those who have the token, if there is one.
    pub fn new(admin: Admin, token: Option<Digest>) -> Self {
        let routes = Router::new()
            .route("/metrics", get(metrics))
            .route("/live", get(|| async { "ok\n" }))
            .route("/ready", get(ready))
            .with_state(Arc::new(admin));
        Self { routes, token }
    }

    /// Whoever asks whether the process lives, a supervisor say, learns nothing else by it and needs no token.
    fn admits<B>(&self, request: &Request<B>) -> bool {
        let Some(token) = &self.token else { return true };
        let guess = request.headers().get(AUTHORIZATION).and_then(bearer);
        request.uri().path() == "/live" || guess.is_some_and(|guess| *token == Digest::of(guess))
    }
}

impl Service<Request<Incoming>> for AdminService {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        if !self.admits(&request) {
            let refused = (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, BEARER)], "ADMIN_TOKEN is asked for\n");
            return Box::pin(std::future::ready(Ok(refused.into_response())));
        }
        let mut routes = self.routes.clone();
        Box::pin(async move { tower::Service::call(&mut routes, request.map(Body::new)).await })
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    match admin.metrics.render(
        admin.depth.now(),
        admin.backlog.len(),
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
}

impl Reason {
    fn of(what: &'static str, trouble: Trouble) -> Self {
        let since = trouble.since.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).ok();
        Self { what, detail: Some(trouble.message), since }
    }
}

async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    let mut reasons = Vec::new();
    if admin.health.is_draining() {
        reasons.push(Reason { what: "draining", detail: None, since: None });
    }
    let health = &admin.health;
    let failing = |side| health.segments.trouble(side);
    let troubles = [
        ("spool", health.spool_trouble().or_else(|| failing(Side::Spool))),
        ("store", health.store_trouble().or_else(|| failing(Side::Store))),
    ];
    reasons.extend(troubles.into_iter().filter_map(|(what, trouble)| Some(Reason::of(what, trouble?))));
    if admin.spool.space().is_some_and(|space| space.is_nearly_full()) {
        reasons.push(Reason { what: "spool full", detail: None, since: None });
    }
    let unadopted = admin.spool.unadopted();
    if unadopted.failing > 0 {
        reasons.push(Reason { what: "spool folders not adopted", detail: unadopted.reason, since: None });
    }
    if admin.depth.is_full() {
        reasons.push(Reason { what: "queue full", detail: None, since: None });
    }
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let readiness = Readiness { ready: reasons.is_empty(), reasons };
    let body = serde_json::to_vec(&readiness).unwrap_or_default();
    (status, [(CONTENT_TYPE, JSON)], body).into_response()
}
