//! An HTTP/2 connection that several requests share.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinSet;

use super::{Response, Target};

/// A handle of the connection, which closes when the last of them is dropped.
#[derive(Clone)]
pub(crate) struct Http2 {
    addr: SocketAddr,
    requests: SendRequest<Full<Bytes>>,
    body: Bytes,
    _driver: Arc<JoinSet<()>>,
}

impl Http2 {
    pub(crate) async fn open(target: &Target, addr: SocketAddr) -> io::Result<Self> {
        let stream = TokioIo::new(target.connect(addr).await?);
        let (requests, connection) = http2::handshake(TokioExecutor::new(), stream).await.map_err(io::Error::other)?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // Its error is also that of each request.
            let _ = connection.await;
        });
        Ok(Self { addr, requests, body: Bytes::new(), _driver: Arc::new(driver) })
    }

    /// Whether it goes to `addr` and takes requests.
    pub(crate) fn is_open_to(&self, addr: SocketAddr) -> bool {
        self.addr == addr && !self.requests.is_closed()
    }

    /// Sends the request and reads its response. `None` if the server did not process it and says so (RFC 9113, 8.7): it can
    /// be sent again on another connection.
    pub(crate) async fn exchange(&mut self, request: Request<Full<Bytes>>) -> io::Result<Option<Response>> {
        // After a GOAWAY, or when the connection is closed, nothing is sent.
        if self.requests.ready().await.is_err() {
            return Ok(None);
        }
        let response = match self.requests.try_send_request(request).await {
            Ok(response) => response,
            Err(mut wrong) => {
                let is_unsent = wrong.take_message().is_some();
                if is_unsent || is_unprocessed(wrong.error()) {
                    return Ok(None);
                }
                return Err(io::Error::other(wrong.into_error()));
            }
        };
        let status = response.status().as_u16();
        self.body = response.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        Ok(Some(Response { status, keep_alive: true }))
    }

    /// The body of the last response.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }
}

/// Whether the server says that it did not process the request: the stream is above the last one of a GOAWAY, or it was refused.
fn is_unprocessed(wrong: &hyper::Error) -> bool {
    let Some(wrong) = wrong.source().and_then(|cause| cause.downcast_ref::<h2::Error>()) else { return false };
    let is_refused = wrong.is_reset() && wrong.reason() == Some(h2::Reason::REFUSED_STREAM);
    wrong.is_remote() && (wrong.is_go_away() || is_refused)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// What a server that ends the connection in this way makes of the first of two requests on a connection, and of the second.
    async fn exchanged(last_stream: Option<u32>) -> [io::Result<Option<Response>>; 2] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let target = Target::from(addr);
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = stream;
            end(&mut stream, last_stream).await;
        };
        let client = async {
            let mut first = Http2::open(&target, addr).await.unwrap();
            let mut second = first.clone();
            let request =
                || Request::post(format!("http://{addr}/")).body(Full::new(Bytes::from_static(b"x"))).unwrap();
            let both = async { tokio::join!(first.exchange(request()), second.exchange(request())) };
            let (one, two) = both.await;
            [one, two]
        };
        tokio::join!(server, client).1
    }

    /// Reads both requests, answers the first, and closes, after a GOAWAY if there is a last stream.
    async fn end(stream: &mut tokio::net::TcpStream, last_stream: Option<u32>) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        // SETTINGS, empty.
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        let mut ended = 0;
        while ended < 2 {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            stream.read_exact(&mut vec![0; length]).await.unwrap();
            // DATA with END_STREAM.
            ended += u32::from(head[3] == 0 && head[4] & 1 == 1);
        }
        if let Some(last) = last_stream {
            stream.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0]).await.unwrap();
            stream.write_all(&[last.to_be_bytes(), [0; 4]].concat()).await.unwrap();
        }
        // HEADERS of stream 1 with END_HEADERS and END_STREAM: the indexed field `:status: 204`.
        stream.write_all(&[0, 0, 1, 1, 5, 0, 0, 0, 1, 0x89]).await.unwrap();
        stream.flush().await.unwrap();
    }

    #[tokio::test]
    async fn a_stream_above_the_last_one_of_a_goaway_was_not_processed_and_any_other_without_a_response_has_failed() {
        let [first, second] = exchanged(Some(1)).await;
        assert_eq!(first.unwrap().map(|response| response.status), Some(204));
        assert_eq!(second.unwrap(), None);
        for last_stream in [Some(3), None] {
            let [first, second] = exchanged(last_stream).await;
            assert_eq!(first.unwrap().map(|response| response.status), Some(204));
            assert!(second.is_err(), "{last_stream:?}");
        }
    }
}
