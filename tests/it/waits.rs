//! Waits for the store: how many there may be, and the response when one has to end.

use std::net::{Ipv4Addr, SocketAddr};

use loadtest::attack::frames::{self, END_STREAM, kind};
use loadtest::s3::{Fault, FaultPlan, S3Server};
use rustix::process::Signal;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::requests::STREAMS;
use crate::support::{Server, get, lines, until};

/// As many requests as there are streams on each connection from an address, that wait until their batches are stored.
async fn wait_for_the_store(server: &Server, address: u8, connections: usize) -> Vec<TcpStream> {
    let request = [&[0x83, 0x86][..], &frames::field(b":path", b"/?ack=stored"), &[0x01, 0x01, b'x']].concat();
    let streams = (0..STREAMS).map(|n| {
        let stream = 2 * n + 1;
        [frames::headers(stream, 0, &request), frames::frame(kind::DATA, END_STREAM, stream, b"{}")].concat()
    });
    let bytes = streams.collect::<Vec<_>>().concat();
    connected(server, address, connections, &bytes).await
}

/// So many connections of HTTP/2 from an address, on which `bytes` were sent.
async fn connected(server: &Server, address: u8, connections: usize, bytes: &[u8]) -> Vec<TcpStream> {
    let mut open = Vec::new();
    for _ in 0..connections {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, address), 0))).unwrap();
        let mut stream = socket.connect(server.public).await.unwrap();
        stream.write_all(&[&frames::opening(&[]), bytes].concat()).await.unwrap();
        open.push(stream);
    }
    open
}

#[tokio::test]
async fn one_client_has_a_quarter_of_the_waits_and_others_still_wait() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    s3.faults().set(FaultPlan::always(Fault::Hang));
    let server = Server::start_with_s3(&s3, &[("ACK_TIMEOUT", "1h"), ("SHUTDOWN_GRACE", "0s")]).await;
    let in_flight = async |expected: f64| {
        server.metric_is("millpond_requests_in_flight", |requests| requests == expected).await;
    };
    // 768 requests, of which the others are answered with the level that is reached.
    let first = wait_for_the_store(&server, 2, 6).await;
    server.metric_is("millpond_jobs_accepted_total", |jobs| jobs == 768.0).await;
    in_flight(512.0).await;
    let mut other = server.connect().await;
    other.write(&ack_stored("{}")).await;
    server.metric_is("millpond_jobs_accepted_total", |jobs| jobs == 769.0).await;
    in_flight(513.0).await;
    drop((first, other));
    in_flight(0.0).await;

    let job = server.post_json("{}").await.json()["job"].as_str().unwrap().to_owned();
    let path = format!("/v1/jobs/{job}?wait=60");
    let request = [&[0x82, 0x86][..], &frames::field(b":path", path.as_bytes()), &[0x01, 0x01, b'x']].concat();
    let asked: Vec<_> = (0..STREAMS).map(|n| frames::headers(2 * n + 1, END_STREAM, &request)).collect();
    let _second = connected(&server, 2, 3, &asked.concat()).await;
    let answered = "millpond_requests_total{outcome=\"other\",route=\"jobs\"}";
    server.metric_is(answered, |answers| answers == 128.0).await;
    in_flight(256.0).await;
    let mut other = server.connect().await;
    other.write(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
    in_flight(257.0).await;
}

#[tokio::test]
async fn waits_for_the_store_are_bounded_and_the_others_are_answered_with_the_level_reached() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    s3.faults().set(FaultPlan::always(Fault::Hang));
    let server = Server::start_with_s3(&s3, &[("ACK_TIMEOUT", "1h"), ("SHUTDOWN_GRACE", "0s")]).await;
    let mut waiting = Vec::new();
    // A client may have 512 of the 2048 places.
    for address in 2..6 {
        waiting.extend(wait_for_the_store(&server, address, 4).await);
    }
    server.metric_is("millpond_jobs_accepted_total", |jobs| jobs == 2048.0).await;
    server.metric_is("millpond_requests_in_flight", |requests| requests == 2048.0).await;
    let body = "POST /?ack=stored HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
    let answer = server.send(body.as_bytes()).await;
    assert_eq!((answer.status, &answer.json()["ack"]), (202, &"disk".into()));
    assert!(answer.json()["job"].is_string());
}

fn ack_stored(body: &str) -> Vec<u8> {
    let head = format!("POST /?ack=stored HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    (head + body).into_bytes()
}

#[tokio::test]
async fn a_stop_answers_those_who_wait_for_the_store_with_the_level_reached() {
    for (ack, level) in [("disk", "disk"), ("memory", "memory")] {
        let root = tempfile::tempdir().unwrap();
        let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
        s3.faults().set(FaultPlan::always(Fault::Hang));
        let env = [("ACK", ack), ("ACK_TIMEOUT", "1h"), ("SHUTDOWN_GRACE", "2s")];
        let mut server = Server::start_with_s3(&s3, &env).await;
        let mut connection = server.connect().await;
        connection.write(&ack_stored("{\"a\":1}")).await;
        s3.stats_when(|stats| stats.in_flight == 1).await;
        server.signal(Signal::TERM);
        let answer = connection.answer().await.unwrap_or_else(|| panic!("{ack}: cut off without an answer"));
        assert_eq!((answer.status, &answer.json()["ack"]), (202, &level.into()));
        server.ended().await;
    }
}

#[tokio::test]
async fn in_memory_a_wait_behind_a_full_backlog_ends_with_the_level_memory_and_the_job_is_counted_once() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    s3.faults().set(FaultPlan::always(Fault::Hang));
    let env = [
        ("ACK", "memory"),
        ("ACK_TIMEOUT", "300ms"),
        ("MAX_WORKERS", "1"),
        ("MAX_QUEUE", "1"),
        ("OBJECT_MAX_BYTES", "1"),
        ("RECORD", "payload"),
    ];
    let mut server = Server::start_with_s3(&s3, &env).await;
    let mut accepted = 0.0;
    until("a full backlog", async || {
        accepted += f64::from(u8::from(server.post_json("{}").await.status == 202));
        let metrics = server.metrics().await;
        metrics["millpond_busy_workers"] == 1.0 && metrics["millpond_segments_waiting"] == 1.0
    })
    .await;
    // The dispatcher takes no job, and the queue has one place: this takes it, unless the last one above has.
    until("the one in the queue", async || {
        if server.metric("millpond_queue_jobs").await > 0.0 {
            return true;
        }
        let answer = server.send(&ack_stored("{\"a\":1}")).await;
        assert_eq!((answer.status, &answer.json()["ack"]), (202, &"memory".into()), "{}", answer.text());
        accepted += 1.0;
        true
    })
    .await;
    assert_eq!(server.metric("millpond_jobs_accepted_total").await, accepted);

    // A health check that is refused is no batch that is refused.
    let refused = server.metric("millpond_requests_total{outcome=\"queue_full\",route=\"payloads\"}").await;
    assert_eq!(get(server.public, "/health").await.status, 503);
    assert_eq!(server.metric("millpond_requests_total{outcome=\"queue_full\",route=\"payloads\"}").await, refused);
    assert_eq!(server.metric("millpond_requests_total{outcome=\"other\",route=\"health\"}").await, 1.0);
    assert_eq!(server.metric("millpond_request_seconds_count{result=\"other\",route=\"health\"}").await, 1.0);
    assert_eq!(get(server.public, "/v1/jobs/x").await.status, 400);
    assert_eq!(server.metric("millpond_request_seconds_count{result=\"rejected\",route=\"jobs\"}").await, 1.0);

    s3.faults().set(FaultPlan::none());
    server.metric_is("millpond_jobs_stored_total", |stored| stored == accepted).await;
    assert_eq!(server.metric("millpond_jobs_waiting").await, 0.0);
    assert_eq!(server.metric("millpond_jobs_accepted_total").await, accepted);
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(lines(&root.path().join("telemetry")).len() as f64, accepted);
}
