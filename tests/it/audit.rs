//! The audit log.

use rustix::process::Signal;

use crate::support::{Server, get, post, until};
use crate::tokens::TokensFile;

fn audited(server: &Server) -> Vec<String> {
    server.log().lines().filter(|line| line.contains("millpond::audit")).map(str::to_owned).collect()
}

#[tokio::test]
async fn each_401_and_403_is_logged_with_address_tenant_and_request_id_but_without_the_token() {
    let file = TokensFile::new(&[("acme", &["s3cret-known"], "{}")]);
    let mut server = file.start(&[("ACK_MAX", "disk"), ("RUST_LOG", "warn,millpond::audit=info,millpond=info")]).await;
    let rejected = server.post("X-Request-Id: first\r\n", b"{}").await;
    assert_eq!(rejected.status, 401);
    server.logged("request_id=\"first\"").await;
    let rejected = server.post("X-Request-Id: second\r\nAuthorization: Bearer s3cret-guess\r\n", b"{}").await;
    assert_eq!(rejected.status, 403);
    server.logged("request_id=\"second\"").await;
    let request = "POST /?ack=stored HTTP/1.1\r\nHost: x\r\nX-Request-Id: third\r\nX-Api-Key: s3cret-known\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(server.send(request.as_bytes()).await.status, 403);
    server.logged("request_id=\"third\"").await;
    assert_eq!(server.post("X-Api-Key: s3cret-known\r\n", b"{}").await.status, 202);
    let lines = audited(&server);
    assert_eq!(lines.len(), 3, "{lines:?}");
    for (line, status) in lines.iter().zip(["status=401", "status=403", "status=403"]) {
        assert!(line.contains("INFO") && line.contains("client=127.0.0.1") && line.contains(status), "{line}");
    }
    assert!(lines.last().unwrap().contains("tenant=\"acme\""), "{lines:?}");
    assert!(!server.log().contains("s3cret"));
}

#[tokio::test]
async fn a_flood_of_rejections_is_throttled_and_hides_no_other_kind() {
    const ATTEMPTS: u64 = 200;
    let file = TokensFile::new(&[("acme", &["t"], "{}")]);
    let mut server = file.start(&[]).await;
    let began = std::time::Instant::now();
    let mut connection = server.connect().await;
    for n in 0..ATTEMPTS {
        connection.write(&post(&format!("X-Api-Key: guess-{n}\r\n"), b"{}")).await;
        assert_eq!(connection.answer().await.unwrap().status, 403);
    }
    let most = began.elapsed().as_secs() + 1;
    assert_eq!(get(server.public, "/v1/jobs/x").await.status, 401);
    server.logged("status=401").await;
    let guesses = audited(&server).iter().filter(|line| line.contains("status=403")).count() as u64;
    assert!((1..=most).contains(&guesses), "{guesses} lines about {ATTEMPTS} guesses");
    // The next line contains the number of suppressed lines.
    let mut sent = ATTEMPTS;
    until("a line that counts", async || {
        assert_eq!(server.post("X-Api-Key: guess\r\n", b"{}").await.status, 403);
        sent += 1;
        let lines = audited(&server);
        let told = lines.iter().filter(|line| line.contains("status=403")).map(|line| {
            let (_, count) = line.split_once("suppressed=").unwrap();
            1 + count.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        });
        told.sum::<u64>() >= ATTEMPTS
    })
    .await;
    assert!(sent >= ATTEMPTS);
}

#[tokio::test]
async fn a_requested_reload_and_its_result_are_audited() {
    let file = TokensFile::new(&[("acme", &["t"], "{}")]);
    let mut server = file.start(&[]).await;
    server.signal(Signal::HUP);
    server.logged("reloaded files").await;
    let lines = audited(&server);
    assert!(lines.iter().any(|line| line.contains("SIGHUP: reloading")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("tokens.json") && line.contains("is_requested=true")), "{lines:?}");
}
