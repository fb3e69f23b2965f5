//! The span of a request.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use axum::http::{Method, Request, StatusCode, Version};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status};
use opentelemetry::{KeyValue, Value};
use parking_lot::Mutex;

use super::{JobTrace, NewSpan, Parent, Sampled, Tracer, failed, new_context};
use crate::metrics::Route;

/// A request between its headers and its response. The span ends when this is dropped: if the client closes the connection
/// before it gets its response, without a status.
pub(crate) struct RequestSpan {
    tracer: Arc<Tracer>,
    trace: Arc<RequestTrace>,
    parent: Parent,
    name: &'static str,
    started: SystemTime,
    status: Option<StatusCode>,
}

/// The trace of a sampled request, for its handler.
pub(crate) struct RequestTrace {
    context: SpanContext,
    attributes: Mutex<Vec<KeyValue>>,
}

impl RequestTrace {
    /// Adds an attribute to the span.
    pub(crate) fn record(&self, key: &'static str, value: impl Into<Value>) {
        self.attributes.lock().push(KeyValue::new(key, value));
    }

    /// The trace of the request's job, which is about to be queued.
    pub(crate) fn job(&self) -> Box<JobTrace> {
        Box::new(JobTrace::new(self.context.clone()))
    }
}

impl RequestSpan {
    /// Begins the span of a sampled request. Only what is known to be harmless is recorded: no query, and no header.
    pub(crate) fn new<B>(tracer: &Arc<Tracer>, sampled: Sampled, request: &Request<B>, client: Option<IpAddr>) -> Self {
        let context = new_context(sampled.trace);
        let (method, name, template) = describe(request.method(), request.uri().path());
        let version = match request.version() {
            Version::HTTP_2 => "2",
            Version::HTTP_10 => "1.0",
            _ => "1.1",
        };
        let mut attributes =
            vec![KeyValue::new("http.request.method", method), KeyValue::new("network.protocol.version", version)];
        attributes.extend(template.map(|template| KeyValue::new("http.route", template)));
        attributes.extend(client.map(|client| KeyValue::new("client.address", client.to_string())));
        Self {
            tracer: Arc::clone(tracer),
            trace: Arc::new(RequestTrace { context, attributes: Mutex::new(attributes) }),
            parent: Parent { id: sampled.parent.unwrap_or(SpanId::INVALID), is_remote: sampled.parent.is_some() },
            name,
            started: SystemTime::now(),
            status: None,
        }
    }

    /// Adds an attribute.
    pub(crate) fn record(&self, key: &'static str, value: impl Into<Value>) {
        self.trace.record(key, value);
    }

    /// The trace, for the handler.
    pub(crate) fn trace(&self) -> Arc<RequestTrace> {
        Arc::clone(&self.trace)
    }

    /// Ends the span with the status of the response.
    pub(crate) fn end(mut self, status: StatusCode) {
        self.status = Some(status);
    }
}

impl Drop for RequestSpan {
    fn drop(&mut self) {
        let mut attributes = std::mem::take(&mut *self.trace.attributes.lock());
        let status = match self.status {
            Some(status) => {
                attributes.push(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
                if status.is_server_error() {
                    attributes.push(KeyValue::new("error.type", status.as_str().to_owned()));
                }
                // A 4xx is the client's error, and leaves the status of a server span unset.
                if status.is_server_error() { failed("") } else { Status::Unset }
            }
            None => {
                attributes.push(KeyValue::new("error.type", "connection_closed"));
                failed("the connection closed before the response")
            }
        };
        let span = self.tracer.ended(NewSpan {
            context: self.trace.context.clone(),
            parent: self.parent,
            kind: SpanKind::Server,
            name: self.name,
            started: self.started,
            attributes,
            links: Vec::new(),
            dropped_links: 0,
            status,
        });
        self.tracer.export(span);
    }
}

/// The method, the name of the span and the template of the route. A client cannot choose any of them freely.
fn describe(method: &Method, path: &str) -> (&'static str, &'static str, Option<&'static str>) {
    let method = match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => "_OTHER",
    };
    match (Route::of(path), method) {
        (Route::Payloads, "POST") if path == "/" => (method, "POST /", Some("/")),
        (Route::Payloads, "POST") => (method, "POST /v1/payloads", Some("/v1/payloads")),
        (Route::Jobs, "GET") => (method, "GET /v1/jobs/{job}", Some("/v1/jobs/{job}")),
        (_, "_OTHER") => (method, "HTTP", None),
        _ => (method, method, None),
    }
}
