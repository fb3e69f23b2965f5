//! A whole public edge in memory, and a look at its answers.

use std::sync::Arc;
use std::time::Duration;

use millpond::config::Settings;
use millpond::dispatcher::Dispatcher;
use millpond::health::Health;
use millpond::http::{Edge, Limits, Public};
use millpond::metrics::Metrics;
use millpond::pipeline::PipelineContext;
use millpond::queue::{Depth, queue};
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
/// Where nothing is: jobs of other machines are asked for there.
const SETTINGS: [(&str, &str); 7] = [
    ("ACK", "memory"),
    ("COMPRESSION", "none"),
    ("MAX_BODY_BYTES", "4096"),
    ("MAX_DECODED_BYTES", "262144"),
    ("MAX_QUEUE", "4"),
    ("MAX_QUEUE_BYTES", "1048576"),
    ("STORE_DIR", "/nonexistent/objects"),
];
/// How long a body that is still being decoded may hold its bytes after its connection has ended.
const SETTLES_WITHIN: Duration = Duration::from_secs(5);

/// The edge and what lies behind it, save a store.
pub struct World {
    pub public: Public,
    pub limits: Limits,
    pub dispatcher: Dispatcher,
    pub metrics: Arc<Metrics>,
    pub depth: Depth,
}

impl World {
    pub async fn new(has_tenants: bool) -> Self {
        let vars = SETTINGS.map(|(name, value)| (name.into(), value.into()));
        let settings = Settings::from_vars(vars).expect("good settings");
        let metrics = Arc::new(Metrics::new(Registry::new()).expect("metrics"));
        let context = PipelineContext {
            spool: Arc::new(Spool::in_memory(settings.objects.compression)),
            // Nobody uploads, and all that one run sends has room.
            backlog: Arc::new(Backlog::new(usize::MAX)),
            health: Arc::new(Health::default()),
            metrics: Arc::clone(&metrics),
            shutdown: Shutdown::default(),
        };
        let (jobs, receiver) = queue(settings.queue.max_jobs, settings.queue.max_bytes, Arc::clone(&metrics.ledger));
        let dispatcher = Dispatcher::new(receiver, settings.objects, context.clone()).expect("no codec");
        let depth = jobs.depth();
        let tenants = has_tenants.then(|| {
            let entries = parse(TENANTS.as_bytes()).expect("good tenants");
            Arc::new(Tenants::from_entries(entries, jobs.shares(50), settings.http.max_body_bytes))
        });
        let store = Arc::new(Store::connect(&settings).await);
        let public = Public::new(Arc::new(Edge::new(&settings, jobs, context, store, tenants)));
        let limits = Limits {
            max_connections: settings.http.max_connections,
            header_timeout: settings.http.header_timeout,
            idle_timeout: settings.http.idle_timeout,
        };
        Self { public, limits, dispatcher, metrics, depth }
    }
}

/// What has to hold when the connection and the dispatcher have ended: nothing is held, and what was answered is what was
/// accepted.
pub fn settled(depth: &Depth, metrics: &Metrics, answers: &[u8]) {
    let began = std::time::Instant::now();
    while depth.now() != (0, 0) {
        assert!(began.elapsed() < SETTLES_WITHIN, "still held: {:?}", depth.now());
        std::thread::yield_now();
    }
    let accepted = metrics.ledger.balance().accepted;
    if !is_http_1(answers) {
        frames(answers);
        return;
    }
    // A sender that has gone away misses its answer.
    assert!(batches_answered(answers) <= accepted.jobs);
}

fn is_http_1(answers: &[u8]) -> bool {
    answers.starts_with(b"HTTP/1.")
}

/// Answers of HTTP/1, one behind the other; how many of them accept a batch.
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
        // An answer to HEAD says how long it would be.
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

/// Frames of HTTP/2, the last one of which may be cut off.
fn frames(mut answers: &[u8]) {
    while let Some((head, rest)) = answers.split_first_chunk::<9>() {
        let [a, b, c, kind, ..] = *head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        assert!(length <= 16_384 && kind <= 9, "{}", answers.escape_ascii());
        answers = rest.get(length..).unwrap_or_default();
    }
}
