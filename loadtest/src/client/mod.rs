//! The client side of HTTP: connections over TCP or TLS, with one request at a time over HTTP/1.1 or several over HTTP/2.

mod http1;
mod http2;
mod target;

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) use self::http1::Http1;
pub(crate) use self::http2::Http2;
pub use self::target::{SelfSigned, Target};

/// A response without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Whether the connection takes another request.
    pub(crate) keep_alive: bool,
}

fn invalid(what: &impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

/// Longer responses to [`get`] are cut.
const MAX_GET: u64 = 1 << 20;

/// Status and body of a GET. HTTP/1.0, so that the body is in one piece and ends with the connection.
pub(crate) async fn get(target: &Target, path: &str, token: Option<&str>) -> io::Result<(u16, String)> {
    let mut stream = target.connect(target.addr).await?;
    let authorization = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
    let request = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n{authorization}\r\n", target.authority);
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut response = String::new();
    stream.take(MAX_GET).read_to_string(&mut response).await?;
    let (head, body) = response.split_once("\r\n\r\n").ok_or_else(|| invalid(&"not a response of HTTP"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or_else(|| invalid(&"a response without a status"))?, body.to_owned()))
}
