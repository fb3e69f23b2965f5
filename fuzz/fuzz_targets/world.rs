//! The public listener and its pipeline in memory, and checks of the responses.

use std::sync::Arc;
use std::time::Duration;

use millpond::config::Settings;
use millpond::context::PipelineContext;
use millpond::dispatcher::Dispatcher;
use millpond::health::Health;
use millpond::http::{ApiState, PublicService};
use millpond::metrics::Metrics;
use millpond::queue::{QueueDepth, queue};
use millpond::server::Timeouts;
use millpond::shutdown::Shutdown;
use millpond::spool::{Backlog, Spool};
use millpond::store::Store;
use millpond::tenants::{Tenants, parse};
use prometheus::Registry;

/// Tokens `t`, without limits, and `u`, with low ones.
const TENANTS: &str = r#"{"tenants":[
  {"name":"free","tokens_sha256":["e3b98a4da31a127d4bde6e43033f66ba274cab0eb7eb1c70ec41402bf6273dd8"]},
  {"name":"tight","tokens_sha256":["0bfe935e70c321c7ca3afc75ce0d0ca2f98b5422e008bb31c00c6d7f1f1c0ad6"],
   "limits":{"requests_per_second":3,"payloads_per_second":1,"bytes_per_second":1000}}
]}"#;
/// The store does not exist: only lookups of other machines' jobs use it.
const SETTINGS: [(&str, &str); 7] = [
    ("ACK", "memory"),
    ("COMPRESSION", "none"),
    ("MAX_BODY_BYTES", "4096"),
    ("MAX_DECODED_BYTES", "262144"),
    ("MAX_QUEUE", "4"),
    ("MAX_QUEUE_BYTES", "1048576"),
    ("STORE_DIR", "/nonexistent/objects"),
];
/// How long a body that is being decoded may keep its reservation after the connection has ended.
const SETTLES_WITHIN: Duration = Duration::from_secs(5);

/// The listener's service and the pipeline, without workers.
pub struct World {
    pub public: PublicService,
    pub timeouts: Timeouts,
    pub dispatcher: Dispatcher,
    pub metrics: Arc<Metrics>,
    pub depth: QueueDepth,
}

impl World {
    pub async fn new(has_tenants: bool) -> Self {
        let vars = SETTINGS.map(|(name, value)| (name.into(), value.into()));
        let settings = Settings::from_vars(vars).expect("good settings");
        let metrics = Arc::new(Metrics::new(Registry::new()).expect("metrics"));
        let context = PipelineContext {
            spool: Arc::new(Spool::in_memory(settings.objects.compression)),
            // There are no workers, so it has to hold all segments of one run.
            backlog: Arc::new(Backlog::new(usize::MAX)),
            health: Arc::new(Health::default()),
            metrics: Arc::clone(&metrics),
            recent: Arc::default(),
            shutdown: Shutdown::default(),
            tracer: None,
        };
        let (jobs, receiver) = queue(settings.queue.max_jobs, settings.queue.max_bytes, Arc::clone(&metrics.ledger));
        let dispatcher = Dispatcher::new(receiver, settings.objects, context.clone()).expect("no codec");
        let depth = jobs.depth();
        let tenants = has_tenants.then(|| {
            let entries = parse(TENANTS.as_bytes()).expect("good tenants");
            Arc::new(Tenants::from_entries(
                entries,
                jobs.share_limits(50),
                settings.http.max_body_bytes,
                Arc::default(),
            ))
        });
        let store = Arc::new(Store::connect(&settings).await);
        let public = PublicService::new(Arc::new(ApiState::new(&settings, jobs, context, store, tenants, None)));
        let timeouts = Timeouts {
            header: settings.http.header_timeout,
            idle: settings.http.idle_timeout,
            drain_idle: settings.http.idle_timeout,
        };
        Self { public, timeouts, dispatcher, metrics, depth }
    }
}

/// Checks, after the connection and the dispatcher have ended, that no reservation remains and that only accepted batches
/// got a 2xx.
pub fn settled(depth: &QueueDepth, metrics: &Metrics, answers: &[u8]) {
    let began = std::time::Instant::now();
    while depth.now() != (0, 0) {
        assert!(began.elapsed() < SETTLES_WITHIN, "still reserved: {:?}", depth.now());
        std::thread::yield_now();
    }
    let accepted = metrics.ledger.balance().accepted;
    if !is_http_1(answers) {
        frames(answers);
        return;
    }
    // A client that has disconnected gets no response.
    assert!(batches_answered(answers) <= accepted.jobs);
}

fn is_http_1(answers: &[u8]) -> bool {
    answers.starts_with(b"HTTP/1.")
}

/// The number of HTTP/1 responses that accept a batch.
fn batches_answered(mut answers: &[u8]) -> u64 {
    let mut accepted = 0;
    while !answers.is_empty() {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut answer = httparse::Response::new(&mut headers);
        let head = match answer.parse(answers) {
            Ok(httparse::Status::Complete(head)) => head,
            other => panic!("no answer: {other:?}, {}", answers.escape_ascii()),
        };
        let code = answer.code.expect("whole");
        let value = |name: &str| answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        let length: usize = value("content-length").map_or(0, |length| {
            std::str::from_utf8(length.value).ok().and_then(|length| length.parse().ok()).expect("a length")
        });
        assert!(value("transfer-encoding").is_none() && (100..600).contains(&code));
        assert!(code != 500, "{}", answers.escape_ascii());
        answers = &answers[head..];
        // A response to HEAD has a length and no body.
        let body = if answers.is_empty() || is_http_1(answers) { &[][..] } else { &answers[..length] };
        answers = &answers[body.len()..];
        if !body.is_empty() && body != b"ok\n" {
            let body: serde_json::Value = serde_json::from_slice(body).expect("JSON");
            accepted += u64::from(code < 300 && body.get("ack").is_some());
            assert!(code < 400 || body["status"] == code, "{body}");
        }
    }
    accepted
}

/// Checks frames of HTTP/2. The last one may be incomplete.
fn frames(mut answers: &[u8]) {
    while let Some((head, rest)) = answers.split_first_chunk::<9>() {
        let [a, b, c, kind, ..] = *head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        assert!(length <= 16_384 && kind <= 9, "{}", answers.escape_ascii());
        answers = rest.get(length..).unwrap_or_default();
    }
}
