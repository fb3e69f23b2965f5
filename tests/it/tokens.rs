//! Authentication by tokens. No token appears in a log, a metric, a response or an object.

use std::path::{Path, PathBuf};

use rustix::process::Signal;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::support::{Answer, Server, run};

const BATCH: &str = r#"{"data":[{"n":1}]}"#;

/// A file of tenants in a temporary directory.
pub(crate) struct TokensFile(TempDir);

impl TokensFile {
    /// Each tenant is `(name, tokens, limits)`.
    pub(crate) fn new(tenants: &[(&str, &[&str], &str)]) -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        this.write(&tokens_file(tenants));
        this
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("tokens.json")
    }

    /// Replaces the file atomically.
    fn write(&self, text: &str) {
        let new = self.0.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }

    /// Starts a server with the file.
    pub(crate) async fn start(&self, env: &[(&str, &str)]) -> Server {
        let path = self.path();
        let own = [("TOKENS_FILE", path.to_str().unwrap())];
        Server::start(&own.into_iter().chain(env.iter().copied()).collect::<Vec<_>>()).await
    }
}

fn digest(token: &str) -> String {
    Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn tokens_file(tenants: &[(&str, &[&str], &str)]) -> String {
    let tenant = |(name, tokens, limits): &(&str, &[&str], &str)| {
        let digests: Vec<_> = tokens.iter().map(|token| format!("\"{}\"", digest(token))).collect();
        format!("{{\"name\":\"{name}\",\"tokens_sha256\":[{}],\"limits\":{limits}}}", digests.join(","))
    };
    format!("{{\"tenants\":[\n{}\n]}}", tenants.iter().map(tenant).collect::<Vec<_>>().join(",\n"))
}

fn enveloped(token: &str) -> String {
    format!("{{\"token\":{token},\"data\":[{{\"n\":1}}]}}")
}

async fn bearer(server: &Server, token: &str) -> Answer {
    server.post(&format!("Authorization: Bearer {token}\r\n"), BATCH.as_bytes()).await
}

async fn get(server: &Server, path: &str, headers: &str) -> Answer {
    server.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").as_bytes()).await
}

#[tokio::test]
async fn tokens_are_accepted_in_headers_and_envelopes_and_lines_contain_the_tenant_instead() {
    let file = TokensFile::new(&[("acme", &["s3cret-one", "s3cret-two"], "{}"), ("other", &["s3cret-three"], "{}")]);
    let mut server = file.start(&[("COMPRESSION", "none")]).await;
    for headers in
        ["Authorization: Bearer s3cret-one\r\n", "authorization: bearer s3cret-two\r\n", "X-Api-Key: s3cret-one\r\n"]
    {
        assert_eq!(server.post(headers, BATCH.as_bytes()).await.status, 202, "{headers}");
    }
    let ndjson = "Content-Type: application/x-ndjson\r\nX-Api-Key: s3cret-one\r\n";
    assert_eq!(server.post(ndjson, b"{}\n").await.status, 202);
    for token in ["\"s3cret-one\"", "\"s\\u0033cret-two\""] {
        assert_eq!(server.post_json(&enveloped(token)).await.status, 202, "{token}");
    }
    // The token of the header takes precedence over that of the envelope.
    let both = server.post("X-Api-Key: s3cret-one\r\n", enveloped("\"s3cret-three\"").as_bytes()).await;
    let neither = server.post("X-Api-Key: s3cret-one\r\n", enveloped("\"s3cret-none\"").as_bytes()).await;
    assert_eq!((both.status, neither.status), (202, 202));
    assert_eq!(server.stop().await, Some(0));
    let lines = server.lines();
    assert_eq!(lines.len(), 8);
    for line in lines {
        assert!(line.contains(r#","tenant":"acme","#) && !line.contains("cret") && !line.contains("token"), "{line}");
    }
}

#[tokio::test]
async fn a_missing_token_is_401_with_a_challenge_and_an_unknown_token_is_403() {
    let file = TokensFile::new(&[("acme", &["s3cret"], "{}")]);
    let mut server = file.start(&[]).await;
    let ndjson = "Content-Type: application/x-ndjson\r\n";
    let nothing = [
        server.post("", BATCH.as_bytes()).await,
        server.post("Authorization: Basic czNjcmV0\r\n", BATCH.as_bytes()).await,
        server.post("Authorization: Bearer\r\n", BATCH.as_bytes()).await,
        server.post_json(&enveloped("\"\"")).await,
        // The `token` of a payload is not that of the envelope.
        server.post_json("{\"token\":\"s3cret\"}").await,
        server.post(ndjson, enveloped("\"s3cret\"").as_bytes()).await,
        get(&server, "/v1/jobs/x", "").await,
    ];
    for answer in nothing {
        assert!(answer.refusal(401).contains("Authorization: Bearer"));
        assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"millpond\"");
    }
    let long = "x".repeat(10_000);
    let unknown = [
        bearer(&server, "s3cre").await,
        bearer(&server, "S3CRET").await,
        bearer(&server, &long).await,
        server.post("X-Api-Key: \u{e9}\r\n", BATCH.as_bytes()).await,
        server.post_json(&enveloped("\"s3cret \"")).await,
        get(&server, "/v1/jobs/x", "X-Api-Key: nobodys\r\n").await,
    ];
    for answer in unknown {
        assert!(!answer.refusal(403).contains("nobodys"));
    }
    for token in ["1", "null", "[\"s3cret\"]", "{}"] {
        assert!(server.post_json(&enveloped(token)).await.refusal(400).contains("not a string"), "{token}");
        let named = server.post("X-Api-Key: s3cret\r\n", enveloped(token).as_bytes()).await;
        assert!(named.refusal(400).contains("not a string"), "{token}");
    }
    let metrics = server.metrics().await;
    assert_eq!(metrics["millpond_requests_total{outcome=\"no_token\",route=\"payloads\"}"], 6.0);
    assert_eq!(metrics["millpond_requests_total{outcome=\"unknown_token\",route=\"payloads\"}"], 5.0);
    assert_eq!(metrics["millpond_requests_total{outcome=\"no_token\",route=\"jobs\"}"], 1.0);
    assert_eq!(metrics["millpond_requests_total{outcome=\"unknown_token\",route=\"jobs\"}"], 1.0);
    assert_eq!(metrics["millpond_requests_total{outcome=\"invalid\",route=\"payloads\"}"], 8.0);
    assert_eq!(server.stop().await, Some(0));
    assert!(server.lines().is_empty());
}

#[tokio::test]
async fn an_unknown_token_in_a_header_is_rejected_before_the_body_is_read() {
    let file = TokensFile::new(&[("acme", &["s3cret"], "{}")]);
    let server = file.start(&[]).await;
    for (headers, status) in [
        ("X-Api-Key: nobodys\r\n", 403),
        ("Authorization: Bearer nobodys\r\n", 403),
        ("Content-Type: application/jsonl\r\n", 401),
    ] {
        // The body is never sent.
        let head = format!("POST / HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: 100\r\n\r\n");
        server.send(head.as_bytes()).await.refusal(status);
    }
    assert_eq!(server.metric("millpond_received_bytes_total").await, 0.0);
}

#[tokio::test]
async fn every_tenant_can_look_up_every_job_and_health_needs_no_token() {
    let file = TokensFile::new(&[("a", &["one"], "{}"), ("b", &["two"], "{}")]);
    let server = file.start(&[]).await;
    let job = bearer(&server, "one").await.json()["job"].as_str().unwrap().to_owned();
    for token in ["one", "two"] {
        let answer = get(&server, &format!("/v1/jobs/{job}"), &format!("X-Api-Key: {token}\r\n")).await;
        assert_eq!(answer.json()["state"], "spooled", "{token}");
    }
    get(&server, &format!("/v1/jobs/{job}"), "").await.refusal(401);
    assert_eq!(get(&server, "/health", "").await.status, 200);
}

#[tokio::test]
async fn with_record_payload_payloads_are_stored_unchanged() {
    let file = TokensFile::new(&[("acme", &["s3cret"], "{}")]);
    let mut server = file.start(&[("RECORD", "payload")]).await;
    assert_eq!(bearer(&server, "s3cret").await.status, 202);
    assert_eq!(server.post_json(&enveloped("\"s3cret\"")).await.status, 202);
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(server.lines(), ["{\"n\":1}", "{\"n\":1}"]);
}

#[tokio::test]
async fn sighup_reloads_the_file_and_an_invalid_file_keeps_the_previous_version() {
    let file = TokensFile::new(&[("acme", &["old"], "{}")]);
    let mut server = file.start(&[]).await;
    assert_eq!(bearer(&server, "old").await.status, 202);
    file.write("{\"tenants\":[\n{\"name\":\"acme\",\"tokens_sha256\":[\"s3cret\"]}]}");
    server.logged("reload failed; keeping the previous version").await;
    assert!(server.log().contains("line 2: expected the SHA-256 of a token"), "{}", server.log());
    assert_eq!(bearer(&server, "old").await.status, 202);

    file.write(&tokens_file(&[("acme", &["new"], "{}"), ("b", &["more"], "{}")]));
    server.signal(Signal::HUP);
    server.logged("reloaded files").await;
    assert_eq!(bearer(&server, "old").await.status, 403);
    assert_eq!((bearer(&server, "new").await.status, bearer(&server, "more").await.status), (202, 202));
    assert_eq!(server.log().matches("keeping the previous version").count(), 1, "{}", server.log());
    assert!(!server.log().contains("s3cret"));
    assert_eq!(server.stop().await, Some(0), "SIGHUP does not stop the server");
}

#[tokio::test]
async fn a_changed_file_is_reloaded_without_a_signal() {
    let file = TokensFile::new(&[("acme", &["old"], "{}")]);
    let mut server = file.start(&[]).await;
    file.write(&tokens_file(&[("acme", &["old", "new"], "{}")]));
    server.logged("reloaded files").await;
    assert_eq!((bearer(&server, "old").await.status, bearer(&server, "new").await.status), (202, 202));
}

#[tokio::test]
async fn an_invalid_file_at_start_is_an_error_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.json");
    std::fs::write(&path, "{\"tenants\":[\n{\"name\":\"a b\"}]}").unwrap();
    let missing = folder.path().join("none");
    let cases: [(&Path, &str); 2] =
        [(&path, "line 2: expected a tenant name of 1 to 64 letters"), (&missing, "cannot be read")];
    for (path, what) in cases {
        let env = [("TOKENS_FILE", path.to_str().unwrap()), ("LISTEN_ADDR", "127.0.0.1:0")];
        for arguments in [&[][..], &["--check"]] {
            let output = run(folder.path(), &env, arguments).await;
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(64), "{said}");
            assert!(said.contains("TOKENS_FILE") && said.contains(what) && !said.contains("listening"), "{said}");
        }
    }
}

#[tokio::test]
async fn without_the_file_authentication_is_disabled_and_that_is_logged_once() {
    let mut server = Server::start(&[]).await;
    assert_eq!(server.post_json(&enveloped("\"t\"")).await.status, 202);
    assert_eq!(server.post("Authorization: Bearer t\r\n", enveloped("1").as_bytes()).await.status, 202);
    server.signal(Signal::HUP);
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(server.log().matches("requests need no token").count(), 1);
    assert_eq!(server.lines().iter().filter(|line| line.contains(r#","token":"t","#)).count(), 1);
}

#[tokio::test]
async fn no_token_appears_in_the_log_the_metrics_or_a_response() {
    let file = TokensFile::new(&[("acme", &["s3cret-known"], r#"{"requests_per_second":1}"#)]);
    let mut server = file.start(&[("RUST_LOG", "trace,h2=trace,rustls=trace")]).await;
    let mut answers = Vec::new();
    for token in ["s3cret-known", "s3cret-known", "s3cret-unknown"] {
        answers.push(bearer(&server, token).await);
        answers.push(server.post(&format!("X-Api-Key: {token}\r\n"), b"nonsense").await);
        answers.push(server.post_json(&enveloped(&format!("\"{token}\""))).await);
        answers.push(get(&server, "/v1/jobs/x", &format!("Authorization: Bearer {token}\r\n")).await);
    }
    for answer in &answers {
        assert!(!answer.text().contains("cret") && !format!("{:?}", answer.headers).contains("cret"), "{answer:?}");
    }
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert!([202, 403, 429].iter().all(|status| statuses.contains(status)), "{statuses:?}");
    assert_eq!(over_http2(&server, "s3cret-known").await, 429);
    assert_eq!(over_http2(&server, "s3cret-unknown").await, 403);
    let metrics = server.metrics().await;
    assert!(!metrics.keys().any(|name| name.contains("cret")), "{metrics:?}");
    assert_eq!(server.stop().await, Some(0));
    let log = server.log();
    assert!(log.contains("TRACE"), "the log has no TRACE lines");
    let told: Vec<&str> =
        log.lines().filter(|line| line.contains("cret") || line.contains(&digest("s3cret-known"))).collect();
    assert!(told.is_empty(), "{told:?}");
    assert!(server.lines().iter().all(|line| !line.contains("cret")));
}

/// Sends a batch over HTTP/2 and returns the status.
async fn over_http2(server: &Server, token: &str) -> u16 {
    use http_body_util::Full;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let stream = server.connect().await.0;
    let (mut requests, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let mut running = tokio::task::JoinSet::new();
    running.spawn(connection);
    let request = hyper::Request::post(format!("http://{}/v1/payloads", server.public));
    let request = request.header("authorization", format!("Bearer {token}")).body(Full::new(BATCH.as_bytes())).unwrap();
    requests.send_request(request).await.unwrap().status().as_u16()
}
