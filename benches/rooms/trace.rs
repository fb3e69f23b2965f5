//! What a request pays for tracing when it is not sampled. The bound is 200 ns.

use std::sync::Arc;
use std::time::Instant;

use axum::http::HeaderMap;
use divan::{Bencher, black_box};
use millpond::config::Settings;
use millpond::metrics::Metrics;
use millpond::trace::Tracer;
use prometheus::Registry;

/// The headers of a usual request, with `traceparent` if it is not empty.
fn headers(traceparent: &str) -> HeaderMap {
    let usual = [
        ("host", "ingest.example.net"),
        ("user-agent", "client/1.0"),
        ("content-type", "application/json"),
        ("content-encoding", "gzip"),
        ("content-length", "812"),
        ("authorization", "Bearer mp_7d1f5b0c9a3e4f68b2d0c1e5a7f93b46"),
        ("x-request-id", "0192f0c0-0000-7000-8000-000000000000"),
    ];
    let mut map = HeaderMap::new();
    for (name, value) in usual.into_iter().chain((!traceparent.is_empty()).then_some(("traceparent", traceparent))) {
        map.insert(name, value.parse().expect("a valid header"));
    }
    map
}

/// A request without `traceparent`, with one that is not sampled, with an invalid one, and one above the bound of the sampled
/// flag.
#[divan::bench(max_time = 1, args = [
    "",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
    "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
])]
fn not_sampled(bencher: Bencher<'_, '_>, traceparent: &str) {
    let vars = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318"), ("OTEL_TRACES_SAMPLER_ARG", "0.000001")];
    let settings = Settings::from_vars(vars.map(|(name, value)| (name.into(), value.into()))).expect("valid settings");
    let metrics = Arc::new(Metrics::new(Registry::new()).expect("metrics"));
    let (tracer, _exporter) = Tracer::new(&settings.traces.expect("an endpoint"), &metrics).expect("a tracer");
    let headers = headers(traceparent);
    // The service has read the clock anyway.
    let now = Instant::now();
    let client = Some([192, 0, 2, 1].into());
    bencher.bench_local(|| tracer.sample(black_box(&headers), black_box(client), black_box(now)));
}
