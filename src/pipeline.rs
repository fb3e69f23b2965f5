//! The pipeline from the queue to the store: the dispatcher and its workers, and the context that they share.

use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use tokio::runtime;
use tokio::task::{self, JoinSet};
use tokio::time::{Instant, timeout_at};

use crate::config::Settings;
use crate::dispatcher::Dispatcher;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::queue::JobReceiver;
use crate::shutdown::Shutdown;
use crate::spool::{Backlog, Spool};
use crate::store::Store;
use crate::worker::{UploadLimit, Uploader};

/// The state that the stages of the pipeline share with the listeners.
#[derive(Clone)]
pub struct PipelineContext {
    /// Segments until they are stored.
    pub spool: Arc<Spool>,
    /// Sealed segments that wait for a worker.
    pub backlog: Arc<Backlog>,
    /// What `/health` and `/ready` report.
    pub health: Arc<Health>,
    /// Every metric.
    pub metrics: Arc<Metrics>,
    /// Whether the process is stopping.
    pub shutdown: Shutdown,
}

/// The dispatcher and its workers. None of them ends before the queue is closed, and all of them do then.
pub(crate) struct Pipeline {
    tasks: JoinSet<()>,
    dispatcher: task::Id,
    /// Whether the dispatcher still runs.
    is_dispatching: bool,
    backlog: Arc<Backlog>,
    shutdown: Shutdown,
}

/// Closes the backlog when it is dropped: also when the dispatcher panics, so that the workers store what is sealed and end,
/// and do not wait for more.
struct ClosesBacklog(Arc<Backlog>);

impl Drop for ClosesBacklog {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Pipeline {
    pub(crate) fn start(
        settings: &Settings,
        receiver: JobReceiver,
        context: &PipelineContext,
        store: &Arc<Store>,
    ) -> anyhow::Result<Self> {
        let dispatcher =
            Dispatcher::new(receiver, settings.objects, context.clone()).context("the codec cannot be set up")?;
        let uploader = Arc::new(Uploader {
            context: context.clone(),
            store: Arc::clone(store),
            limit: UploadLimit::new(settings.max_workers),
            prefix: settings.prefix.clone(),
        });
        context.metrics.upload_limit.set(i64::try_from(settings.max_workers).unwrap_or(i64::MAX));
        let mut tasks = JoinSet::new();
        let aborted = context.shutdown.abort_token();
        // Its timers are its own: those of the shared runtime would wake another thread for each.
        let own = runtime::Builder::new_current_thread().enable_time().build().context("no runtime")?;
        let closes = ClosesBacklog(Arc::clone(&context.backlog));
        let dispatcher = tasks.spawn_blocking(move || {
            let _closes = closes;
            own.block_on(aborted.run_until_cancelled_owned(dispatcher.run()));
        });
        for _ in 0..settings.max_workers {
            let uploader = Arc::clone(&uploader);
            tasks.spawn(async move { uploader.run().await });
        }
        let backlog = Arc::clone(&context.backlog);
        Ok(Self {
            tasks,
            dispatcher: dispatcher.id(),
            is_dispatching: true,
            backlog,
            shutdown: context.shutdown.clone(),
        })
    }

    /// Waits for a task to end, which is an error as long as the queue is open.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        loop {
            match self.next().await {
                Some(Err(error)) => {
                    let part = if error.id() == self.dispatcher { "the dispatcher" } else { "a worker" };
                    return anyhow!(error).context(part);
                }
                // A worker returns when the dispatcher has ended: what that says comes next.
                Some(Ok(())) if self.is_dispatching => {}
                Some(Ok(())) | None => return anyhow!("a task returned"),
            }
        }
    }

    /// Waits until everything in the queue is in the store.
    pub(crate) async fn drained(&mut self) -> anyhow::Result<()> {
        loop {
            if self.is_dispatching && self.tasks.len() == 1 && !self.backlog.is_closed() {
                // By panics: otherwise workers end only after the dispatcher has closed the backlog.
                return Err(anyhow!("no worker is left"));
            }
            match self.next().await {
                Some(ended) => ended?,
                None => return Ok(()),
            }
        }
    }

    /// Waits for the next task to end.
    async fn next(&mut self) -> Option<Result<(), task::JoinError>> {
        let ended = self.tasks.join_next_with_id().await?;
        let id = ended.as_ref().map_or_else(task::JoinError::id, |(id, ())| *id);
        self.is_dispatching &= id != self.dispatcher;
        Some(ended.map(drop))
    }

    /// Ends the dispatcher and the workers where they are, unless one of them is stuck in a call of the system's, which
    /// ends with the process.
    pub(crate) async fn abort(&mut self, deadline: Instant) {
        self.shutdown.abort();
        if timeout_at(deadline, self.tasks.shutdown()).await.is_err() {
            tracing::warn!("a call of the file system's does not return");
        }
    }
}
