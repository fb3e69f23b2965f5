//! What a load and a store's faults are, as arguments and in files.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use loadtest::batch::{Encoding, Form};
use loadtest::load::{Plan, Rate, Shape, Spike};
use loadtest::s3::{Fault, FaultPlan};
use loadtest::{payload, units};
use serde::Deserialize;

use super::values::{all_parsed, defaults, duration, size, some_duration};

/// Also the `[load]` of a scenario, where a name and a default are the same.
#[derive(Debug, Clone, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct LoadArgs {
    /// Requests a second over all connections: 20000, or 1000..20000 for a rate that changes evenly over the duration; 0
    /// is as fast as they are answered
    #[arg(long, default_value = "0")]
    rate: Rate,
    /// Another rate for a time: 50000@10s+5s is 50000 requests a second from 10 s on for 5 s
    #[arg(long, value_name = "RATE@START+LENGTH")]
    spike: Option<Spike>,
    /// Connections, up to 10000
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// The share of requests, from 0 to 1, that give their connection up for a new one
    #[arg(long, default_value_t = 0.0)]
    new_connections: f64,
    /// Devices that are simulated, which number their payloads each for itself [default: as many as connections]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    endpoints: u32,
    /// Threads of the generator
    #[arg(long, default_value_t = 1)]
    threads: u32,
    /// How long to send [default: 10s unless --requests is given]
    #[arg(long, value_parser = units::duration)]
    #[serde(deserialize_with = "some_duration")]
    pub(crate) duration: Option<Duration>,
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
    #[serde(deserialize_with = "size")]
    payload_size: usize,
    /// How the payloads of a request are put together
    #[arg(long, value_enum, default_value_t)]
    pub(super) form: Form,
    /// How bodies are encoded
    #[arg(long, value_enum, default_value_t)]
    pub(super) encoding: Encoding,
    /// The acknowledgement to ask for, as ?ack=
    #[arg(long)]
    ack: Option<String>,
    /// The path of the requests
    #[arg(long, default_value = "/v1/payloads")]
    path: String,
    /// The token to send with them
    #[arg(long, default_value = "loadtest")]
    token: String,
    /// How long to wait for an answer
    #[arg(long, value_parser = units::duration, default_value = "30s")]
    #[serde(deserialize_with = "duration")]
    timeout: Duration,
    /// The run's id, in hexadecimal; payloads of other runs in the store are left out of account [default: random]
    #[arg(long, value_parser = |text: &str| u32::from_str_radix(text, 16))]
    #[serde(skip)]
    run: Option<u32>,
}

/// Also the `[faults]` of a scenario.
#[derive(Debug, Clone, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct FaultArgs {
    /// What goes wrong with PUTs, in turn: slowdown, 500, denied, no-bucket, drop-before, drop-after, hang, delay:TIME
    #[arg(long, value_delimiter = ',')]
    #[serde(deserialize_with = "all_parsed")]
    faults: Vec<Fault>,
    /// The share of PUTs that go wrong
    #[arg(long, default_value_t = 0.2)]
    fault_share: f64,
}

impl LoadArgs {
    pub(crate) fn plan(&self) -> anyhow::Result<Plan> {
        let shape = match (self.shape, self.payloads) {
            (Some(_), Some(_)) => bail!("give a shape or a number of payloads"),
            (Some(shape), None) => shape,
            (None, payloads) => Shape::Even(payloads.unwrap_or(10)),
        };
        let mut path = self.path.clone();
        if let Some(ack) = &self.ack {
            path += if path.contains('?') { "&ack=" } else { "?ack=" };
            path += ack;
        }
        let default = self.requests.is_none().then_some(Duration::from_secs(10));
        let plan = Plan {
            target: SocketAddr::from(([127, 0, 0, 1], 0)),
            path,
            rate: Rate { spike: self.spike, ..self.rate },
            endpoints: self.endpoints,
            connections: self.connections,
            new_connections: self.new_connections,
            threads: self.threads,
            duration: self.duration.or(default),
            requests: self.requests,
            shape,
            payload_size: self.payload_size,
            run: self.run.unwrap_or_else(|| fastrand::u32(..)),
            form: self.form,
            encoding: self.encoding,
            token: self.token.clone(),
            timeout: self.timeout,
        };
        plan.check()?;
        Ok(plan)
    }
}

impl Default for LoadArgs {
    fn default() -> Self {
        defaults()
    }
}

impl FaultArgs {
    pub(crate) fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    pub(crate) fn plan(&self) -> anyhow::Result<FaultPlan> {
        if self.faults.is_empty() { Ok(FaultPlan::none()) } else { FaultPlan::share(self.fault_share, &*self.faults) }
    }
}

impl Default for FaultArgs {
    fn default() -> Self {
        defaults()
    }
}
