//! The story's third design: a job queue, a dispatcher, and a pool of workers that each say when they are free. The
//! dispatcher starts a task for each job, which waits for a free worker, so that the queue is always empty and its
//! capacity bounds nothing: the jobs wait in the tasks. Each is one PUT.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use super::bucket::Bucket;
use super::intake::{Intake, Payload};

/// Where a worker takes its next job.
type JobChannel = mpsc::Sender<Payload>;

pub(super) struct PutPerPayload {
    job_queue: mpsc::Sender<Payload>,
    _running: JoinSet<()>,
}

impl PutPerPayload {
    pub(super) fn start(bucket: &Arc<Bucket>, max_workers: usize, max_queue: usize) -> Self {
        let (job_queue, jobs) = mpsc::channel(max_queue);
        let (worker_pool, free) = mpsc::channel(max_workers);
        let mut running = JoinSet::new();
        for _ in 0..max_workers {
            running.spawn(work(Arc::clone(bucket), worker_pool.clone()));
        }
        running.spawn(dispatch(jobs, free));
        Self { job_queue, _running: running }
    }
}

impl Intake for PutPerPayload {
    async fn take(&self, payload: Payload) {
        // An error would mean that the dispatcher is gone, and it ends after this.
        let _ = self.job_queue.send(payload).await;
    }
}

async fn work(bucket: Arc<Bucket>, worker_pool: mpsc::Sender<JobChannel>) {
    // The story's channel held nothing; this one holds the job that the worker, being free, is about to take.
    let (job_channel, mut jobs) = mpsc::channel(1);
    while worker_pool.send(job_channel.clone()).await.is_ok() {
        let Some(job) = jobs.recv().await else { return };
        bucket.put(job).await;
    }
}

async fn dispatch(mut jobs: mpsc::Receiver<Payload>, free: mpsc::Receiver<JobChannel>) {
    let free = Arc::new(Mutex::new(free));
    let handing_over = TaskTracker::new();
    while let Some(job) = jobs.recv().await {
        let free = Arc::clone(&free);
        handing_over.spawn(async move {
            let worker = free.lock().await.recv().await;
            if let Some(worker) = worker {
                let _ = worker.send(job).await;
            }
        });
    }
}
