//! The room in the broker: the shares of tenants, and the limits of the stream and of its servers.

use std::time::Duration;

use async_nats::jetstream::stream::Config;
use tempfile::TempDir;

use crate::nats::{Nats, batch, server, start_late_with, started};
use crate::support::{Answer, Server, get, run, until};
use crate::tokens::TokensFile;
use crate::two_versions::unused;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

async fn send(server: &Server, token: &str, body: &str) -> Answer {
    server.post(&format!("Content-Type: application/json\r\nX-Api-Key: {token}\r\n"), body.as_bytes()).await
}

fn payload(kib: usize) -> String {
    format!("{{\"a\":\"{}\"}}", "x".repeat(kib << 10))
}

#[tokio::test]
async fn a_tenant_that_floods_several_front_ends_leaves_room_in_the_broker_for_others() {
    const MAX: usize = 8 << 20;
    let (nats, store) = (Nats::start().await, folder());
    let tokens = TokensFile::new(&[("flood", &["f"], "{}"), ("quiet", &["q"], "{}")]);
    let path = tokens.path();
    let env = [
        ("TOKENS_FILE", path.to_str().unwrap()),
        ("TENANT_QUEUE_SHARE", "100%"),
        ("TENANT_SPOOL_SHARE", "50%"),
        ("BROKER_MAX_BYTES", "8MiB"),
        ("OBJECT_MAX_AGE", "1s"),
        ("COMPRESSION", "none"),
        ("RECORD", "payload"),
    ];
    let fronts = [
        server(&nats.url(), "front", &store, &env).await,
        server(&nats.url(), "front", &store, &env).await,
        server(&nats.url(), "front", &store, &env).await,
    ];
    let (flooded, batch) = (&fronts[..2], payload(512));
    let mut flood = 0;
    let refused = 'flood: loop {
        for front in flooded {
            let answer = send(front, "f", &batch).await;
            if answer.status != 202 {
                break 'flood answer;
            }
            flood += batch.len();
            // Each of them sees what the others have added.
            for front in &fronts {
                front.metric_is("millpond_spool_bytes", |bytes| bytes >= flood as f64).await;
            }
        }
    };
    assert!(refused.refusal(503).contains("share of the spool"), "{}", refused.text());
    assert_eq!(refused.header("millpond-rejection"), "spool_share_full");
    // Half of 95%, and the last batch.
    assert!((MAX * 2 / 5..MAX * 3 / 5).contains(&flood), "{flood}");
    for front in flooded {
        assert!(send(front, "f", &batch).await.refusal(503).contains("share of the spool"));
    }
    // Also where it is the only tenant.
    for front in &fronts {
        let answer = send(front, "q", &payload(64)).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
    }
    let _worker = server(&nats.url(), "worker", &store, &env).await;
    for front in flooded {
        until("what is stored does not count", async || send(front, "f", &batch).await.status == 202).await;
    }
}

#[tokio::test]
async fn a_stream_that_somebody_makes_unsafe_while_processes_run_is_reported_until_it_is_corrected() {
    let (nats, store) = (Nats::start().await, folder());
    let front = server(&nats.url(), "front", &store, &[("BROKER_MAX_BYTES", "8MiB")]).await;
    until("a batch is accepted", async || front.post_json(&batch("before")).await.status == 202).await;
    let jetstream = async_nats::jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    for name in ["millpond", "millpond-work"] {
        let safe = jetstream.get_stream(name).await.unwrap().cached_info().config.clone();
        let hour = Duration::from_secs(3600);
        jetstream.update_stream(Config { max_age: hour, ..safe.clone() }).await.unwrap();
        until("readiness names the stream and what to change", async || {
            let (status, reasons) = front.ready().await;
            let named = format!("the stream {name} of the broker");
            status == 503 && reasons.contains(&named) && reasons.contains("max_age must be 0")
        })
        .await;
        // It is sampled once a second.
        until("the status says it", async || {
            get(front.admin, "/v1/status").await.text().contains(&format!("the stream {name} of the broker"))
        })
        .await;
        front.post_json(&batch("rejected")).await.refusal(503);
        jetstream.update_stream(safe).await.unwrap();
        until("batches are accepted again", async || front.post_json(&batch("after")).await.status == 202).await;
        until("the front end is ready", async || front.ready().await.0 == 200).await;
    }
    front.has_logged("settings that lose batches: max_age must be 0").await;
}

#[tokio::test]
async fn a_server_that_takes_only_tiny_messages_is_an_error_that_says_what_to_set() {
    let (nats, store) = (Nats::start_with("max_payload: 4095").await, folder());
    let url = nats.url();
    let env = [("BROKER_URL", url.as_str()), ("BROKER_REPLICAS", "1"), ("STORE_DIR", store.path().to_str().unwrap())];
    for arguments in [&[][..], &["--check"]] {
        let output = run(store.path(), &env, arguments).await;
        let log = String::from_utf8(output.stderr).unwrap();
        assert_ne!(output.status.code(), Some(0));
        assert!(log.contains("at most 4095 bytes; set max_payload") && log.contains("at least 4096"), "{log}");
    }
    let port = unused().await.port();
    let late = started(&format!("nats://127.0.0.1:{port}"), "front", &store, &[]).await;
    for next in ["a server that was away", "another server"] {
        let mut tiny = start_late_with(port, "max_payload: 4095").await;
        until("readiness says what to set", async || {
            let (status, reasons) = late.ready().await;
            status == 503 && reasons.contains("set max_payload")
        })
        .await;
        late.post_json(&batch(next)).await.refusal(503);
        tiny.kill().await;
        let mut smallest = start_late_with(port, "max_payload: 4096").await;
        let large = format!(r#"{{"data":[{{"name":"{}"}}]}}"#, "x".repeat(64 << 10));
        until("a frame of many messages is accepted", async || late.post_json(&large).await.status == 202).await;
        smallest.kill().await;
    }
}

#[tokio::test]
async fn a_start_that_changes_the_limit_of_the_stream_says_so_and_the_others_use_the_new_one() {
    let (nats, store) = (Nats::start().await, folder());
    let before = server(&nats.url(), "front", &store, &[("COMPRESSION", "none")]).await;
    let max_bytes = async |server: &Server| {
        let status = get(server.admin, "/v1/status").await.json();
        let limits = status["limits"].as_array().unwrap().clone();
        let spool = limits.iter().find(|limit| limit["name"] == "spool_bytes").unwrap();
        assert_eq!(status["broker"]["max_bytes"], spool["max"]);
        spool["max"].as_u64().unwrap()
    };
    until("the status has the limit", async || max_bytes(&before).await == 1 << 30).await;
    let after = server(&nats.url(), "front", &store, &[("BROKER_MAX_BYTES", "8MiB")]).await;
    after.has_logged("need the same BROKER_MAX_BYTES").await;
    assert!(after.log().contains("before=1073741824 after=8388608"), "{}", after.log());
    assert!(!before.log().contains("need the same BROKER_MAX_BYTES"), "it has created the stream");
    until("the other one knows the limit", async || max_bytes(&before).await == 8 << 20).await;
    let large = format!(r#"{{"data":[{{"name":"{}"}}]}}"#, "x".repeat(256 << 10));
    until("the stream is full", async || before.post_json(&large).await.status == 503).await;
    until("it counts the stream as full", async || before.ready().await.1.contains("broker full")).await;
}
