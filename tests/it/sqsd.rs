//! The worker tier of Elastic Beanstalk: its daemon gets exactly 200 for what is accepted, and is held instead of rejected.

use std::net::SocketAddr;
use std::time::Duration;

use loadtest::load::{Control, Plan, Rate};
use loadtest::proof::{DaemonSettings, Setup, WorkerTier};
use loadtest::s3::{Fault, FaultPlan, S3Server};
use loadtest::server::Program;
use serde_json::{Value, json};

use crate::support::{Connection, PROGRAM, Server, post, until};
use crate::two_versions::{Mode, Proxy, RolloutFile, forward};

const HELD: &str = "millpond_requests_held";
const ID: &str = "b2f54b40-1c1b-4c1c-9c1b-0c1c1b4c1c9c";

/// The head of a request of the daemon, without its body.
fn headers(id: &str) -> String {
    format!(
        "User-Agent: aws-sqsd/1.1\r\nContent-Type: application/json\r\nX-Aws-Sqsd-Msgid: {id}\r\nX-Aws-Sqsd-Queue: telemetry\r\n\
         X-Aws-Sqsd-First-Received-At: 2026-11-27T16:00:00Z\r\nX-Aws-Sqsd-Receive-Count: 2\r\nX-Aws-Sqsd-Attr-Site: \"one\"\r\n"
    )
}

/// A server whose queue stays full until its store no longer hangs.
async fn full(s3: &S3Server, more: &[(&str, &str)]) -> Server {
    s3.faults().set(FaultPlan::always(Fault::Hang));
    let own = [
        ("ACK", "memory"),
        ("MAX_WORKERS", "2"),
        ("MAX_QUEUE", "10"),
        ("OBJECT_MAX_BYTES", "1"),
        ("S3_TIMEOUT", "2s"),
        ("SHUTDOWN_GRACE", "1s"),
    ];
    let server = Server::start_with_s3(s3, &[&own, more].concat()).await;
    until("everything is full", async || {
        while server.post_json("{}").await.status == 202 {}
        let metrics = server.metrics().await;
        let full = [("queue_jobs", 10.0), ("busy_workers", 2.0), ("segments_waiting", 1.0)];
        full.iter().all(|(name, value)| metrics[&format!("millpond_{name}")] == *value)
    })
    .await;
    server
}

/// So many connections, on each of which the head of a request of the daemon was sent, and its body.
async fn posted(server: &Server, count: usize) -> Vec<Connection> {
    let mut connections = Vec::new();
    for n in 0..count {
        let mut connection = server.connect().await;
        connection.write(&post(&headers(&format!("m-{n}")), b"{}")).await;
        connections.push(connection);
    }
    connections
}

#[tokio::test]
async fn a_message_is_answered_200_at_the_level_in_force_and_its_id_is_the_request_id() {
    for (ack, query, level, status) in
        [("memory", "", "memory", 200), ("disk", "", "disk", 200), ("disk", "?ack=stored", "stored", 200)]
    {
        let mut server = Server::start(&[("ACK", ack)]).await;
        for path in ["/", "/v1/payloads"] {
            let request = format!(
                "POST {path}{query} HTTP/1.1\r\nHost: x\r\n{}X-Request-Id: other\r\nContent-Length: 7\r\n\r\n{{\"a\":1}}",
                headers(ID)
            );
            let answer = server.send(request.as_bytes()).await;
            assert_eq!((answer.status, answer.header("x-request-id")), (status, ID), "{}", answer.text());
            assert_eq!((&answer.json()["ack"], &answer.json()["request_id"]), (&json!(level), &json!(ID)));
        }
        let without = server.post_json("{\"a\":2}").await;
        assert_eq!(without.status, 202, "a request without the header");
        assert_eq!(server.stop().await, Some(0));
        let lines: Vec<Value> = server.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of_message = lines.iter().filter(|line| line["request_id"] == ID).count();
        assert_eq!((lines.len(), of_message), (3, 2), "both deliveries have the same id");
        assert!(lines.iter().all(|line| line.get("context").is_none()));
    }
}

#[tokio::test]
async fn a_message_whose_level_is_not_reached_in_time_is_held_and_acknowledged_when_it_is_or_not_at_all() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    let env = [("ACK", "stored"), ("ACK_TIMEOUT", "300ms"), ("S3_TIMEOUT", "1s"), ("SHUTDOWN_GRACE", "1s")];
    for (ends, expected) in [(true, (200, Some("stored"))), (false, (202, Some("disk")))] {
        s3.faults().set(FaultPlan::always(Fault::Hang));
        let server = Server::start_with_s3(&s3, &env).await;
        let mut held = posted(&server, 1).await.remove(0);
        server.metric_is(HELD, |held| held == 1.0).await;
        assert_eq!(server.post_json("{}").await.status, 202, "other clients learn at once that it is not stored");
        match ends {
            true => s3.faults().set(FaultPlan::none()),
            false => server.signal(rustix::process::Signal::TERM),
        }
        let answer = held.answer().await.unwrap();
        assert_eq!((answer.status, answer.json()["ack"].as_str()), expected);
    }
}

#[tokio::test]
async fn headers_of_a_message_are_kept_in_the_context_only_on_request() {
    let mut server = Server::start(&[("SQSD_CONTEXT", "on")]).await;
    let body = br#"{"device":"d-1","data":[{"a":1}]}"#;
    assert_eq!(server.post(&headers(ID), body).await.status, 200);
    assert_eq!(server.post("", b"{\"a\":2}").await.status, 202);
    // Large bodies are decoded elsewhere.
    let large = format!("{{\"a\":3,\"b\":\"{}\"}}", "x".repeat(100_000));
    assert_eq!(server.post(&headers("m-3"), large.as_bytes()).await.status, 200);
    assert_eq!(server.stop().await, Some(0));
    let mut contexts: Vec<(Value, Value)> = Vec::new();
    for line in server.lines() {
        let line: Value = serde_json::from_str(&line).unwrap();
        contexts.push((line["payload"]["a"].clone(), line.get("context").cloned().unwrap_or_default()));
    }
    contexts.sort_by_key(|(a, _)| a.as_u64());
    let sqsd = |id: &str| {
        json!({"msgid": id, "queue": "telemetry", "first-received-at": "2026-11-27T16:00:00Z", "receive-count": "2",
               "attr-site": "\"one\""})
    };
    assert_eq!(contexts[0], (json!(1), json!({"device": "d-1", "sqsd": sqsd(ID)})));
    assert_eq!(contexts[1], (json!(2), Value::Null));
    assert_eq!(contexts[2], (json!(3), json!({"sqsd": sqsd("m-3")})));
}

#[tokio::test]
async fn messages_are_held_while_the_queue_is_full_and_accepted_when_it_has_space() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    let mut server = full(&s3, &[]).await;
    let queued = server.metric("millpond_queue_bytes").await;
    let held = posted(&server, 50).await;
    server.metric_is(HELD, |held| held == 50.0).await;
    assert_eq!(server.metric("millpond_queue_bytes").await, queued, "their bodies are not read");
    assert_eq!(server.post_json("{}").await.status, 503, "other clients learn at once that it is full");
    // A malformed one is not held.
    let text = headers(ID).replace("application/json", "text/plain");
    assert_eq!(server.post(&text, b"{}").await.status, 415);
    s3.faults().set(FaultPlan::none());
    for mut connection in held {
        let answer = connection.answer().await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(server.metric(HELD).await, 0.0);
    assert_eq!(server.stop().await, Some(0));
}

#[tokio::test]
async fn one_client_has_a_quarter_of_the_holds_and_a_shutdown_ends_them() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    let mut server = full(&s3, &[]).await;
    let held = posted(&server, 256).await;
    server.metric_is(HELD, |held| held == 256.0).await;
    let one_more = server.post(&headers("m-256"), b"{}").await;
    assert!(one_more.refusal(503).contains("queue is full"));
    server.signal(rustix::process::Signal::TERM);
    for mut connection in held {
        let answer = connection.answer().await.unwrap();
        assert!(answer.refusal(503).contains("queue is full"));
    }
    // Accepted jobs are lost with a store that hangs.
    assert_eq!(server.ended().await, Some(1));
}

#[tokio::test]
async fn a_message_that_another_version_has_accepted_is_answered_200_under_its_id() {
    let other = Server::start(&[]).await;
    let proxy = Proxy::to(other.public, Mode::Pass).await;
    let file = RolloutFile::new(&forward(proxy.addr, 100, "request"));
    let server = file.start(&[]).await;
    let answer = server.post(&headers(ID), b"{}").await;
    assert_eq!((answer.status, &answer.json()["request_id"]), (200, &json!(ID)));
    assert_eq!(server.post("", b"{}").await.status, 202);
    assert_eq!(other.metric("millpond_jobs_accepted_total").await, 2.0);
    let seen = proxy.seen();
    assert!(seen.contains(&format!("x-request-id: {ID}")) && !seen.contains("x-aws-sqsd"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_loses_no_message_to_overload_an_outage_of_the_store_and_kills() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = DaemonSettings {
        // Ten attempts take a part of the outage.
        error_visibility_timeout: Duration::from_millis(100),
        max_retries: 10,
        ..DaemonSettings::default()
    };
    let setup = Setup {
        seed: 7,
        rounds: 2,
        life: Duration::from_millis(200)..=Duration::from_millis(600),
        span: Duration::from_secs(5),
        // The target is that of the server which the proof starts.
        plan: Plan { rate: Rate::steady(300.0), run: 0xe11a, ..Plan::new(SocketAddr::from(([127, 0, 0, 1], 0))) },
        program: Program { path: PROGRAM.into(), args: Vec::new(), env: Vec::new(), log: None },
        settle: Duration::from_secs(60),
        exit_limit: Duration::from_secs(60),
        folder: Some(folder.path().to_owned()),
    };
    let proof = WorkerTier { setup, daemon };
    let verdict = Box::pin(proof.run(Control::default(), |_| {})).await.unwrap();
    assert!(!verdict.failed(), "{verdict}");
    assert_eq!((verdict.kills, verdict.messages.dead_letters, verdict.ledger.lost), (2, 0, 0));
    assert!(verdict.told.longest > 1.0, "requests are held while the spool is full: {verdict}");
}
