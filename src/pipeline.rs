//! The pipeline from the queue to the store: the dispatcher and its workers.
//!
//! Workers have threads of their own with a lower priority: signing and hashing an object takes milliseconds, in which a
//! thread of the handlers could not respond.

use std::ffi::CStr;
use std::io;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use rustix::process::setpriority_process;
use rustix::thread::{gettid, set_name};
use tokio::runtime::{self, Runtime};
use tokio::task::{self, JoinSet};
use tokio::time::{Instant, timeout_at};

use crate::config::Settings;
use crate::context::PipelineContext;
use crate::cores::cores;
use crate::dispatcher::Dispatcher;
use crate::queue::JobReceiver;
use crate::shutdown::Shutdown;
use crate::spool::Backlog;
use crate::store::Store;
use crate::worker::{UploadLimit, Uploader};

/// The names of the threads, by which operators tell their CPU time apart.
const DISPATCHER: &CStr = c"dispatcher";
const UPLOADS: &str = "uploads";
/// One thread of the workers for so many cores.
const CORES_PER_UPLOAD_THREAD: usize = 4;
/// The priority of the workers' threads: a quarter of a core beside one other thread that needs all of it.
const UPLOAD_NICE: i32 = 5;

/// The dispatcher and its workers. They exit only after the queue is closed.
pub(crate) struct Pipeline {
    tasks: JoinSet<()>,
    uploads: UploadRuntime,
    dispatcher: task::Id,
    /// Whether the dispatcher still runs.
    is_dispatching: bool,
    backlog: Arc<Backlog>,
    shutdown: Shutdown,
}

/// The runtime of the workers. Threads that block when it is dropped end with the process.
struct UploadRuntime(Option<Runtime>);

impl UploadRuntime {
    fn start() -> io::Result<Self> {
        let lower_priority = || {
            // Without it uploads are as fast, and the tail of the response times is longer.
            let _: rustix::io::Result<()> = setpriority_process(Some(gettid()), UPLOAD_NICE);
        };
        let threads = cores().div_ceil(CORES_PER_UPLOAD_THREAD);
        let mut builder = runtime::Builder::new_multi_thread();
        builder.worker_threads(threads).thread_name(UPLOADS).on_thread_start(lower_priority).enable_all();
        builder.build().map(Some).map(Self)
    }

    fn spawn(&self, tasks: &mut JoinSet<()>, worker: impl Future<Output = ()> + Send + 'static) {
        if let Self(Some(runtime)) = self {
            tasks.spawn_on(worker, runtime.handle());
        }
    }
}

impl Drop for UploadRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Closes the backlog when it is dropped, also when the dispatcher panics: the workers then store the sealed segments and exit.
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
            Dispatcher::new(receiver, settings.objects, context.clone()).context("cannot create the codec")?;
        let uploader = Arc::new(Uploader {
            context: context.clone(),
            store: Arc::clone(store),
            limit: UploadLimit::new(settings.max_workers),
            prefix: settings.prefix.clone(),
        });
        context.metrics.upload_limit.set(i64::try_from(settings.max_workers).unwrap_or(i64::MAX));
        let mut tasks = JoinSet::new();
        let aborted = context.shutdown.abort_token();
        // With a runtime of its own, because a timer of the shared runtime wakes another thread.
        let runtime = runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .context("cannot start the runtime of the dispatcher")?;
        let closes = ClosesBacklog(Arc::clone(&context.backlog));
        let dispatcher = tasks.spawn_blocking(move || {
            let _closes = closes;
            // A thread without its name works as well.
            let _: rustix::io::Result<()> = set_name(DISPATCHER);
            runtime.block_on(aborted.run_until_cancelled_owned(dispatcher.run()));
        });
        let uploads = UploadRuntime::start().context("cannot start the runtime of the workers")?;
        for _ in 0..settings.max_workers {
            let uploader = Arc::clone(&uploader);
            uploads.spawn(&mut tasks, async move { uploader.run().await });
        }
        let backlog = Arc::clone(&context.backlog);
        Ok(Self {
            tasks,
            uploads,
            dispatcher: dispatcher.id(),
            is_dispatching: true,
            backlog,
            shutdown: context.shutdown.clone(),
        })
    }

    /// Runs a task on the threads of the workers.
    pub(crate) fn spawn_beside_workers(
        &self,
        tasks: &mut JoinSet<()>,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.uploads.spawn(tasks, task);
    }

    /// Waits until a task exits, which is an error while the queue is open.
    pub(crate) async fn exited(&mut self) -> anyhow::Error {
        loop {
            match self.next().await {
                Some(Err(error)) => {
                    let part = if error.id() == self.dispatcher { "the dispatcher" } else { "a worker" };
                    return anyhow!(error).context(part);
                }
                // A worker returns when the dispatcher has exited, whose result comes next.
                Some(Ok(())) if self.is_dispatching => {}
                Some(Ok(())) | None => return anyhow!("a task returned early"),
            }
        }
    }

    /// Waits until all accepted jobs are stored.
    pub(crate) async fn drained(&mut self) -> anyhow::Result<()> {
        loop {
            if self.is_dispatching && self.tasks.len() == 1 && !self.backlog.is_closed() {
                // They panicked: otherwise workers exit only after the dispatcher has closed the backlog.
                return Err(anyhow!("all workers have failed"));
            }
            match self.next().await {
                Some(exited) => exited?,
                None => return Ok(()),
            }
        }
    }

    /// Waits until the next task exits.
    async fn next(&mut self) -> Option<Result<(), task::JoinError>> {
        let exited = self.tasks.join_next_with_id().await?;
        let id = exited.as_ref().map_or_else(task::JoinError::id, |(id, ())| *id);
        self.is_dispatching &= id != self.dispatcher;
        Some(exited.map(drop))
    }

    /// Aborts the dispatcher and the workers. One that blocks in a system call ends with the process.
    pub(crate) async fn abort(&mut self, deadline: Instant) {
        self.shutdown.abort();
        if timeout_at(deadline, self.tasks.shutdown()).await.is_err() {
            tracing::warn!("a file system call does not return");
        }
    }
}
