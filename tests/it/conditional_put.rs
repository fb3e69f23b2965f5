//! `S3_IF_NONE_MATCH`: off for stores that lack conditional writes.

use std::sync::{Arc, Mutex};

use loadtest::s3::{Fault, FaultPlan, S3Server};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::support::{Server, lines};

/// A store that lacks conditional writes: it answers 501 to a PUT with a condition, and takes any other one.
struct Unconditional {
    endpoint: String,
    /// The heads of the PUTs, in lower case.
    puts: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<()>,
}

impl Unconditional {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let puts = Arc::default();
        let (mut serving, seen) = (JoinSet::new(), Arc::clone(&puts));
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(BufReader::new(stream), Arc::clone(&seen)));
            }
        });
        Self { endpoint, puts, _serving: serving }
    }

    async fn server(&self, if_none_match: &str) -> Server {
        Server::start(&[
            ("AWS_ENDPOINT_URL_S3", &self.endpoint),
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "b"),
            ("AWS_REGION", "us-east-1"),
            ("S3_BUCKET", "telemetry"),
            ("S3_IF_NONE_MATCH", if_none_match),
            ("OBJECT_MAX_AGE", "20ms"),
        ])
        .await
    }

    fn puts(&self) -> Vec<String> {
        self.puts.lock().unwrap().clone()
    }
}

async fn serve(mut stream: BufReader<TcpStream>, puts: Arc<Mutex<Vec<String>>>) {
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if !matches!(stream.read_line(&mut head).await, Ok(1..)) {
                return;
            }
        }
        head.make_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        stream.read_exact(&mut body).await.unwrap();
        let status = match (head.starts_with("put "), head.contains("\r\nif-none-match:")) {
            (true, true) => "501 Not Implemented",
            (true, false) => "200 OK",
            // As to a role that may only put objects.
            (false, _) => "403 Forbidden",
        };
        if head.starts_with("put ") {
            puts.lock().unwrap().push(head);
        }
        let answer = format!("HTTP/1.1 {status}\r\nETag: \"e\"\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn off_sends_no_condition_so_that_a_store_without_conditional_writes_takes_the_object() {
    let store = Unconditional::start().await;
    let mut server = store.server("off").await;
    assert_eq!(server.post_json("{\"n\":1}").await.status, 202);
    server.metric_is("millpond_jobs_stored_total", |jobs| jobs == 1.0).await;
    assert_eq!(server.stop().await, Some(0));
    let puts = store.puts();
    assert!(puts.len() == 1 && !puts[0].contains("if-none-match"), "{puts:?}");
}

#[tokio::test]
async fn on_sends_the_condition_and_such_a_store_is_answered_with_a_hint_at_the_setting() {
    let store = Unconditional::start().await;
    let mut server = store.server("on").await;
    assert_eq!(server.post_json("{\"n\":1}").await.status, 202);
    server.logged("S3_IF_NONE_MATCH=off").await;
    assert!(store.puts().iter().all(|put| put.contains("\r\nif-none-match: *\r\n")), "{:?}", store.puts());
    assert_eq!(server.metric("millpond_jobs_stored_total").await, 0.0);
}

#[tokio::test]
async fn a_put_that_is_repeated_without_a_condition_stores_nothing_twice() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    // Every other PUT is carried out and not answered.
    s3.faults().set(FaultPlan::share(0.5, [Fault::DropAfter]).unwrap());
    let env = [("S3_IF_NONE_MATCH", "off"), ("RECORD", "payload"), ("OBJECT_MAX_BYTES", "1")];
    let mut server = Server::start_with_s3(&s3, &env).await;
    let mut all: Vec<String> = (0..10).map(|n| format!("{{\"n\":{n}}}")).collect();
    for payload in &all {
        assert_eq!(server.post_json(payload).await.status, 202);
    }
    server.metric_is("millpond_jobs_stored_total", |jobs| jobs == 10.0).await;
    assert!(s3.stats().faults["drop-after"] > 0);
    assert_eq!(server.stop().await, Some(0));
    let mut stored = lines(&root.path().join("telemetry"));
    stored.sort();
    all.sort();
    assert_eq!(stored, all);
}
