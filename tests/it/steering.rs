//! Nothing that a sender writes steers an object's key, a file's name or a line of the log.

use crate::support::{Server, files};

/// What would end a line, move a cursor or climb out of a folder.
const NASTY: [&str; 5] = ["../../../evil", "/etc/evil", "evil\\u001b[2J", "evil\\nERROR forged", "..%2f..%2fevil"];

#[tokio::test]
async fn no_path_token_or_header_steers_a_key_a_file_name_or_a_log_line() {
    let mut server = Server::start(&[("RUST_LOG", "debug")]).await;
    let mut accepted = 0;
    for nasty in NASTY {
        let headers = format!("X-Request-Id: {}\r\nX-Forwarded-For: {nasty}\r\n", nasty.replace('\\', "_"));
        let envelope =
            format!("{{\"token\":\"{nasty}\",\"version\":\"{nasty}\",\"{nasty}\":1,\"data\":[{{\"{nasty}\":1}}]}}");
        accepted += usize::from(server.post(&headers, envelope.as_bytes()).await.status == 202);
        // Refused, with the same words in places that a refusal quotes or might.
        for body in [
            format!("{{\"data\":[\"{nasty}\"]}}"),
            format!("{{\"token\":1,\"token\":\"{nasty}\",\"data\":[{{}}]}}"),
            nasty.to_owned(),
        ] {
            assert_eq!(server.post(&headers, body.as_bytes()).await.status, 400, "{body}");
        }
        for line in [
            format!("GET /v1/jobs/{} HTTP/1.1\r\nHost: x\r\n\r\n", nasty.replace('\\', "%5C")),
            format!(
                "POST /{}?ack={} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
                nasty.replace('\\', "%5C"),
                "%0aERROR"
            ),
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/\x1b[2Jevil\r\nContent-Length: 0\r\n\r\n".to_owned(),
            "POST / HTTP/1.1\r\nHost: x\r\nX-Request-Id: \x1b[2Jevil\tERROR\r\nContent-Length: 1\r\n\r\n{".to_owned(),
        ] {
            let answer = server.send(line.as_bytes()).await;
            assert!((400..500).contains(&answer.status), "{line}: {}", answer.status);
        }
    }
    assert_eq!(accepted, NASTY.len());
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(server.lines().len(), accepted);
    for path in files(server.folder.path()) {
        let path = path.strip_prefix(server.folder.path()).unwrap().to_str().unwrap();
        assert!(path.starts_with("millpond-data/") && !path.contains("evil"), "{path}");
    }
    let log = server.log();
    assert!(log.contains("refused"));
    for line in log.lines() {
        // Each line is one of ours: it begins with its time.
        assert!(line.starts_with("20") && !line.contains(|c: char| c.is_control()), "{line:?}");
        assert!(!line.contains("forged") || line.contains("request_id"), "{line:?}");
    }
}
