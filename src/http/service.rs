//! The public routes as a service for the server. Every request gets an id, a duration, an outcome and a memory charge.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Method, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::body::Incoming;
use hyper::service::Service;

use super::in_flight::Admission;
use super::payloads::RejectedTenant;
use super::problem::Problem;
use super::request_id::RequestId;
use super::state::ApiState;
use super::{charged, head, jobs, payloads, sqsd};
use crate::headers::X_REQUEST_ID;
use crate::metrics::{Outcome, Route};
use crate::server::{ClientAddress, Peer, end_connection};
use crate::tenants::Tenant;
use crate::trace::RequestSpan;

/// The public routes.
#[derive(Clone)]
pub struct PublicService {
    routes: Router,
    state: Arc<ApiState>,
    peer: Option<Peer>,
}

impl PublicService {
    /// The route table.
    pub fn new(state: Arc<ApiState>) -> Self {
        let routes = Router::new()
            .route("/", post(payloads::post))
            .route("/v1/payloads", post(payloads::post))
            .route("/v1/jobs/{job}", get(jobs::get))
            .route("/health", get(health))
            .fallback(|| async { Problem::NotFound })
            .method_not_allowed_fallback(|| async { Problem::MethodNotAllowed })
            .with_state(Arc::clone(&state));
        Self { routes, state, peer: None }
    }

    /// The service for a connection from `peer`.
    pub fn of(&self, peer: Peer) -> Self {
        Self { peer: Some(peer), ..self.clone() }
    }

    /// The address whose requests in flight are limited together; none behind a trusted proxy that names no client.
    fn limited_address(&self, client: Option<IpAddr>) -> Option<IpAddr> {
        let peer = self.peer.as_ref().filter(|_| self.state.limits_addresses)?;
        client.filter(|client| !peer.trusts(*client))
    }
}

/// 200 while batches are accepted, else 503.
async fn health(State(state): State<Arc<ApiState>>) -> Result<&'static str, Problem> {
    Err(Problem::Unhealthy(match state.rejects_batches() {
        None if state.context.shutdown.is_announced() => {
            "the server is shutting down; batches are accepted until it closes the connection"
        }
        Some(Problem::Draining) => "the server is draining; batches are rejected",
        Some(Problem::SpoolFull) => "the spool is full; batches are rejected until uploads free space",
        None if state.context.health.spool_outage().is_some() && state.context.spool.broker().is_some() => {
            "the broker does not take commits; batches are rejected until it does"
        }
        None if state.context.health.spool_outage().is_some() => {
            "commits to the spool fail; batches are rejected until they succeed"
        }
        // A process that only uploads is healthy without accepting batches.
        None | Some(Problem::NoFrontEnd) => return Ok("ok\n"),
        Some(_) => "the queue is full; batches are rejected until it has space",
    }))
}

impl Service<Request<Incoming>> for PublicService {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let began = Instant::now();
        let (mut routes, state) = (self.routes.clone(), Arc::clone(&self.state));
        let client = self.peer.as_ref().map(|peer| peer.client(request.headers()));
        let route = Route::of(request.uri().path());
        let is_health_check = matches!(*request.method(), Method::GET | Method::HEAD) && route == Route::Health;
        let admission = state.in_flight.admit(self.limited_address(client), request.headers(), is_health_check);
        let (charge, admitted) = match admission {
            Admission::Admitted(charge) => (Arc::new(charge), Ok(())),
            Admission::Rejected(charge, problem) => (Arc::new(charge), Err(problem)),
            Admission::Exhausted => {
                state.context.metrics.request(route, Outcome::TooManyRequests);
                return Box::pin(std::future::ready(Ok(end_connection())));
            }
        };
        let version = request.version();
        let id = RequestId::of(request.headers());
        let span = match &state.context.tracer {
            Some(tracer) if route != Route::Health => tracer
                .sample(request.headers(), client, began)
                .map(|sampled| Box::new(RequestSpan::new(tracer, sampled, &request, client))),
            _ => None,
        };
        let keeps_headers = state.settings.sqsd_context && sqsd::is_from_daemon(request.headers());
        let (is_head, is_post) = (request.method() == Method::HEAD, request.method() == Method::POST);
        // The headers of a rejected request are dropped here, and not after its response is written.
        let admitted = admitted.and_then(|()| head::check(&request)).map(|()| {
            let mut request = request.map(Body::new);
            // Handlers read the id from the header, whether the client sent it or it was generated.
            request.headers_mut().insert(X_REQUEST_ID, id.clone().into());
            if let Some(address) = client {
                request.extensions_mut().insert(ClientAddress(address));
            }
            if let Some(span) = &span {
                span.record("millpond.request_id", id.as_str().to_owned());
                request.extensions_mut().insert(span.trace());
            }
            request
        });
        Box::pin(async move {
            let mut response = match admitted {
                Ok(request) => {
                    let mut response = pin!(tower::Service::call(&mut routes, request));
                    let Ok(response) = poll_fn(|cx| {
                        let polled = response.as_mut().poll(cx);
                        // No other handler keeps the headers after its first await.
                        if !keeps_headers {
                            charge.release_headers();
                        }
                        polled
                    })
                    .await;
                    response
                }
                Err(problem) => {
                    charge.release_headers();
                    problem.into_response()
                }
            };
            let outcome = match response.extensions_mut().remove::<Problem>() {
                Some(problem) => {
                    problem.audit(&state.audit, &id, client);
                    let tenant = response.extensions_mut().remove::<RejectedTenant>();
                    let tenant = tenant.as_ref().map(|RejectedTenant(tenant)| tenant.as_ref());
                    tenant.iter().for_each(|tenant| tenant.activity().rejected(problem.outcome().is_throttled()));
                    problem.record(&state.context.recent, &id, client, tenant.map(Tenant::name));
                    response = problem.render(&id, client, response, || state.queue.retry_after());
                    if is_head {
                        // hyper omits the body in HTTP/1.1 only.
                        *response.body_mut() = Body::empty();
                    }
                    problem.outcome()
                }
                // Only batches are posted.
                None if is_post && response.status().is_success() => Outcome::Accepted,
                None => Outcome::Other,
            };
            if let Some(span) = span {
                span.end(response.status());
            }
            state.context.metrics.request(route, outcome);
            state.context.metrics.observe_request(route, outcome.result(), began.elapsed().as_secs_f64());
            Ok(charged::keep(response, charge, version, &id))
        })
    }
}
