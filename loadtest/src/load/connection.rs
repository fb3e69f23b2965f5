//! The least HTTP/1.1 client that can tell what a server answered: one connection, one request at a time, one write
//! and usually one read for each.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer's head cannot be longer than this.
const MAX_HEAD: usize = 16 << 10;

/// Answers are read into as much room at first, so that one read usually takes it all.
const USUAL_ANSWER: usize = 4 << 10;

/// Longer bodies are read and not kept.
const MAX_BODY: usize = 16 << 10;

pub(crate) struct Connection {
    target: SocketAddr,
    stream: TcpStream,
    input: Vec<u8>,
    /// Where the body of the last answer lies in `input`.
    body: Range<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Whether the server takes another request on this connection.
    pub(super) keep_alive: bool,
}

impl Connection {
    pub(crate) async fn open(target: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(target).await?;
        stream.set_nodelay(true)?;
        Ok(Self { target, stream, input: Vec::new(), body: 0..0 })
    }

    /// Swaps the buffer for answers: one that is idle need not hold any.
    pub(super) fn lend(&mut self, buffer: Vec<u8>) -> Vec<u8> {
        self.body = 0..0;
        std::mem::replace(&mut self.input, buffer)
    }

    /// Whether the server has neither closed it nor sent anything unasked.
    pub(super) fn is_open(&self) -> bool {
        let nothing = self.stream.try_read(&mut [0]);
        nothing.is_err_and(|wrong| wrong.kind() == io::ErrorKind::WouldBlock)
    }

    pub(super) fn target(&self) -> SocketAddr {
        self.target
    }

    /// Sends the bytes of a whole request and reads its answer.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        let sent = self.stream.write_all(request).await;
        // A server may refuse before it has read everything, and close: then there is an answer to read all the same.
        match (sent, self.read_answer().await) {
            (_, Ok(answer)) => Ok(answer),
            (Err(wrong), Err(_)) | (Ok(()), Err(wrong)) => Err(wrong),
        }
    }

    /// The body of the last answer. Of one too long to be kept there is nothing.
    pub(crate) fn body(&self) -> &[u8] {
        self.input.get(self.body.clone()).unwrap_or_default()
    }

    async fn read_answer(&mut self) -> io::Result<Answer> {
        self.input.clear();
        self.input.reserve(USUAL_ANSWER);
        self.body = 0..0;
        loop {
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let Some((answer, head, body)) = parse(&self.input)? else {
                if self.input.len() > MAX_HEAD {
                    return Err(invalid("the head of the answer is too long"));
                }
                continue;
            };
            // A body that is too long to be of interest has to be out of the way all the same.
            let keep = body <= MAX_BODY;
            let mut left = (head + body).saturating_sub(self.input.len());
            while left > 0 {
                if !keep {
                    self.input.clear();
                }
                let read = self.stream.read_buf(&mut self.input).await?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                left = left.saturating_sub(read);
            }
            if keep {
                self.body = head..head + body;
            }
            return Ok(answer);
        }
    }
}

/// The answer at the front of these bytes with the lengths of its head and body; `None` if the head is not whole yet.
fn parse(bytes: &[u8]) -> io::Result<Option<(Answer, usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes).map_err(|wrong| invalid(&wrong.to_string()))? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
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
    // Without a length (chunked, or up to the end of the connection) the status is known, but not where the next
    // answer would begin; a server under test always gives one.
    keep_alive &= length.is_some();
    Ok(Some((Answer { status, keep_alive }, head, length.unwrap_or(0))))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_whole_or_not_at_all() {
        let bytes = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\nX: y\r\n\r\n{}";
        for end in 0..bytes.len() - 2 {
            assert_eq!(parse(&bytes[..end]).unwrap(), None, "{end}");
        }
        let answer = Answer { status: 202, keep_alive: true };
        assert_eq!(parse(bytes).unwrap(), Some((answer, bytes.len() - 2, 2)));
    }

    #[tokio::test]
    async fn a_body_is_kept_and_an_idle_connection_that_was_closed_is_seen_to_be() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut connection = Connection::open(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        server.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\n\r\n{\"a\"").await.unwrap();
        let rest = async {
            // The rest of the body comes once the request has, which is after the first read or before: both are fine.
            let mut request = [0; 4];
            server.read_exact(&mut request).await.unwrap();
            server.write_all(b"}").await.unwrap();
        };
        let (answer, ()) = tokio::join!(connection.exchange(b"GET "), rest);
        assert_eq!(answer.unwrap().status, 202);
        assert_eq!(connection.body(), b"{\"a\"}");
        assert!(connection.is_open());
        drop(server);
        connection.stream.readable().await.unwrap();
        assert!(!connection.is_open());
    }

    #[test]
    fn a_server_that_closes_or_gives_no_length_is_not_asked_again() {
        for bytes in [
            &b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"[..],
            b"HTTP/1.0 503 Busy\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            let (answer, ..) = parse(bytes).unwrap().unwrap();
            assert_eq!(answer, Answer { status: 503, keep_alive: false });
        }
        assert!(parse(b"SSH-2.0-nope\r\n\r\n").is_err());
    }
}
