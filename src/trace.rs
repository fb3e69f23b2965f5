//! Traces of sampled requests, in the model of OpenTelemetry and exported over OTLP.
//!
//! | span | kind | time | parent | links |
//! | --- | --- | --- | --- | --- |
//! | `POST /v1/payloads` | server | headers to response | `traceparent` of the client | |
//! | `queue` | internal | queued to the start of the commit | the request | the commit |
//! | `commit` | internal | compress, append, fdatasync | the first sampled request of the frame | the other ones |
//! | `upload` | client | one attempt | the first traced commit of the segment | the other ones |
//!
//! A request that is not sampled costs the decision alone: it has no span, and nothing is allocated. The trace id and the
//! parent come from `traceparent` (W3C Trace Context); `tracestate` is ignored, because nothing here passes a context on.
//!
//! The spans are built as [`SpanData`] of OpenTelemetry's SDK. Its providers and processors are not used: they read the
//! environment, and their drops cannot be counted.

mod exporter;
mod otlp;
mod pipeline;
mod request;
mod sampler;
mod traceparent;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::http::HeaderMap;
use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use exporter::Exporter;
pub use pipeline::SegmentTrace;
pub(crate) use pipeline::{JobTrace, UploadResult};
pub(crate) use request::{RequestSpan, RequestTrace};
pub use sampler::{PARENT_SAMPLED_MAX, PARENT_SAMPLED_PER_ADDRESS_MAX, Sampled};

use crate::config::TraceSettings;
use crate::metrics::Metrics;
use exporter::SPAN_QUEUE_MAX;
use otlp::Collector;
use sampler::Sampler;

/// The most links of a span. More are counted as dropped.
const LINKS_MAX: usize = 128;

/// Decides which requests are sampled, and passes finished spans to the [`Exporter`].
pub struct Tracer {
    sampler: Sampler,
    spans: mpsc::Sender<SpanData>,
    metrics: Arc<Metrics>,
    scope: InstrumentationScope,
    closing: CancellationToken,
}

impl Tracer {
    /// A tracer, and the exporter of its spans.
    ///
    /// # Errors
    /// If the URL is https and the certificates of the system cannot be read.
    pub fn new(settings: &TraceSettings, metrics: &Arc<Metrics>) -> io::Result<(Self, Exporter)> {
        let (spans, receiver) = mpsc::channel(SPAN_QUEUE_MAX);
        let closing = CancellationToken::new();
        let collector = Collector::new(settings)?;
        let exporter = Exporter::new(receiver, collector, Arc::clone(metrics), closing.clone());
        let scope = InstrumentationScope::builder("millpond").with_version(env!("CARGO_PKG_VERSION")).build();
        let sampler = Sampler::new(settings.sampler, Instant::now());
        Ok((Self { sampler, spans, metrics: Arc::clone(metrics), scope, closing }, exporter))
    }

    /// Whether a request of `client` with these headers, which arrived at `now`, is sampled. This is all that a request costs that is not.
    pub fn sample(&self, headers: &HeaderMap, client: Option<IpAddr>, now: Instant) -> Option<Sampled> {
        self.sampler.sample(traceparent::of(headers).as_ref(), client, now)
    }

    /// The exporter exits when it has exported what is queued. Later spans are dropped.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// A span that has just ended.
    fn ended(&self, span: NewSpan) -> SpanData {
        let NewSpan { context, parent, kind, name, started, attributes, links, dropped_links, status } = span;
        let mut span_links = SpanLinks::default();
        (span_links.links, span_links.dropped_count) = (links, dropped_links);
        SpanData {
            span_context: context,
            parent_span_id: parent.id,
            parent_span_is_remote: parent.is_remote,
            span_kind: kind,
            name: name.into(),
            start_time: started,
            // The clock may have been set back.
            end_time: SystemTime::now().max(started),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: span_links,
            status,
            instrumentation_scope: self.scope.clone(),
        }
    }

    /// Queues a span for the export, if the queue is not full.
    fn export(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.metrics.spans_dropped.inc();
        }
    }
}

/// What a span has when it ends.
struct NewSpan {
    context: SpanContext,
    parent: Parent,
    kind: SpanKind,
    name: &'static str,
    started: SystemTime,
    attributes: Vec<KeyValue>,
    links: Vec<Link>,
    dropped_links: u32,
    status: Status,
}

/// The parent of a span.
#[derive(Clone, Copy)]
struct Parent {
    /// [`SpanId::INVALID`] for the first span of a trace.
    id: SpanId,
    /// Whether it is a span of the client.
    is_remote: bool,
}

impl Parent {
    fn local(context: &SpanContext) -> Self {
        Self { id: context.span_id(), is_remote: false }
    }
}

/// A new sampled span of the trace.
fn new_context(trace: TraceId) -> SpanContext {
    let id = SpanId::from(fastrand::u64(1..));
    SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::NONE)
}

/// Links to `contexts`, at most [`LINKS_MAX`], and how many more there are.
fn links<'c>(contexts: impl Iterator<Item = &'c SpanContext>) -> (Vec<Link>, u32) {
    let mut contexts = contexts.cloned();
    let links = contexts.by_ref().take(LINKS_MAX).map(Link::with_context).collect();
    (links, u32::try_from(contexts.count()).unwrap_or(u32::MAX))
}

/// The status of a failed span.
fn failed(description: &'static str) -> Status {
    Status::Error { description: description.into() }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use axum::http::{Request, StatusCode};
    use prometheus::Registry;

    use super::*;
    use crate::config::{RootSampler, SamplerSettings};

    fn tracer() -> (Arc<Tracer>, Exporter, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new(Registry::new()).unwrap());
        let settings = TraceSettings {
            url: "http://127.0.0.1:1/v1/traces".parse().unwrap(),
            headers: HeaderMap::new(),
            service_name: "millpond".to_owned(),
            sampler: SamplerSettings { follows_parent: true, root: RootSampler::AlwaysOn },
        };
        let (tracer, exporter) = Tracer::new(&settings, &metrics).unwrap();
        (Arc::new(tracer), exporter, metrics)
    }

    fn job() -> JobTrace {
        JobTrace::new(new_context(TraceId::from(fastrand::u128(1..))))
    }

    /// The spans that are queued.
    fn queued(exporter: &mut Exporter) -> Vec<SpanData> {
        std::iter::from_fn(|| exporter.try_recv()).collect()
    }

    #[tokio::test]
    async fn spans_beyond_the_queue_are_dropped_and_counted() {
        let (tracer, mut exporter, metrics) = tracer();
        for _ in 0..SPAN_QUEUE_MAX {
            // A span of the queue and one of the commit.
            drop(tracer.commit([job()].iter()));
        }
        assert_eq!(metrics.spans_dropped.get(), SPAN_QUEUE_MAX as u64);
        assert_eq!(queued(&mut exporter).len(), SPAN_QUEUE_MAX);
        drop(tracer.commit([job()].iter()));
        assert_eq!(queued(&mut exporter).len(), 2, "the queue has space again");
    }

    #[tokio::test]
    async fn a_span_has_a_bounded_number_of_links_and_says_how_many_it_lacks() {
        let (tracer, mut exporter, _) = tracer();
        let jobs: Vec<_> = std::iter::repeat_with(job).take(LINKS_MAX + 3).collect();
        let mut segment = SegmentTrace::default();
        let id = crate::segment::SegmentId::new(SystemTime::now());
        tracer.commit(jobs.iter()).unwrap().committed(id, &mut segment, jobs.len(), 1);
        let commit = queued(&mut exporter).pop().unwrap();
        assert_eq!((commit.links.len(), commit.links.dropped_count), (LINKS_MAX, 2));
        for _ in 0..LINKS_MAX + 4 {
            tracer.commit([job()].iter()).unwrap().committed(id, &mut segment, 1, 1);
        }
        queued(&mut exporter);
        drop(tracer.upload(&segment));
        let upload = queued(&mut exporter).pop().unwrap();
        assert_eq!((upload.links.len(), upload.links.dropped_count), (LINKS_MAX, 4));
        assert_eq!(upload.parent_span_id, commit.span_context.span_id());
        let unique: HashSet<_> = upload.links.iter().map(|link| link.span_context.span_id()).collect();
        assert_eq!(unique.len(), LINKS_MAX);
    }

    #[tokio::test]
    async fn what_is_not_traced_has_no_span() {
        let (tracer, mut exporter, _) = tracer();
        assert!(tracer.commit([].iter()).is_none() && tracer.upload(&SegmentTrace::default()).is_none());
        assert!(queued(&mut exporter).is_empty());
    }

    #[tokio::test]
    async fn only_a_server_error_or_a_missing_response_makes_the_span_of_a_request_an_error() {
        let (tracer, mut exporter, _) = tracer();
        let request = Request::post("/v1/payloads?secret").body(()).unwrap();
        for status in [Some(202), Some(429), Some(503), None] {
            let sampled = tracer.sample(request.headers(), None, Instant::now()).unwrap();
            let span = RequestSpan::new(&tracer, sampled, &request, None);
            if let Some(status) = status {
                span.end(StatusCode::from_u16(status).unwrap());
            }
        }
        let spans = queued(&mut exporter);
        let failed = spans.iter().map(|span| matches!(span.status, Status::Error { .. }));
        assert_eq!(failed.collect::<Vec<_>>(), [false, false, true, true]);
        assert!(spans.iter().all(|span| span.name == "POST /v1/payloads" && span.parent_span_id == SpanId::INVALID));
    }

    #[tokio::test]
    async fn a_commit_or_an_upload_that_does_not_end_well_is_an_error() {
        let (tracer, mut exporter, _) = tracer();
        let mut segment = SegmentTrace::default();
        let id = crate::segment::SegmentId::new(SystemTime::now());
        drop(tracer.commit([job()].iter()));
        tracer.commit([job()].iter()).unwrap().committed(id, &mut segment, 1, 1);
        let result = UploadResult { segment: id, key: "k", bytes: 1, jobs: 1, failures: 0, error: None };
        let error = Some(crate::store::ErrorClass::Throttled);
        tracer.upload(&segment).unwrap().end(&UploadResult { error, ..result });
        tracer.upload(&segment).unwrap().end(&UploadResult { error: None, failures: 1, ..result });
        drop(tracer.upload(&segment));
        let spans = queued(&mut exporter);
        let failed = |name| {
            let named = spans.iter().filter(|span| span.name == name);
            named.map(|span| matches!(span.status, Status::Error { .. })).collect::<Vec<_>>()
        };
        assert_eq!(failed("queue"), [false, false]);
        assert_eq!(failed("commit"), [true, false]);
        assert_eq!(failed("upload"), [true, false, true], "the last one was cancelled");
    }
}
