//! `ACK_MAX`, and the objects that many requests with `ack=stored` make.

use std::time::{Duration, Instant};

use loadtest::s3::S3Server;
use tokio::task::JoinSet;

use crate::support::{Answer, Server, run};
use crate::tokens::TokensFile;

/// Sends a batch with `?ack=level`.
async fn ask(server: &Server, level: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    let head =
        format!("POST /v1/payloads?ack={level} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
    server.send(head.as_bytes()).await
}

#[tokio::test]
async fn a_level_above_ack_max_is_answered_403_and_nothing_is_accepted() {
    let mut server = Server::start(&[("ACK_MAX", "disk"), ("RECORD", "payload")]).await;
    let refused = ask(&server, "stored", "", "{\"n\":1}").await.refusal(403);
    assert!(refused.contains("ack=stored") && refused.contains("disk") && refused.contains("ACK_MAX"), "{refused}");
    for (n, level) in ["disk", "memory"].into_iter().enumerate() {
        let answer = ask(&server, level, "", &format!("{{\"n\":{}}}", n + 2)).await;
        assert_eq!((answer.status, &answer.json()["ack"]), (202, &"disk".into()), "{level}");
    }
    assert_eq!(server.metric("millpond_requests_total{outcome=\"not_allowed\",route=\"payloads\"}").await, 1.0);
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(server.lines(), ["{\"n\":2}", "{\"n\":3}"]);
}

#[tokio::test]
async fn the_ack_max_of_a_tenant_replaces_the_global_one_for_this_tenant_only() {
    let file = TokensFile::new(&[("low", &["l"], "{}"), ("high", &["h"], "{}"), ("usual", &["u"], "{}")]);
    let text = std::fs::read_to_string(file.path()).unwrap();
    let text = text.replace("\"name\":\"low\"", "\"name\":\"low\",\"ack_max\":\"memory\"");
    let text = text.replace("\"name\":\"high\"", "\"name\":\"high\",\"ack_max\":\"stored\"");
    std::fs::write(file.path(), text).unwrap();
    let server = file.start(&[("ACK_MAX", "disk"), ("STORED_LINGER", "1ms"), ("RECORD", "payload")]).await;
    let cases = [
        ("l", "stored", 403),
        // Every response promises `ACK` at least, so that level is always allowed.
        ("l", "disk", 202),
        ("u", "stored", 403),
        ("u", "disk", 202),
        ("h", "stored", 200),
    ];
    for (token, level, status) in cases {
        let header = format!("X-Api-Key: {token}\r\n");
        assert_eq!(ask(&server, level, &header, "{\"data\":[{}]}").await.status, status, "{token} asks for {level}");
        let enveloped = format!("{{\"token\":\"{token}\",\"data\":[{{}}]}}");
        assert_eq!(
            ask(&server, level, "", &enveloped).await.status,
            status,
            "{token} asks in its envelope for {level}"
        );
    }
    assert_eq!(server.metric("millpond_payloads_accepted_total").await, 6.0, "nothing of a rejected batch is accepted");
}

#[tokio::test]
async fn clients_that_wait_for_the_store_make_at_most_one_object_in_an_interval() {
    const INTERVAL: Duration = Duration::from_millis(300);
    const ROUNDS: usize = 6;
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    let env = [("STORED_LINGER", "1ms"), ("STORED_INTERVAL", "300ms"), ("ACK_TIMEOUT", "60s")];
    let server = std::sync::Arc::new(Server::start_with_s3(&s3, &env).await);
    let began = Instant::now();
    let mut senders = JoinSet::new();
    for _ in 0..4 {
        let server = std::sync::Arc::clone(&server);
        senders.spawn(async move {
            for _ in 0..ROUNDS {
                assert_eq!(ask(&server, "stored", "", "{\"n\":1}").await.status, 200);
            }
        });
    }
    senders.join_all().await;
    // An upper bound that holds on a slow machine too.
    let max = began.elapsed().as_millis() / INTERVAL.as_millis() + 1;
    let objects = s3.stats().stored;
    assert!(u128::from(objects) <= max, "{objects} objects in {:?}", began.elapsed());
    assert!(objects >= ROUNDS as u64, "each round waits for another object");
}

#[tokio::test]
async fn contradicting_levels_and_intervals_are_rejected_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ([("ACK", "disk"), ("ACK_MAX", "memory")], "ACK_MAX is lower than ACK"),
        ([("STORED_INTERVAL", "11s"), ("ACK_TIMEOUT", "10s")], "STORED_INTERVAL exceeds ACK_TIMEOUT"),
        ([("ACK_MAX", "all"), ("ACK", "disk")], "ACK_MAX=all"),
        ([("TENANT_SPOOL_SHARE", "half"), ("ACK", "disk")], "TENANT_SPOOL_SHARE=half"),
    ];
    for (env, what) in cases {
        let output = run(folder.path(), &env, &[]).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(said.contains(what), "{said}");
    }
}
