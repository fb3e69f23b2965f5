//! The level that a response names, and lookups by receipt.

use loadtest::s3::{Fault, FaultPlan, S3Server};
use rustix::process::Signal;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::support::{Server, get, lines, post, run, until};
use crate::tokens::TokensFile;

fn with_query(query: &str, body: &str) -> Vec<u8> {
    let head = format!("POST /v1/payloads?{query} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    (head + body).into_bytes()
}

async fn job(server: &Server, job: &Value, query: &str) -> (u16, Value) {
    let answer = get(server.public, &format!("/v1/jobs/{}{query}", job.as_str().unwrap())).await;
    (answer.status, answer.json())
}

#[tokio::test]
async fn a_response_names_the_level_that_was_reached_and_the_object() {
    let mut server = Server::start(&[("RECORD", "payload")]).await;
    let disk = server.post_json("[{\"n\":1},{\"n\":2}]").await;
    assert_eq!((disk.status, &disk.json()["ack"]), (202, &"disk".into()));
    let (status, spooled) = job(&server, &disk.json()["job"], "").await;
    assert_eq!((status, &spooled["state"]), (200, &"spooled".into()));

    let stored = server.send(&with_query("ack=stored", "{\"n\":3}")).await;
    assert_eq!((stored.status, &stored.json()["ack"]), (200, &"stored".into()));
    let object = stored.json()["object"].as_str().unwrap().to_owned();
    assert!(object.starts_with("dt=2"), "{object} is a key without the location of the store");
    let path = server.folder.path().join("millpond-data/objects").join(&object);
    assert!(path.is_file(), "{object}");
    // A level below `ACK` is raised to it.
    let more = server.send(&with_query("ack=memory", "{\"n\":4}")).await;
    assert_eq!((more.status, &more.json()["ack"]), (202, &"disk".into()));
    for (receipt, expected) in [(&disk.json()["job"], &object), (&stored.json()["job"], &object)] {
        let (status, answer) = job(&server, receipt, "?wait=10").await;
        assert_eq!(
            (status, &answer["state"], &answer["object"]),
            (200, &"stored".into(), &Value::from(expected.as_str()))
        );
    }
    assert!(server.send(&with_query("ack=none", "{}")).await.refusal(400).contains("memory, disk and stored"));
    assert!(server.send(&with_query("ak=stored", "{}")).await.refusal(400).contains("knows only `ack`"));
    let misspelt = get(server.public, &format!("/v1/jobs/{}?waits=10", disk.json()["job"].as_str().unwrap())).await;
    assert!(misspelt.refusal(400).contains("knows only `wait`"));
    let long = get(server.public, &format!("/v1/jobs/x?{}", "%01".repeat(5000))).await;
    assert!(long.refusal(400).len() < 200, "a rejection does not repeat the request");
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(server.lines().len(), 4);
}

#[tokio::test]
async fn responses_name_the_key_unless_receipt_object_is_location() {
    let file = TokensFile::new(&[("acme", &["t"], "{}")]);
    for (setting, begins) in [("key", "dt=2"), ("location", "./millpond-data/objects/dt=2")] {
        let server = file.start(&[("RECEIPT_OBJECT", setting)]).await;
        let answer = server.post("X-Api-Key: t\r\n", b"{}").await;
        assert!(answer.json()["object"].as_str().unwrap().starts_with(begins), "{}", answer.text());
    }
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &[("RECEIPT_OBJECT", "location")], &[]).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(said.contains("RECEIPT_OBJECT is location but TOKENS_FILE is not set"), "{said}");
}

#[tokio::test]
async fn clients_that_wait_for_the_store_share_an_object() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    let server = Server::start_with_s3(&s3, &[("ACK", "stored"), ("STORED_LINGER", "500ms")]).await;
    let mut senders = JoinSet::new();
    for _ in 0..50 {
        let mut connection = server.connect().await;
        senders.spawn(async move {
            connection.write(&post("", b"{\"a\":1}")).await;
            let answer = connection.answer().await.expect("an answer");
            assert_eq!(answer.status, 200);
            answer.json()["object"].as_str().unwrap().to_owned()
        });
    }
    let mut objects = senders.join_all().await;
    objects.sort();
    objects.dedup();
    assert!(objects.len() <= 3, "{objects:?}");
    assert_eq!(s3.stats().stored, objects.len() as u64);
    assert_eq!(lines(&root.path().join("telemetry")).len(), 50);
}

#[tokio::test]
async fn after_ack_timeout_the_response_names_the_level_that_was_reached_and_the_receipt_can_be_looked_up() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    s3.faults().set(FaultPlan::always(Fault::Hang));
    let env = [("ACK", "stored"), ("ACK_TIMEOUT", "300ms"), ("STORED_LINGER", "10ms")];
    let server = Server::start_with_s3(&s3, &env).await;
    let answer = server.post_json("{\"a\":1}").await;
    assert_eq!((answer.status, &answer.json()["ack"]), (202, &"disk".into()));
    let receipt = answer.json()["job"].clone();
    assert_eq!(job(&server, &receipt, "?wait=0.1").await.1["state"], "spooled");
    // A client that disconnects loses nothing.
    let mut gone = server.connect().await;
    gone.write(&post("", b"{\"b\":1}")).await;
    server.metric_is("millpond_jobs_accepted_total", |jobs| jobs == 2.0).await;
    drop(gone);
    s3.faults().set(FaultPlan::none());
    assert_eq!(job(&server, &receipt, "?wait=30").await.1["state"], "stored");
    server.metric_is("millpond_jobs_stored_total", |jobs| jobs == 2.0).await;
}

#[tokio::test]
async fn in_memory_mode_a_request_can_ask_for_a_higher_level() {
    let mut server = Server::start(&[("ACK", "memory"), ("STORED_LINGER", "10ms")]).await;
    let plain = server.post_json("{\"n\":1}").await.json();
    assert_eq!((&plain["ack"], plain.get("job")), (&"memory".into(), None));
    for level in ["disk", "stored"] {
        let answer = server.send(&with_query(&format!("ack={level}"), "{\"n\":2}")).await;
        assert_eq!((answer.status, &answer.json()["ack"]), (200, &"stored".into()), "{level}");
    }
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(server.lines().len(), 3);
}

#[tokio::test]
async fn every_machine_can_look_up_every_job() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    let mut one = Server::start_with_s3(&s3, &[("S3_PREFIX", "p"), ("STORED_LINGER", "10ms")]).await;
    let receipt = one.send(&with_query("ack=stored", "{}")).await.json()["job"].clone();
    assert_eq!(one.stop().await, Some(0));
    // Another machine, with other settings.
    let two = Server::start_with_s3(&s3, &[("S3_PREFIX", "p"), ("COMPRESSION", "zstd")]).await;
    let (status, answer) = job(&two, &receipt, "").await;
    assert_eq!((status, &answer["state"]), (200, &"stored".into()));
    assert!(answer["object"].as_str().unwrap().starts_with("p/dt=2"), "{answer}");
    let segment = receipt.as_str().unwrap().split('.').next().unwrap().to_owned();
    assert_eq!(job(&two, &Value::from(format!("{segment}.1")), "").await.0, 404, "it has one job");
    let unknown = Value::from("01a1fb03-e91a-7614-9cd8-d700964ce482.0");
    assert_eq!(job(&two, &unknown, "").await.0, 404);
    for malformed in [
        "%ff%fe",
        "ffffffff-ffff-7fff-bfff-ffffffffffff.0",
        "x",
        "01a1fb03-e91a-7614-9cd8-d700964ce482",
        "01A1FB03-E91A-7614-9CD8-D700964CE482.0",
    ] {
        assert_eq!(job(&two, &Value::from(malformed), "").await.0, 400, "{malformed}");
    }
    assert_eq!(job(&two, &receipt, "?wait=soon").await.0, 400);
    s3.stop().await;
    let (status, answer) = job(&two, &unknown, "").await;
    assert_eq!(status, 503, "{answer}");
}

#[tokio::test]
async fn acknowledged_jobs_survive_kill_9_and_are_stored_by_the_next_process() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    let spool = tempfile::tempdir().unwrap();
    let spool_dir = spool.path().to_str().unwrap();
    let env = [("SPOOL_DIR", spool_dir), ("RECORD", "payload"), ("OBJECT_MAX_AGE", "1h")];
    let mut one = Server::start_with_s3(&s3, &env).await;
    let receipt = one.post_json("[{\"n\":1},{\"n\":2}]").await.json()["job"].clone();
    one.signal(Signal::KILL);
    assert_eq!(one.ended().await, None);
    assert_eq!(s3.stats().puts, 0);

    let mut two = Server::start_with_s3(&s3, &env).await;
    assert_eq!(job(&two, &receipt, "?wait=30").await.1["state"], "stored");
    assert_eq!(two.metric("millpond_payloads_accepted_total").await, 2.0, "adopted");
    assert_eq!(two.metric("millpond_payloads_stored_total").await, 2.0);
    assert_eq!(two.stop().await, Some(0));
    assert_eq!(lines(&root.path().join("telemetry")), ["{\"n\":1}", "{\"n\":2}"]);
    assert!(std::fs::read_dir(spool.path()).unwrap().next().is_none(), "the spool is empty");
}

#[tokio::test]
async fn a_shutdown_during_an_outage_of_the_store_keeps_jobs_for_the_next_start_and_exits_with_0() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    s3.faults().set(FaultPlan::always(Fault::Hang));
    let spool = tempfile::tempdir().unwrap();
    let env = [("SPOOL_DIR", spool.path().to_str().unwrap()), ("RECORD", "payload"), ("SHUTDOWN_GRACE", "300ms")];
    let mut one = Server::start_with_s3(&s3, &env).await;
    assert_eq!(one.post_json("{\"n\":1}").await.status, 202);
    assert_eq!(one.stop().await, Some(0));
    one.logged("kept in the spool").await;
    s3.faults().set(FaultPlan::none());
    // The next process adopts the folder.
    let mut two = Server::start_with_s3(&s3, &env).await;
    two.metric_is("millpond_jobs_stored_total", |jobs| jobs == 1.0).await;
    assert_eq!(two.stop().await, Some(0));
    assert_eq!(lines(&root.path().join("telemetry")), ["{\"n\":1}"]);
}

#[tokio::test]
async fn an_outage_of_the_store_fills_the_spool_up_to_its_bound_and_the_server_recovers() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    s3.faults().set(FaultPlan::always(Fault::InternalError));
    let spool = tempfile::tempdir().unwrap();
    let env = [
        ("SPOOL_DIR", spool.path().to_str().unwrap()),
        ("SPOOL_MAX_BYTES", "256KiB"),
        ("OBJECT_MAX_BYTES", "16KiB"),
        ("OBJECT_MAX_AGE", "1s"),
        ("COMPRESSION", "none"),
        ("RECORD", "payload"),
    ];
    let mut server = Server::start_with_s3(&s3, &env).await;
    let mut accepted = 0;
    let refused = loop {
        let answer = server.post_json(&format!("{{\"n\":{accepted},\"a\":\"{}\"}}", "x".repeat(1000))).await;
        if answer.status != 202 {
            break answer;
        }
        accepted += 1;
    };
    assert!(refused.refusal(503).contains("spool is full"));
    assert!(!refused.header("retry-after").is_empty());
    assert!(accepted > 150, "{accepted}");
    let on_disk: u64 = crate::support::files(spool.path()).iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(on_disk <= 256 * 1024, "{on_disk}");
    assert!(server.metric("millpond_spool_bytes").await <= 256.0 * 1024.0);
    let health = get(server.public, "/health").await.refusal(503);
    assert!(health.contains("spool is full") && !health.contains("the batch"), "{health}");
    for _ in 0..50 {
        assert_eq!(server.post_json("{}").await.status, 503);
    }
    assert_eq!(server.log().matches("the spool is full").count(), 1, "{}", server.log());
    assert!(server.ready().await.1.contains("spool full"));
    s3.faults().set(FaultPlan::none());
    until("space", async || server.post_json("{\"n\":-1}").await.status == 202).await;
    server.metric_is("millpond_jobs_waiting", |jobs| jobs <= 1.0).await;
    assert_eq!(server.stop().await, Some(0));
    let stored = lines(&root.path().join("telemetry"));
    for n in 0..accepted {
        assert_eq!(stored.iter().filter(|line| line.starts_with(&format!("{{\"n\":{n},"))).count(), 1);
    }
}

#[tokio::test]
async fn memory_mode_does_not_start_if_the_spool_holds_accepted_jobs() {
    let spool = tempfile::tempdir().unwrap();
    let env = [("SPOOL_DIR", spool.path().to_str().unwrap())];
    let mut server = Server::start(&env).await;
    assert_eq!(server.post_json("{}").await.status, 202);
    server.signal(Signal::KILL);
    assert_eq!(server.ended().await, None);
    let output = run(server.folder.path(), &[env[0], ("ACK", "memory")], &[]).await;
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("ACK=disk") && said.contains(env[0].1), "{said}");
}

#[tokio::test]
async fn a_commit_to_a_segment_whose_file_was_moved_fails() {
    let mut server = Server::start(&[("OBJECT_MAX_AGE", "1h")]).await;
    assert_eq!(server.post_json("{\"n\":1}").await.status, 202);
    let spool = server.folder.path().join("millpond-data/spool");
    let away = server.folder.path().join("away");
    std::fs::rename(&spool, &away).unwrap();
    assert!(server.post_json("{\"n\":2}").await.refusal(503).contains("commits to the spool fail"));
    std::fs::rename(&away, &spool).unwrap();
    until("service", async || server.post_json("{\"n\":3}").await.status == 202).await;
    assert_eq!(server.stop().await, Some(0));
    let lines = server.lines();
    assert!(lines.iter().any(|line| line.contains("{\"n\":1}")) && lines.iter().any(|line| line.contains("{\"n\":3}")));
}
