//! An HTTP/2 connection that several requests share.

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

    pub(crate) async fn exchange(&mut self, request: Request<Full<Bytes>>) -> io::Result<Response> {
        self.requests.ready().await.map_err(io::Error::other)?;
        let response = self.requests.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status().as_u16();
        self.body = response.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        Ok(Response { status, keep_alive: true })
    }

    /// The body of the last response.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }
}
