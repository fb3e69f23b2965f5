//! Uploads as the story had them: an object for each payload, and what could not be put is gone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;

use super::intake::Payload;

/// A bucket, and the count of what was put there.
#[derive(Debug)]
pub struct Bucket {
    client: Client,
    name: String,
    started: AtomicU64,
    stored: AtomicU64,
    failed: AtomicU64,
}

/// What became of payloads that were to be put.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Puts {
    /// Those that the bucket took.
    pub stored: u64,
    /// Those that it did not take, however often the client tries by itself.
    pub failed: u64,
}

impl Bucket {
    /// The bucket of that name.
    pub fn new(client: Client, name: impl Into<String>) -> Self {
        let [started, stored, failed] = [const { AtomicU64::new(0) }; 3];
        Self { client, name: name.into(), started, stored, failed }
    }

    pub(super) async fn put(&self, payload: Payload) {
        // The story's keys were the time alone, so that of two payloads at once one replaced the other. That is the
        // name's fault and not the design's: a running number keeps them apart.
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let time = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let body = Bytes::from(String::from(Box::<str>::from(payload)));
        let put = self.client.put_object().bucket(&self.name).key(format!("{time}-{number}.ndjson"));
        let done = Box::pin(put.body(ByteStream::from(body)).send()).await;
        let count = if done.is_ok() { &self.stored } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts up to now.
    pub fn puts(&self) -> Puts {
        Puts { stored: self.stored.load(Ordering::Relaxed), failed: self.failed.load(Ordering::Relaxed) }
    }
}
