//! One machine: the rate that it can take, and the requests that it has not stored yet.

use std::collections::VecDeque;

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use super::curve::Curve;
use super::quantity::{Bytes, Seconds};

/// No machine takes more requests a second.
const MAX_REQUESTS_PER_SECOND: u64 = 1_000_000_000;

/// The part `[request]` of a model.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Request {
    pub(crate) payloads: u32,
    pub(crate) network_bytes: u32,
    pub(crate) response_bytes: u32,
    pub(crate) stored_bytes: u32,
    pub(crate) requests_per_connection: f64,
    pub(crate) connection_time: Seconds,
}

/// The part `[machine]` of a model.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) cores: f64,
    pub(crate) network_gbits: f64,
    pub(crate) cpu_micros: Curve,
    pub(crate) p99_millis: Curve,
    pub(crate) start: Seconds,
    pub(crate) health_checks: Seconds,
    pub(crate) warm_up: Seconds,
    pub(crate) spool: Bytes,
    pub(crate) object: Bytes,
    pub(crate) object_age: Seconds,
    pub(crate) uploads: u32,
    /// May be shorter than a second.
    pub(crate) put_time: String,
    pub(crate) drain: Seconds,
    pub(crate) volume_gb: f64,
}

/// What limits the requests of a machine in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Limit {
    Cpu,
    Network,
    Spool,
}

impl Limit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Network => "network",
            Self::Spool => "spool",
        }
    }
}

/// The limits of a machine, in requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Limits {
    /// Requests a second that use all of its CPU.
    pub(crate) cpu: u64,
    /// Requests a second that use all of its network.
    pub(crate) network: u64,
    /// Requests in the spool.
    pub(crate) spool: u64,
    /// Requests in an object.
    pub(crate) object: u64,
    /// Seconds until a segment is sealed.
    pub(crate) object_age: u32,
    /// Objects a second.
    pub(crate) uploads: f64,
    /// Seconds until a draining machine ends, stored or not.
    pub(crate) drain: u32,
}

impl Limits {
    /// Requests a second.
    pub(crate) fn rate(&self) -> u64 {
        self.cpu.min(self.network)
    }
}

impl Request {
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        ensure!(self.payloads > 0, "[request] payloads is 1 or more");
        ensure!(self.network_bytes > 0, "[request] network-bytes is 1 or more");
        ensure!(self.stored_bytes > 0, "[request] stored-bytes is 1 or more");
        ensure!(
            self.requests_per_connection.is_finite() && self.requests_per_connection >= 1.0,
            "[request] requests-per-connection is 1 or more"
        );
        Ok(())
    }
}

impl Spec {
    /// Errors: the first value without a meaning.
    pub(crate) fn limits(&self, request: &Request) -> anyhow::Result<Limits> {
        let is_positive = |number: f64| number.is_finite() && number > 0.0;
        ensure!(is_positive(self.cores), "[machine] cores is above 0");
        ensure!(is_positive(self.network_gbits), "[machine] network-gbits is above 0");
        ensure!(self.volume_gb.is_finite() && self.volume_gb >= 0.0, "[machine] volume-gb is 0 or above");
        ensure!(self.uploads > 0, "[machine] uploads is 1 or more");
        ensure!(
            self.cpu_micros.points().is_sorted_by(|[x0, y0], [x1, y1]| x0 * y0 <= x1 * y1)
                && self.cpu_micros.points().iter().all(|[_, micros]| *micros > 0.0),
            "[machine] cpu-micros: the CPU of all requests of a second has to rise with the rate"
        );
        let put =
            crate::units::duration(&self.put_time).map_err(|wrong| anyhow::anyhow!("[machine] put-time {wrong}"))?;
        ensure!(!put.is_zero(), "[machine] put-time is above 0");
        let bytes = self.network_gbits * 1e9 / 8.0;
        let (stored, object) = (u64::from(request.stored_bytes), self.object.0 as f64);
        let received = bytes / f64::from(request.network_bytes);
        let sent = bytes / (f64::from(request.response_bytes) + stored as f64);
        let limits = Limits {
            cpu: self.most_by_cpu(),
            network: received.min(sent) as u64,
            spool: self.spool.0 / stored,
            object: self.object.0 / stored,
            object_age: self.object_age.0,
            uploads: (f64::from(self.uploads) / put.as_secs_f64()).min(bytes / object),
            drain: self.drain.0,
        };
        ensure!(limits.rate() > 0, "[machine] cannot take a request a second: its CPU or its network is too small");
        ensure!(limits.object > 0, "[machine] object is smaller than stored-bytes of one request");
        ensure!(limits.spool >= limits.object, "[machine] spool is smaller than object");
        Ok(limits)
    }

    /// The largest rate whose CPU fits into all cores.
    fn most_by_cpu(&self) -> u64 {
        let (mut fits, mut too_many) = (0, MAX_REQUESTS_PER_SECOND);
        while too_many - fits > 1 {
            let rate = fits.midpoint(too_many);
            *(if self.utilization(rate) <= 1.0 { &mut fits } else { &mut too_many }) = rate;
        }
        fits
    }

    /// The share of the CPU that a rate uses; above 1 it is too high.
    pub(crate) fn utilization(&self, rate: u64) -> f64 {
        let rate = rate as f64;
        rate * self.cpu_micros.at(rate) / (self.cores * 1e6)
    }
}

/// A launched machine. Before `serves_at` it starts, and the load balancer sends it nothing.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) serves_at: u32,
    /// From then on the metrics of the group contain it.
    pub(super) warm_at: u32,
    pub(super) draining_since: Option<u32>,
    opened_at: u32,
    open: u64,
    sealed: VecDeque<u64>,
    backlog: u64,
    /// Objects that it may upload now; a fraction is kept for the next second.
    credit: f64,
}

/// What a machine did in a second.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Uploaded {
    pub(super) requests: u64,
    pub(super) objects: u64,
}

impl Machine {
    pub(super) fn new(serves_at: u32, warm_at: u32) -> Self {
        let (sealed, credit) = (VecDeque::new(), 0.0);
        Self { serves_at, warm_at, draining_since: None, opened_at: 0, open: 0, sealed, backlog: 0, credit }
    }

    pub(super) fn is_in_service(&self, now: u32) -> bool {
        self.draining_since.is_none() && now >= self.serves_at
    }

    pub(super) fn is_warm(&self, now: u32) -> bool {
        self.is_in_service(now) && now >= self.warm_at
    }

    /// Accepted requests that are not in an object yet.
    pub(super) fn backlog(&self) -> u64 {
        self.backlog
    }

    /// Takes requests of a second. Returns how many it accepts, and the limit if it rejects some.
    pub(super) fn take(&mut self, now: u32, offered: u64, limits: &Limits) -> (u64, Option<Limit>) {
        let room = limits.spool - self.backlog;
        let accepted = offered.min(limits.rate()).min(room);
        let limit = if accepted == offered {
            None
        } else if accepted == room {
            Some(Limit::Spool)
        } else if accepted == limits.network {
            Some(Limit::Network)
        } else {
            Some(Limit::Cpu)
        };
        if self.open == 0 {
            self.opened_at = now;
        }
        self.open += accepted;
        self.backlog += accepted;
        (accepted, limit)
    }

    /// Seals what is full or old, or everything while it drains, and uploads objects unless the store is away.
    pub(super) fn upload(&mut self, now: u32, store_is_away: bool, limits: &Limits) -> Uploaded {
        while self.open >= limits.object {
            self.open -= limits.object;
            self.sealed.push_back(limits.object);
            self.opened_at = now;
        }
        let is_old = now - self.opened_at >= limits.object_age;
        if self.open > 0 && (is_old || self.draining_since.is_some()) {
            self.sealed.push_back(std::mem::take(&mut self.open));
        }
        let mut uploaded = Uploaded::default();
        if store_is_away {
            self.credit = 0.0;
            return uploaded;
        }
        self.credit = (self.credit + limits.uploads).min(limits.uploads.max(1.0));
        while self.credit >= 1.0
            && let Some(requests) = self.sealed.pop_front()
        {
            self.credit -= 1.0;
            uploaded.requests += requests;
            uploaded.objects += 1;
        }
        self.backlog -= uploaded.requests;
        uploaded
    }

    /// Whether scale-in may end it: it has drained, or its time for that is over.
    pub(super) fn ends(&self, now: u32, limits: &Limits) -> bool {
        self.draining_since.is_some_and(|since| self.backlog == 0 || now - since >= limits.drain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::model::Model;

    fn limits() -> Limits {
        Limits { cpu: 100, network: 80, spool: 1_000, object: 50, object_age: 10, uploads: 1.0, drain: 5 }
    }

    #[test]
    fn the_built_in_machine_is_limited_by_its_network_at_56_percent_cpu() {
        let model = Model::built_in().unwrap();
        let limits = model.machine.limits(&model.request).unwrap();
        // 0.781 Gbit/s / 8 / 3,250 bytes, and 2 cores / 37.3 us.
        assert_eq!((limits.network, limits.cpu), (30_038, 53_619));
        assert!((model.machine.utilization(limits.rate()) - 0.56).abs() < 0.001);
    }

    #[test]
    fn a_machine_names_the_limit_that_rejects() {
        let mut machine = Machine::new(0, 0);
        assert_eq!(machine.take(0, 80, &limits()), (80, None));
        assert_eq!(machine.take(0, 81, &limits()), (80, Some(Limit::Network)));
        assert_eq!(machine.take(0, 90, &Limits { cpu: 70, ..limits() }), (70, Some(Limit::Cpu)));
        assert_eq!(machine.take(0, 90, &Limits { spool: 240, ..limits() }), (10, Some(Limit::Spool)));
        assert_eq!(machine.backlog(), 240);
    }

    #[test]
    fn objects_are_uploaded_when_they_are_full_or_old() {
        let mut machine = Machine::new(0, 0);
        machine.take(0, 60, &limits());
        assert_eq!(machine.upload(0, false, &limits()), Uploaded { requests: 50, objects: 1 });
        assert_eq!(machine.upload(9, false, &limits()), Uploaded::default());
        assert_eq!(machine.upload(10, false, &limits()), Uploaded { requests: 10, objects: 1 });
        assert_eq!(machine.backlog(), 0);
    }

    #[test]
    fn an_outage_of_the_store_keeps_the_backlog_and_later_uploads_have_their_limit() {
        let mut machine = Machine::new(0, 0);
        for now in 0..4 {
            machine.take(now, 50, &limits());
            assert_eq!(machine.upload(now, true, &limits()).objects, 0);
        }
        assert_eq!(machine.upload(4, false, &limits()).objects, 1);
        assert_eq!(machine.backlog(), 150);
    }
}
