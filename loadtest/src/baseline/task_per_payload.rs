//! The story's first design: a task for each payload. Nothing bounds how many there are, nor the connections and the
//! memory that they take.

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::bucket::Bucket;
use super::intake::{Intake, Payload};

pub(super) struct TaskPerPayload {
    bucket: Arc<Bucket>,
    tasks: TaskTracker,
}

impl TaskPerPayload {
    pub(super) fn new(bucket: Arc<Bucket>) -> Self {
        Self { bucket, tasks: TaskTracker::new() }
    }
}

impl Intake for TaskPerPayload {
    async fn take(&self, payload: Payload) {
        let bucket = Arc::clone(&self.bucket);
        self.tasks.spawn(async move { bucket.put(payload).await });
    }
}
