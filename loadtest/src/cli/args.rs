//! Arguments that several commands have. A scenario's tables have the same names.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use crate::batch::{Encoding, Form};
use crate::load::{Plan, Rate, Shape, Spike};
use crate::s3::{Fault, FaultPlan};
use crate::{payload, units};

/// Requests under way at once on each HTTP/2 connection, unless `--streams` says otherwise.
const STREAMS: u32 = 8;

#[derive(Debug, Clone, Args)]
pub(super) struct LoadArgs {
    /// Requests a second over all connections; 0 is as fast as responses arrive
    #[arg(long, default_value = "0")]
    pub(super) rate: Rate,
    /// Another rate for a time: 50000@10s+5s is 50000 requests a second from 10 s on for 5 s
    #[arg(long, value_name = "RATE@START+LENGTH")]
    spike: Option<Spike>,
    /// Connections, up to 10000
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// The share of requests, from 0 to 1, that replace their connection by a new one
    #[arg(long, default_value_t = 0.0)]
    new_connections: f64,
    /// Send over HTTP/2
    #[arg(long)]
    pub(super) http2: bool,
    /// Requests under way at once on each HTTP/2 connection [default: 8]
    #[arg(long, requires = "http2")]
    streams: Option<u32>,
    /// Give the server that is started a certificate, and send over TLS
    #[arg(long)]
    pub(super) tls: bool,
    /// Threads of the generator
    #[arg(long, default_value_t = 1)]
    threads: u32,
    /// How long to send [default: 10s unless --requests is given]
    #[arg(long, value_parser = units::duration)]
    pub(super) duration: Option<Duration>,
    /// How many requests to send
    #[arg(long)]
    requests: Option<u64>,
    /// Payloads in a request: s, m and l are 1, 10 and 100; mixed is all of them, 14 to 5 to 1 [default: m]
    #[arg(long, conflicts_with = "payloads")]
    shape: Option<Shape>,
    /// Payloads in a request, as a number
    #[arg(long)]
    payloads: Option<usize>,
    /// Bytes of a payload
    #[arg(long, value_parser = units::size, default_value_t = payload::DEFAULT_SIZE)]
    payload_size: usize,
    /// How the payloads of a request are put together
    #[arg(long, value_enum, default_value_t)]
    pub(super) form: Form,
    /// The content encoding of bodies
    #[arg(long, value_enum, default_value_t)]
    pub(super) encoding: Encoding,
    /// The ack level to ask for, as ?ack=
    #[arg(long)]
    ack: Option<String>,
    /// The path of the requests
    #[arg(long, default_value = "/v1/payloads")]
    path: String,
    /// The client's token, in the envelope and as a Bearer token
    #[arg(long, default_value = "loadtest")]
    token: String,
    /// A file with the client's token
    #[arg(long, conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// The timeout of a response
    #[arg(long, value_parser = units::duration, default_value = "30s")]
    timeout: Duration,
    /// The run's id, in hexadecimal; payloads of other runs in the store are foreign [default: random]
    #[arg(long, value_parser = |text: &str| u32::from_str_radix(text, 16))]
    run: Option<u32>,
}

#[derive(Debug, Clone, Args)]
pub(super) struct FaultArgs {
    /// Faults of PUTs, in turn: slowdown, 500, denied, no-bucket, drop-before, drop-after, 503-after, hang, delay:TIME
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// The share of PUTs with a fault
    #[arg(long, default_value_t = 0.2)]
    fault_share: f64,
}

impl LoadArgs {
    /// Whether the number of payloads in a request is given.
    pub(super) fn has_shape(&self) -> bool {
        self.shape.is_some() || self.payloads.is_some()
    }

    /// The load, without its target.
    pub(super) fn plan(&self) -> anyhow::Result<Plan> {
        let mut path = self.path.clone();
        if let Some(ack) = &self.ack {
            path += if path.contains('?') { "&ack=" } else { "?ack=" };
            path += ack;
        }
        let duration = self.requests.is_none().then_some(Duration::from_secs(10));
        let plan = Plan {
            path,
            rate: Rate { spike: self.spike, ..self.rate },
            connections: self.connections,
            streams: if self.http2 { self.streams.unwrap_or(STREAMS).max(1) } else { 0 },
            new_connections: self.new_connections,
            threads: self.threads,
            duration: self.duration.or(duration),
            requests: self.requests,
            shape: self.shape.unwrap_or(Shape::Even(self.payloads.unwrap_or(10))),
            payload_size: self.payload_size,
            run: self.run.unwrap_or_else(|| fastrand::u32(..)),
            form: self.form,
            encoding: self.encoding,
            token: self.token_file.as_deref().map_or_else(|| Ok(self.token.clone()), secret)?,
            timeout: self.timeout,
            ..Plan::new(SocketAddr::from(([127, 0, 0, 1], 0)))
        };
        plan.check()?;
        Ok(plan)
    }
}

impl FaultArgs {
    pub(super) fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    pub(super) fn plan(&self) -> anyhow::Result<FaultPlan> {
        if self.faults.is_empty() { Ok(FaultPlan::none()) } else { FaultPlan::share(self.fault_share, &*self.faults) }
    }

    /// Faults need an S3 server in this process.
    pub(super) fn check(&self, has_s3: bool) -> anyhow::Result<()> {
        if !has_s3 && !self.is_empty() {
            bail!("--faults are those of an S3 server in this process: use --in-process-s3 or --in-memory-s3");
        }
        Ok(())
    }
}

/// The secret in a file, without the end of its line.
pub(super) fn secret(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(text.trim_end().to_owned())
}

pub(super) fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}
