//! Stopping: what was acknowledged is stored, or it is said how much is not.

use std::time::Duration;

use loadtest::s3::{Fault, FaultPlan, S3Server};
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::{Connection, Server, get, lines, post, until};

#[tokio::test]
async fn a_stop_under_load_loses_nothing_that_was_acknowledged() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start(&[("RECORD", "payload"), ("OBJECT_MAX_BYTES", "4KiB")]).await;
        let mut senders = JoinSet::new();
        for sender in 0..20 {
            let payload = move |n| format!("{{\"sender\":{sender},\"n\":{n}}}");
            senders.spawn(server.connect().await.post_until_the_end(payload));
        }
        server.metric_is("millpond_jobs_accepted_total", |jobs| jobs > 500.0).await;
        server.signal(signal);
        let mut acknowledged: Vec<String> = senders.join_all().await.concat();
        assert_eq!(server.ended().await, Some(0));
        let mut stored = server.lines();
        assert!(acknowledged.len() > 500);
        stored.sort();
        acknowledged.sort();
        let lost: Vec<_> = acknowledged.iter().filter(|line| stored.binary_search(line).is_err()).collect();
        assert!(lost.is_empty(), "{lost:?}");
        stored.dedup();
        assert_eq!(stored.len(), server.lines().len(), "none twice");
        server.logged("all accepted jobs are stored").await;
    }
}

#[tokio::test]
async fn a_request_in_flight_is_finished_and_new_connections_are_not_taken() {
    let mut server = Server::start(&[]).await;
    let mut connection = server.connect().await;
    let request = post("", b"{\"a\":1}");
    let (begun, rest) = request.split_at(request.len() - 3);
    connection.write(begun).await;
    // Its headers are read, and the request is in flight.
    server.metric_is("millpond_queue_bytes", |bytes| bytes > 0.0).await;
    server.signal(Signal::TERM);
    until("no more connections", async || TcpStream::connect(server.public).await.is_err()).await;
    let (status, text) = server.ready().await;
    assert!(status == 503 && text.contains("draining"), "{text}");
    connection.write(rest).await;
    assert_eq!(connection.answer().await.expect("an answer").status, 202);
    assert!(connection.closed().await);
    assert_eq!(server.ended().await, Some(0));
    assert_eq!(server.lines().len(), 1);
}

#[tokio::test]
async fn what_is_not_stored_when_the_grace_is_over_is_counted_and_fails_the_exit() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    s3.faults().set(FaultPlan::always(Fault::Hang));
    let mut server = Server::start_with_s3(&s3, &[("ACK", "memory"), ("SHUTDOWN_GRACE", "300ms")]).await;
    assert_eq!(server.post_json("[{},{},{}]").await.status, 202);
    assert_eq!(server.post_json("[{}]").await.status, 202);
    assert_eq!(server.stop().await, Some(1));
    server.logged("lost jobs=2 payloads=4").await;
    assert!(lines(&root.path().join("telemetry")).is_empty());
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    s3.faults().set(FaultPlan::always(Fault::Hang));
    let mut server = Server::start_with_s3(&s3, &[("ACK", "memory"), ("SHUTDOWN_GRACE", "1h")]).await;
    assert_eq!(server.post_json("{}").await.status, 202);
    server.signal(Signal::TERM);
    server.logged("shutting down: ").await;
    s3.stats_when(|stats| stats.in_flight == 1).await;
    server.signal(Signal::TERM);
    assert_eq!(server.ended().await, Some(1));
    server.logged("lost jobs=1 payloads=1").await;
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_a_stop() {
    let mut server = Server::start(&[("SHUTDOWN_GRACE", "1h")]).await;
    let mut idle = server.connect().await;
    let mut used = server.connect().await;
    used.write(&post("", b"{}")).await;
    assert_eq!(used.answer().await.unwrap().status, 202);
    let mut admin = Connection(TcpStream::connect(server.admin).await.unwrap());
    admin.write(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(admin.answer().await.unwrap().status, 200);
    assert_eq!(get(server.public, "/health").await.status, 200);
    assert_eq!(tokio::time::timeout(Duration::from_secs(30), server.stop()).await.expect("no hour"), Some(0));
    assert!(idle.closed().await && used.closed().await);
}
