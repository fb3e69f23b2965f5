//! The routes of the admin listener, for operators and their tools. All except `/live` and the files of the page require
//! `ADMIN_TOKEN` if it is set.

mod guard;
mod page;
mod profile;
mod stream;

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use guard::Guard;
use hyper::body::Incoming;
use hyper::service::Service;
use serde::Serialize;
use stream::Streams;
use tokio::time::timeout;

use crate::audit;
use crate::digest::Digest;
use crate::log_filter::{LogFilter, LogFilterError};
use crate::server::Peer;
use crate::status::{Reason, Snapshots, Sources, readiness};

const PROMETHEUS_TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The longest log filter.
const LOG_FILTER_MAX_BYTES: usize = 4096;
/// How long the streams may take to send their last event.
const STREAMS_END_TIMEOUT: Duration = Duration::from_millis(500);

/// What the admin routes show and change.
pub struct Admin {
    sources: Arc<Sources>,
    snapshots: Snapshots,
    log_filter: LogFilter,
    streams: Streams,
}

impl Admin {
    /// The routes show `sources` and `snapshots`, and change `log_filter`.
    pub fn new(sources: Arc<Sources>, snapshots: Snapshots, log_filter: LogFilter) -> Self {
        Self { sources, snapshots, log_filter, streams: Streams::new() }
    }

    /// Waits until the open streams have ended, but not for readers that do not read.
    pub async fn streams_ended(&self) {
        let _: Result<_, _> = timeout(STREAMS_END_TIMEOUT, self.streams.closed()).await;
    }
}

/// The address of the client, as an extension of the request.
#[derive(Debug, Clone, Copy)]
struct AdminAddress(IpAddr);

/// The admin routes as a service.
#[derive(Clone)]
pub struct AdminService {
    routes: Router,
    guard: Arc<Guard>,
    address: IpAddr,
}

impl AdminService {
    /// The route table, behind `token` if there is one.
    pub fn new(admin: Arc<Admin>, token: Option<Digest>) -> Self {
        let failures = admin.sources.context.metrics.admin_token_failures.clone();
        let guard = Arc::new(Guard::new(token, failures));
        let profiler = profile::routes(admin.sources.context.shutdown.clone());
        let routes = Router::new()
            .route("/metrics", get(metrics))
            .route("/live", get(|| async { "ok\n" }))
            .route("/ready", get(ready))
            .route("/v1/status", get(status))
            .route("/v1/stream", get(stream))
            .route("/v1/log-filter", get(log_filter).put(set_log_filter))
            .route("/v1/drain", post(drain))
            .merge(page::routes())
            .with_state(admin)
            .merge(profiler)
            .fallback(async || (StatusCode::NOT_FOUND, "no such path: docs/api.md lists the routes of this listener\n"))
            .method_not_allowed_fallback(method_not_allowed);
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

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        if let Some(rejection) = self.guard.reject(&request, self.address) {
            return Box::pin(std::future::ready(Ok(rejection)));
        }
        let mut routes = self.routes.clone();
        request.extensions_mut().insert(AdminAddress(self.address));
        Box::pin(async move { tower::Service::call(&mut routes, request.map(Body::new)).await })
    }
}

/// axum adds `Allow`.
async fn method_not_allowed() -> (StatusCode, &'static str) {
    (StatusCode::METHOD_NOT_ALLOWED, "this path has other methods: see the header Allow\n")
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    match prometheus::TextEncoder::new().encode_to_string(&admin.sources.gather()) {
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

async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    let reasons = readiness(&admin.sources.context, &admin.sources.depth);
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let readiness = Readiness { ready: reasons.is_empty(), reasons };
    let body = serde_json::to_vec(&readiness).unwrap_or_default();
    (status, [(CONTENT_TYPE, JSON)], body).into_response()
}

async fn status(State(admin): State<Arc<Admin>>) -> Response {
    ([(CONTENT_TYPE, JSON)], admin.snapshots.current().json.clone()).into_response()
}

async fn stream(
    State(admin): State<Arc<Admin>>,
    Extension(AdminAddress(address)): Extension<AdminAddress>,
) -> Response {
    admin.streams.open(admin.snapshots.clone(), address)
}

async fn log_filter(State(admin): State<Arc<Admin>>) -> Response {
    match admin.log_filter.current() {
        Ok(filter) => format!("{filter}\n").into_response(),
        Err(error) => reject_log_filter(&error),
    }
}

async fn set_log_filter(
    State(admin): State<Arc<Admin>>,
    Extension(AdminAddress(address)): Extension<AdminAddress>,
    body: Body,
) -> Response {
    let Ok(body) = to_bytes(body, LOG_FILTER_MAX_BYTES).await else {
        let text = format!("the filter has more than {LOG_FILTER_MAX_BYTES} bytes: send a shorter one\n");
        return (StatusCode::PAYLOAD_TOO_LARGE, text).into_response();
    };
    match admin.log_filter.set(&String::from_utf8_lossy(&body), address) {
        Ok((filter, warnings)) => {
            let warnings = warnings.iter().map(|warning| format!("warning: {warning}\n"));
            format!("{filter}\n{}", warnings.collect::<String>()).into_response()
        }
        Err(error) => reject_log_filter(&error),
    }
}

fn reject_log_filter(error: &LogFilterError) -> Response {
    let status = match error {
        LogFilterError::Invalid(_) => StatusCode::BAD_REQUEST,
        LogFilterError::Unavailable => StatusCode::NOT_IMPLEMENTED,
    };
    (status, format!("{error}\n")).into_response()
}

/// Rejects new batches, and stores what was accepted. The process goes on.
async fn drain(State(admin): State<Arc<Admin>>, Extension(AdminAddress(address)): Extension<AdminAddress>) -> Response {
    let context = &admin.sources.context;
    if !context.shutdown.is_stopping() {
        tracing::warn!(target: audit::TARGET, %address, "draining: new batches are rejected, and accepted jobs are stored");
        context.shutdown.stop_intake();
        context.backlog.retry_now(true);
    }
    (StatusCode::ACCEPTED, [(CONTENT_TYPE, JSON)], "{\"state\":\"draining\"}\n").into_response()
}
