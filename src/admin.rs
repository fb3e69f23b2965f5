//! The admin listener's routes: for operators and their tools, never public.

use std::convert::Infallible;
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
use hyper::body::Incoming;
use hyper::service::Service;
use serde::Serialize;

use crate::health::Health;
use crate::metrics::Metrics;
use crate::queue::Depth;
use crate::spool::Backlog;

const PROMETHEUS_TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What the admin routes look at.
pub struct Admin {
    /// What stands in the way.
    pub health: Arc<Health>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// How full the queue is.
    pub depth: Depth,
    /// Sealed segments that no worker has taken.
    pub backlog: Arc<Backlog>,
}

/// The admin routes as a service for a listener.
#[derive(Clone)]
pub struct AdminService(Router);

impl AdminService {
    /// `/metrics`, `/live`, `/ready`.
    pub fn new(admin: Admin) -> Self {
        let routes = Router::new()
            .route("/metrics", get(metrics))
            .route("/live", get(|| async { "ok\n" }))
            .route("/ready", get(ready))
            .with_state(Arc::new(admin));
        Self(routes)
    }
}

impl Service<Request<Incoming>> for AdminService {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let mut routes = self.0.clone();
        Box::pin(async move { tower::Service::call(&mut routes, request.map(Body::new)).await })
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    match admin.metrics.render(admin.depth.now(), admin.backlog.len()) {
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

async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    let mut reasons = Vec::new();
    if admin.health.is_draining() {
        reasons.push(Reason { what: "draining", detail: None, since: None });
    }
    if let Some(trouble) = admin.health.store_trouble() {
        let since = trouble.since.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).ok();
        reasons.push(Reason { what: "store", detail: Some(trouble.message), since });
    }
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let readiness = Readiness { ready: reasons.is_empty(), reasons };
    let body = serde_json::to_vec(&readiness).unwrap_or_default();
    (status, [(CONTENT_TYPE, JSON)], body).into_response()
}
