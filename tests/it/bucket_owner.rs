//! `S3_EXPECTED_BUCKET_OWNER`.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{PATIENCE, Server, get, run};

const OWNER: &str = "111122223333";

/// A server that says yes to everything, and tells the head of every request.
async fn recorder(listener: TcpListener, heads: mpsc::UnboundedSender<String>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(record_one(stream, heads.clone()));
    }
}

async fn record_one(mut stream: TcpStream, heads: mpsc::UnboundedSender<String>) {
    let (mut seen, mut chunk) = (Vec::new(), [0; 4096]);
    let end = loop {
        if let Some(end) = seen.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(read) => seen.extend_from_slice(&chunk[..read]),
        }
    };
    let head = String::from_utf8(seen.drain(..end).collect()).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length = length.map_or(0, |length| length.parse().unwrap());
    while seen.len() < length {
        let read = stream.read(&mut chunk).await.unwrap();
        seen.extend_from_slice(&chunk[..read]);
    }
    let _: Result<(), _> = heads.send(head);
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await.unwrap();
}

#[tokio::test]
async fn every_call_names_the_account_that_the_bucket_must_belong_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, mut heads) = mpsc::unbounded_channel();
    let mut serving = JoinSet::new();
    serving.spawn(recorder(listener, sender));
    let folder = tempfile::tempdir().unwrap();
    let env = [
        ("S3_BUCKET", "telemetry"),
        ("AWS_ENDPOINT_URL_S3", endpoint.as_str()),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("S3_EXPECTED_BUCKET_OWNER", OWNER),
    ];
    // It puts an object, reads it back and deletes it. That it is not read back is not what this is about.
    run(folder.path(), &env, &["--check"]).await;
    // The server looks for the bucket, and for the object of a receipt.
    let server = Server::start(&env).await;
    assert_eq!(get(server.public, "/v1/jobs/01a1fb03-e91a-7614-9cd8-d700964ce482.0").await.status, 200);
    let mut missing =
        vec!["put /telemetry/", "get /telemetry/", "delete /telemetry/", "head /telemetry", "head /telemetry/dt"];
    while !missing.is_empty() {
        let head = timeout(PATIENCE, heads.recv()).await.unwrap_or_else(|_| panic!("not called: {missing:?}")).unwrap();
        assert!(head.contains(&format!("x-amz-expected-bucket-owner: {OWNER}")), "{head}");
        let is_object = head.starts_with("head /telemetry/dt");
        missing.retain(|call| !head.starts_with(call) || (*call == "head /telemetry" && is_object));
    }
}

#[tokio::test]
async fn an_owner_that_is_no_account_id_or_has_no_bucket_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ([("S3_BUCKET", "telemetry"), ("S3_EXPECTED_BUCKET_OWNER", "arn:aws:iam::111122223333:root")], "12 digits"),
        ([("ACK", "disk"), ("S3_EXPECTED_BUCKET_OWNER", OWNER)], "S3_BUCKET is not"),
    ];
    for (env, what) in cases {
        let output = run(folder.path(), &env, &[]).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(said.contains(what), "{said}");
    }
}
