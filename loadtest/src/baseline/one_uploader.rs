//! The story's second design: a buffered channel, and one loop that puts what comes out of it, one after the other. When
//! the channel is full, which it soon is, every request waits for the uploads before it.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::bucket::Bucket;
use super::intake::{Intake, Payload};

pub(super) struct OneUploader {
    queue: mpsc::Sender<Payload>,
    _processor: JoinSet<()>,
}

impl OneUploader {
    pub(super) fn start(bucket: Arc<Bucket>, capacity: usize) -> Self {
        let (queue, mut queued) = mpsc::channel::<Payload>(capacity);
        let mut processor = JoinSet::new();
        processor.spawn(async move {
            while let Some(payload) = queued.recv().await {
                bucket.put(payload).await;
            }
        });
        Self { queue, _processor: processor }
    }
}

impl Intake for OneUploader {
    async fn take(&self, payload: Payload) {
        // An error would mean that the processor is gone, and it ends after this.
        let _ = self.queue.send(payload).await;
    }
}
