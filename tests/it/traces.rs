//! Traces of sampled requests: what a collector receives, and what a request costs if the collector fails.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use loadtest::s3::{Fault, FaultPlan, S3Server};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use rcgen::generate_simple_self_signed;
use rustix::process::Signal;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

use crate::collector::{Behavior, Collector, Spans, ancestors, attributes};
use crate::support::{Connection, Server, post, run};
use crate::tokens::TokensFile;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
/// The bound in src/trace/sampler.rs.
/// All requests come from one address.
const SAMPLED_MAX: usize = millpond::trace::PARENT_SAMPLED_PER_ADDRESS_MAX as usize;

fn traceparent(trace: &str, flags: &str) -> String {
    format!("traceparent: 00-{trace}-{PARENT}-{flags}\r\n")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A server that samples only what clients ask for.
async fn start(collector: &Collector, env: &[(&str, &str)]) -> Server {
    let endpoint = collector.endpoint();
    let own = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_TRACES_SAMPLER_ARG", "0"),
        ("OBJECT_MAX_AGE", "200ms"),
    ];
    Server::start(&own.into_iter().chain(env.iter().copied()).collect::<Vec<_>>()).await
}

async fn post_traced(server: &Server, trace: &str) {
    assert_eq!(server.post(&traceparent(trace, "01"), b"{}").await.status, 202);
}

fn is_uploaded(spans: &Spans) -> bool {
    !spans.named("upload").is_empty()
}

#[tokio::test]
async fn a_sampled_request_shows_its_queue_commit_and_upload_in_the_trace_of_its_client() {
    let collector = Collector::start(Behavior::Accept).await;
    let server = start(&collector, &[("OTEL_SERVICE_NAME", "ingest")]).await;
    let id = "X-Request-Id: r-1\r\n".to_owned();
    let answer = server.post(&(id + &traceparent(TRACE, "01")), b"[{},{}]").await;
    let segment = answer.json()["job"].as_str().unwrap().split_once('.').unwrap().0.to_owned();
    let spans = collector.spans(is_uploaded).await;
    assert_eq!(spans.0.len(), 4);
    assert!(spans.0.iter().all(|span| hex(&span.trace_id) == TRACE && span.start_time_unix_nano > 0));
    let [request, queue, commit, upload] =
        ["POST /v1/payloads", "queue", "commit", "upload"].map(|name| spans.only(name));
    assert_eq!(hex(&request.parent_span_id), PARENT);
    assert_eq!((&queue.parent_span_id, &commit.parent_span_id), (&request.span_id, &request.span_id));
    assert_eq!(upload.parent_span_id, commit.span_id);
    assert_eq!(queue.links[0].span_id, commit.span_id);
    let ids: HashSet<_> = spans.0.iter().map(|span| span.span_id.clone()).collect();
    assert_eq!(ids.len(), 4);
    // Each stage begins after the one before.
    assert!(request.start_time_unix_nano <= queue.start_time_unix_nano);
    assert!(queue.end_time_unix_nano <= commit.start_time_unix_nano);
    assert!(commit.end_time_unix_nano <= upload.start_time_unix_nano);
    assert!(spans.0.iter().all(|span| span.start_time_unix_nano <= span.end_time_unix_nano));
    let recorded = attributes(&request.attributes);
    for (key, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/v1/payloads"),
        ("http.response.status_code", "202"),
        ("network.protocol.version", "1.1"),
        ("client.address", "127.0.0.1"),
        ("millpond.request_id", "r-1"),
        ("millpond.payloads", "2"),
    ] {
        assert_eq!(recorded.get(key).map(String::as_str), Some(value), "{key}");
    }
    assert_eq!(attributes(&commit.attributes)["millpond.segment"], segment);
    let uploaded = attributes(&upload.attributes);
    assert!(uploaded["millpond.object"].contains(&segment));
    assert_eq!(collector.resource()["service.name"], "ingest");
    server.metric_is("millpond_spans_exported_total", |spans| spans == 4.0).await;
    assert_eq!(server.metric("millpond_spans_dropped_total").await, 0.0);
}

#[tokio::test]
async fn requests_of_one_frame_and_segment_are_linked() {
    const CLIENTS: usize = SAMPLED_MAX - 1;
    let collector = Collector::start(Behavior::Accept).await;
    let server = start(&collector, &[]).await;
    let mut clients = JoinSet::new();
    for n in 1..=CLIENTS {
        let mut connection = server.connect().await;
        clients.spawn(async move {
            let request = post(&traceparent(&format!("{n:032x}"), "01"), b"{}");
            connection.write(&request).await;
            assert_eq!(connection.answer().await.unwrap().status, 202);
        });
    }
    while let Some(posted) = clients.join_next().await {
        posted.unwrap();
    }
    // Every commit has a request before it and an upload after it.
    let uploaded = |spans: &Spans| {
        let uploaded: HashSet<_> = spans.named("upload").into_iter().flat_map(ancestors).collect();
        let commits = spans.named("commit");
        spans.named("queue").len() == CLIENTS
            && spans.named("POST /v1/payloads").len() == CLIENTS
            && commits.iter().all(|commit| uploaded.contains(&commit.span_id))
            && commits.iter().map(|commit| ancestors(commit).len()).sum::<usize>() == CLIENTS
    };
    let spans = collector.spans(uploaded).await;
    let by_id = spans.by_id();
    let mut requests = HashSet::new();
    for commit in spans.named("commit") {
        for request in ancestors(commit) {
            assert_eq!(by_id[&request].name, "POST /v1/payloads");
            assert!(requests.insert(request), "a request has one commit");
        }
        assert_eq!(commit.trace_id, by_id[&commit.parent_span_id].trace_id);
    }
    assert_eq!(requests.len(), CLIENTS);
    for queue in spans.named("queue") {
        assert_eq!(queue.trace_id, by_id[&queue.parent_span_id].trace_id, "it is in the trace of its request");
        let commit = by_id[&queue.links[0].span_id];
        assert!(commit.name == "commit" && ancestors(commit).contains(&queue.parent_span_id));
    }
}

#[tokio::test]
async fn requests_that_are_not_sampled_have_no_span() {
    let collector = Collector::start(Behavior::Accept).await;
    let server = start(&collector, &[]).await;
    let valid = traceparent(TRACE, "01");
    for headers in [
        String::new(),
        traceparent(TRACE, "00"),
        traceparent(&"0".repeat(32), "01"),
        traceparent(&TRACE.to_uppercase(), "01"),
        valid.replace("00-", "ff-"),
        valid.replace("-01", "-01-"),
        valid.clone() + &valid,
    ] {
        assert_eq!(server.post(&headers, b"{}").await.status, 202, "{headers}");
    }
    // A health check is not traced, even if it is sampled.
    server.send(format!("GET /health HTTP/1.1\r\nHost: x\r\n{valid}\r\n").as_bytes()).await;
    let last = "1".repeat(32);
    post_traced(&server, &last).await;
    let spans = collector.spans(is_uploaded).await;
    assert!(spans.0.iter().all(|span| hex(&span.trace_id) == last), "{spans:?}");
}

#[tokio::test]
async fn a_client_that_sets_the_sampled_flag_on_every_request_is_traced_for_a_bounded_number() {
    const REQUESTS: usize = 10 * SAMPLED_MAX;
    let collector = Collector::start(Behavior::Accept).await;
    let mut server = start(&collector, &[("ACK", "memory")]).await;
    let mut connection = server.connect().await;
    let request = post(&traceparent(TRACE, "01"), b"{}");
    let began = Instant::now();
    connection.write(&request.repeat(REQUESTS)).await;
    for _ in 0..REQUESTS {
        assert_eq!(connection.answer().await.unwrap().status, 202);
    }
    // Each second that the requests touch has its own bound.
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap() + 2;
    drop(connection);
    assert_eq!(server.stop().await, Some(0));
    let traced = collector.now().named("POST /v1/payloads").len();
    assert!((SAMPLED_MAX.min(REQUESTS)..=SAMPLED_MAX * seconds).contains(&traced), "{traced} in {seconds} s");
}

#[tokio::test]
async fn an_operator_samples_every_request() {
    let collector = Collector::start(Behavior::Accept).await;
    let server = start(&collector, &[("OTEL_TRACES_SAMPLER", "always_on")]).await;
    assert_eq!(server.post("", b"{}").await.status, 202);
    assert_eq!(server.post(&traceparent(TRACE, "00"), b"nonsense").await.status, 400);
    let get = format!("GET /v1/jobs/nonsense HTTP/1.1\r\nHost: x\r\n{}\r\n", traceparent(TRACE, "00"));
    server.send(get.as_bytes()).await;
    server.send(b"BREW /coffee?secret HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let spans = collector.spans(|spans| spans.named("HTTP").len() == 1 && is_uploaded(spans)).await;
    let posts = spans.named("POST /v1/payloads");
    assert!(posts.len() == 2 && posts.iter().any(|span| span.parent_span_id.is_empty()), "a root and a child");
    let rejected = posts.iter().find(|span| hex(&span.trace_id) == TRACE).unwrap();
    assert_eq!(attributes(&rejected.attributes)["http.response.status_code"], "400");
    assert_eq!(rejected.status.as_ref().unwrap().code(), StatusCode::Unset, "it is the client's error");
    assert_eq!(hex(&spans.only("GET /v1/jobs/{job}").trace_id), TRACE);
    assert!(!collector.has_received("coffee") && !collector.has_received("secret"));
}

#[tokio::test]
async fn each_attempt_to_upload_a_traced_segment_has_a_span() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    s3.faults().set(FaultPlan::always(Fault::SlowDown));
    let collector = Collector::start(Behavior::Accept).await;
    let s3_env = s3.env();
    let env: Vec<_> = s3_env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let server = start(&collector, &env).await;
    post_traced(&server, TRACE).await;
    collector.spans(is_uploaded).await;
    s3.faults().set(FaultPlan::none());
    let is_stored = |spans: &Spans| {
        let mut statuses = spans.named("upload").into_iter().map(|span| span.status.as_ref().unwrap().code());
        statuses.any(|code| code == StatusCode::Unset)
    };
    let spans = collector.spans(is_stored).await;
    let mut uploads = spans.named("upload");
    uploads.sort_by_key(|span| span.start_time_unix_nano);
    let [failed, .., stored] = uploads[..] else { panic!("two attempts or more") };
    assert_eq!(failed.status.as_ref().unwrap().code(), StatusCode::Error);
    assert_eq!(attributes(&failed.attributes)["error.type"], "throttled");
    assert_eq!(attributes(&failed.attributes)["millpond.upload.failures"], "0");
    assert_eq!(attributes(&stored.attributes)["millpond.upload.failures"], (uploads.len() - 1).to_string());
    assert_eq!(failed.parent_span_id, stored.parent_span_id);
    assert_eq!(hex(&stored.trace_id), TRACE);
}

#[tokio::test]
async fn a_collector_that_fails_costs_a_counter_and_one_log_line() {
    for behavior in [Behavior::Fail, Behavior::Garbage] {
        let collector = Collector::start(behavior).await;
        let mut server = start(&collector, &[]).await;
        for round in 1..=3_u8 {
            let before = server.metric("millpond_spans_dropped_total").await;
            post_traced(&server, TRACE).await;
            server.metric_is("millpond_spans_dropped_total", |dropped| dropped >= before + 3.0).await;
            assert_eq!(server.ready().await.0, 200, "{behavior:?} {round}");
        }
        assert_eq!(server.metric("millpond_spans_exported_total").await, 0.0);
        assert_eq!(server.stop().await, Some(0));
        assert_eq!(server.log().matches("cannot export traces").count(), 1, "{}", server.log());
    }
}

#[tokio::test]
async fn a_collector_that_is_down_costs_a_counter_and_one_log_line() {
    // The port is closed when the listener is dropped.
    let addr = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let endpoint = format!("http://{addr}");
    let mut server =
        Server::start(&[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_TRACES_SAMPLER", "always_on")])
            .await;
    for total in [3.0, 6.0] {
        assert_eq!(server.post_json("{}").await.status, 202);
        server.metric_is("millpond_spans_dropped_total", |dropped| dropped >= total).await;
    }
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(server.log().matches("cannot export traces").count(), 1, "{}", server.log());
}

#[tokio::test]
async fn a_collector_that_hangs_does_not_hold_up_requests_or_the_exit() {
    let collector = Collector::start(Behavior::Hang).await;
    let mut server = start(&collector, &[("OTEL_TRACES_SAMPLER", "always_on")]).await;
    assert_eq!(server.post_json("{}").await.status, 202);
    collector.export().await;
    assert_eq!(server.post_json("{}").await.status, 202);
    assert_eq!(server.stop().await, Some(0));
    assert!(server.log().contains("the last spans are dropped"), "{}", server.log());
}

#[tokio::test]
async fn spans_that_the_collector_rejects_are_counted_as_dropped() {
    let collector = Collector::start(Behavior::RejectOne).await;
    let server = start(&collector, &[]).await;
    post_traced(&server, TRACE).await;
    server.metric_is("millpond_spans_dropped_total", |dropped| dropped >= 1.0).await;
    let collector = Collector::start(Behavior::AcceptWithGarbage).await;
    let server = start(&collector, &[]).await;
    post_traced(&server, TRACE).await;
    server.metric_is("millpond_spans_exported_total", |exported| exported >= 4.0).await;
    assert_eq!(server.metric("millpond_spans_dropped_total").await, 0.0);
}

#[tokio::test]
async fn an_https_collector_needs_a_certificate_that_the_system_trusts() {
    let folder = tempfile::tempdir().unwrap();
    let pem = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let [made, other] = [(); 2].map(|()| generate_simple_self_signed(["localhost".to_owned()]).unwrap());
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let collector = Collector::start_with(Behavior::Accept, Some(TlsAcceptor::from(Arc::new(config)))).await;
    let endpoint = format!("https://localhost:{}", collector.addr.port());
    let (trusted, untrusted) = (pem("trusted.pem", made.cert.pem()), pem("other.pem", other.cert.pem()));
    for (roots, metric) in [(trusted, "millpond_spans_exported_total"), (untrusted, "millpond_spans_dropped_total")] {
        let env = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("SSL_CERT_FILE", roots.as_str())];
        let server = Server::start(&env).await;
        post_traced(&server, TRACE).await;
        server.metric_is(metric, |spans| spans >= 3.0).await;
    }
    assert_eq!(collector.now().named("queue").len(), 1);
}

#[tokio::test]
async fn a_shutdown_exports_the_spans_of_the_last_upload() {
    for ack in ["disk", "memory"] {
        let collector = Collector::start(Behavior::Accept).await;
        let mut server = start(&collector, &[("OBJECT_MAX_AGE", "1h"), ("ACK", ack)]).await;
        post_traced(&server, TRACE).await;
        server.signal(Signal::TERM);
        assert_eq!(server.ended().await, Some(0));
        let spans = collector.now();
        assert_eq!(spans.0.len(), 4, "{ack}: {spans:?}");
        assert_eq!(spans.only("upload").parent_span_id, spans.only("commit").span_id);
    }
}

#[tokio::test]
async fn no_token_and_no_credential_is_in_a_span_or_a_log_line() {
    const TOKEN: &str = "mp_token_in_the_header_0123456789";
    const OTHER: &str = "mp_token_in_the_envelope_0123456789";
    let file = TokensFile::new(&[("alpha", &[TOKEN], "{}"), ("beta", &[OTHER], "{}")]);
    let collector = Collector::start(Behavior::Accept).await;
    let endpoint = collector.endpoint();
    let mut server = file
        .start(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20hunter2,x-scope=telemetry"),
            ("OTEL_TRACES_SAMPLER", "always_on"),
            ("RUST_LOG", "trace"),
        ])
        .await;
    let header = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(server.post(&header, b"{\"data\":[{}]}").await.status, 202);
    let envelope = format!("{{\"token\":\"{OTHER}\",\"data\":[{{}}]}}");
    assert_eq!(server.post_json(&envelope).await.status, 202);
    let unknown = format!("X-Api-Key: {TOKEN}x\r\n");
    assert_eq!(server.post(&unknown, b"{}").await.status, 403);
    assert_eq!(server.stop().await, Some(0));
    let spans = collector.now();
    let posts = spans.named("POST /v1/payloads");
    let tenants: HashSet<_> =
        posts.iter().filter_map(|span| attributes(&span.attributes).remove("millpond.tenant")).collect();
    assert_eq!(tenants, HashSet::from(["alpha".to_owned(), "beta".to_owned()]));
    assert_eq!(posts.len(), 3);
    assert!(!collector.has_received("mp_token"));
    let headers = collector.headers();
    assert!(headers["authorization"] == "Bearer hunter2" && headers["x-scope"] == "telemetry");
    assert!(!server.log().contains("hunter2") && !server.log().contains("mp_token"));
}

#[tokio::test]
async fn a_request_whose_client_disconnects_still_ends_its_span() {
    let collector = Collector::start(Behavior::Accept).await;
    let server = start(&collector, &[]).await;
    let mut connection: Connection = server.connect().await;
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\n{}Content-Length: 10\r\n\r\n", traceparent(TRACE, "01"));
    connection.write(head.as_bytes()).await;
    server.metric_is("millpond_requests_in_flight", |requests| requests > 0.0).await;
    drop(connection);
    collector.spans(|spans| !spans.named("POST /").is_empty()).await;
}

#[tokio::test]
async fn invalid_settings_are_reported_together_without_their_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:hunter2@collector:4318"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization hunter2"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_SERVICE_NAME", "a\nb"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ("OTEL_TRACE_SAMPLER", "always_on"),
    ];
    let others = [("OTEL_RESOURCE_ATTRIBUTES", "a=b"), ("OTEL_LOGS_EXPORTER", "none")];
    let output = run(folder.path(), &[&env[..], &others[..]].concat(), &[]).await;
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8(output.stderr).unwrap();
    for (name, _) in env {
        assert!(
            said.lines().any(|line| line.trim().starts_with(&format!("{name}:")) || line.contains(&format!("{name}="))),
            "{name}: {said}"
        );
    }
    assert!(said.contains("did you mean OTEL_TRACES_SAMPLER?") && !said.contains("hunter2"), "{said}");
    assert!(others.iter().all(|(name, _)| !said.contains(name)), "{said}");
}
