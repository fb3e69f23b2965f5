//! A simpler design: a channel, a dispatcher, and workers that put each payload as an object of its own. The dispatcher
//! starts a task for each payload, which waits for a free worker, so that the channel is always empty and its capacity
//! limits nothing: payloads wait in tasks, and are lost when the process ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use axum::http::StatusCode;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

type Payload = Box<RawValue>;

/// Where each payload becomes an object. One that the bucket rejects is lost.
#[derive(Debug)]
pub struct Bucket {
    client: Client,
    name: String,
    started: AtomicU64,
}

pub(super) struct PutPerPayload {
    queue: mpsc::Sender<Payload>,
    _tasks: JoinSet<()>,
}

#[derive(Deserialize)]
struct Envelope {
    data: Vec<Payload>,
}

impl Bucket {
    /// The bucket of that name.
    pub fn new(client: Client, name: impl Into<String>) -> Self {
        Self { client, name: name.into(), started: AtomicU64::new(0) }
    }

    async fn put(&self, payload: Payload) {
        // With the time alone, of two payloads at once one would replace the other.
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let time = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let body = Bytes::from(String::from(Box::<str>::from(payload)));
        let put = self.client.put_object().bucket(&self.name).key(format!("{time}-{number}.ndjson"));
        let _ = Box::pin(put.body(ByteStream::from(body)).send()).await;
    }
}

impl PutPerPayload {
    pub(super) fn start(bucket: &Arc<Bucket>, max_workers: usize, max_queue: usize) -> Self {
        let (queue, mut queued) = mpsc::channel::<Payload>(max_queue);
        let (pool, free) = mpsc::channel(max_workers);
        let mut tasks = JoinSet::new();
        for _ in 0..max_workers {
            let (bucket, pool) = (Arc::clone(bucket), pool.clone());
            tasks.spawn(async move {
                let (worker, mut jobs) = mpsc::channel::<Payload>(1);
                while pool.send(worker.clone()).await.is_ok() {
                    let Some(job) = jobs.recv().await else { return };
                    bucket.put(job).await;
                }
            });
        }
        tasks.spawn(async move {
            let (free, waiting) = (Arc::new(Mutex::new(free)), TaskTracker::new());
            while let Some(job) = queued.recv().await {
                let free = Arc::clone(&free);
                waiting.spawn(async move {
                    let worker: Option<mpsc::Sender<Payload>> = free.lock().await.recv().await;
                    if let Some(worker) = worker {
                        let _ = worker.send(job).await;
                    }
                });
            }
        });
        Self { queue, _tasks: tasks }
    }

    pub(super) async fn accept(&self, body: &[u8]) -> StatusCode {
        let Ok(envelope) = serde_json::from_slice::<Envelope>(body) else { return StatusCode::BAD_REQUEST };
        for payload in envelope.data {
            // An error would mean that the tasks have ended, and they end after this.
            let _ = self.queue.send(payload).await;
        }
        StatusCode::OK
    }
}
