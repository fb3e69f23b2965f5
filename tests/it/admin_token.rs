//! The admin listener's token.

use tokio::net::TcpStream;

use crate::support::{Answer, Connection, Server, run};

const TOKEN: &str = "correct-horse-battery";

async fn get(server: &Server, path: &str, headers: &str) -> Answer {
    let addr = (std::net::Ipv4Addr::LOCALHOST, server.admin.port());
    let mut connection = Connection(TcpStream::connect(addr).await.unwrap());
    connection.write(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}Connection: close\r\n\r\n").as_bytes()).await;
    connection.answer().await.expect("an answer")
}

#[tokio::test]
async fn every_admin_route_but_live_asks_for_the_token() {
    let mut server = Server::start(&[("ADMIN_ADDR", "0.0.0.0:0"), ("ADMIN_TOKEN", TOKEN), ("RUST_LOG", "debug")]).await;
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    let wrong = [
        String::new(),
        "Authorization: Bearer\r\n".to_owned(),
        "Authorization: Bearer \r\n".to_owned(),
        format!("Authorization: Bearer {TOKEN}x\r\n"),
        format!("Authorization: Bearer {}\r\n", &TOKEN[1..]),
        format!("Authorization: Basic {TOKEN}\r\n"),
        format!("Authorization: {TOKEN}\r\n"),
        format!("X-Api-Key: {TOKEN}\r\n"),
    ];
    for path in ["/metrics", "/ready", "/live/", "//live", "/nowhere", "/metrics?live=/live"] {
        for headers in &wrong {
            let answer = get(&server, path, headers).await;
            assert_eq!(answer.status, 401, "{path} {headers}");
            assert!(answer.header("www-authenticate").starts_with("Bearer"));
        }
    }
    assert_eq!(get(&server, "/live", "").await.status, 200);
    assert_eq!(get(&server, "/metrics", &right).await.status, 200);
    assert_eq!(get(&server, "/ready", &right.replace("Bearer", "bearer")).await.status, 200);
    assert_eq!(get(&server, "/nowhere", &right).await.status, 404);
    assert_eq!(server.stop().await, Some(0));
    assert!(!server.log().contains(TOKEN), "{}", server.log());
}

#[tokio::test]
async fn beyond_loopback_there_is_no_admin_listener_without_a_token() {
    let folder = tempfile::tempdir().unwrap();
    for addr in ["0.0.0.0:0", "[::]:0", "192.0.2.1:9090"] {
        let output = run(folder.path(), &[("ADMIN_ADDR", addr)], &[]).await;
        assert_eq!(output.status.code(), Some(64), "{addr}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("ADMIN_TOKEN is not set"));
    }
    for token in ["hunter2", "with spaces in between"] {
        let output = run(folder.path(), &[("ADMIN_ADDR", "0.0.0.0:0"), ("ADMIN_TOKEN", token)], &[]).await;
        assert_eq!(output.status.code(), Some(64));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("ADMIN_TOKEN: expected at least 16") && !said.contains(token), "{said}");
    }
}
