//! An S3 server that responds as a test's script says, and records the requests.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::support::{Server, until};

/// The response to a request, by its head. None leaves the request without a response.
type Script = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

pub(crate) struct ScriptedS3 {
    pub(crate) addr: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<()>,
}

impl ScriptedS3 {
    pub(crate) async fn start(script: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (heads, script): (Arc<Mutex<Vec<String>>>, Script) = (Arc::default(), Arc::new(script));
        let (recorded, mut serving) = (Arc::clone(&heads), JoinSet::new());
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&script), Arc::clone(&recorded)));
            }
        });
        Self { addr, heads, _serving: serving }
    }

    /// The heads of the requests that contain `text`.
    pub(crate) fn requests(&self, text: &str) -> Vec<String> {
        self.heads.lock().unwrap().iter().filter(|head| head.contains(text)).cloned().collect()
    }

    /// The settings of a server that uses this store.
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

    /// A server on this store that has sent the HEAD of the bucket.
    pub(crate) async fn server(&self, env: &[(&str, &str)]) -> Server {
        let own = self.env();
        let all: Vec<_> = own.iter().map(|(k, v)| (k.as_str(), v.as_str())).chain(env.iter().copied()).collect();
        let server = Server::start(&all).await;
        until("the HEAD of the bucket", async || !self.requests("").is_empty()).await;
        server
    }
}

async fn serve(stream: TcpStream, script: Script, heads: Arc<Mutex<Vec<String>>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if !matches!(stream.read_line(&mut head).await, Ok(1..)) {
                return;
            }
        }
        let length =
            head.to_ascii_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or_default()];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        heads.lock().unwrap().push(head.clone());
        match script(&head) {
            Some(response) => stream.write_all(response.as_bytes()).await.unwrap(),
            None => std::future::pending().await,
        }
    }
}

/// A response with an error document of S3, if there is a code and the request is not a HEAD.
pub(crate) fn response(head: &str, status: &str, headers: &str, code: &str) -> Option<String> {
    let body = if code.is_empty() || head.starts_with("HEAD") {
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
