//! The public edge: routes, handlers, and what is said to those who are refused.

mod ack;
mod addresses;
mod arrivals;
mod body;
mod charged;
mod connection;
mod decoding;
mod head;
mod in_flight;
mod jobs;
mod lanes;
mod listener;
mod origin;
mod payloads;
mod peer;
mod places;
mod problem;
mod proxy_header;
mod query;
mod request_id;
mod sender;
mod tls;

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, Method, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::body::Incoming;
use hyper::service::Service;
use tokio::sync::Semaphore;

pub(crate) use addresses::network;
pub use arrivals::Transport;
use decoding::DecodeLimits;
use in_flight::{Admission, InFlight};
use lanes::Lanes;
pub use listener::{Limits, bind, serve, serve_connection};
use peer::ClientAddress;
pub use peer::{Peer, TrustedProxies};
use places::Places;
pub(crate) use problem::Problem;
use request_id::RequestId;
pub(crate) use sender::bearer;
pub use tls::{Tls, TlsError};

use crate::audit::AuditLog;
use crate::config::{HttpSettings, Settings};
use crate::log_throttle::LogThrottle;
use crate::metrics::{Outcome, Route};
use crate::pipeline::PipelineContext;
use crate::queue::JobQueue;
use crate::store::Store;
use crate::tenants::Tenants;

/// Requests that may wait for what becomes of a job; the others are answered at once.
const WAITS_MAX: usize = 1024;
/// Requests that may wait until their job is stored; the others are answered when it is committed, with that level.
const STORED_WAITS_MAX: usize = 2048;
/// Lookups of jobs of other machines that may ask the store at once.
const LOOKUPS_MAX: usize = 32;

/// Every batch is refused while the spool is full, and a spool that drains and fills is full many times a minute.
static SPOOL_FULL: LogThrottle = LogThrottle::new(Duration::from_secs(60));

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the handlers share.
pub struct Edge {
    settings: HttpSettings,
    limits: DecodeLimits,
    prefix: String,
    queue: JobQueue,
    context: PipelineContext,
    store: Arc<Store>,
    /// `None` lets anybody send.
    tenants: Option<Arc<Tenants>>,
    waits: Places,
    stored_waits: Places,
    in_flight: InFlight,
    /// Whether requests in flight are bounded for each address, as connections are.
    is_bounded_by_address: bool,
    lookups: Places,
    audit: AuditLog,
    /// Large bodies are decoded off the async threads, one a core at a time: the copies that decoding makes are bounded
    /// with it.
    large_bodies: Arc<Semaphore>,
    /// Where they wait for that, unless the tenant has a lane.
    lanes: Lanes,
}

impl Edge {
    /// The edge in front of `queue`, and of `store` for those who ask after jobs of other machines; for `tenants` alone, if
    /// there are any.
    pub fn new(
        settings: &Settings,
        queue: JobQueue,
        context: PipelineContext,
        store: Arc<Store>,
        tenants: Option<Arc<Tenants>>,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let large_bodies = Arc::new(Semaphore::new(cores));
        let (mut http, prefix) = (settings.http.clone(), settings.prefix.clone());
        let most = tenants.as_ref().map_or(queue.max_bytes(), |tenants| tenants.max_queue_bytes());
        // What the sender's part of the queue, or an empty spool, could never hold would be told forever to come back later.
        let lines = if context.spool.is_durable() { most.min(settings.spool.max_batch_bytes()) } else { most };
        http.max_body_bytes = http.max_body_bytes.min(lines);
        Self {
            limits: DecodeLimits::new(&http, most, lines),
            settings: http,
            prefix,
            queue,
            in_flight: InFlight::new(Arc::clone(&context.metrics)),
            is_bounded_by_address: settings.transport.max_connections_per_address.is_some(),
            context,
            store,
            tenants,
            waits: Places::new(WAITS_MAX),
            stored_waits: Places::new(STORED_WAITS_MAX),
            lookups: Places::new(LOOKUPS_MAX),
            audit: AuditLog::default(),
            large_bodies,
            lanes: Lanes::new(cores),
        }
    }

    fn retry_after(&self) -> u64 {
        self.queue.retry_after()
    }

    /// Why no batch is taken now, whatever is in it; nothing if batches are taken.
    fn closed(&self) -> Option<Problem> {
        if self.context.shutdown.is_draining() {
            return Some(Problem::Draining { retry_after: self.retry_after() });
        }
        if self.context.spool.space().is_some_and(|space| space.is_nearly_full()) {
            if let Some(suppressed) = SPOOL_FULL.permit() {
                tracing::warn!(suppressed, "the spool is full; batches are refused until uploads make room");
            }
            return Some(Problem::SpoolFull { retry_after: self.retry_after() });
        }
        if self.queue.is_full() {
            return Some(Problem::QueueFull { retry_after: self.retry_after() });
        }
        None
    }
}

/// The routes, and around them what every request gets: an id, a duration and an outcome.
#[derive(Clone)]
pub struct Public {
    routes: Router,
    edge: Arc<Edge>,
    peer: Option<Peer>,
}

impl Public {
    /// The public routes, on one page.
    pub fn new(edge: Arc<Edge>) -> Self {
        let routes = Router::new()
            .route("/", post(payloads::post))
            .route("/v1/payloads", post(payloads::post))
            .route("/v1/jobs/{job}", get(jobs::get))
            .route("/health", get(health))
            .fallback(|| async { Problem::NotFound })
            .method_not_allowed_fallback(|| async { Problem::MethodNotAllowed })
            .with_state(Arc::clone(&edge));
        Self { routes, edge, peer: None }
    }

    /// The address that a request counts for, if requests are bounded by address. Those of a trusted proxy that names no
    /// client have none.
    fn bounded(&self, client: Option<IpAddr>) -> Option<IpAddr> {
        let peer = self.peer.as_ref().filter(|_| self.edge.is_bounded_by_address)?;
        client.filter(|client| !peer.trusts(*client))
    }

    /// The same for a connection whose other end is known.
    pub fn of(&self, peer: Peer) -> Self {
        Self { peer: Some(peer), ..self.clone() }
    }
}

/// 200 while the server takes work, 503 while it stops or cannot.
async fn health(State(edge): State<Arc<Edge>>) -> Result<&'static str, Problem> {
    let reason = match edge.closed() {
        Some(Problem::Draining { .. }) => "the server is stopping",
        Some(Problem::SpoolFull { .. }) => "the spool is full; batches are refused until uploads make room",
        Some(_) => "the queue is full; batches are refused until there is room",
        None if edge.context.health.spool_outage().is_some() => {
            "the spool takes no commits; batches are refused until it does"
        }
        None => return Ok("ok\n"),
    };
    Err(Problem::Unhealthy { reason, retry_after: edge.retry_after() })
}

impl Service<Request<Incoming>> for Public {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let began = Instant::now();
        let (mut routes, edge) = (self.routes.clone(), Arc::clone(&self.edge));
        let client = self.peer.as_ref().map(|peer| peer.client(request.headers()));
        let route = Route::of(request.uri().path());
        let is_health_check = matches!(*request.method(), Method::GET | Method::HEAD) && route == Route::Health;
        let admission = edge.in_flight.admit(self.bounded(client), request.headers(), is_health_check);
        let (charge, admitted) = match admission {
            Admission::Admitted(charge) => (Arc::new(charge), Ok(())),
            Admission::Refused(charge, problem) => (Arc::new(charge), Err(problem)),
            Admission::Exhausted => {
                edge.context.metrics.request(route, Outcome::TooManyRequests);
                return Box::pin(std::future::ready(Ok(connection::end())));
            }
        };
        let version = request.version();
        let id = RequestId::of(request.headers());
        let (is_head, is_post) = (request.method() == Method::HEAD, request.method() == Method::POST);
        // The headers of a request that is refused are dropped here, and not where the answer waits to be written.
        let admitted = admitted.and_then(|()| head::check(&request)).map(|()| {
            let mut request = request.map(Body::new);
            // Handlers read the id from the header, whether the client sent it or it was made here.
            request.headers_mut().insert(X_REQUEST_ID, id.clone().into());
            if let Some(address) = client {
                request.extensions_mut().insert(ClientAddress(address));
            }
            request
        });
        Box::pin(async move {
            let mut response = match admitted {
                Ok(request) => {
                    let mut answer = pin!(tower::Service::call(&mut routes, request));
                    let Ok(response) = poll_fn(|cx| {
                        let polled = answer.as_mut().poll(cx);
                        // No handler keeps the headers over its first wait.
                        charge.headers_dropped();
                        polled
                    })
                    .await;
                    response
                }
                Err(problem) => {
                    charge.headers_dropped();
                    problem.into_response()
                }
            };
            let outcome = match response.extensions_mut().remove::<Problem>() {
                Some(problem) => {
                    problem.audit(&edge.audit, &id, client);
                    response = problem.render(&id, client, response);
                    if is_head {
                        // hyper leaves it out in HTTP/1.1 alone.
                        *response.body_mut() = Body::empty();
                    }
                    problem.outcome()
                }
                // What is posted is a batch.
                None if is_post && response.status().is_success() => Outcome::Accepted,
                None => Outcome::Other,
            };
            edge.context.metrics.request(route, outcome);
            edge.context.metrics.request_took(route, began.elapsed().as_secs_f64());
            Ok(charged::keep(response, charge, version, &id))
        })
    }
}
