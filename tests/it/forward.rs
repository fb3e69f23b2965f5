//! Ramp-up: a share of the requests is handled by another version, and each batch is stored once.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;
use tokio::task::JoinSet;

use crate::support::{Answer, Connection, Server, get, post, until};
use crate::tls::Pair;
use crate::tokens::TokensFile;
use crate::two_versions::{Mode, Proxy, RolloutFile, forward, unused};

const PASSED: &str = "millpond_forward_total{result=\"passed\"}";
const TAKEN_HERE: &str = "millpond_forward_total{result=\"taken_here\"}";
const UNKNOWN: &str = "millpond_forward_total{result=\"unknown\"}";
const TRIPPED: &str = "millpond_forward_tripped";
const ACCEPTED: &str = "millpond_jobs_accepted_total";

async fn other() -> Server {
    Server::start(&[("RECORD", "payload")]).await
}

/// That `lines` is each of `0..count` once.
fn assert_each_once(mut lines: Vec<String>, count: usize) {
    lines.sort();
    let mut expected: Vec<_> = (0..count).map(|n| format!("{{\"n\":{n}}}")).collect();
    expected.sort();
    assert_eq!(lines, expected);
}

async fn post_numbers(server: &Server, numbers: std::ops::Range<usize>) {
    let mut connection = server.connect().await;
    for n in numbers {
        connection.write(&post("", format!("{{\"n\":{n}}}").as_bytes())).await;
        assert_eq!(connection.answer().await.unwrap().status, 202);
    }
}

#[tokio::test]
async fn each_batch_is_stored_once_at_any_percentage_up_and_down() {
    let mut other = other().await;
    let file = RolloutFile::new(&forward(other.public, 0, "request"));
    let mut server = file.start(&[]).await;
    post_numbers(&server, 0..50).await;
    assert_eq!((server.metric(ACCEPTED).await, other.metric(ACCEPTED).await), (50.0, 0.0));
    file.put(&server, &forward(other.public, 50, "request")).await;
    post_numbers(&server, 50..150).await;
    let passed = server.metric(PASSED).await;
    assert!((20.0..80.0).contains(&passed), "{passed}");
    assert_eq!(other.metric(ACCEPTED).await, passed);
    file.put(&server, &forward(other.public, 100, "request")).await;
    post_numbers(&server, 150..200).await;
    assert_eq!(other.metric(ACCEPTED).await, passed + 50.0);
    file.put(&server, &forward(other.public, 0, "request")).await;
    post_numbers(&server, 200..220).await;
    assert_eq!(server.metric(PASSED).await, passed + 50.0);
    assert_eq!(server.metric("millpond_forward_responses_total{code=\"2xx\"}").await, passed + 50.0);
    assert_eq!(server.metric("millpond_forward_seconds_count").await, passed + 50.0);
    assert_eq!(server.metric("millpond_requests_total{outcome=\"accepted\",route=\"payloads\"}").await, 220.0);
    assert_eq!((server.stop().await, other.stop().await), (Some(0), Some(0)));
    assert_each_once([server.lines(), other.lines()].concat(), 220);
}

#[tokio::test]
async fn the_other_version_sees_the_request_as_received_and_its_response_is_passed_on() {
    let other = other().await;
    let proxy = Proxy::to(other.public, Mode::Pass).await;
    let file = RolloutFile::new(&forward(proxy.addr, 100, "tenant"));
    let server = file.start(&[("ACK_MAX", "stored")]).await;
    let request = |headers: &str, body: &str| {
        let length = body.len();
        format!("POST /v1/payloads?ack=stored HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
    };
    let headers = "X-Request-Id: mine\r\nX-Forwarded-For: 203.0.113.9\r\nX-Api-Key: k\r\nCookie: c\r\n";
    let stored = server.send(request(headers, "{\"a\":1}").as_bytes()).await;
    assert_eq!((stored.status, stored.header("x-request-id")), (200, "mine"));
    assert_eq!((stored.json()["request_id"].as_str(), stored.json()["ack"].as_str()), (Some("mine"), Some("stored")));
    let seen = proxy.seen();
    for line in
        ["POST /v1/payloads?ack=stored HTTP/1.1", "x-request-id: mine", "x-forwarded-for: 127.0.0.1", "x-api-key: k"]
    {
        assert!(seen.contains(line), "{line} in {seen}");
    }
    assert!(
        seen.contains("millpond-forwarded: 1") && !seen.contains("203.0.113.9") && !seen.contains("cookie"),
        "{seen}"
    );
    let invalid = server.post_json("nonsense").await;
    assert!(!invalid.refusal(400).is_empty());
    assert_eq!(other.metric("millpond_requests_total{outcome=\"invalid\",route=\"payloads\"}").await, 1.0);
    assert_eq!(server.metric("millpond_requests_total{outcome=\"invalid\",route=\"payloads\"}").await, 1.0);
    assert_eq!(server.metric("millpond_forward_responses_total{code=\"4xx\"}").await, 1.0);
}

#[tokio::test]
async fn tenants_are_selected_by_name_wherever_their_token_is_and_unknown_ones_are_rejected_here() {
    let tokens = TokensFile::new(&[("acme", &["s3cret-a"], "{}"), ("other", &["s3cret-b"], "{}")]);
    let path = tokens.path();
    let env = [("TOKENS_FILE", path.to_str().unwrap()), ("RECORD", "envelope")];
    let mut other = Server::start(&env).await;
    let text = forward(other.public, 100, "tenant");
    let without = text.replace("}}", "},\"features\":{\"forward\":{\"percent\":100,\"except\":[\"other\"]}},\"variants\":[{\"name\":\"v\",\"percent\":100}]}");
    let file = RolloutFile::new(&without);
    let mut server = file.start(&env).await;
    let envelope = |token: &str| format!("{{\"token\":\"{token}\",\"data\":[{{\"n\":1}}]}}");
    for (token, target) in [("s3cret-a", &other), ("s3cret-b", &server)] {
        for before in 0..2 {
            let accepted = target.metric(ACCEPTED).await;
            let answer = match before {
                0 => server.post(&format!("Authorization: Bearer {token}\r\n"), b"{\"n\":1}").await,
                _ => server.post_json(&envelope(token)).await,
            };
            assert_eq!(answer.status, 202);
            assert_eq!(target.metric(ACCEPTED).await, accepted + 1.0, "{token}");
        }
    }
    server.post_json(&envelope("s3cret-c")).await.refusal(403);
    server.post("X-Api-Key: s3cret-c\r\n", b"{}").await.refusal(403);
    server.post_json("{}").await.refusal(401);
    assert_eq!(
        (server.metric(PASSED).await, server.metric(ACCEPTED).await, other.metric(ACCEPTED).await),
        (2.0, 2.0, 2.0)
    );
    let here = server.metric("millpond_variant_batches_total{result=\"accepted\",variant=\"v\"}").await;
    assert_eq!((server.stop().await, other.stop().await), (Some(0), Some(0)));
    assert!(other.lines().iter().all(|line| line.contains("\"tenant\":\"acme\"")));
    assert_eq!(here, 2.0, "the other version counts the variants of what it handles");
    assert!(server.lines().iter().all(|line| line.contains("\"tenant\":\"other\"")));
    assert!(!server.log().contains("cret"));
}

#[tokio::test]
async fn what_another_version_that_is_away_would_get_is_taken_here() {
    let file = RolloutFile::new(&forward(unused().await, 100, "request"));
    let mut server = file.start(&[]).await;
    post_numbers(&server, 0..20).await;
    assert_eq!((server.metric(TAKEN_HERE).await, server.metric(UNKNOWN).await), (20.0, 0.0));
    server.logged("could not be forwarded").await;
    assert_eq!(server.stop().await, Some(0));
    assert_each_once(server.lines(), 20);
}

#[tokio::test]
async fn a_version_that_is_killed_with_a_request_makes_its_outcome_unknown_and_this_one_does_not_take_it() {
    let mut other = other().await;
    let file = RolloutFile::new(&forward(other.public, 100, "request"));
    let mut server = file.start(&[]).await;
    post_numbers(&server, 0..1).await;
    other.signal(Signal::STOP);
    let mut connection = server.connect().await;
    connection.write(&post("", b"{\"n\":1}")).await;
    server.metric_is("millpond_requests_in_flight", |requests| requests >= 1.0).await;
    // The request waits in the socket of the stopped process.
    other.signal(Signal::KILL);
    let answer = connection.answer().await.unwrap();
    let detail = answer.refusal(503);
    assert!(detail.contains("may be stored") && !answer.header("retry-after").is_empty(), "{detail}");
    assert_eq!(server.metric(UNKNOWN).await, 1.0);
    other.ended().await;
    // Its idle connections are closed, and no other can be made.
    post_numbers(&server, 2..4).await;
    assert_eq!(server.metric(TAKEN_HERE).await, 2.0);
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(server.lines().len(), 2, "what may be stored there is not stored here");
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_costs_no_request() {
    let other = Server::start(&[("IDLE_TIMEOUT", "500ms")]).await;
    let proxy = Proxy::to(other.public, Mode::Pass).await;
    let file = RolloutFile::new(&forward(proxy.addr, 100, "request"));
    let server = file.start(&[]).await;
    post_numbers(&server, 0..3).await;
    assert_eq!(proxy.most(), 1, "a connection is used again");
    until("the idle connection is closed", async || proxy.open() == 0).await;
    post_numbers(&server, 3..4).await;
    assert_eq!((server.metric(PASSED).await, server.metric(UNKNOWN).await), (4.0, 0.0));
}

#[tokio::test]
async fn two_versions_that_forward_to_each_other_do_not_loop() {
    let (file, other_file) = (RolloutFile::new("{}"), RolloutFile::new("{}"));
    let (mut server, mut other) = (file.start(&[]).await, other_file.start(&[]).await);
    file.put(&server, &forward(other.public, 100, "request")).await;
    other_file.put(&other, &forward(server.public, 100, "request")).await;
    post_numbers(&server, 0..10).await;
    assert_eq!((server.metric(PASSED).await, other.metric(PASSED).await), (10.0, 0.0));
    assert_eq!((server.stop().await, other.stop().await), (Some(0), Some(0)));
    assert!(server.lines().is_empty());
    assert_each_once(other.lines(), 10);
}

#[tokio::test]
async fn a_version_that_fails_trips_the_guard_until_forward_changes() {
    let mut other = other().await;
    let proxy = Proxy::to(other.public, Mode::Close).await;
    let file = RolloutFile::new(&forward(proxy.addr, 50, "request"));
    let mut server = file.start(&[]).await;
    let mut connection = server.connect().await;
    let mut acknowledged = BTreeSet::new();
    let mut n = 0;
    until("the guard trips", async || {
        if let Some(line) = post_one(&mut connection, n).await {
            acknowledged.insert(line);
        }
        n += 1;
        server.metric(TRIPPED).await == 1.0
    })
    .await;
    server.logged("nothing is forwarded to it any more").await;
    server.logged("errors in the last 30 s: there ").await;
    until("the status says so", async || {
        let forward = status(&server).await["rollout"]["forward"].clone();
        let tripped = &forward["tripped"];
        tripped["reason"] == "errors" && tripped["detail"].as_str().unwrap().contains("requests failed")
    })
    .await;
    let (passed, unknown) = (server.metric(PASSED).await, server.metric(UNKNOWN).await);
    assert_eq!(passed, 0.0);
    for m in n..n + 40 {
        acknowledged.insert(post_one(&mut connection, m).await.expect("it is taken here"));
    }
    assert_eq!(server.metric(UNKNOWN).await, unknown);
    proxy.set(Mode::Pass);
    // A reload for another reason.
    let again = forward(proxy.addr, 50, "request").replace("}}", "},\"variants\":[]}");
    file.put(&server, &again).await;
    assert_eq!(server.metric(TRIPPED).await, 1.0, "`forward` is unchanged");
    file.put(&server, &forward(proxy.addr, 51, "request")).await;
    server.metric_is(TRIPPED, |tripped| tripped == 0.0).await;
    for m in n + 40..n + 80 {
        acknowledged.insert(post_one(&mut connection, m).await.expect("it is taken by either"));
    }
    let passed = server.metric(PASSED).await;
    assert!(passed > 0.0);
    until("the status has the counts", async || {
        let forward = status(&server).await["rollout"]["forward"].clone();
        forward["tripped"].is_null() && forward["passed_total"].as_f64() == Some(passed)
    })
    .await;
    assert_eq!((server.stop().await, other.stop().await), (Some(0), Some(0)));
    let lines = [server.lines(), other.lines()].concat();
    let stored: BTreeSet<_> = lines.iter().cloned().collect();
    assert_eq!(stored.len(), lines.len(), "nothing is stored twice");
    assert!(acknowledged.is_subset(&stored), "nothing is lost");
}

async fn status(server: &Server) -> serde_json::Value {
    get(server.admin, "/v1/status").await.json()
}

/// Posts a number; its line if it is acknowledged.
async fn post_one(connection: &mut Connection, n: usize) -> Option<String> {
    let line = format!("{{\"n\":{n}}}");
    connection.write(&post("", line.as_bytes())).await;
    let answer: Answer = connection.answer().await.unwrap();
    assert!(matches!(answer.status, 202 | 503), "{}", answer.text());
    (answer.status == 202).then_some(line)
}

#[tokio::test]
async fn a_version_that_is_slow_trips_the_guard() {
    let other = other().await;
    let proxy = Proxy::to(other.public, Mode::Delay(Duration::from_secs(2))).await;
    let file = RolloutFile::new(&forward(proxy.addr, 50, "request"));
    let mut server = file.start(&[]).await;
    let mut clients = JoinSet::new();
    for _ in 0..40 {
        let mut connection = server.connect().await;
        clients.spawn(async move {
            for n in 0.. {
                post_one(&mut connection, n).await;
            }
        });
    }
    server.metric_is(TRIPPED, |tripped| tripped == 1.0).await;
    clients.shutdown().await;
    server.logged("latency in the last 30 s: there 0 of ").await;
    assert_eq!(server.metric(UNKNOWN).await, 0.0);
}

#[tokio::test]
async fn more_requests_than_connections_to_the_other_version_are_taken_here() {
    /// As in the server.
    const FORWARDS_MAX: usize = 512;
    let other = other().await;
    let proxy = Proxy::to(other.public, Mode::Hang).await;
    let file = RolloutFile::new(&forward(proxy.addr, 100, "request"));
    let server = file.start(&[]).await;
    let mut waiting = Vec::new();
    for n in 0..FORWARDS_MAX {
        let mut connection = server.connect().await;
        connection.write(&post("", format!("{{\"n\":{n}}}").as_bytes())).await;
        waiting.push(connection);
    }
    until("all connections are in use", async || proxy.seen().matches("millpond-forwarded").count() == FORWARDS_MAX)
        .await;
    post_numbers(&server, FORWARDS_MAX..FORWARDS_MAX + 10).await;
    assert_eq!(server.metric(TAKEN_HERE).await, 10.0);
    assert_eq!(proxy.most(), FORWARDS_MAX);
}

#[tokio::test]
async fn bodies_for_a_version_that_hangs_use_a_quarter_of_the_queue_at_most() {
    let other = other().await;
    let proxy = Proxy::to(other.public, Mode::Hang).await;
    let file = RolloutFile::new(&forward(proxy.addr, 100, "request"));
    let server = file.start(&[("MAX_QUEUE_BYTES", "1MiB")]).await;
    let body = format!("{{\"pad\":\"{}\"}}", "x".repeat(100_000));
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut connection = server.connect().await;
        connection.write(&post("", body.as_bytes())).await;
        waiting.push(connection);
    }
    until("two are in flight", async || proxy.seen().matches("millpond-forwarded").count() == 2).await;
    for _ in 0..3 {
        let answer = server.post_json(&body).await;
        assert_eq!(answer.status, 202, "a third would exceed 256 KiB: {}", answer.text());
    }
    assert_eq!(server.metric(TAKEN_HERE).await, 3.0);
}

#[tokio::test]
async fn over_https_only_a_version_whose_certificate_is_trusted_gets_requests() {
    let ((pair, _), (stranger, _)) = (Pair::new(), Pair::new());
    let other = Server::start(&pair.env()).await;
    let text = forward(other.public, 100, "request").replace("http://127.0.0.1", "https://localhost");
    let file = RolloutFile::new(&text);
    for (roots, passed, here) in [(&pair, 10.0, 0.0), (&stranger, 0.0, 10.0)] {
        let server = file.start(&[("SSL_CERT_FILE", roots.env()[0].1)]).await;
        post_numbers(&server, 0..10).await;
        assert_eq!((server.metric(PASSED).await, server.metric(TAKEN_HERE).await), (passed, here));
        assert_eq!(server.metric(UNKNOWN).await, 0.0);
    }
    assert!(other.metric("millpond_connections").await <= 1.0, "connections are used again");
}
