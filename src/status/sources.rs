//! Where a snapshot comes from.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::proto::MetricFamily;
use tokio::runtime::RuntimeMetrics;

use super::model::BrokerStatus;
pub use super::model::Facts;
use super::process::{self, ProcessFacts};
use crate::config::{Ack, Settings};
use crate::context::PipelineContext;
use crate::http::REQUESTS_IN_FLIGHT_MAX_BYTES;
use crate::metrics::Limit;
use crate::queue::QueueDepth;
use crate::rollout::Rollout;
use crate::server::Tls;
use crate::tenants::Tenants;

/// Everything that a snapshot reads.
pub struct Sources {
    /// The pipeline.
    pub context: PipelineContext,
    /// How full the queue is.
    pub depth: QueueDepth,
    /// The tenants, if there are any.
    pub tenants: Option<Arc<Tenants>>,
    /// The certificate, if there is one.
    pub tls: Option<Arc<Tls>>,
    /// What is rolled out, if anything is.
    pub rollout: Option<Arc<Rollout>>,
    /// Settings that explain the snapshot.
    pub facts: Facts,
    /// The limits of the settings.
    limits: Vec<(Limit, usize)>,
    pub(super) process: ProcessFacts,
    /// The runtime of the handlers.
    pub(super) runtime: RuntimeMetrics,
}

impl Sources {
    /// The sources of a server with these settings, whose objects go to `store`. Call it in the runtime of the handlers.
    pub fn new(
        settings: &Settings,
        store: &str,
        context: PipelineContext,
        depth: QueueDepth,
        tenants: Option<Arc<Tenants>>,
        tls: Option<Arc<Tls>>,
        rollout: Option<Arc<Rollout>>,
    ) -> Self {
        let is_durable = context.spool.is_durable();
        // With a broker, there is no level below.
        let ack = if settings.broker.is_some() { settings.http.ack.max(Ack::Replicated) } else { settings.http.ack };
        let has_spool_dir = is_durable && settings.broker.is_none();
        let facts = Facts {
            role: settings.role.name().to_owned(),
            ack: ack.name().to_owned(),
            compression: settings.objects.compression.name().to_owned(),
            store: if settings.prefix.is_empty() { store.to_owned() } else { format!("{store}/{}", settings.prefix) },
            spool_dir: has_spool_dir.then(|| settings.spool.dir.display().to_string()),
        };
        let spool_max_bytes = if is_durable { settings.spool.max_bytes } else { 0 };
        let limits = vec![
            (Limit::QueueJobs, settings.queue.max_jobs),
            (Limit::QueueBytes, settings.queue.max_bytes),
            (Limit::SpoolBytes, spool_max_bytes),
            (Limit::RequestsInFlightBytes, REQUESTS_IN_FLIGHT_MAX_BYTES),
            (Limit::Connections, settings.http.max_connections),
            (Limit::Workers, settings.max_workers),
        ];
        let (process, runtime) = (ProcessFacts::now(), tokio::runtime::Handle::current().metrics());
        Self { context, depth, tenants, tls, rollout, facts, limits, process, runtime }
    }

    /// Reads all metrics. Gauges are set first to their current values.
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.update_gauges();
        self.context.metrics.gather(self.depth.now(), self.context.backlog.waiting(), self.spool_bytes())
    }

    /// The state of the broker, if there is one.
    pub(super) fn broker(&self) -> Option<BrokerStatus> {
        let broker = self.context.spool.broker()?;
        let (state, settings) = (broker.state(), broker.settings());
        Some(BrokerStatus {
            servers: settings.servers.hosts(),
            stream: settings.stream.clone(),
            replicas: settings.replicas,
            is_connected: state.is_connected,
            bytes: state.bytes,
            max_bytes: state.max_bytes,
            segments_waiting: state.waiting,
        })
    }

    /// The limits in force.
    pub(super) fn limits(&self) -> Vec<(Limit, usize)> {
        let mut limits = self.limits.clone();
        if let Some(broker) = self.context.spool.broker() {
            let max_bytes = usize::try_from(broker.state().max_bytes).unwrap_or(usize::MAX);
            let spool = limits.iter_mut().filter(|(limit, _)| *limit == Limit::SpoolBytes);
            spool.for_each(|(_, max)| *max = max_bytes);
        }
        limits
    }

    /// The bytes in the spool; those of the whole fleet if it is a broker.
    pub(super) fn spool_bytes(&self) -> usize {
        match self.context.spool.broker() {
            Some(broker) => usize::try_from(broker.state().bytes).unwrap_or(usize::MAX),
            None => self.context.spool.space().map_or(0, |space| space.used()),
        }
    }

    /// How much of a limit is used.
    pub(super) fn used(&self, limit: Limit) -> u64 {
        let metrics = &self.context.metrics;
        let gauge = |gauge: &prometheus::IntGauge| u64::try_from(gauge.get()).unwrap_or_default();
        match limit {
            Limit::QueueJobs => self.depth.now().0 as u64,
            Limit::QueueBytes => self.depth.now().1 as u64,
            Limit::SpoolBytes => self.spool_bytes() as u64,
            Limit::RequestsInFlightBytes => gauge(&metrics.requests_in_flight_bytes),
            Limit::Connections => gauge(&metrics.connections),
            Limit::Workers => gauge(&metrics.busy_workers),
        }
    }

    /// The age of the oldest segment that holds jobs and is not stored.
    pub(super) fn oldest_unstored(&self) -> Option<f64> {
        let opened = self.context.spool.segments().oldest_spooled()?;
        Some(SystemTime::now().duration_since(opened).unwrap_or_default().as_secs_f64())
    }

    fn update_gauges(&self) {
        let PipelineContext { health, metrics, shutdown, .. } = &self.context;
        let gauges = &metrics.sampled;
        let _updating = gauges.updating.lock();
        self.limits().into_iter().for_each(|(limit, value)| gauges.limit(limit, value));
        gauges.store_up.set(health.store_outage().is_none().into());
        gauges.spool_up.set(health.spool_outage().is_none().into());
        gauges.draining.set(shutdown.is_stopping().into());
        if let Some(rollout) = &self.rollout {
            metrics.relay.forward_tripped.set(rollout.is_tripped().into());
            metrics.relay.mirror_bytes.set(i64::try_from(rollout.mirror.bytes()).unwrap_or(i64::MAX));
        }
        if let Some(broker) = self.context.spool.broker() {
            gauges.broker_waiting.set(i64::try_from(broker.state().waiting).unwrap_or(i64::MAX));
        }
        gauges.oldest_unstored.set(self.oldest_unstored().unwrap_or_default());
        let expires = self.tls.as_ref().and_then(|tls| tls.expires());
        gauges.certificate_expires.set(expires.map_or(0.0, since_1970));
        gauges.started.set(since_1970(self.process.started));
        gauges.cpu_time(process::cpu_time());
        gauges.runtime_busy(self.runtime_busy());
        for (gauge, value) in [
            (&gauges.memory, process::memory()),
            (&gauges.open_files, process::open_files()),
            (&gauges.max_files, process::max_files()),
        ] {
            gauge.set(value.and_then(|value| i64::try_from(value).ok()).unwrap_or_default());
        }
    }

    pub(super) fn runtime_busy(&self) -> std::time::Duration {
        let workers = 0..self.runtime.num_workers();
        workers.map(|worker| self.runtime.worker_total_busy_duration(worker)).sum()
    }
}

pub(super) fn since_1970(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
