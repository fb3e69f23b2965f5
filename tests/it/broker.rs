//! Segments in NATS JetStream: front ends, workers, and what is left of a machine that is gone.

use std::collections::BTreeMap;
use std::path::Path;

use millpond::config::EXIT_USAGE;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::nats::{self, Nats, batch};
use crate::support::{PATIENCE, Server, command, get, lines, run, until};
use crate::two_versions::unused;

const OBJECT_MAX_AGE: (&str, &str) = ("OBJECT_MAX_AGE", "1s");

/// A fleet on one machine: a NATS server, and a store that all processes share.
struct Fleet {
    nats: Nats,
    store: TempDir,
}

impl Fleet {
    async fn start() -> Self {
        Self { nats: Nats::start().await, store: tempfile::tempdir().unwrap() }
    }

    async fn server(&self, role: &str, env: &[(&str, &str)]) -> Server {
        nats::server(&self.nats.url(), role, &self.store, &[&[OBJECT_MAX_AGE], env].concat()).await
    }

    /// A process with another broker.
    async fn started_with(&self, url: &str, role: &str, env: &[(&str, &str)]) -> Server {
        nats::started(url, role, &self.store, &[&[OBJECT_MAX_AGE], env].concat()).await
    }

    /// The lines in the store.
    fn lines(&self) -> Vec<String> {
        lines(self.store.path())
    }

    /// Waits until the batches with these names are stored, each of them once.
    async fn holds_once(&self, names: &[String]) {
        let counts = || {
            let mut counts = BTreeMap::new();
            for name in nats::names(&self.store) {
                *counts.entry(name).or_insert(0) += 1;
            }
            counts
        };
        until("all batches are stored", async || {
            let counts = counts();
            names.iter().all(|name| counts.contains_key(name))
        })
        .await;
        let counts = counts();
        assert!(counts.values().all(|count| *count == 1), "stored more than once: {counts:?}");
    }
}

async fn post(server: &Server, name: &str) -> serde_json::Value {
    let answer = server.post_json(&batch(name)).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    answer.json()
}

/// Posts until the server accepts the batch.
async fn post_until_accepted(server: &Server, name: &str) {
    until("the batch is accepted", async || {
        let answer = server.post_json(&batch(name)).await;
        assert!(answer.status == 202 || answer.status == 503, "{}", answer.text());
        answer.status == 202
    })
    .await;
}

#[tokio::test]
async fn one_process_with_a_broker_accepts_batches_as_replicated_and_stores_them_once() {
    let fleet = Fleet::start().await;
    let mut server = fleet.server("all", &[]).await;
    assert_eq!(post(&server, "first-batch").await["ack"], "replicated");
    let answer = server.send(&crate::support::post("Content-Type: application/json\r\n", batch("x").as_bytes())).await;
    assert_eq!(answer.status, 202);
    fleet.holds_once(&["first-batch".to_owned()]).await;
    assert!(!server.folder.path().join("millpond-data/spool").exists(), "nothing is kept on this machine");
    assert_eq!(server.stop().await, Some(0));
}

#[tokio::test]
async fn a_worker_stores_the_batches_of_a_front_end_and_its_word_answers_requests_for_stored() {
    let fleet = Fleet::start().await;
    let front = fleet.server("front", &[("OBJECT_MAX_AGE", "60s")]).await;
    let _worker = fleet.server("worker", &[]).await;
    let request = format!(
        "POST /v1/payloads?ack=stored HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
        batch("stored-by-worker").len(),
        batch("stored-by-worker")
    );
    let answer = front.send(request.as_bytes()).await;
    assert_eq!((answer.status, &answer.json()["ack"]), (200, &"stored".into()), "{}", answer.text());
    fleet.holds_once(&["stored-by-worker".to_owned()]).await;
    front.metric_is("millpond_jobs_stored_total", |stored| stored == 1.0).await;
}

#[tokio::test]
async fn a_machine_that_is_gone_with_its_disk_loses_no_accepted_batch() {
    let fleet = Fleet::start().await;
    let mut gone = fleet.server("front", &[("OBJECT_MAX_AGE", "1h")]).await;
    let other = fleet.server("front", &[]).await;
    let mut names = Vec::new();
    let mut job = String::new();
    for number in 0..20 {
        names.push(format!("of-a-gone-machine-{number:02}"));
        job = post(&gone, names.last().unwrap()).await["job"].as_str().unwrap().to_owned();
    }
    let state = async |server: &Server| get(server.public, &format!("/v1/jobs/{job}")).await.json()["state"].clone();
    assert_eq!(state(&other).await, "spooled", "another front end finds the job in the broker");
    gone.signal(Signal::KILL);
    gone.ended().await;
    std::fs::remove_dir_all(gone.folder.path()).unwrap();
    let worker = fleet.server("worker", &[]).await;
    fleet.holds_once(&names).await;
    assert_eq!(worker.metric("millpond_segments_adopted_total").await, 1.0);
    assert_eq!(state(&other).await, "stored");
}

#[tokio::test]
async fn a_front_end_whose_segment_was_ended_commits_its_jobs_to_another_one() {
    let fleet = Fleet::start().await;
    let front = fleet.server("front", &[("OBJECT_MAX_AGE", "1h")]).await;
    let first = post(&front, "before-the-pause").await;
    front.signal(Signal::STOP);
    let worker = fleet.server("worker", &[]).await;
    worker.metric_is("millpond_segments_adopted_total", |adopted| adopted == 1.0).await;
    fleet.holds_once(&["before-the-pause".to_owned()]).await;
    front.signal(Signal::CONT);
    let second = post(&front, "after-the-pause").await;
    let segment = |answer: &serde_json::Value| answer["job"].as_str().unwrap().split('.').next().unwrap().to_owned();
    assert_ne!(segment(&first), segment(&second));
    let mut front = front;
    assert_eq!(front.stop().await, Some(0));
    fleet.holds_once(&["before-the-pause".to_owned(), "after-the-pause".to_owned()]).await;
}

#[tokio::test]
async fn a_front_end_that_stops_leaves_its_jobs_to_the_workers() {
    let fleet = Fleet::start().await;
    let mut front = fleet.server("front", &[("OBJECT_MAX_AGE", "1h")]).await;
    post(&front, "before-the-stop").await;
    assert_eq!(front.stop().await, Some(0));
    let worker = fleet.server("worker", &[]).await;
    fleet.holds_once(&["before-the-stop".to_owned()]).await;
    assert_eq!(worker.metric("millpond_segments_adopted_total").await, 0.0, "it was in the work queue");
}

#[tokio::test]
async fn without_a_broker_batches_are_rejected_and_accepted_as_soon_as_there_is_one() {
    let port = unused().await.port();
    let mut fleet = Fleet::start().await;
    let server = fleet.started_with(&format!("nats://127.0.0.1:{port}"), "all", &[]).await;
    let answer = server.post_json(&batch("too-early")).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(!answer.header("retry-after").is_empty());
    until("it is not ready", async || server.ready().await.0 == 503).await;
    fleet.nats = nats::start_late(port).await;
    post_until_accepted(&server, "in-time").await;
    fleet.holds_once(&["in-time".to_owned()]).await;
    until("it is ready", async || server.ready().await.0 == 200).await;
}

#[tokio::test]
async fn a_broker_that_crashes_and_returns_loses_no_accepted_batch() {
    let mut fleet = Fleet::start().await;
    let server = fleet.server("all", &[("OBJECT_MAX_AGE", "1h"), ("ACK_TIMEOUT", "2s")]).await;
    post(&server, "before-the-crash").await;
    fleet.nats.kill().await;
    let answer = server.post_json(&batch("during-the-crash")).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    fleet.nats.start_again().await;
    post_until_accepted(&server, "after-the-crash").await;
    let mut server = server;
    assert_eq!(server.stop().await, Some(0));
    let _worker = fleet.server("worker", &[]).await;
    fleet.holds_once(&["before-the-crash".to_owned(), "after-the-crash".to_owned()]).await;
}

#[tokio::test]
async fn a_batch_that_exceeds_the_brokers_largest_message_is_stored_whole() {
    let fleet = Fleet { nats: Nats::start_with("max_payload: 8KB").await, store: tempfile::tempdir().unwrap() };
    let server = fleet.server("all", &[("COMPRESSION", "none")]).await;
    let long = "y".repeat(200_000);
    let answer = server.post_json(&format!(r#"{{"data":[{{"name":"large","text":"{long}"}}]}}"#)).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    post(&server, "small").await;
    fleet.holds_once(&["large".to_owned(), "small".to_owned()]).await;
    assert!(fleet.lines().iter().any(|line| line.contains(&long)));
}

#[tokio::test]
async fn a_full_stream_rejects_batches_until_workers_have_made_space() {
    let fleet = Fleet::start().await;
    let env = [("BROKER_MAX_BYTES", "8MiB"), ("COMPRESSION", "none"), ("OBJECT_MAX_BYTES", "1MiB")];
    let front = fleet.server("front", &env).await;
    let text = "z".repeat(300_000);
    let large = |number: usize| format!(r#"{{"data":[{{"name":"large-{number:03}","text":"{text}"}}]}}"#);
    let mut accepted = Vec::new();
    let rejected = loop {
        let answer = front.post_json(&large(accepted.len())).await;
        if answer.status != 202 {
            break answer;
        }
        accepted.push(format!("large-{:03}", accepted.len()));
        assert!(accepted.len() < 80, "8 MiB hold far fewer batches of 0.3 MB");
    };
    assert_eq!(rejected.status, 503, "{}", rejected.text());
    assert!(rejected.text().contains("full") && !rejected.header("retry-after").is_empty(), "{}", rejected.text());
    let _worker = fleet.server("worker", &env).await;
    post_until_accepted(&front, "with-space-again").await;
    accepted.push("with-space-again".to_owned());
    fleet.holds_once(&accepted).await;
}

#[tokio::test]
async fn jobs_on_disk_are_stored_when_a_broker_is_switched_on() {
    let fleet = Fleet::start().await;
    let store = fleet.store.path().to_str().unwrap();
    let missing = fleet.store.path().join("missing-bucket");
    std::fs::write(&missing, "not a directory").unwrap();
    let before = Server::start(&[("STORE_DIR", missing.to_str().unwrap()), ("OBJECT_MAX_AGE", "1h")]).await;
    post(&before, "on-disk").await;
    let folder = std::sync::Arc::clone(&before.folder);
    let mut before = before;
    before.signal(Signal::KILL);
    before.ended().await;
    std::fs::remove_file(&missing).unwrap();
    let url = fleet.nats.url();
    let env = [("BROKER_URL", url.as_str()), ("BROKER_REPLICAS", "1"), ("ROLE", "front"), ("STORE_DIR", store)];
    let _after = Server::spawn_in(command(folder.path(), &env), std::sync::Arc::clone(&folder)).await;
    fleet.holds_once(&["on-disk".to_owned()]).await;
}

#[tokio::test]
async fn a_worker_accepts_no_batches_and_is_healthy() {
    let fleet = Fleet::start().await;
    let worker = fleet.server("worker", &[]).await;
    let answer = worker.post_json(&batch("misdirected")).await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("ROLE=worker"), "{}", answer.text());
    assert_eq!(get(worker.public, "/health").await.status, 200);
}

#[tokio::test]
async fn wrong_credentials_reject_batches_and_readiness_names_the_setting() {
    let authorization = "authorization { user: millpond, password: right-password }";
    let fleet = Fleet { nats: Nats::start_with(authorization).await, store: tempfile::tempdir().unwrap() };
    let wrong = format!("nats://millpond:wrong-password@127.0.0.1:{}", fleet.nats.port);
    let server = fleet.started_with(&wrong, "all", &[]).await;
    assert_eq!(server.post_json(&batch("unauthorized")).await.status, 503);
    until("readiness names the setting", async || server.ready().await.1.contains("BROKER_CREDENTIALS")).await;
    assert!(!server.log().contains("wrong-password"), "{}", server.log());
    let right = format!("nats://millpond:right-password@127.0.0.1:{}", fleet.nats.port);
    let server = fleet.started_with(&right, "all", &[]).await;
    post(&server, "authorized").await;
    assert!(!server.log().contains("right-password"), "{}", server.log());
}

#[tokio::test]
async fn a_stream_that_would_lose_batches_is_an_error_that_says_what_to_change() {
    let fleet = Fleet::start().await;
    let client = async_nats::connect(fleet.nats.url()).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    let foreign = async_nats::jetstream::stream::Config {
        name: "millpond".to_owned(),
        subjects: vec!["millpond.segment.*.*".to_owned()],
        max_age: PATIENCE,
        ..Default::default()
    };
    jetstream.create_stream(foreign).await.unwrap();
    let url = fleet.nats.url();
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &[("BROKER_URL", &url), ("BROKER_REPLICAS", "1")], &[]).await;
    let log = String::from_utf8(output.stderr).unwrap();
    assert_ne!(output.status.code(), Some(0));
    for part in ["max_age must be 0", "discard must be new", "BROKER_STREAM"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    let output = run(folder.path(), &[("BROKER_URL", &url), ("BROKER_STREAM", "other")], &[]).await;
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("lower BROKER_REPLICAS"), "one server cannot keep three replicas: {log}");
}

#[tokio::test]
async fn settings_of_a_fleet_that_cannot_work_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&[(&str, &str)], &str); 7] = [
        (&[("ROLE", "front")], "BROKER_URL"),
        (&[("ROLE", "leader")], "all, front or worker"),
        (&[("BROKER_URL", "http://x:4222")], "nats://"),
        (&[("BROKER_URL", "nats://secret-user:secret-password@x:4222/path")], "nats://"),
        (&[("BROKER_URL", "nats://x:4222"), ("ACK", "memory")], "unset ACK"),
        (&[("ACK", "replicated")], "set BROKER_URL"),
        (&[("BROKER_URL", "nats://x:4222"), ("BROKER_STREAM", "a.b")], "BROKER_STREAM"),
    ];
    for (env, expected) in cases {
        let output = run(Path::new(folder.path()), env, &[]).await;
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(i32::from(EXIT_USAGE)), "{env:?}: {text}");
        assert!(text.contains(expected), "{env:?}: {text}");
        assert!(!text.contains("secret-password"), "{text}");
    }
}
