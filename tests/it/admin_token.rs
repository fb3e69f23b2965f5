//! Access to the admin listener.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

use crate::support::{Answer, Connection, Server, run};

const TOKEN: &str = "correct-horse-battery";

async fn get(server: &Server, path: &str, headers: &str) -> Answer {
    get_from(server, 1, path, headers).await
}

/// Sends a request from 127.0.0.`client`.
async fn get_from(server: &Server, client: u8, path: &str, headers: &str) -> Answer {
    let host = if headers.contains("Host:") { "" } else { "Host: x\r\n" };
    let mut connection = connect_from(server, client).await;
    connection.write(format!("GET {path} HTTP/1.1\r\n{host}{headers}Connection: close\r\n\r\n").as_bytes()).await;
    connection.answer().await.expect("an answer")
}

async fn connect_from(server: &Server, client: u8) -> Connection {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, client], 0))).unwrap();
    Connection(socket.connect((Ipv4Addr::LOCALHOST, server.admin.port()).into()).await.unwrap())
}

#[tokio::test]
async fn every_admin_route_except_live_requires_the_token() {
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
    // Each from its own address, because wrong tokens of one address are limited.
    for (path, client) in
        ["/metrics", "/ready", "/live/", "//live", "/nowhere", "/metrics?live=/live"].into_iter().zip(2..)
    {
        for headers in &wrong {
            let answer = get_from(&server, client, path, headers).await;
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
async fn an_admin_address_other_than_loopback_requires_a_token() {
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

#[tokio::test]
async fn wrong_tokens_are_limited_per_address_and_the_right_token_is_always_accepted() {
    let mut server = Server::start(&[("ADMIN_ADDR", "0.0.0.0:0"), ("ADMIN_TOKEN", TOKEN)]).await;
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    let mut connection = connect_from(&server, 2).await;
    let mut statuses = Vec::new();
    for n in 0..200 {
        let guess = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer guess-number-{n:04}\r\n\r\n");
        connection.write(guess.as_bytes()).await;
        statuses.push(connection.answer().await.unwrap());
    }
    let refused = statuses.iter().filter(|answer| answer.status == 429).count();
    assert!(refused >= 100 && statuses.iter().all(|answer| [401, 429].contains(&answer.status)), "{refused}");
    assert!(
        statuses.iter().filter(|answer| answer.status == 429).all(|answer| !answer.header("retry-after").is_empty())
    );
    assert_eq!(get_from(&server, 2, "/metrics", &right).await.status, 200, "another client may share the address");
    let guess = get_from(&server, 2, "/metrics", "Authorization: Bearer guess-number-0200\r\n").await;
    assert_eq!(guess.status, 429, "the right token does not reset the count");
    let metrics = get_from(&server, 3, "/metrics", &right).await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.text().contains("\nmillpond_admin_token_failures_total 201\n"));
    server.logged("missing or wrong ADMIN_TOKEN").await;
    assert!(server.log().contains("127.0.0.2") && !server.log().contains("guess-number"), "{}", server.log());
    assert!(server.log().matches("missing or wrong ADMIN_TOKEN").count() <= 3, "{}", server.log());
}

#[tokio::test]
async fn without_a_token_a_host_name_is_rejected() {
    let server = Server::start(&[]).await;
    for host in ["evil.example", "evil.example:9090", "127.0.0.1.evil.example", ""] {
        for path in ["/metrics", "/ready", "/"] {
            let answer = get(&server, path, &format!("Host: {host}\r\n")).await;
            assert_eq!(answer.status, 421, "{host} {path}");
        }
    }
    let absolute = format!("http://evil.example:{}/metrics", server.admin.port());
    assert_eq!(get(&server, &absolute, "Host: localhost\r\n").await.status, 421);
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1:9090", "[::1]:9090", "192.0.2.1"] {
        assert_eq!(get(&server, "/ready", &format!("Host: {host}\r\n")).await.status, 200, "{host}");
    }
    assert_eq!(get(&server, "/live", "").await.status, 200);
}

#[tokio::test]
async fn the_token_can_be_in_a_file_whose_content_is_never_logged() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let env = [("ADMIN_ADDR", "0.0.0.0:0"), ("ADMIN_TOKEN_FILE", file.to_str().unwrap())];
    let server = Server::start(&env).await;
    assert_eq!(get(&server, "/ready", &format!("Authorization: Bearer {TOKEN}\r\n")).await.status, 200);
    assert_eq!(get(&server, "/ready", "").await.status, 401);

    let refused = async |env: &[(&str, &str)], text: &str| {
        for arguments in [&[][..], &["--check"]] {
            let output = run(folder.path(), env, arguments).await;
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(64), "{said}");
            assert!(said.contains("ADMIN_TOKEN_FILE") && said.contains(text) && !said.contains("horse"), "{said}");
        }
    };
    refused(&[env[0], env[1], ("ADMIN_TOKEN", TOKEN)], "both set").await;
    refused(&[env[0], ("ADMIN_TOKEN_FILE", "./none")], "cannot be read").await;
    std::fs::write(&file, "correct horse battery").unwrap();
    refused(&env, "expected at least 16").await;
}
