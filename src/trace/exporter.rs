//! Exports finished spans in batches, on the runtime of the workers. A request never waits for it.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_sdk::trace::SpanData;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::otlp::Collector;
use crate::log_throttle::LogThrottle;
use crate::metrics::Metrics;

/// Spans that wait for the exporter. More are dropped.
pub(super) const SPAN_QUEUE_MAX: usize = 2048;
/// Spans in one export.
const BATCH_MAX: usize = 512;
/// The longest time that a span waits for its batch to fill.
const BATCH_LINGER: Duration = Duration::from_secs(1);

/// A collector that is away fails every export.
static EXPORT_LOG: LogThrottle = LogThrottle::new(Duration::from_secs(60));

/// Exports spans. A batch that the collector does not accept is dropped: traces are not worth the memory of a backlog.
pub struct Exporter {
    spans: mpsc::Receiver<SpanData>,
    collector: Collector,
    metrics: Arc<Metrics>,
    closing: CancellationToken,
}

impl Exporter {
    pub(super) fn new(
        spans: mpsc::Receiver<SpanData>,
        collector: Collector,
        metrics: Arc<Metrics>,
        closing: CancellationToken,
    ) -> Self {
        Self { spans, collector, metrics, closing }
    }

    #[cfg(test)]
    pub(super) fn try_recv(&mut self) -> Option<SpanData> {
        self.spans.try_recv().ok()
    }

    /// Runs until the tracer is closed and the queue is empty.
    pub async fn run(mut self) {
        let mut batch = Vec::new();
        loop {
            self.fill(&mut batch).await;
            if batch.is_empty() {
                return;
            }
            self.export(std::mem::take(&mut batch)).await;
        }
    }

    /// Waits for a batch. It is empty if the tracer is closed and the queue is empty.
    async fn fill(&mut self, batch: &mut Vec<SpanData>) {
        let mut until = None;
        while batch.len() < BATCH_MAX {
            let linger = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.closing.cancelled(), if !self.spans.is_closed() => self.spans.close(),
                received = self.spans.recv_many(batch, BATCH_MAX - batch.len()) => if received == 0 {
                    return;
                },
                () = linger => return,
            }
            if until.is_none() && !batch.is_empty() {
                until = Some(Instant::now() + BATCH_LINGER);
            }
        }
    }

    async fn export(&self, batch: Vec<SpanData>) {
        let count = batch.len() as u64;
        let rejected = match self.collector.export(batch).await {
            Ok(rejected) => rejected.min(count),
            Err(error) => {
                if let Some(suppressed) = EXPORT_LOG.permit() {
                    tracing::warn!(%error, suppressed, "cannot export traces to OTEL_EXPORTER_OTLP_ENDPOINT; the spans are dropped");
                }
                count
            }
        };
        self.metrics.spans_exported.inc_by(count - rejected);
        self.metrics.spans_dropped.inc_by(rejected);
    }
}
