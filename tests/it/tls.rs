//! TLS on the public listener, and the reload of certificates.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::generate_simple_self_signed;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use crate::drain::draining;
use crate::support::{Connection, PATIENCE, Server, post, run, until};

const ALL: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];

/// The files of a certificate for `localhost` and its key.
pub(crate) struct Pair {
    _folder: TempDir,
    cert: PathBuf,
    key: PathBuf,
}

impl Pair {
    pub(crate) fn new() -> (Self, CertificateDer<'static>) {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let pair = Self { _folder: folder, cert, key };
        let der = pair.renew();
        (pair, der)
    }

    /// Writes another certificate and key to the files.
    fn renew(&self) -> CertificateDer<'static> {
        let made = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&self.key, made.signing_key.serialize_pem()).unwrap();
        std::fs::write(&self.cert, made.cert.pem()).unwrap();
        made.cert.der().clone()
    }

    pub(crate) fn env(&self) -> [(&str, &str); 2] {
        [("TLS_CERT", text(&self.cert)), ("TLS_KEY", text(&self.key))]
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn start(pair: &Pair, env: &[(&str, &str)]) -> Server {
    Server::start(&[&pair.env(), env].concat()).await
}

/// Connects to a server whose certificate is `cert`.
async fn secure(
    server: &Server,
    cert: &CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    handshake(TcpStream::connect(server.public).await?, cert, versions, protocols).await
}

async fn handshake(
    stream: TcpStream,
    cert: &CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(cert.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

async fn connect(server: &Server, cert: &CertificateDer<'static>) -> Connection<TlsStream<TcpStream>> {
    Connection(secure(server, cert, ALL, &[]).await.unwrap())
}

/// Sends a batch over HTTP/2 and returns the status.
async fn post_h2(stream: TlsStream<TcpStream>) -> u16 {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let request = hyper::Request::post("https://localhost/v1/payloads").body(Full::new(Bytes::from("{}"))).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let status = answer.status().as_u16();
    answer.into_body().collect().await.unwrap();
    status
}

#[tokio::test]
async fn a_handshake_that_a_shutdown_interrupts_goes_on() {
    let (pair, cert) = Pair::new();
    let mut server = start(&pair, &[]).await;
    let stream = server.connect().await.0;
    server.metric_is("millpond_connections", |open| open == 1.0).await;
    server.signal(Signal::TERM);
    draining(&server).await;
    let mut connection = Connection(handshake(stream, &cert, ALL, &[]).await.unwrap());
    connection.write(&post("", b"{}")).await;
    let answer = connection.answer().await.expect("a response");
    assert_eq!((answer.status, answer.header("connection")), (202, "close"));
    drop(connection);
    assert_eq!(server.ended().await, Some(0));
}

#[tokio::test]
async fn both_tls_versions_work_and_alpn_negotiates_http_2() {
    let (pair, cert) = Pair::new();
    let mut server = start(&pair, &[]).await;
    for version in ALL {
        for protocols in [&[][..], &["http/1.1"], &["h2", "http/1.1"], &["h2"]] {
            let stream = secure(&server, &cert, &[version], protocols).await.unwrap();
            let (_, tls) = stream.get_ref();
            assert_eq!(tls.protocol_version(), Some(version.version));
            assert_eq!(tls.alpn_protocol(), protocols.first().map(|protocol| protocol.as_bytes()));
            if protocols.first() == Some(&"h2") {
                assert_eq!(post_h2(stream).await, 202);
            } else {
                let mut connection = Connection(stream);
                for _ in 0..2 {
                    connection.write(&post("", b"{}")).await;
                    assert_eq!(connection.answer().await.expect("an answer").status, 202);
                }
            }
        }
        // HTTP/2 with prior knowledge works as without TLS.
        assert_eq!(post_h2(secure(&server, &cert, &[version], &[]).await.unwrap()).await, 202);
    }
    let nothing_in_common = secure(&server, &cert, ALL, &["spdy/3"]).await;
    nothing_in_common.expect_err("no protocol is agreed on");
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(server.lines().len(), 14);
}

#[tokio::test]
async fn a_new_certificate_is_loaded_without_dropping_connections() {
    let (pair, first) = Pair::new();
    let mut server = start(&pair, &[]).await;
    let mut old = connect(&server, &first).await;
    old.write(&post("", b"{}")).await;
    assert_eq!(old.answer().await.unwrap().status, 202);

    let second = pair.renew();
    server.signal(Signal::HUP);
    until("the new certificate", async || secure(&server, &second, ALL, &[]).await.is_ok()).await;
    secure(&server, &first, ALL, &[]).await.expect_err("the old certificate is gone");
    old.write(&post("", b"{}")).await;
    assert_eq!(old.answer().await.unwrap().status, 202, "the connection is still open");

    // The same without a signal.
    let third = pair.renew();
    until("the new certificate", async || secure(&server, &third, ALL, &[]).await.is_ok()).await;
    old.write(&post("", b"{}")).await;
    assert_eq!(old.answer().await.unwrap().status, 202);

    // An invalid certificate is not loaded.
    let line = "MC4CAQAwBQYDK2VwBCIEIHd3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3";
    std::fs::write(&pair.key, format!("-----BEGIN PRIVATE KEY-----\n{line}\n-----END PRIVATE WHAT-----\n")).unwrap();
    server.signal(Signal::HUP);
    server.logged("keeping the previous version").await;
    assert!(server.log().contains("expected an unencrypted private key in PEM"), "{}", server.log());
    assert!(!server.log().contains(line) && !server.log().contains("WHAT"), "the key is not logged");
    connect(&server, &third).await;
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(server.lines().len(), 3);
}

#[tokio::test]
async fn an_invalid_certificate_or_key_is_an_error_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let ((pair, _), (other, _)) = (Pair::new(), Pair::new());
    let (cert, key) = (text(&pair.cert), text(&pair.key));
    let bad: [(&[(&str, &str)], &str); 6] = [
        (&[("TLS_CERT", cert)], "set both, or neither"),
        (&[("TLS_KEY", key)], "set both, or neither"),
        (&[("TLS_CERT", "nowhere.pem"), ("TLS_KEY", key)], "TLS_CERT=nowhere.pem: No such file"),
        (&[("TLS_CERT", key), ("TLS_KEY", key)], "expected a certificate"),
        (&[("TLS_CERT", cert), ("TLS_KEY", cert)], "expected an unencrypted private key"),
        (&[("TLS_CERT", cert), ("TLS_KEY", text(&other.key))], "do not match"),
    ];
    for (env, said) in bad {
        for arguments in [&[][..], &["--check"]] {
            let output = run(folder.path(), env, arguments).await;
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(64), "{env:?} {stderr}");
            assert!(stderr.contains(said), "{env:?} {stderr}");
            assert!(!stderr.contains("listening"), "{stderr}");
        }
    }
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "no directory was created");
}

#[tokio::test]
async fn a_stalled_handshake_releases_its_permit() {
    let (pair, cert) = Pair::new();
    let server = start(&pair, &[("MAX_CONNECTIONS", "1"), ("HEADER_TIMEOUT", "100ms")]).await;
    for start in [&b""[..], b"\x16\x03\x01\x01\x00\x01\x00\x00\xfc\x03\x03"] {
        let mut stalled = server.connect().await;
        stalled.write(start).await;
        assert!(stalled.closed().await);
    }
    until("a free permit", async || {
        let mut connection = connect(&server, &cert).await;
        // Until then the server sends a rejection and closes the connection, which may be before it is written to.
        connection.0.write_all(&post("", b"{}")).await.is_ok()
            && connection.answer().await.is_some_and(|answer| answer.status == 202)
    })
    .await;
    assert_eq!(server.metric("millpond_connections_failed_total").await, 2.0);
}

/// Sends a batch over TLS and stops the server. The batch must be stored.
async fn store_one_and_stop(mut server: Server, cert: &CertificateDer<'static>) {
    let mut connection = connect(&server, cert).await;
    connection.write(&post("", b"{}")).await;
    assert_eq!(connection.answer().await.unwrap().status, 202);
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(server.lines().len(), 1);
}

#[tokio::test]
async fn a_stalled_handshake_does_not_delay_the_shutdown() {
    let (pair, cert) = Pair::new();
    let server = start(&pair, &[("HEADER_TIMEOUT", "1h"), ("SHUTDOWN_GRACE", "1h")]).await;
    let _stalled = server.connect().await;
    store_one_and_stop(server, &cert).await;
}

#[tokio::test]
async fn a_connection_without_tls_is_closed_and_does_not_affect_others() {
    let (pair, cert) = Pair::new();
    let mut server = start(&pair, &[("RUST_LOG", "millpond=debug")]).await;
    let noise: Vec<u8> = (0..20_000_u32).map(|n| (n * 7919 % 251) as u8).collect();
    for garbage in [post("X-Secret: hush\r\n", b"{}"), b"\x16\x03\x01\xff\xff".to_vec(), noise] {
        let mut connection = server.connect().await;
        connection.write(&garbage).await;
        // A TLS alert may precede the end, but no HTTP.
        let mut said = Vec::new();
        let _: Result<_, _> = connection.0.read_to_end(&mut said).await;
        assert!(said.len() <= 7 && !said.starts_with(b"HTTP"), "{}", said.escape_ascii());
    }
    server.logged("failed before its first request").await;
    assert!(!server.log().contains("hush"));
    store_one_and_stop(server, &cert).await;
}

#[tokio::test]
async fn a_connection_above_the_limit_is_rejected_within_tls_over_http_1() {
    let (pair, cert) = Pair::new();
    let server = start(&pair, &[("MAX_CONNECTIONS", "1")]).await;
    let mut first = connect(&server, &cert).await;
    first.write(&post("", b"{}")).await;
    assert_eq!(first.answer().await.unwrap().status, 202);
    let stream = secure(&server, &cert, ALL, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let refused = Connection(stream).answer().await.expect("an answer");
    assert!(refused.refusal(503).contains("too many connections"));
}

#[tokio::test]
async fn a_tls_connection_that_does_not_read_responses_is_closed() {
    let (pair, cert) = Pair::new();
    let server = start(&pair, &[("IDLE_TIMEOUT", "300ms")]).await;
    let mut deaf = connect(&server, &cert).await;
    let requests = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    let flood = async { while deaf.0.write_all(&requests).await.is_ok() {} };
    timeout(PATIENCE, flood).await.expect("the server closes");
    server.metric_is("millpond_connections", |open| open == 0.0).await;
}

#[tokio::test]
async fn a_tls_connection_ends_with_close_notify_after_its_last_response() {
    let (pair, cert) = Pair::new();
    let server = start(&pair, &[("MAX_BODY_BYTES", "64KiB"), ("IDLE_TIMEOUT", "200ms")]).await;
    let mut idle = connect(&server, &cert).await;
    let mut rest = Vec::new();
    idle.0.read_to_end(&mut rest).await.expect("a close_notify, else this is an error");
    assert!(rest.is_empty());
    // The response precedes the body, and the client continues to send.
    let mut large = connect(&server, &cert).await;
    large.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8388608\r\n\r\n").await;
    large.write(&vec![b'x'; 8 << 20]).await;
    assert_eq!(large.answer().await.expect("an answer").status, 413);
    large.0.read_to_end(&mut rest).await.expect("a close_notify");
}
