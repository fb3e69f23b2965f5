//! What a load sends, where to, and how fast.

use std::time::Duration;

use anyhow::{anyhow, ensure};
use bytes::Bytes;
use hyper::Request;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};

use super::{Rate, Shape};
use crate::batch::{Encoding, Form};
use crate::client::Target;
use crate::payload;

/// The most connections of one load. A loopback address has some 28,000 ports for outgoing connections.
pub const MAX_CONNECTIONS: u32 = 10_000;

/// The most requests under way at once: with more than these, each would hold a buffer.
const MAX_STREAMS: u32 = 100;

/// What to send, where to, and how fast.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Plan {
    pub target: Target,
    pub path: String,
    pub rate: Rate,
    pub connections: u32,
    /// Requests under way at once on each HTTP/2 connection; 0 is HTTP/1.1, with one.
    pub streams: u32,
    /// HTTP/1.1 requests that are sent at once on a connection, before the response to the first of them.
    pub pipelined: u32,
    /// The share of requests, from 0 to 1, that replace their connection by a new one.
    pub new_connections: f64,
    pub threads: u32,
    /// How long to send; `None` is until the requests are used up or the load is stopped.
    pub duration: Option<Duration>,
    /// How many requests to send; `None` is no limit.
    pub requests: Option<u64>,
    pub shape: Shape,
    /// Bytes of a payload.
    pub payload_size: usize,
    pub run: u32,
    /// The number of the first client, so that several loads of one run have payloads of their own.
    pub first_client: u32,
    pub form: Form,
    pub encoding: Encoding,
    /// The token, in the envelope and as a Bearer token; empty is none.
    pub token: String,
    pub timeout: Duration,
}

impl Plan {
    /// Ten payloads a request over 64 connections, as fast as they are responded to, without an end.
    pub fn new(target: impl Into<Target>) -> Self {
        Self {
            target: target.into(),
            path: "/v1/payloads".to_owned(),
            rate: Rate::UNPACED,
            connections: 64,
            streams: 0,
            pipelined: 1,
            new_connections: 0.0,
            threads: 1,
            duration: None,
            requests: None,
            shape: Shape::Even(10),
            payload_size: payload::DEFAULT_SIZE,
            run: fastrand::u32(..),
            first_client: 0,
            form: Form::default(),
            encoding: Encoding::default(),
            token: "loadtest".to_owned(),
            timeout: Duration::from_secs(30),
        }
    }

    /// Whether it can be carried out.
    /// Errors: what is wrong with it.
    pub fn check(&self) -> anyhow::Result<()> {
        for (what, count, most) in
            [("connections", self.connections, MAX_CONNECTIONS), ("threads", self.threads, MAX_CONNECTIONS)]
        {
            ensure!((1..=most).contains(&count), "{count} {what}: there may be 1 to {most}");
        }
        ensure!(self.streams <= MAX_STREAMS, "{} streams: there may be 1 to {MAX_STREAMS}", self.streams);
        ensure!(
            (1..=MAX_STREAMS).contains(&self.pipelined),
            "{} pipelined requests: there may be 1 to {MAX_STREAMS}",
            self.pipelined
        );
        ensure!(self.streams == 0 || self.pipelined == 1, "only HTTP/1.1 requests are pipelined");
        ensure!(self.shape != Shape::Even(0), "a request has 1 payload or more");
        ensure!((0.0..=1.0).contains(&self.new_connections), "the share of new connections is from 0 to 1");
        self.rate.check(self.duration).map_err(|wrong| anyhow!(wrong))
    }

    /// Requests under way at once.
    pub(crate) fn clients(&self) -> u32 {
        self.connections * self.streams.max(self.pipelined)
    }

    /// The head of an HTTP/2 request.
    pub(super) fn head(&self) -> anyhow::Result<Request<()>> {
        let uri = format!("{}://{}{}", self.target.scheme(), self.target.authority, self.path);
        let mut head = Request::post(uri).header(CONTENT_TYPE, self.form.content_type());
        if let Some(encoding) = self.encoding.header() {
            head = head.header(CONTENT_ENCODING, encoding);
        }
        if !self.token.is_empty() {
            head = head.header(AUTHORIZATION, format!("Bearer {}", self.token));
        }
        Ok(head.body(())?)
    }

    /// The head of an HTTP/1.1 request up to its body's length.
    pub(super) fn http1_head(&self) -> anyhow::Result<Bytes> {
        let mut head = format!("POST {} HTTP/1.1\r\nHost: {}\r\n", self.path, self.target.authority).into_bytes();
        for (name, value) in self.head()?.headers() {
            head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        head.extend_from_slice(b"Content-Length: ");
        Ok(head.into())
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn wrong(change: impl FnOnce(&mut Plan)) -> String {
        let mut plan = Plan::new(SocketAddr::from(([127, 0, 0, 1], 1)));
        plan.check().unwrap();
        change(&mut plan);
        plan.check().unwrap_err().to_string()
    }

    #[test]
    fn a_plan_beyond_its_limits_is_rejected_with_the_limit() {
        assert_eq!(wrong(|plan| plan.connections = 10_001), "10001 connections: there may be 1 to 10000");
        assert_eq!(wrong(|plan| plan.connections = 0), "0 connections: there may be 1 to 10000");
        assert!(wrong(|plan| plan.threads = 0).contains("threads"));
        assert!(wrong(|plan| plan.streams = 101).contains("1 to 100"));
        assert!(wrong(|plan| plan.pipelined = 0).contains("1 to 100"));
        assert!(wrong(|plan| (plan.streams, plan.pipelined) = (1, 2)).contains("HTTP/1.1"));
        assert!(wrong(|plan| plan.shape = Shape::Even(0)).contains("1 payload or more"));
        assert!(wrong(|plan| plan.new_connections = 1.1).contains("from 0 to 1"));
        assert!(wrong(|plan| plan.new_connections = f64::NAN).contains("from 0 to 1"));
        let spike = "9@9s+9s".parse().ok();
        assert!(wrong(|plan| plan.rate = Rate { spike, ..Rate::UNPACED }).contains("9@9s+9s"));
    }
}
