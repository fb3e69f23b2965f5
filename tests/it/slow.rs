//! Slow clients, and idle connections.

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::support::{PATIENCE, Server, post};

#[tokio::test]
async fn slow_headers_are_answered_408() {
    let server = Server::start(&[("HEADER_TIMEOUT", "100ms")]).await;
    let mut connection = server.connect().await;
    connection.write(b"POST / HTTP/1.1\r\nHost:").await;
    let answer = connection.answer().await.expect("an answer");
    assert!(answer.refusal(408).contains("headers"));
    assert!(connection.closed().await);
    // Also on a reused connection.
    let mut connection = server.connect().await;
    connection.write(&post("", b"{}")).await;
    assert_eq!(connection.answer().await.unwrap().status, 202);
    connection.write(b"POST / HTTP/1.1\r\n").await;
    assert_eq!(connection.answer().await.expect("an answer").status, 408);
    server.metric_is("millpond_requests_total{outcome=\"slow\",route=\"other\"}", |slow| slow == 2.0).await;
}

#[tokio::test]
async fn a_line_break_on_an_idle_connection_is_no_request() {
    let server = Server::start(&[("HEADER_TIMEOUT", "50ms"), ("IDLE_TIMEOUT", "300ms")]).await;
    let mut connection = server.connect().await;
    connection.write(&post("", b"{}")).await;
    assert_eq!(connection.answer().await.unwrap().status, 202);
    connection.write(b"\r\n").await;
    assert!(connection.answer().await.is_none(), "closed without a response");
}

#[tokio::test]
async fn a_body_that_stalls_is_answered_408_and_its_reservation_is_released() {
    let mut server = Server::start(&[("BODY_TIMEOUT", "100ms")]).await;
    let mut connection = server.connect().await;
    connection.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"a\":1").await;
    let answer = connection.answer().await.expect("an answer");
    assert!(answer.refusal(408).contains("body"));
    assert_eq!(answer.header("connection"), "close");
    assert!(connection.closed().await);
    assert_eq!(server.metric("millpond_queue_bytes").await, 0.0);
    assert_eq!(server.stop().await, Some(0));
    assert!(server.lines().is_empty());
}

#[tokio::test]
async fn the_connection_of_a_client_that_reads_no_responses_is_closed_and_its_memory_released() {
    let server = Server::start(&[("IDLE_TIMEOUT", "300ms")]).await;
    server.forget_peak();
    let before = server.peak();
    let mut client = server.connect().await;
    let requests = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    // Until all buffers are full and the server closes the connection.
    let flood = async { while client.0.write_all(&requests).await.is_ok() {} };
    timeout(PATIENCE, flood).await.expect("the server closes");
    server.metric_is("millpond_connections", |open| open == 0.0).await;
    assert!(server.peak() < before + 16 * 1024, "{before} KiB grew to {}", server.peak());
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_response() {
    let server = Server::start(&[("IDLE_TIMEOUT", "100ms")]).await;
    let mut idle = server.connect().await;
    assert!(idle.closed().await);
    let mut used = server.connect().await;
    used.write(&post("", b"{}")).await;
    assert_eq!(used.answer().await.unwrap().status, 202);
    assert!(used.closed().await);
    server.metric_is("millpond_connections", |open| open == 0.0).await;
}

#[tokio::test]
async fn a_slow_request_is_not_an_idle_connection() {
    let server = Server::start(&[("IDLE_TIMEOUT", "50ms"), ("HEADER_TIMEOUT", "50ms")]).await;
    let mut connection = server.connect().await;
    connection.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n{\"a\"").await;
    let mut other = server.connect().await;
    assert!(other.closed().await, "after both timeouts");
    connection.write(b":1}").await;
    assert_eq!(connection.answer().await.expect("an answer").status, 202);
}
