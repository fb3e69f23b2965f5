//! Requests that a web page of another origin sends.

use crate::support::Server;

#[tokio::test]
async fn a_web_page_of_another_origin_may_send_only_where_a_setting_or_a_token_says_so() {
    let cross = ["Origin: http://elsewhere\r\n", "Origin: null\r\n", "Sec-Fetch-Site: cross-site\r\n"];
    // The Host is `x`, a name that its owner may point anywhere.
    let rebound = ["Origin: http://x\r\n", "Sec-Fetch-Site: same-origin\r\nOrigin: http://x\r\n"];
    let same = ["Origin: http://127.0.0.1\r\n", "Sec-Fetch-Site: same-origin\r\nOrigin: http://127.0.0.1\r\n"];
    let mut server = Server::start(&[("RECORD", "payload")]).await;
    for headers in cross.iter().chain(&rebound) {
        assert!(server.post(headers, b"{}").await.refusal(403).contains("ALLOWED_ORIGINS"), "{headers}");
    }
    assert_eq!(server.post("", b"{}").await.status, 202);
    for headers in same {
        let request = format!("POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}Content-Length: 2\r\n\r\n{{}}");
        assert_eq!(server.send(request.as_bytes()).await.status, 202, "{headers}");
    }
    let refused = "millpond_requests_total{outcome=\"cross_origin\",route=\"payloads\"}";
    assert_eq!(server.metric(refused).await, 5.0);
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(server.lines().len(), 1 + same.len());

    let server = Server::start(&[("ALLOWED_ORIGINS", "https://a.example:443, http://elsewhere:80, http://x")]).await;
    for headers in [cross[0], rebound[0], rebound[1], "Origin: https://a.example\r\n"] {
        assert_eq!(server.post(headers, b"{}").await.status, 202, "{headers}");
    }
    server.post("Origin: http://b.example\r\n", b"{}").await.refusal(403);
    let server = Server::start(&[("ALLOWED_ORIGINS", "*")]).await;
    for headers in cross {
        assert_eq!(server.post(headers, b"{}").await.status, 202, "{headers}");
    }
}
