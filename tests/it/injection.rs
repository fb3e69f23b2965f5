//! Clients cannot inject text into log lines, object keys or file names.

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::support::{Server, files, get};

/// Text with a special meaning in logs, shells or paths.
const HOSTILE: [&str; 9] = [
    "\u{1b}[2J\u{1b}[31mred",
    "x\r\n2026-01-01T00:00:00Z ERROR forged: everything is lost",
    "x\n{\"level\":\"ERROR\",\"message\":\"forged\"}",
    "\u{9b}31m\u{85}\u{2028}x",
    "../../../../etc/passwd",
    "..%2f..%2fetc/passwd",
    "..\\..\\x\0.gz",
    "\",\"forged\":\"x",
    "$(reboot)`reboot`%s%n{}",
];

/// Headers that a server may interpret.
const HEADERS: [&str; 8] = [
    "X-Request-Id",
    "X-Forwarded-For",
    "Content-Type",
    "Content-Encoding",
    "Authorization",
    "X-Api-Key",
    "Host",
    "User-Agent",
];

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// Sends each text in every part of a request.
async fn send_everywhere(server: &Server) {
    for hostile in HOSTILE {
        let escaped = percent(hostile);
        for path in [format!("/{escaped}"), format!("/v1/jobs/{escaped}"), format!("/v1/jobs/x?wait={escaped}")] {
            assert!((400..500).contains(&get(server.public, &path).await.status), "{path}");
        }
        let json = serde_json::Value::from(hostile).to_string();
        let bodies = [
            format!("{{\"token\":{json},\"version\":{json},{json}:{json},\"data\":[{{{json}:{json}}}]}}"),
            format!("{{\"data\":[{{{json}:tru}}]}}"),
            format!("{{\"data\":[{{}}],\"data\":{json}}}"),
            hostile.to_owned(),
        ];
        for body in bodies {
            let status = server.post_json(&body).await.status;
            assert!(matches!(status, 202 | 400), "{status} {body}");
        }
        // As bytes of a header: hyper rejects it, or it has no effect.
        for name in HEADERS {
            let head = format!("POST /v1/payloads?ack={escaped} HTTP/1.1\r\nHost: x\r\n{name}: {hostile}\r\n");
            let request = [head.as_bytes(), b"Content-Length: 2\r\n\r\n{}"].concat();
            let status = server.send(&request).await.status;
            assert!((400..500).contains(&status), "{status} {name}: {hostile:?}");
        }
        for start in [format!("GET /{hostile} HTTP/1.1"), format!("{hostile} / HTTP/1.1"), hostile.to_owned()] {
            let mut connection = server.connect().await;
            connection.write(format!("{start}\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await;
            if let Some(answer) = connection.answer().await {
                assert!((400..500).contains(&answer.status), "{start:?}");
            }
        }
        let stream = TokioIo::new(TcpStream::connect(server.public).await.unwrap());
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(connection);
        let request = hyper::Request::post(format!("http://x/{escaped}")).body(Full::<Bytes>::default()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 404);
    }
}

#[tokio::test]
async fn clients_cannot_forge_log_lines() {
    for format in ["text", "json"] {
        let mut server = Server::start(&[("RUST_LOG", "debug"), ("LOG_FORMAT", format)]).await;
        send_everywhere(&server).await;
        assert_eq!(server.stop().await, Some(0));
        server.logged("all accepted jobs are stored").await;
        let log = server.log();
        assert!(log.contains("request rejected"), "rejections are logged");
        for line in log.lines() {
            assert!(!line.contains(char::is_control), "{line:?}");
            assert!(!line.contains(['\u{2028}', '\u{2029}']), "{line:?}");
            if format == "json" {
                let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
                assert_ne!(line["level"], "ERROR", "{line}");
                assert!(line["forged"].is_null() && line["fields"]["forged"].is_null(), "{line}");
            } else {
                assert!(line.starts_with("20"), "not a line of the server: {line}");
                assert!(!line.contains(" ERROR "), "{line}");
            }
        }
    }
}

#[tokio::test]
async fn clients_cannot_influence_keys_and_file_names() {
    let mut server = Server::start(&[("OBJECT_MAX_BYTES", "1"), ("S3_PREFIX", "p")]).await;
    send_everywhere(&server).await;
    server.metric_is("millpond_jobs_waiting", |jobs| jobs == 0.0).await;
    assert_eq!(server.stop().await, Some(0));
    let all = files(server.folder.path());
    assert!(server.objects().len() >= HOSTILE.len());
    for file in all {
        let name = file.strip_prefix(server.folder.path()).unwrap().to_str().unwrap();
        let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.=".contains(c);
        assert!(name.starts_with("millpond-data/") && name.chars().all(plain) && !name.contains(".."), "{name}");
        if let Some(key) = name.strip_prefix("millpond-data/objects/p/") {
            // dt=2026-11-20/hr=13/<uuid>.ndjson.gz
            let shape: String = key.chars().map(|c| if c.is_ascii_hexdigit() { '0' } else { c }).collect();
            assert_eq!(shape, "0t=0000-00-00/hr=00/00000000-0000-0000-0000-000000000000.n0json.gz", "{key}");
        }
    }
}
