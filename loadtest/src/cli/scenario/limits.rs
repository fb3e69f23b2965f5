//! The limits of a scenario.

use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use serde::Deserialize;

use crate::units;

/// The limits of a yes, beside a ledger that holds.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Pass {
    /// The limit of the 99th percentile of accepted requests.
    #[arg(long, value_parser = units::duration)]
    pub(super) p99: Option<Duration>,
    /// Whether the server may reject requests.
    #[arg(long)]
    pub(super) rejections: bool,
    /// The least share of its peak that it accepts under any overload.
    #[arg(long)]
    pub(super) peak_share: Option<f64>,
    /// The limit of a rejection's CPU under any overload, as a share of an acceptance's.
    #[arg(long)]
    pub(super) rejection_share: Option<f64>,
    /// The limit of the server's CPU during the load, in cores.
    #[arg(long)]
    pub(super) cores: Option<f64>,
    /// The limit of the server's peak memory, in bytes.
    #[arg(long, value_parser = units::size)]
    pub(super) memory: Option<usize>,
}

/// A rate, and the limits of the server's figures at this rate, as multiples of the floor's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FloorLimits {
    /// Requests a second.
    pub(super) rate: f64,
    /// Of the CPU a request.
    pub(super) cpu: Option<f64>,
    pub(super) p99: Option<f64>,
    pub(super) p999: Option<f64>,
}

impl FloorLimits {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let is_positive = |value: f64| value.is_finite() && value > 0.0;
        ensure!(is_positive(self.rate), "the rate of a [[floor]] is above 0");
        let limits: Vec<f64> = [self.cpu, self.p99, self.p999].into_iter().flatten().collect();
        ensure!(!limits.is_empty(), "the [[floor]] at {}/s has no limit: give cpu, p99 or p999", self.rate);
        ensure!(limits.into_iter().all(is_positive), "the limits of the [[floor]] at {}/s are above 0", self.rate);
        Ok(())
    }
}
