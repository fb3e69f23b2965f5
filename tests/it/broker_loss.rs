//! What a broker has lost or does not let go: nothing else is lost with it, and it is reported.

use async_nats::HeaderMap;
use async_nats::jetstream::{self, stream::Stream};
use loadtest::s3::{Fault, FaultPlan, S3Server};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::nats::{Nats, batch, names, server, stored_once};
use crate::support::{Server, get, until};

/// A front end whose segments stay open until it is stopped, and its broker.
struct Scene {
    nats: Nats,
    store: TempDir,
    front: Server,
}

impl Scene {
    async fn start() -> Self {
        Self::start_with(Nats::start().await, &[]).await
    }

    async fn start_with(nats: Nats, env: &[(&str, &str)]) -> Self {
        let store = tempfile::tempdir().unwrap();
        let env = [&[("OBJECT_MAX_AGE", "1h"), ("COMPRESSION", "none")], env].concat();
        let front = server(&nats.url(), "front", &store, &env).await;
        Self { nats, store, front }
    }

    async fn worker(&self) -> Server {
        server(&self.nats.url(), "worker", &self.store, &[]).await
    }

    async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(async_nats::connect(self.nats.url()).await.unwrap())
    }

    async fn stream(&self, name: &str) -> Stream {
        self.jetstream().await.get_stream(name).await.unwrap()
    }

    async fn post(&self, name: &str) {
        let answer = self.front.post_json(&batch(name)).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
    }

    /// Posts a batch that makes the front end seal its segment, since it exceeds `OBJECT_MAX_BYTES`.
    async fn seal(&self) {
        let text = "s".repeat(1 << 20);
        let answer = self.front.post_json(&format!(r#"{{"data":[{{"name":"last","text":"{text}"}}]}}"#)).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
    }

    async fn kill_front(&mut self) {
        self.front.signal(Signal::KILL);
        self.front.ended().await;
    }
}

const SEALED_EARLY: &[(&str, &str)] =
    &[("OBJECT_MAX_BYTES", "1MiB"), ("MAX_BODY_BYTES", "4MiB"), ("RECORD", "payload")];

#[tokio::test]
async fn large_segments_are_stored_whole_one_after_the_other() {
    let scene = Scene::start_with(Nats::start().await, SEALED_EARLY).await;
    let _worker = server(&scene.nats.url(), "worker", &scene.store, &[("MAX_WORKERS", "1")]).await;
    let mut expected = Vec::new();
    for number in 0..6 {
        let text = number.to_string().repeat(1 << 20);
        let payload = format!(r#"{{"name":"large-{number}","text":"{text}"}}"#);
        let answer = scene.front.post_json(&format!(r#"{{"data":[{payload}]}}"#)).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        expected.push(payload);
        scene.front.metric_is("millpond_jobs_stored_total", |stored| stored == f64::from(number + 1)).await;
    }
    let mut lines = crate::support::lines(scene.store.path());
    lines.sort_unstable();
    assert!(lines == expected, "{} lines", lines.len());
}

#[tokio::test]
async fn a_segment_whose_work_message_is_lost_is_stored_while_its_front_end_runs() {
    let scene = Scene::start_with(Nats::start().await, SEALED_EARLY).await;
    scene.post("first").await;
    scene.seal().await;
    let mut work = scene.stream("millpond-work").await;
    until("the segment is in the work queue", async || work.info().await.unwrap().state.messages == 1).await;
    work.purge().await.unwrap();
    let _worker = scene.worker().await;
    stored_once(&scene.store, &["first", "last"]).await;
    scene.front.metric_is("millpond_jobs_stored_total", |stored| stored == 2.0).await;
}

#[tokio::test]
async fn batches_of_a_stream_that_was_deleted_are_counted_as_lost() {
    let mut scene = Scene::start().await;
    for name in ["a", "b", "c"] {
        scene.post(name).await;
    }
    scene.jetstream().await.delete_stream("millpond").await.unwrap();
    until("the stream exists again", async || scene.front.post_json(&batch("d")).await.status == 202).await;
    scene.front.metric_is("millpond_jobs_dead_total", |dead| dead == 3.0).await;
    assert_eq!(scene.front.metric("millpond_jobs_possibly_lost_total").await, 3.0);
    assert!(scene.front.log().contains("the broker has lost acknowledged jobs"), "{}", scene.front.log());
    assert_eq!(scene.front.stop().await, Some(1), "jobs are lost");
    let _worker = scene.worker().await;
    stored_once(&scene.store, &["d"]).await;
}

#[tokio::test]
async fn what_the_broker_still_has_of_a_segment_is_stored_and_the_rest_is_dead() {
    let scene = Scene::start_with(Nats::start().await, SEALED_EARLY).await;
    for name in ["a", "b", "c"] {
        scene.post(name).await;
    }
    scene.seal().await;
    let mut stream = scene.stream("millpond").await;
    let messages = stream.info().await.unwrap().state.messages;
    stream.delete_message(2).await.unwrap();
    let worker = scene.worker().await;
    stored_once(&scene.store, &["a", "c", "last"]).await;
    scene.front.metric_is("millpond_jobs_dead_total", |dead| dead == 1.0).await;
    assert_eq!(scene.front.metric("millpond_jobs_stored_total").await, 3.0);
    assert!(worker.log().contains("the broker has lost a part of a segment"), "{}", worker.log());
    worker.metric_is("millpond_broker_waiting_segments", |waiting| waiting == 0.0).await;
    assert_eq!(stream.info().await.unwrap().state.messages, messages, "the other frames stay, and the end");
}

#[tokio::test]
async fn a_store_that_denies_questions_does_not_keep_segments_of_a_killed_front_end() {
    let mut scene = Scene::start().await;
    scene.post("of-a-killed-process").await;
    scene.kill_front().await;
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    s3.faults().set(FaultPlan::always(Fault::AccessDenied));
    let url = scene.nats.url();
    let worker =
        Server::start_with_s3(&s3, &[("BROKER_URL", &url), ("BROKER_REPLICAS", "1"), ("ROLE", "worker")]).await;
    worker.metric_is("millpond_segments_adopted_total", |adopted| adopted == 1.0).await;
    s3.faults().set(FaultPlan::none());
    worker.metric_is("millpond_jobs_stored_total", |stored| stored == 1.0).await;
}

#[tokio::test]
async fn a_message_of_another_version_keeps_a_segment_from_being_ended() {
    let mut scene = Scene::start().await;
    scene.post("before").await;
    scene.kill_front().await;
    let mut stream = scene.stream("millpond").await;
    let subject = {
        let message = stream.get_raw_message(1).await.unwrap();
        message.subject.to_string()
    };
    let mut headers = HeaderMap::new();
    headers.insert("Millpond-Committed", "of another version");
    let jetstream = scene.jetstream().await;
    let foreign = jetstream.publish_with_headers(subject, headers, "x".into()).await.unwrap().await.unwrap();
    let mut worker = scene.worker().await;
    worker.logged("is not of this version of millpond").await;
    assert_eq!(stream.info().await.unwrap().state.messages, 2, "no end was written");
    stream.delete_message(foreign.sequence).await.unwrap();
    stored_once(&scene.store, &["before"]).await;
}

#[tokio::test]
async fn parts_of_a_first_frame_that_is_not_whole_are_removed() {
    let mut scene = Scene::start_with(Nats::start_with("max_payload: 8KB").await, &[]).await;
    scene.post("whole").await;
    let mut stream = scene.stream("millpond").await;
    let (subject, inbox) = {
        let message = stream.get_raw_message(1).await.unwrap();
        (message.subject.to_string(), message.headers.get("Millpond-Inbox").unwrap().to_string())
    };
    scene.kill_front().await;
    // As if the process had been killed between two messages of the first frame.
    stream.delete_message(1).await.unwrap();
    let jetstream = scene.jetstream().await;
    for _ in 0..3 {
        let mut headers = HeaderMap::new();
        headers.insert("Millpond-Committed", "0-0-0");
        headers.insert("Millpond-Inbox", inbox.as_str());
        jetstream.publish_with_headers(subject.clone(), headers, "part".into()).await.unwrap().await.unwrap();
    }
    let _worker = scene.worker().await;
    until("only the end is left", async || stream.info().await.unwrap().state.messages == 1).await;
    assert!(names(&scene.store).is_empty());
}

#[tokio::test]
async fn the_state_of_a_job_is_not_denied_while_the_broker_is_away() {
    let mut scene = Scene::start().await;
    let answer = scene.front.post_json(&batch("waits")).await.json();
    let job = answer["job"].as_str().unwrap();
    let other = server(&scene.nats.url(), "front", &scene.store, &[]).await;
    scene.nats.kill().await;
    let answer = get(other.public, &format!("/v1/jobs/{job}")).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    scene.nats.start_again().await;
    until("the job is found again", async || {
        let answer = get(other.public, &format!("/v1/jobs/{job}")).await;
        answer.status == 200 && answer.json()["state"] == "spooled"
    })
    .await;
}
