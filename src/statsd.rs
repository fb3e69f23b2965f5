//! Sends the metrics to a StatsD daemon over UDP, once per `STATSD_INTERVAL`.
//!
//! ```text
//! metrics -> Encoder (counters as deltas, gauges, percentiles) -> Datagrams -> Destination (UDP socket) -> daemon
//! ```
//!
//! The task reads the same metrics as a scrape of `/metrics`, so it adds nothing to a request. A daemon, a network or a resolver
//! that fails only increments `millpond_statsd_failures_total`.
//!
//! Counters are sent as the difference to the metrics of the last flush that was sent. If no datagram of a flush was sent, or the
//! daemon's host reported that no program listens on the port, the next flush covers the time of both. Other lost datagrams are
//! not sent again.

mod datagrams;
mod destination;
mod encoder;
#[cfg(test)]
mod tests;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;
use prometheus::proto::MetricFamily;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::config::StatsdSettings;
use crate::log_throttle::LogThrottle;
use datagrams::DATAGRAM_MAX_BYTES;
use destination::{Destination, SendError};
use encoder::Encoder;

/// How often failures are logged.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// How long the last flush may delay the exit.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// The task that sends metrics, if `STATSD_ADDR` is set.
pub(crate) struct Statsd {
    tasks: JoinSet<()>,
    finish: oneshot::Sender<Vec<MetricFamily>>,
}

impl Statsd {
    /// Starts the task. `current` returns the metrics to send.
    pub(crate) fn start(
        settings: Option<&StatsdSettings>,
        failures: IntCounter,
        current: impl Fn() -> Vec<MetricFamily> + Send + 'static,
    ) -> Self {
        let (mut tasks, (finish, finished)) = (JoinSet::new(), oneshot::channel());
        if let Some(settings) = settings {
            let publisher = Publisher {
                current,
                encoder: Encoder::new(&settings.prefix, settings.tags),
                destination: Destination::new(settings.addr.clone()),
                baseline: Arc::default(),
                previous_baseline: Arc::default(),
                failures,
                log: LogThrottle::new(LOG_INTERVAL),
            };
            tasks.spawn(publisher.run(settings.interval, finished));
        }
        Self { tasks, finish }
    }

    /// Waits for an unexpected exit of the task.
    pub(crate) async fn exited(&mut self) {
        if self.tasks.join_next().await.is_none() {
            pending().await
        }
    }

    /// Sends the last metrics, and stops the task.
    pub(crate) async fn finish(mut self, last: Vec<MetricFamily>) {
        // Without a task, the metrics are not needed.
        let _: Result<_, _> = self.finish.send(last);
        if timeout(FINISH_TIMEOUT, self.tasks.join_next()).await.is_err() {
            tracing::warn!("the last metrics were not sent to STATSD_ADDR in time");
        }
    }
}

struct Publisher<C> {
    current: C,
    encoder: Encoder,
    destination: Destination,
    /// The metrics of the last flush that was sent. Empty before the first one, which covers the time since the start.
    baseline: Arc<Vec<MetricFamily>>,
    /// `baseline` before that flush: its last datagram may turn out to have been rejected.
    previous_baseline: Arc<Vec<MetricFamily>>,
    failures: IntCounter,
    log: LogThrottle,
}

impl<C: Fn() -> Vec<MetricFamily>> Publisher<C> {
    async fn run(mut self, interval: Duration, mut finished: oneshot::Receiver<Vec<MetricFamily>>) {
        let mut ticks = interval_at(Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                last = &mut finished => return if let Ok(last) = last { self.flush(last).await },
                _ = ticks.tick() => self.flush((self.current)()).await,
            }
        }
    }

    async fn flush(&mut self, metrics: Vec<MetricFamily>) {
        if let Some(error) = self.destination.pending_error() {
            self.baseline = Arc::clone(&self.previous_baseline);
            self.failed(&error);
        }
        if let Err(error) = self.destination.prepare().await {
            self.failed(&error);
            if !self.destination.is_connected() {
                return;
            }
        }
        let (datagrams, dropped) = self.encoder.encode(&self.baseline, &metrics).finish();
        (0..dropped).for_each(|_| self.failed(&SendError::TooLong(DATAGRAM_MAX_BYTES)));
        let errors: Vec<_> = datagrams.iter().filter_map(|datagram| self.destination.send(datagram).err()).collect();
        errors.iter().for_each(|error| self.failed(error));
        if !errors.is_empty() {
            self.destination.disconnect();
        }
        let is_rejected = errors.iter().any(SendError::is_rejection);
        if !is_rejected && errors.len() < datagrams.len() {
            self.previous_baseline = std::mem::replace(&mut self.baseline, Arc::new(metrics));
        }
    }

    fn failed(&self, error: &SendError) {
        self.failures.inc();
        if let Some(suppressed) = self.log.permit() {
            let addr = self.destination.addr();
            tracing::warn!(addr, %error, suppressed, "cannot send metrics to STATSD_ADDR; trying again at each STATSD_INTERVAL");
        }
    }
}
