//! An S3 server that says what a test has it say, and counts what it is asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::support::{Server, until};

/// The answer to a request by its first line; none leaves it unanswered.
type Script = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

pub(crate) struct ScriptedS3 {
    pub(crate) addr: SocketAddr,
    calls: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<()>,
}

impl ScriptedS3 {
    pub(crate) async fn start(script: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (calls, script): (Arc<Mutex<Vec<String>>>, Script) = (Arc::default(), Arc::new(script));
        let (heard, mut serving) = (Arc::clone(&calls), JoinSet::new());
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&script), Arc::clone(&heard)));
            }
        });
        Self { addr, calls, _serving: serving }
    }

    /// The first lines of the requests that hold `text`.
    pub(crate) fn calls(&self, text: &str) -> Vec<String> {
        self.calls.lock().unwrap().iter().filter(|line| line.contains(text)).cloned().collect()
    }

    /// What a server needs to use this one.
    pub(crate) fn env(&self) -> Vec<(String, String)> {
        let endpoint = format!("http://{}", self.addr);
        [
            ("S3_BUCKET", "telemetry"),
            ("S3_PREFIX", "fleet"),
            ("AWS_ENDPOINT_URL_S3", endpoint.as_str()),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// A server on this store that has asked for the bucket already.
    pub(crate) async fn server(&self, env: &[(&str, &str)]) -> Server {
        let own = self.env();
        let both: Vec<_> = own.iter().map(|(k, v)| (k.as_str(), v.as_str())).chain(env.iter().copied()).collect();
        let server = Server::start(&both).await;
        until("the bucket's head", async || !self.calls("").is_empty()).await;
        server
    }
}

async fn serve(stream: TcpStream, script: Script, calls: Arc<Mutex<Vec<String>>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (Vec::new(), 0);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or_default() == 0 {
                return;
            }
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            head.push(line);
        }
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let line = head.first().map(|line| line.trim().to_owned()).unwrap_or_default();
        calls.lock().unwrap().push(line.clone());
        match script(&line) {
            Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
            None => std::future::pending().await,
        }
    }
}

/// An answer with S3's error document; of a HEAD without.
pub(crate) fn answer(line: &str, status: &str, headers: &str, code: &str) -> Option<String> {
    let body = if code.is_empty() || line.starts_with("HEAD") {
        String::new()
    } else {
        format!("<Error><Code>{code}</Code><Message>said so</Message></Error>")
    };
    Some(format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()))
}

/// A listing without objects.
pub(crate) fn empty_listing() -> Option<String> {
    let body = "<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>";
    Some(format!("HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
}
