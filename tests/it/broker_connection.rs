//! The first contact with the servers of the broker: TLS, their version, and a cluster that is not complete.

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::nats::{Nats, batch, started};
use crate::support::{Server, run, until};
use crate::tls::Pair;
use crate::two_versions::unused;

async fn front(url: &str, store: &TempDir, env: &[(&str, &str)]) -> Server {
    started(url, "front", store, env).await
}

/// The first bytes of a server without TLS.
fn info(version: &str) -> String {
    format!(
        "INFO {{\"server_id\":\"x\",\"version\":\"{version}\",\"proto\":1,\"host\":\"x\",\"port\":1,\"headers\":true,\"max_payload\":1048576,\"jetstream\":true}}\r\n"
    )
}

#[tokio::test]
async fn tls_is_required_and_the_certificate_is_verified_with_the_authority_of_the_setting() {
    let ((pair, _), (other, _)) = (Pair::new(), Pair::new());
    let ([(_, cert), (_, key)], [(_, other_cert), _]) = (pair.env(), other.env());
    let secure = Nats::start_with(&format!("tls {{ cert_file: {cert:?}, key_file: {key:?} }}")).await;
    let plain = Nats::start().await;
    let store = tempfile::tempdir().unwrap();
    let url = |nats: &Nats| format!("tls://localhost:{}", nats.port);
    let right = front(&url(&secure), &store, &[("BROKER_CA", cert)]).await;
    assert_eq!(right.post_json(&batch("encrypted")).await.status, 202);
    for (url, ca) in [(url(&secure), Some(other_cert)), (url(&secure), None), (url(&plain), Some(cert))] {
        let env: Vec<_> = ca.map(|ca| ("BROKER_CA", ca)).into_iter().collect();
        let wrong = front(&url, &store, &env).await;
        assert_eq!(wrong.post_json(&batch("rejected")).await.status, 503, "{url} {ca:?}");
        until("readiness says what to check", async || {
            let text = wrong.ready().await.1;
            text.contains("BROKER_CA") || text.contains("TLS")
        })
        .await;
    }
}

#[tokio::test]
async fn the_password_is_not_sent_to_a_server_without_tls_if_another_one_has_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let closed = unused().await.port();
    let url = format!("tls://user:secret-password@127.0.0.1:{closed},nats://127.0.0.1:{port}");
    let mut first_byte = JoinSet::new();
    first_byte.spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        client.write_all(info("2.15.1").as_bytes()).await.unwrap();
        client.read_u8().await.unwrap()
    });
    let store = tempfile::tempdir().unwrap();
    let _front = front(&url, &store, &[]).await;
    assert_eq!(first_byte.join_next().await.unwrap().unwrap(), 0x16, "it begins a TLS handshake, not with CONNECT");
}

async fn old_server(mut client: TcpStream) {
    client.write_all(info("2.10.29").as_bytes()).await.unwrap();
    let mut buffer = [0; 4096];
    while let Ok(1..) = client.read(&mut buffer).await {
        if client.write_all(b"PONG\r\n").await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_server_that_is_too_old_is_an_error_that_names_both_versions() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let mut connections = JoinSet::new();
    connections.spawn(async move {
        loop {
            old_server(listener.accept().await.unwrap().0).await;
        }
    });
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&[][..], &["--check"]] {
        let output = run(folder.path(), &[("BROKER_URL", &url)], arguments).await;
        let log = String::from_utf8(output.stderr).unwrap();
        assert_ne!(output.status.code(), Some(0));
        assert!(log.contains("2.10.29") && log.contains("2.14 or later"), "{arguments:?}: {log}");
    }
}

#[tokio::test]
async fn a_process_that_starts_before_all_servers_of_a_cluster_waits_for_them() {
    let ports = [unused().await.port(), unused().await.port(), unused().await.port()];
    // The third one is not known to the others yet.
    let routes = format!("nats://127.0.0.1:{}, nats://127.0.0.1:{}", ports[0], ports[1]);
    let node = |number: usize| {
        let port = ports[number];
        format!("server_name: n{number}\ncluster {{ name: test, listen: \"127.0.0.1:{port}\", routes: [{routes}] }}")
    };
    let _second = Nats::start_with(&node(1)).await;
    let first = Nats::start_with(&node(0)).await;
    let store = tempfile::tempdir().unwrap();
    let front = front(&first.url(), &store, &[("BROKER_REPLICAS", "3")]).await;
    until("readiness says what is missing", async || front.ready().await.1.contains("start 3 servers")).await;
    let _third = Nats::start_with(&node(2)).await;
    until("the batch is accepted", async || front.post_json(&batch("replicated")).await.status == 202).await;
}
