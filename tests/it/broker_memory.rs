//! The memory of workers, whatever other processes have written to the broker.

use std::time::SystemTime;

use async_nats::HeaderMap;
use async_nats::jetstream::{self, Context};
use bytes::Bytes;
use millpond::segment::file::{FrameCounts, append_frame};
use millpond::segment::{Committed, Compression, SegmentId, SegmentName};
use tempfile::TempDir;

use crate::nats::{Nats, server, stored_once};
use crate::support::{Server, lines};

/// What a worker uses besides a large segment, in KiB: a batch of messages, and the threads that write.
const REST: u64 = 24 << 10;
const PART_BYTES: usize = 512 << 10;
const TIB: usize = 1 << 40;
/// The subjects that a server lists in one response.
const PAGE_SUBJECTS: usize = 100_000;
/// What a worker uses for one such response, in KiB.
const LISTING: u64 = 28 << 10;

/// A broker that another process writes to.
struct Scene {
    nats: Nats,
    store: TempDir,
    jetstream: Context,
}

impl Scene {
    async fn start() -> Self {
        let jetstream = "jetstream { store_dir: \"FOLDER/jetstream\", max_file_store: 100GB }";
        let nats = Nats::start_configured(&format!("listen: 127.0.0.1:-1\n{jetstream}\n")).await;
        let jetstream = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
        Self { nats, store: tempfile::tempdir().unwrap(), jetstream }
    }

    async fn worker(&self, env: &[(&str, &str)]) -> Server {
        server(&self.nats.url(), "worker", &self.store, env).await
    }

    /// Publishes a segment with one payload of this name. Returns its name.
    async fn segment(&self, name: &str, text: &str) -> SegmentName {
        let id = SegmentId::new(SystemTime::now());
        let mut file = Vec::new();
        let line = format!("{{\"name\":\"{name}\",\"text\":\"{text}\"}}\n");
        let counts = FrameCounts { first_job: 0, jobs: 1, first_payload: 0, payloads: 1 };
        let pack = |out: &mut Vec<u8>| {
            out.extend_from_slice(line.as_bytes());
            Ok(())
        };
        append_frame(&mut file, id, true, counts, pack).unwrap();
        let committed = Committed { jobs: 1, payloads: 1, bytes: file.len() };
        let mut headers = HeaderMap::new();
        headers.insert("Millpond-Committed", committed.to_string());
        let mut rest = Bytes::from(file);
        while !rest.is_empty() {
            let part = rest.split_to(rest.len().min(PART_BYTES));
            let subject = format!("millpond.segment.{id}.none");
            self.jetstream.publish_with_headers(subject, headers.clone(), part).await.unwrap().await.unwrap();
        }
        SegmentName { id, compression: Compression::None, committed: Some(committed) }
    }

    /// Adds a segment to the work queue as one of `bytes`.
    async fn enqueue(&self, name: SegmentName, bytes: usize) {
        let committed = Committed { bytes, ..name.committed.unwrap() };
        let name = SegmentName { committed: Some(committed), ..name };
        let subject = format!("millpond.work.{}", name.id);
        self.jetstream.publish(subject, name.to_string().into()).await.unwrap().await.unwrap();
    }
}

#[tokio::test]
async fn a_large_segment_takes_the_memory_of_one() {
    let scene = Scene::start().await;
    let worker = scene.worker(&[]).await;
    let large = scene.segment("large", &"x".repeat(160 << 20)).await;
    worker.forget_peak();
    let before = worker.peak();
    let bytes = large.committed.unwrap().bytes;
    scene.enqueue(large, bytes).await;
    worker.metric_is("millpond_jobs_stored_total", |stored| stored == 1.0).await;
    let (grown, segment) = (worker.peak() - before, bytes as u64 >> 10);
    assert!(grown < segment + REST, "{grown} KiB for a segment of {segment} KiB");
    assert_eq!(lines(scene.store.path()).len(), 1);
}

#[tokio::test]
async fn a_work_message_that_names_more_than_the_broker_has_costs_no_memory_and_delays_no_other_segment() {
    let scene = Scene::start().await;
    let mut worker = scene.worker(&[]).await;
    worker.forget_peak();
    let before = worker.peak();
    let impossible = scene.segment("of-impossible-size", "").await;
    scene.enqueue(impossible, TIB).await;
    worker.logged("larger than any that millpond makes").await;
    let wrong = scene.segment("of-wrong-size", "").await;
    scene.enqueue(wrong, 15 << 30).await;
    let right = scene.segment("of-right-size", "").await;
    scene.enqueue(right, right.committed.unwrap().bytes).await;
    stored_once(&scene.store, &["of-right-size"]).await;
    let grown = worker.peak() - before;
    assert!(grown < REST, "{grown} KiB");
    let waiting = scene.jetstream.get_stream("millpond-work").await.unwrap().cached_info().state.messages;
    assert_eq!(waiting, 2, "both stay in the work queue");
}

#[tokio::test]
async fn a_segment_of_an_exited_process_is_found_among_many_that_wait_in_little_memory() {
    let scene = Scene::start().await;
    let without_store = tempfile::NamedTempFile::new().unwrap();
    let worker = scene.worker(&[("STORE_DIR", without_store.path().to_str().unwrap()), ("MAX_WORKERS", "1")]).await;
    worker.forget_peak();
    let before = worker.peak();
    let client = scene.jetstream.client();
    for _ in 0..=PAGE_SUBJECTS {
        let id = SegmentId::new(SystemTime::now());
        let committed = Some(Committed { jobs: 1, payloads: 1, bytes: 1 });
        let name = SegmentName { id, compression: Compression::None, committed }.to_string();
        client.publish(format!("millpond.work.{id}"), name.into()).await.unwrap();
        client.publish(format!("millpond.segment.{id}.none"), "x".into()).await.unwrap();
    }
    // Its id is the greatest, so it is on the second page. It has no process that could respond.
    scene.segment("of-an-exited-process", "").await;
    worker.metric_is("millpond_segments_adopted_total", |adopted| adopted > 0.0).await;
    let grown = worker.peak() - before;
    assert!(grown < LISTING, "{grown} KiB");
    assert_eq!(worker.metric("millpond_segments_adopted_total").await, 1.0, "the others are in the work queue");
}
