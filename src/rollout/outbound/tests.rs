use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;

/// A server that reads the first bytes of each request, writes `response` and then reads on, or closes the connection.
async fn server(response: Vec<u8>, stays: bool) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut running = JoinSet::new();
    running.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let response = response.clone();
            connections.spawn(async move {
                let mut request = [0; 4096];
                while stream.read(&mut request).await.is_ok_and(|length| length > 0) {
                    if stream.write_all(&response).await.is_err() || !stays {
                        return;
                    }
                }
            });
        }
    });
    (addr, running)
}

fn outbound(url: &str, max: usize, response_timeout: Duration) -> Outbound {
    Outbound::new(url.parse().unwrap(), connector().unwrap(), max, response_timeout)
}

async fn send(outbound: &Outbound) -> Result<Received, SendError> {
    let (head, ()) = Request::post("/").header("host", "x").body(()).unwrap().into_parts();
    outbound.send(head, Bytes::from_static(b"{}")).await
}

fn with_body(bytes: usize) -> Vec<u8> {
    format!("HTTP/1.1 202 Accepted\r\nContent-Length: {bytes}\r\n\r\n{}", "x".repeat(bytes)).into_bytes()
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_response_is_read_up_to_its_limit_and_a_larger_one_is_an_unknown_outcome() {
    let (addr, _running) = server(with_body(RESPONSE_MAX_BYTES), true).await;
    let to = outbound(&format!("http://{addr}/"), 1, LONG);
    let received = send(&to).await.unwrap();
    assert_eq!((received.status.as_u16(), received.body.len()), (202, RESPONSE_MAX_BYTES));
    assert_eq!(to.idle.lock().len(), 1);
    send(&to).await.unwrap();
    assert_eq!(to.idle.lock().len(), 1, "the connection is used again");
    let (addr, _running) = server(with_body(RESPONSE_MAX_BYTES + 1), true).await;
    let to = outbound(&format!("http://{addr}/"), 1, LONG);
    assert!(matches!(send(&to).await, Err(SendError::Unknown(_))));
    let head = format!("HTTP/1.1 202 Accepted\r\nX: {}\r\n\r\n", "x".repeat(2 * HEAD_MAX_BYTES));
    let (addr, _running) = server(head.into_bytes(), true).await;
    assert!(matches!(send(&outbound(&format!("http://{addr}/"), 1, LONG)).await, Err(SendError::Unknown(_))));
}

#[tokio::test]
async fn what_fails_after_the_request_was_written_is_an_unknown_outcome() {
    for (response, stays, timeout) in [
        (Vec::new(), false, LONG),
        (Vec::new(), true, Duration::from_millis(20)),
        (b"HTTP/1.1 202 Acc".to_vec(), false, LONG),
        (b"HTTP/1.1 202 Accepted\r\nContent-Length: 9\r\n\r\n{}".to_vec(), false, LONG),
        (b"HTTP/1.1 202 Accepted\r\nContent-Length: 9\r\n\r\n{}".to_vec(), true, Duration::from_millis(20)),
        (b"nonsense\r\n\r\n".to_vec(), false, LONG),
    ] {
        let (addr, _running) = server(response.clone(), stays).await;
        let to = outbound(&format!("http://{addr}/"), 1, timeout);
        let sent = send(&to).await;
        assert!(matches!(sent, Err(SendError::Unknown(_))), "{response:?}: {sent:?}");
        assert!(to.idle.lock().is_empty());
    }
}

#[tokio::test]
async fn what_fails_before_the_request_was_written_was_not_taken() {
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (plain, _running) = server(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), false).await;
    for url in [format!("http://{unused}/"), format!("https://{plain}/"), "http://name.invalid:1/".to_owned()] {
        let sent = send(&outbound(&url, 1, LONG)).await;
        assert!(matches!(sent, Err(SendError::NotTaken(_))), "{url}: {sent:?}");
    }
}

#[tokio::test]
async fn a_server_that_accepts_no_connection_was_not_sent_a_request() {
    // A handshake that never ends.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = outbound(&format!("https://{}/", listener.local_addr().unwrap()), 1, LONG);
    let sent = send(&to).await;
    assert!(matches!(&sent, Err(SendError::NotTaken(error)) if error.contains("within 1s")), "{sent:?}");
}

#[tokio::test]
async fn an_idle_connection_that_the_server_has_closed_is_not_used() {
    let (addr, _running) = server(with_body(2), false).await;
    let to = outbound(&format!("http://{addr}/"), 1, LONG);
    for _ in 0..20 {
        send(&to).await.unwrap();
        let idle = to.idle.lock().pop();
        if let Some(mut idle) = idle {
            // Until the end of the stream has arrived.
            while idle.connection.is_open().await {
                tokio::task::yield_now().await;
            }
            to.idle.lock().push(idle);
        }
    }
}

#[tokio::test]
async fn a_connection_that_ends_with_its_response_is_not_kept() {
    let close = b"HTTP/1.1 202 Accepted\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}".to_vec();
    for (response, stays) in
        [(close.clone(), true), (close, false), (b"HTTP/1.0 202 Accepted\r\n\r\n{}".to_vec(), false)]
    {
        let (addr, _running) = server(response, stays).await;
        let to = outbound(&format!("http://{addr}/"), 1, LONG);
        for _ in 0..3 {
            assert_eq!(send(&to).await.unwrap().body.len(), 2);
            assert!(to.idle.lock().is_empty());
        }
    }
}

#[tokio::test]
async fn no_more_requests_than_connections_are_sent_at_once() {
    let (addr, _running) = server(Vec::new(), true).await;
    let to = outbound(&format!("http://{addr}/"), 2, Duration::from_millis(200));
    let (first, second, third) = tokio::join!(send(&to), send(&to), send(&to));
    let is_unknown = |sent: &Result<Received, SendError>| matches!(sent, Err(SendError::Unknown(_)));
    assert!(is_unknown(&first) && is_unknown(&second) && matches!(third, Err(SendError::Busy)));
}
