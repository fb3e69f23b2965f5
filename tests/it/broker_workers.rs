//! Workers that lose their consumer, their store, or find a message that they do not understand.

use async_nats::jetstream::{self, Context};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::nats::{Nats, batch, server, stored_once};
use crate::support::{Server, until};

struct Scene {
    nats: Nats,
    store: TempDir,
    jetstream: Context,
    front: Server,
}

impl Scene {
    async fn start() -> Self {
        Self::start_with(&[("OBJECT_MAX_AGE", "100ms")]).await
    }

    async fn start_with(env: &[(&str, &str)]) -> Self {
        let nats = Nats::start().await;
        let store = tempfile::tempdir().unwrap();
        let front = server(&nats.url(), "front", &store, env).await;
        let jetstream = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
        Self { nats, store, jetstream, front }
    }

    async fn worker(&self, env: &[(&str, &str)]) -> Server {
        server(&self.nats.url(), "worker", &self.store, env).await
    }

    async fn accepts(&self, name: &str) {
        assert_eq!(self.front.post_json(&batch(name)).await.status, 202);
    }

    async fn work_queue_has(&self, messages: u64) {
        until("the work queue has these segments", async || {
            self.jetstream.get_stream("millpond-work").await.unwrap().cached_info().state.messages == messages
        })
        .await;
    }
}

#[tokio::test]
async fn a_consumer_that_was_deleted_is_created_again() {
    let scene = Scene::start().await;
    let _worker = scene.worker(&[]).await;
    scene.accepts("1-before").await;
    stored_once(&scene.store, &["1-before"]).await;
    scene.jetstream.delete_consumer_from_stream("workers", "millpond-work").await.unwrap();
    scene.accepts("2-after").await;
    stored_once(&scene.store, &["1-before", "2-after"]).await;
}

#[tokio::test]
async fn a_consumer_that_has_passed_a_segment_is_created_again() {
    let scene = Scene::start().await;
    scene.accepts("passed").await;
    scene.work_queue_has(1).await;
    let reset = "$JS.API.CONSUMER.RESET.millpond-work.workers";
    let response = scene.jetstream.client().request(reset, "{\"seq\":1000}".into()).await.unwrap();
    let response = String::from_utf8(response.payload.to_vec()).unwrap();
    assert!(!response.contains("error"), "{response}");
    let _worker = scene.worker(&[]).await;
    stored_once(&scene.store, &["passed"]).await;
}

#[tokio::test]
async fn a_message_that_no_worker_understands_is_kept_and_others_are_not_delayed() {
    let scene = Scene::start().await;
    let unknown = scene.jetstream.publish("millpond.work.unknown", "a segment of another version".into());
    unknown.await.unwrap().await.unwrap();
    let worker = scene.worker(&[]).await;
    worker.has_logged("left to workers of another version").await;
    scene.accepts("understood").await;
    stored_once(&scene.store, &["understood"]).await;
    scene.work_queue_has(1).await;
}

#[tokio::test]
async fn a_worker_that_cannot_reach_the_store_leaves_its_segments_to_another_worker() {
    let scene = Scene::start().await;
    let broken = tempfile::NamedTempFile::new().unwrap();
    let cut_off = scene.worker(&[("STORE_DIR", broken.path().to_str().unwrap())]).await;
    let expected = ["1-held", "2-held", "3-held"];
    for (name, segments) in expected.into_iter().zip(1..) {
        scene.accepts(name).await;
        scene.work_queue_has(segments).await;
    }
    cut_off.metric_is("millpond_segments_waiting", |waiting| waiting > 0.0).await;
    let _healthy = scene.worker(&[]).await;
    stored_once(&scene.store, &expected).await;
}

#[tokio::test]
async fn a_front_end_that_hangs_does_not_delay_each_of_its_segments() {
    let scene = Scene::start_with(&[("OBJECT_MAX_BYTES", "1")]).await;
    // To wait for each of them as long as for a response of another process would exceed the patience of the test.
    let names: Vec<_> = (10..60).map(|number| format!("{number}-of-a-paused-process")).collect();
    for name in &names {
        scene.accepts(name).await;
    }
    scene.work_queue_has(names.len() as u64).await;
    scene.front.signal(Signal::STOP);
    let _worker = scene.worker(&[("MAX_WORKERS", "1")]).await;
    let expected: Vec<_> = names.iter().map(String::as_str).collect();
    stored_once(&scene.store, &expected).await;
    scene.front.signal(Signal::CONT);
    scene.front.metric_is("millpond_jobs_stored_total", |stored| stored == names.len() as f64).await;
}
