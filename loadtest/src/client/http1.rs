//! The least HTTP/1.1 client that can tell what a server responded: one connection, one request at a time or several in a
//! row, one write and usually one read for each. It runs on the server's machine, where a general client would take CPU from the server.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::pin::Pin;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};

use super::target::Stream;
use super::{Response, Target, invalid};

/// A response's head cannot be longer than this.
const MAX_HEAD: usize = 16 << 10;

/// The first size of the buffer for responses, so that one read usually takes it all.
const USUAL_RESPONSE: usize = 4 << 10;

/// Longer bodies are read and not kept.
const MAX_BODY: usize = 16 << 10;

pub(crate) struct Http1 {
    addr: SocketAddr,
    stream: Stream,
    input: Vec<u8>,
    /// The range of `input` with the body of the last response.
    body: Range<usize>,
    /// The bytes of `input` before the next response.
    consumed: usize,
}

impl Http1 {
    pub(crate) async fn open(target: &Target, addr: SocketAddr) -> io::Result<Self> {
        Ok(Self { addr, stream: target.connect(addr).await?, input: Vec::new(), body: 0..0, consumed: 0 })
    }

    /// Swaps the buffer for responses: an idle connection need not hold one.
    pub(crate) fn swap_buffer(&mut self, buffer: Vec<u8>) -> Vec<u8> {
        self.body = 0..0;
        std::mem::replace(&mut self.input, buffer)
    }

    /// Whether it goes to `addr`, and the server has neither closed it nor sent anything unasked.
    pub(crate) async fn is_open_to(&mut self, addr: SocketAddr) -> bool {
        let mut byte = [0];
        let read = poll_fn(|cx| Poll::Ready(Pin::new(&mut self.stream).poll_read(cx, &mut ReadBuf::new(&mut byte))));
        self.addr == addr && read.await.is_pending()
    }

    /// Sends the bytes of a whole request and reads its response.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<Response> {
        self.forget();
        let sent = self.send(request).await;
        self.response_to(sent).await
    }

    /// Sends the bytes of `count` requests at once, and reads their responses in order; `each` gets the response and its body.
    /// Fewer than `count` responses without an error: after one with `Connection: close` the server processes no more (RFC
    /// 9112, 9.6), and the others can be sent again on another connection.
    pub(crate) async fn pipeline(
        &mut self,
        requests: &[u8],
        count: usize,
        mut each: impl FnMut(Response, &[u8]),
    ) -> io::Result<()> {
        self.forget();
        let mut sent = self.send(requests).await;
        for _ in 0..count {
            let response = self.response_to(sent).await?;
            each(response, self.body());
            if !response.keep_alive {
                break;
            }
            sent = Ok(());
        }
        Ok(())
    }

    async fn send(&mut self, requests: &[u8]) -> io::Result<()> {
        self.stream.write_all(requests).await?;
        self.stream.flush().await
    }

    /// The next response. A server may reject before it has read everything, and close: then there is still a response to read.
    async fn response_to(&mut self, sent: io::Result<()>) -> io::Result<Response> {
        match (sent, self.read_response().await) {
            (_, Ok(response)) => Ok(response),
            (Err(wrong), Err(_)) | (Ok(()), Err(wrong)) => Err(wrong),
        }
    }

    /// Forgets what was read, before new requests.
    fn forget(&mut self) {
        self.input.clear();
        self.consumed = 0;
    }

    /// The body of the last response; empty if it was too long to be kept.
    pub(crate) fn body(&self) -> &[u8] {
        self.input.get(self.body.clone()).unwrap_or_default()
    }

    async fn read_response(&mut self) -> io::Result<Response> {
        self.input.drain(..self.consumed.min(self.input.len()));
        self.consumed = 0;
        self.input.reserve(USUAL_RESPONSE);
        self.body = 0..0;
        let (response, head, body) = loop {
            // With pipelining it may have come with the response before.
            if let Some(parsed) = parse(&self.input)? {
                break parsed;
            }
            if self.input.len() > MAX_HEAD {
                return Err(invalid(&"the head of the response is too long"));
            }
            self.read_more().await?;
        };
        let keep = body <= MAX_BODY;
        let mut left = (head + body).saturating_sub(self.input.len());
        while left > 0 {
            if !keep {
                self.input.clear();
            }
            left = left.saturating_sub(self.read_more().await?);
        }
        if keep {
            self.body = head..head + body;
        }
        self.consumed = if keep { head + body } else { self.input.len() };
        Ok(response)
    }

    async fn read_more(&mut self) -> io::Result<usize> {
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection closed without a response")),
            read => Ok(read),
        }
    }
}

/// The response at the front of these bytes with the lengths of its head and body; `None` if the head is incomplete.
fn parse(bytes: &[u8]) -> io::Result<Option<(Response, usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes).map_err(|wrong| invalid(&wrong))? else {
        return Ok(None);
    };
    let status = response.code.unwrap_or_default();
    let mut keep_alive = response.version == Some(1);
    let mut length = None;
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            length = std::str::from_utf8(header.value).ok().and_then(|text| text.trim().parse().ok());
        } else if header.name.eq_ignore_ascii_case("connection") {
            keep_alive &= !header.value.eq_ignore_ascii_case(b"close");
        }
    }
    // Without a length (chunked, or up to the end of the connection) the start of the next response is unknown.
    keep_alive &= length.is_some();
    Ok(Some((Response { status, keep_alive }, head, length.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_read_whole_or_not_at_all() {
        let bytes = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\nX: y\r\n\r\n{}";
        for end in 0..bytes.len() - 2 {
            assert_eq!(parse(&bytes[..end]).unwrap(), None, "{end}");
        }
        let response = Response { status: 202, keep_alive: true };
        assert_eq!(parse(bytes).unwrap(), Some((response, bytes.len() - 2, 2)));
    }

    #[tokio::test]
    async fn a_body_is_kept_and_an_idle_connection_that_was_closed_is_not_open() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut connection = Http1::open(&addr.into(), addr).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        server.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\n\r\n{\"a\"").await.unwrap();
        let rest = async {
            // The rest of the body follows the request: before or after the first read of the response.
            let mut request = [0; 4];
            server.read_exact(&mut request).await.unwrap();
            server.write_all(b"}").await.unwrap();
        };
        let (response, ()) = tokio::join!(connection.exchange(b"GET "), rest);
        assert_eq!(response.unwrap().status, 202);
        assert_eq!(connection.body(), b"{\"a\"}");
        assert!(connection.is_open_to(addr).await);
        drop(server);
        while connection.is_open_to(addr).await {
            tokio::task::yield_now().await;
        }
    }

    /// What a client of this server gets that sends three requests at once.
    async fn pipelined(responses: &'static [u8]) -> (Vec<(u16, Vec<u8>)>, io::Result<()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut connection = Http1::open(&addr.into(), addr).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let serve = async move {
            server.read_exact(&mut [0; 12]).await.unwrap();
            server.write_all(responses).await.unwrap();
        };
        let mut seen = Vec::new();
        let client =
            connection.pipeline(b"GET GET GET ", 3, |response, body| seen.push((response.status, body.to_vec())));
        let (sent, ()) = tokio::join!(client, serve);
        (seen, sent)
    }

    #[tokio::test]
    async fn pipelined_responses_are_read_in_order_up_to_one_that_closes_and_a_missing_one_is_an_error() {
        let (seen, sent) = pipelined(
            b"HTTP/1.1 202 A\r\nContent-Length: 1\r\n\r\naHTTP/1.1 503 B\r\nContent-Length: 2\r\n\r\nbb\
              HTTP/1.1 202 A\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
        assert_eq!(seen, [(202, b"a".to_vec()), (503, b"bb".to_vec()), (202, Vec::new())]);
        sent.unwrap();
        let first = b"HTTP/1.1 202 A\r\nConnection: close\r\nContent-Length: 1\r\n\r\na";
        let (seen, sent) = pipelined(first).await;
        assert_eq!((seen.len(), sent.is_ok()), (1, true));
        let (seen, sent) = pipelined(b"HTTP/1.1 202 A\r\nContent-Length: 1\r\n\r\na").await;
        assert_eq!((seen.len(), sent.is_ok()), (1, false));
    }

    #[test]
    fn a_connection_is_given_up_if_the_server_closes_it_or_gives_no_length() {
        for bytes in [
            &b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"[..],
            b"HTTP/1.0 503 Busy\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            let (response, ..) = parse(bytes).unwrap().unwrap();
            assert_eq!(response, Response { status: 503, keep_alive: false });
        }
        assert!(parse(b"SSH-2.0-nope\r\n\r\n").is_err());
    }
}
