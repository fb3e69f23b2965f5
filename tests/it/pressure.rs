//! A store that hangs, fails, throttles: what was accepted is kept, what cannot be kept is refused.

use std::collections::HashSet;

use loadtest::s3::{Fault, FaultPlan, S3Server};
use tokio::task::JoinSet;

use crate::support::{Server, get, lines, post, until};

/// Payloads `{"n":from}`, `{"n":from + 1}` …, each a job, until one is refused; the numbers that got 202.
async fn post_until_refused(server: &Server, from: usize) -> HashSet<usize> {
    let mut accepted = HashSet::new();
    for n in from.. {
        let answer = server.post_json(&format!("{{\"n\":{n}}}")).await;
        if answer.status != 202 {
            assert!(answer.refusal(503).contains("queue is full"));
            assert!((1..=45).contains(&answer.header("retry-after").parse::<u64>().unwrap()));
            break;
        }
        accepted.insert(n);
    }
    accepted
}

/// Connections of a flood.
const FLOODERS: usize = 16;

/// Sends a request so many times on each connection; how many were refused with 503.
async fn flood(server: &Server, request: &[u8], requests: usize) -> usize {
    let mut senders = JoinSet::new();
    for _ in 0..FLOODERS {
        let (mut connection, request) = (server.connect().await, request.to_vec());
        senders.spawn(async move {
            let mut refused = 0;
            for _ in 0..requests {
                connection.write(&request).await;
                refused += usize::from(connection.answer().await.expect("an answer").status == 503);
            }
            refused
        });
    }
    senders.join_all().await.iter().sum()
}

fn stored(root: &std::path::Path) -> Vec<usize> {
    lines(root)
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["n"].as_u64().unwrap() as usize)
        .collect()
}

#[tokio::test]
async fn with_a_hung_store_503s_begin_and_they_end_by_themselves_and_nothing_is_missing() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    s3.faults().set(FaultPlan::always(Fault::Hang));
    let env = [
        ("ACK", "memory"),
        ("MAX_WORKERS", "2"),
        ("MAX_QUEUE", "10"),
        ("OBJECT_MAX_BYTES", "1"),
        ("RECORD", "payload"),
    ];
    let mut server = Server::start_with_s3(&s3, &env).await;

    let mut accepted = HashSet::new();
    // A refusal may come because the dispatcher is only behind: until every place is taken.
    until("everything is full", async || {
        accepted.extend(post_until_refused(&server, accepted.len()).await);
        let metrics = server.metrics().await;
        let full = [("queue_jobs", 10.0), ("busy_workers", 2.0), ("segments_waiting", 1.0)];
        full.iter().all(|(name, value)| metrics[&format!("millpond_{name}")] == *value)
    })
    .await;
    // Ten in the queue; in each of two uploads and in the one sealed segment at least one.
    assert!((13..=40).contains(&accepted.len()), "{}", accepted.len());
    assert_eq!(server.metric("millpond_jobs_waiting").await, accepted.len() as f64);
    let (status, text) = server.ready().await;
    assert!(status == 503 && text.contains("queue full"), "{text}");
    assert_eq!(get(server.public, "/health").await.status, 503);
    assert_eq!(server.post_json("{\"n\":0}").await.status, 503, "it stays full");

    s3.faults().set(FaultPlan::none());
    until("room", async || {
        let answer = server.post_json("{\"n\":1000000}").await.status;
        if answer == 202 {
            accepted.insert(1_000_000);
        }
        answer == 202
    })
    .await;
    assert_eq!(server.stop().await, Some(0));
    let stored = stored(&root.path().join("telemetry"));
    assert_eq!(stored.len(), accepted.len(), "none twice");
    assert_eq!(stored.into_iter().collect::<HashSet<_>>(), accepted);
    assert_eq!(s3.stats().in_flight_peak, 2, "MAX_WORKERS uploads at once and never more");
}

#[tokio::test]
async fn memory_is_bounded_while_a_hung_store_is_flooded() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    s3.faults().set(FaultPlan::always(Fault::Hang));
    let env = [
        ("ACK", "memory"),
        ("MAX_WORKERS", "2"),
        ("MAX_QUEUE_BYTES", "4MiB"),
        ("OBJECT_MAX_BYTES", "256KiB"),
        ("COMPRESSION", "none"),
    ];
    let server = Server::start_with_s3(&s3, &env).await;
    let request =
        post("Content-Type: application/json\r\n", format!("{{\"a\":\"{}\"}}", "x".repeat(16 * 1024)).as_bytes());

    // Three times what the queue and the segments hold, so that every bound is reached.
    assert!(flood(&server, &request, 100).await > 0);
    let (full, waiting) = (server.peak(), server.metric("millpond_jobs_waiting").await);
    assert!(waiting * 16.0 * 1024.0 <= (4 << 20) as f64 + 3.0 * (1 << 20) as f64, "{waiting} jobs");
    // A hundred times more changes nothing.
    assert_eq!(flood(&server, &request, 2000).await, FLOODERS * 2000);
    assert_eq!(server.metric("millpond_jobs_waiting").await, waiting);
    let after = server.peak();
    assert!(after < full + 8 * 1024, "{full} KiB grew to {after} KiB");
}

#[tokio::test]
async fn memory_is_bounded_while_a_hung_store_is_flooded_and_the_spool_fills_on_disk() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    s3.faults().set(FaultPlan::always(Fault::Hang));
    let env = [
        ("ACK", "disk"),
        ("MAX_WORKERS", "2"),
        ("MAX_QUEUE_BYTES", "4MiB"),
        ("SPOOL_MAX_BYTES", "32MiB"),
        ("OBJECT_MAX_BYTES", "1MiB"),
        ("COMPRESSION", "none"),
    ];
    let server = Server::start_with_s3(&s3, &env).await;
    let body = format!("{{\"a\":\"{}\"}}", "x".repeat(16 * 1024));
    let request = post("Content-Type: application/json\r\n", body.as_bytes());
    let before = server.peak();
    // More than the spool may hold.
    assert!(flood(&server, &request, 150).await > 0);
    let (full, spooled) = (server.peak(), server.metric("millpond_spool_bytes").await);
    assert!((f64::from(28 << 20)..=f64::from(32 << 20)).contains(&spooled), "{spooled} bytes are spooled");
    assert!(full < before + 20 * 1024, "{before} KiB grew to {full} KiB with {spooled} bytes in the spool");
    // Three times more changes nothing.
    assert_eq!(flood(&server, &request, 500).await, FLOODERS * 500);
    let after = server.peak();
    assert!(after < full + 8 * 1024, "{full} KiB grew to {after} KiB");
}

#[tokio::test]
async fn a_queue_full_of_bytes_refuses_and_a_batch_too_large_for_it_is_told_so() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    s3.faults().set(FaultPlan::always(Fault::Hang));
    let env = [
        ("ACK", "memory"),
        ("MAX_WORKERS", "1"),
        ("MAX_QUEUE_BYTES", "3100"),
        ("OBJECT_MAX_BYTES", "1"),
        ("RECORD", "payload"),
    ];
    let mut server = Server::start_with_s3(&s3, &env).await;
    let body = format!("{{\"n\":1,\"a\":\"{}\"}}", "x".repeat(1000));
    let mut accepted = 0;
    while server.post_json(&body).await.status == 202 {
        accepted += 1;
    }
    assert!((3..=8).contains(&accepted), "{accepted}");
    assert!(server.metric("millpond_queue_bytes").await <= 3100.0);
    s3.faults().set(FaultPlan::none());
    server.metric_is("millpond_jobs_waiting", |jobs| jobs == 0.0).await;
    let many = format!("[{}{{}}]", "{},".repeat(2000));
    assert!(server.post_json(&many).await.refusal(413).contains("MAX_QUEUE_BYTES"));
    assert_eq!(server.metric("millpond_queue_bytes").await, 0.0);
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(stored(&root.path().join("telemetry")).len(), accepted);
}

#[tokio::test]
async fn a_store_that_fails_one_call_in_two_gets_everything_once() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    let kinds = [Fault::SlowDown, Fault::InternalError, Fault::DropBefore, Fault::DropAfter, Fault::Hang];
    s3.faults().set(FaultPlan::share(0.5, kinds).unwrap());
    let env = [
        ("ACK", "memory"),
        ("OBJECT_MAX_BYTES", "1"),
        ("RECORD", "payload"),
        ("S3_TIMEOUT", "300ms"),
        ("MAX_WORKERS", "4"),
    ];
    let mut server = Server::start_with_s3(&s3, &env).await;
    let mut sent = 0;
    until("every fault", async || {
        assert_eq!(server.post_json(&format!("{{\"n\":{sent}}}")).await.status, 202);
        sent += 1;
        s3.stats().faults.len() == 5
    })
    .await;
    server.metric_is("millpond_jobs_stored_total", |stored| stored == sent as f64).await;
    assert!(server.metric("millpond_upload_retries_total{class=\"transient\"}").await > 0.0);
    assert!(server.metric("millpond_upload_retries_total{class=\"timed_out\"}").await > 0.0);
    assert!(server.metric("millpond_upload_retries_total{class=\"throttled\"}").await > 0.0);
    s3.faults().set(FaultPlan::none());
    assert_eq!(server.stop().await, Some(0));
    let mut stored = stored(&root.path().join("telemetry"));
    stored.sort_unstable();
    assert_eq!(stored, (0..sent).collect::<Vec<_>>());
}

#[tokio::test]
async fn throttling_lowers_the_uploads_at_once_and_success_raises_them_again() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    s3.faults().set(FaultPlan::always(Fault::SlowDown));
    let env = [("ACK", "memory"), ("MAX_WORKERS", "8"), ("OBJECT_MAX_BYTES", "1"), ("RECORD", "payload")];
    let server = Server::start_with_s3(&s3, &env).await;
    for _ in 0..8 {
        assert_eq!(server.post_json("{\"n\":1}").await.status, 202);
    }
    server.metric_is("millpond_upload_limit", |limit| limit == 1.0).await;
    until("trouble that lasts", async || server.ready().await.0 == 503).await;
    assert!(server.ready().await.1.contains("SlowDown"), "{}", server.ready().await.1);
    s3.faults().set(FaultPlan::none());
    until("the limit's rise", async || {
        assert_eq!(server.post_json("{\"n\":1}").await.status, 202);
        server.metric("millpond_upload_limit").await == 8.0
    })
    .await;
    assert_eq!(server.ready().await.0, 200);
}
