//! What makes another version certainly not take a request, and what the guard counts.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{Server, get, post, until};
use crate::tokens::TokensFile;
use crate::two_versions::{Mode, Proxy, RolloutFile, forward};

const PASSED: &str = "millpond_forward_total{result=\"passed\"}";
const TAKEN_HERE: &str = "millpond_forward_total{result=\"taken_here\"}";
const ABANDONED: &str = "millpond_forward_total{result=\"abandoned\"}";
const TRIPPED: &str = "millpond_forward_tripped";

async fn forward_status(server: &Server) -> Value {
    get(server.admin, "/v1/status").await.json()["rollout"]["forward"].clone()
}

#[tokio::test]
async fn clients_that_leave_a_version_that_hangs_trip_the_guard() {
    /// Longer than after which a client that leaves counts as an error.
    const PATIENCE: Duration = Duration::from_millis(1200);
    let other = Server::start(&[]).await;
    let proxy = Proxy::to(other.public, Mode::Hang).await;
    let file = RolloutFile::new(&forward(proxy.addr, 50, "request"));
    let mut server = file.start(&[]).await;
    until("the guard trips", async || {
        let mut clients = JoinSet::new();
        for _ in 0..100 {
            let mut connection = server.connect().await;
            clients.spawn(async move {
                connection.write(&post("", b"{}")).await;
                let _ = timeout(PATIENCE, connection.answer()).await;
            });
        }
        clients.join_all().await;
        server.metric(TRIPPED).await == 1.0
    })
    .await;
    server.logged("nothing is forwarded to it any more").await;
    let abandoned = server.metric(ABANDONED).await;
    assert!(abandoned >= 50.0, "{abandoned}");
    until("the status has the count", async || {
        forward_status(&server).await["abandoned_total"].as_f64().is_some_and(|count| count >= 50.0)
    })
    .await;
}

#[tokio::test]
async fn what_another_version_rejects_is_taken_here_and_trips_the_guard() {
    let tokens = TokensFile::new(&[("acme", &["t"], "{}")]);
    let path = tokens.path();
    let path = path.to_str().unwrap();
    // 401, 404, and 413 where this version accepts the same.
    for (env, to_admin) in [(&[("TOKENS_FILE", path)][..], false), (&[], true), (&[("MAX_BODY_BYTES", "1KiB")], false)]
    {
        let other = Server::start(env).await;
        let addr = if to_admin { other.admin } else { other.public };
        let file = RolloutFile::new(&forward(addr, 100, "request"));
        let mut server = file.start(&[]).await;
        let payload = format!("{{\"pad\":\"{}\"}}", "x".repeat(2000));
        let mut connection = server.connect().await;
        let mut posted = 0;
        until("the guard trips", async || {
            connection.write(&post("", payload.as_bytes())).await;
            assert_eq!(connection.answer().await.unwrap().status, 202, "{env:?}");
            posted += 1;
            server.metric(TRIPPED).await == 1.0
        })
        .await;
        assert_eq!(server.metric(PASSED).await, 0.0);
        assert!(server.metric(TAKEN_HERE).await >= 50.0);
        server.logged("check that forward.url is LISTEN_ADDR of that version").await;
        assert_eq!(server.stop().await, Some(0));
        assert_eq!(server.lines().len(), posted, "{env:?}");
    }
}

#[tokio::test]
async fn what_both_versions_reject_is_no_error_of_the_other_one() {
    let other = Server::start(&[]).await;
    let file = RolloutFile::new(&forward(other.public, 100, "request"));
    let server = file.start(&[]).await;
    for _ in 0..100 {
        assert!(!server.post_json("nonsense").await.refusal(400).is_empty());
    }
    assert_eq!((server.metric(TAKEN_HERE).await, server.metric(TRIPPED).await), (100.0, 0.0));
    until("the other version is judged", async || forward_status(&server).await["guard"] == "compared").await;
    assert_eq!(server.post_json("{}").await.status, 202);
    assert_eq!(server.metric(PASSED).await, 1.0);
}

/// A server that writes `response` for each piece that it reads.
async fn answering(response: &'static str) -> (std::net::SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut running = JoinSet::new();
    running.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            connections.spawn(async move {
                let mut request = [0; 4096];
                while stream.read(&mut request).await.is_ok_and(|length| length > 0) {
                    if stream.write_all(response.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (addr, running)
}

#[tokio::test]
async fn a_full_share_of_a_tenant_does_not_stop_the_rollout_and_a_full_queue_does() {
    let responses = [
        ("HTTP/1.1 503 x\r\nMillpond-Rejection: share_full\r\nContent-Length: 0\r\n\r\n", false),
        ("HTTP/1.1 429 x\r\nContent-Length: 0\r\n\r\n", false),
        ("HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n", true),
    ];
    for (response, trips) in responses {
        let (addr, _running) = answering(response).await;
        let file = RolloutFile::new(&forward(addr, 100, "request"));
        let server = file.start(&[]).await;
        let mut connection = server.connect().await;
        let mut statuses = Vec::new();
        for _ in 0..200 {
            connection.write(&post("", b"{}")).await;
            statuses.push(connection.answer().await.unwrap().status);
        }
        if trips {
            until("the guard trips", async || {
                server.post_json("{}").await;
                server.metric(TRIPPED).await == 1.0
            })
            .await;
        } else {
            assert!(statuses.iter().all(|status| response.contains(&status.to_string())), "passed on: {statuses:?}");
            assert_eq!(server.metric(TRIPPED).await, 0.0, "{response}");
        }
    }
}

#[tokio::test]
async fn a_client_cannot_choose_by_its_request_id_where_its_requests_go() {
    let other = Server::start(&[]).await;
    let file = RolloutFile::new(&forward(other.public, 50, "request"));
    let server = file.start(&[]).await;
    for _ in 0..100 {
        assert_eq!(server.post("X-Request-Id: always-the-same\r\n", b"{}").await.status, 202);
    }
    let passed = server.metric(PASSED).await;
    assert!((10.0..90.0).contains(&passed), "{passed}");
}

#[tokio::test]
async fn few_requests_are_shown_as_too_few_for_the_guard() {
    let other = Server::start(&[]).await;
    let file = RolloutFile::new(&forward(other.public, 100, "request"));
    let server = file.start(&[]).await;
    assert_eq!(server.post_json("{}").await.status, 202);
    until("the status says so", async || forward_status(&server).await["guard"] == "too_few_requests").await;
    for _ in 0..60 {
        assert_eq!(server.post_json("{}").await.status, 202);
    }
    until("only errors can be judged", async || forward_status(&server).await["guard"] == "errors_only").await;
    file.put(&server, &forward(other.public, 0, "request")).await;
    until("nothing is judged", async || forward_status(&server).await["guard"].is_null()).await;
}

#[tokio::test]
async fn a_shutdown_waits_for_a_forwarded_request_as_for_others() {
    let other = Server::start(&[]).await;
    // Longer than 3 s, and shorter than the requests' share of SHUTDOWN_GRACE.
    let proxy = Proxy::to(other.public, Mode::Delay(Duration::from_millis(3500))).await;
    let file = RolloutFile::new(&forward(proxy.addr, 100, "request"));
    let mut server = file.start(&[("SHUTDOWN_GRACE", "60s")]).await;
    let mut connection = server.connect().await;
    connection.write(&post("", b"{}")).await;
    until("the request is on its way", async || proxy.seen().contains("millpond-forwarded")).await;
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(connection.answer().await.unwrap().status, 202);
    assert_eq!(server.ended().await, Some(0));
}
