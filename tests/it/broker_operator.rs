//! What operators of a fleet see: checks of the settings, reasons, and the state of the broker.

use std::fs;
use std::path::Path;

use millpond::config::EXIT_USAGE;
use rcgen::generate_simple_self_signed;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::nats::{Nats, batch, names, server, started};
use crate::support::{Server, get, run, until};

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The exit code and what the program says.
async fn output(env: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String) {
    let (folder, store) = (folder(), folder());
    let common = [("STORE_DIR", store.path().to_str().unwrap()), ("BROKER_MAX_BYTES", "1GiB")];
    let output = run(folder.path(), &[&common, env].concat(), arguments).await;
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn a_user_and_a_password_are_percent_decoded() {
    let nats = Nats::start_with(r#"authorization { user: "mp@x", password: "p@ss/w:rd%" }"#).await;
    let url = format!("nats://mp%40x:p%40ss%2Fw%3Ard%25@127.0.0.1:{}", nats.port);
    let server = server(&url, "all", &folder(), &[("RUST_LOG", "trace")]).await;
    until("the login is accepted", async || server.post_json(&batch("authorized")).await.status == 202).await;
    let log = server.log();
    assert!(!log.contains("p@ss/w:rd") && !log.contains("p%40ss"), "the password is in the log");
}

#[tokio::test]
async fn a_login_that_cannot_be_used_is_an_error() {
    let cases = [
        ("nats://secret-token@x:4222", "tokens are not supported"),
        ("nats://:secret@x:4222", "tokens are not supported"),
        ("nats://a:secret@x:4222,nats://b:secret@y:4222", "the same user and password"),
    ];
    for (url, expected) in cases {
        let (code, text) = output(&[("BROKER_URL", url)], &[]).await;
        assert_eq!(code, Some(i32::from(EXIT_USAGE)), "{url}: {text}");
        assert!(text.contains(expected) && !text.contains("secret"), "{url}: {text}");
    }
}

#[tokio::test]
async fn a_file_of_the_broker_that_cannot_be_used_is_an_error_that_names_its_setting() {
    let folder = folder();
    let (missing, garbage) = (folder.path().join("missing"), folder.path().join("garbage"));
    fs::write(&garbage, "secret-garbage").unwrap();
    for setting in ["BROKER_CREDENTIALS", "BROKER_CA"] {
        for (file, expected) in [(&missing, "No such file"), (&garbage, "expected")] {
            for arguments in [&[][..], &["check"]] {
                let env = [("BROKER_URL", "nats://127.0.0.1:1"), (setting, path(file))];
                let (code, text) = output(&env, arguments).await;
                assert_eq!(code, Some(i32::from(EXIT_USAGE)), "{setting}: {text}");
                assert!(text.contains(&format!("{setting}={}: {expected}", path(file))), "{text}");
                assert!(!text.contains("secret-garbage"), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn a_failed_tls_handshake_is_reported_with_its_cause_and_the_setting() {
    let folder = folder();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let (right, other) = (path(&certificate).to_owned(), folder.path().join("other.pem"));
    let signed = generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    fs::write(&certificate, signed.cert.pem()).unwrap();
    fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
    fs::write(&other, generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap().cert.pem()).unwrap();
    let nats = Nats::start_with(&format!("tls {{ cert_file: {certificate:?}, key_file: {key:?} }}")).await;
    let url = format!("tls://127.0.0.1:{}", nats.port);
    let wrong_ca = started(&url, "all", &folder, &[("BROKER_CA", path(&other))]).await;
    until("readiness has the cause", async || {
        let reasons = wrong_ca.ready().await.1;
        reasons.contains("invalid peer certificate") && reasons.contains("check BROKER_CA")
    })
    .await;
    assert!(wrong_ca.ready().await.1.contains(&format!("127.0.0.1:{}", nats.port)));
    let named_otherwise =
        started(&url.replace("127.0.0.1", "localhost"), "all", &folder, &[("BROKER_CA", &right)]).await;
    until("readiness has the cause", async || named_otherwise.ready().await.1.contains("not valid for name")).await;
    let plain = Nats::start().await;
    let plain = started(&plain.url().replace("nats:", "tls:"), "all", &folder, &[]).await;
    until("readiness has the cause", async || plain.ready().await.1.contains("the server does not speak TLS")).await;
    let trusted = server(&url, "all", &folder, &[("BROKER_CA", &right)]).await;
    until("TLS works", async || trusted.post_json(&batch("encrypted")).await.status == 202).await;
}

#[tokio::test]
async fn servers_without_jetstream_are_reported_with_what_to_do() {
    let nats = Nats::start_configured("listen: 127.0.0.1:-1\n").await;
    let server = started(&nats.url(), "all", &folder(), &[]).await;
    until("readiness says it", async || server.ready().await.1.contains("start the servers with JetStream")).await;
}

#[tokio::test]
async fn a_check_says_what_of_the_broker_cannot_be_used_and_leaves_nothing_there() {
    let nats = Nats::start().await;
    let url = nats.url();
    let env = [("BROKER_URL", url.as_str()), ("BROKER_REPLICAS", "1")];
    let (code, text) = output(&env, &["check"]).await;
    assert_eq!(code, Some(0), "{text}");
    let line =
        format!("Broker: stream millpond at 127.0.0.1:{}, replicas 1, limit 1073741824 bytes; it does", nats.port);
    assert!(text.contains(&line), "{text}");
    let client = async_nats::connect(&url).await.unwrap();
    assert!(async_nats::jetstream::new(client).get_stream("millpond").await.is_err());
    let (code, text) = output(&[("BROKER_URL", &url), ("BROKER_REPLICAS", "3")], &["check"]).await;
    assert!(code == Some(1) && text.contains("lower BROKER_REPLICAS"), "{text}");
    let _server = server(&url, "all", &folder(), &[]).await;
    until("the check finds the streams", async || output(&env, &["check"]).await.1.contains("segments to upload 0"))
        .await;
    let (code, text) = output(&[("BROKER_URL", "nats://u:secret@127.0.0.1:1")], &["check"]).await;
    assert!(code == Some(1) && text.contains("127.0.0.1:1") && text.contains("refused"), "{text}");
    assert!(!text.contains("secret"), "{text}");
}

/// A server with two users: `millpond` has every permission but one.
async fn server_that_denies(what: &str) -> Nats {
    let permissions = match what {
        "publish" => r#"publish: { deny: ["$JS.ACK.>"] }"#,
        _ => r#"subscribe: { deny: ["_INBOX_millpond.>"] }"#,
    };
    Nats::start_with(&format!(
        "authorization {{ users: [ {{ user: millpond, password: right, permissions: {{ {permissions} }} }} ] }}"
    ))
    .await
}

#[tokio::test]
async fn a_missing_permission_is_a_reason_against_readiness() {
    for (denied, expected) in [("publish", "$JS.ACK."), ("subscribe", "_INBOX_millpond.")] {
        let nats = server_that_denies(denied).await;
        let url = format!("nats://millpond:right@127.0.0.1:{}", nats.port);
        let server = started(&url, "all", &folder(), &[("OBJECT_MAX_AGE", "100ms")]).await;
        until("readiness names the subject", async || {
            server.post_json(&batch("denied")).await;
            let (status, reasons) = server.ready().await;
            let says_it = reasons.contains("lacks a permission") && reasons.contains(expected);
            status == 503 && says_it && reasons.contains("broker permission")
        })
        .await;
        if denied == "subscribe" {
            let (code, text) = output(&[("BROKER_URL", &url), ("BROKER_REPLICAS", "1")], &["check"]).await;
            assert!(code == Some(1) && text.contains("lacks a permission"), "{text}");
        }
    }
}

async fn status(server: &Server) -> serde_json::Value {
    get(server.admin, "/v1/status").await.json()
}

#[tokio::test]
async fn the_status_has_the_role_the_ack_level_and_the_broker_without_secrets() {
    let mut nats = Nats::start_with("authorization { user: millpond, password: secret }").await;
    let url = format!("nats://millpond:secret@127.0.0.1:{}", nats.port);
    let front = server(&url, "front", &folder(), &[("OBJECT_MAX_AGE", "100ms")]).await;
    until("a batch is accepted", async || front.post_json(&batch("waiting")).await.status == 202).await;
    until("the segment waits", async || status(&front).await["broker"]["segments_waiting"] == 1).await;
    let found = status(&front).await;
    assert_eq!((&found["settings"]["role"], &found["settings"]["ack"]), (&"front".into(), &"replicated".into()));
    let broker = &found["broker"];
    assert_eq!(broker["servers"][0], format!("127.0.0.1:{}", nats.port));
    assert_eq!((&broker["stream"], &broker["replicas"]), (&"millpond".into(), &1.into()));
    assert!(broker["is_connected"] == true && broker["bytes"].as_u64() > Some(0) && broker["max_bytes"] == 1 << 30);
    assert!(!found.to_string().contains("secret"), "{found}");
    nats.kill().await;
    until("the status says that it is away", async || status(&front).await["broker"]["is_connected"] == false).await;
    until("readiness names the server", async || {
        let reasons = front.ready().await.1;
        reasons.contains(r#""what":"broker""#) && reasons.contains(&format!("127.0.0.1:{}", nats.port))
    })
    .await;
    front.has_logged("the broker is failing").await;
    let rejected = front.post_json(&batch("rejected")).await.refusal(503);
    assert!(rejected.contains("broker") && !rejected.contains("127.0.0.1"), "{rejected}");
}

#[tokio::test]
async fn a_front_end_that_stops_says_that_its_jobs_are_in_the_broker() {
    let nats = Nats::start().await;
    let mut front = server(&nats.url(), "front", &folder(), &[("OBJECT_MAX_AGE", "1h")]).await;
    until("a batch is accepted", async || front.post_json(&batch("waiting")).await.status == 202).await;
    assert_eq!(front.stop().await, Some(0));
    let log = front.log();
    assert!(log.contains("accepted jobs are in the broker") && !log.contains("for the next start"), "{log}");
}

#[tokio::test]
async fn one_process_of_a_fleet_counts_a_job() {
    let (nats, store) = (Nats::start().await, folder());
    let worker = server(&nats.url(), "worker", &store, &[]).await;
    let front = server(&nats.url(), "front", &store, &[("OBJECT_MAX_AGE", "100ms")]).await;
    until("a batch is accepted", async || front.post_json(&batch("first")).await.status == 202).await;
    front.metric_is("millpond_jobs_stored_total", |stored| stored == 1.0).await;
    let mut gone = server(&nats.url(), "front", &store, &[("OBJECT_MAX_AGE", "1h")]).await;
    until("a batch is accepted", async || gone.post_json(&batch("second")).await.status == 202).await;
    gone.signal(Signal::KILL);
    gone.ended().await;
    until("both are stored", async || names(&store).len() == 2).await;
    worker.metric_is("millpond_jobs_stored_total", |stored| stored == 1.0).await;
    assert_eq!(worker.metric("millpond_jobs_accepted_total").await, 1.0);
    assert_eq!(front.metric("millpond_jobs_accepted_total").await, 1.0);
}

#[tokio::test]
async fn the_example_of_a_cluster_admits_only_who_has_its_passwords() {
    let example = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/nats/cluster.conf")).unwrap();
    // At the same time, so that they differ.
    let listeners = [(); 3].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = listeners.each_ref().map(|listener| listener.local_addr().unwrap().to_string());
    drop(listeners);
    let routes = addresses.each_ref().map(|address| format!("nats://route:between@{address}")).join(", ");
    let mut nodes = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        let replaced = [
            ("$HOSTNAME", format!("nats-{index}")),
            ("$BROKER_PASSWORD", "right".to_owned()),
            ("$ROUTE_PASSWORD", "between".to_owned()),
            ("$ROUTES", format!("[{routes}]")),
            ("0.0.0.0:4222", "127.0.0.1:-1".to_owned()),
            ("0.0.0.0:6222", address.clone()),
            ("127.0.0.1:8222", "127.0.0.1:-1".to_owned()),
            ("/data", "FOLDER/data".to_owned()),
        ];
        let text = replaced.iter().fold(example.clone(), |text, (before, after)| {
            assert!(text.contains(before), "{before}");
            text.replace(before, after)
        });
        nodes.push(Nats::start_configured(&text).await);
    }
    let port = nodes[0].port;
    let right = format!("nats://millpond:right@127.0.0.1:{port}");
    until("the cluster has a leader", async || output(&[("BROKER_URL", &right)], &["check"]).await.0 == Some(0)).await;
    let (code, text) = output(&[("BROKER_URL", &format!("nats://127.0.0.1:{port}"))], &["check"]).await;
    assert!(code == Some(1) && text.contains("authorization violation"), "{text}");
}
