//! A server with a rollout to another one, and a proxy between them that can be slow, silent or rude.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::support::{Server, until};

/// A `ROLLOUT_FILE` in a folder of its own.
pub(crate) struct RolloutFile(TempDir);

impl RolloutFile {
    pub(crate) fn new(text: &str) -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        this.write(text);
        this
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("rollout.json")
    }

    /// Replaces the file atomically.
    pub(crate) fn write(&self, text: &str) {
        let new = self.0.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }

    pub(crate) async fn start(&self, env: &[(&str, &str)]) -> Server {
        let path = self.path();
        let own = [("ROLLOUT_FILE", path.to_str().unwrap()), ("RECORD", "payload")];
        Server::start(&own.into_iter().chain(env.iter().copied()).collect::<Vec<_>>()).await
    }

    /// Replaces the file, and waits until `server` has it in force.
    pub(crate) async fn put(&self, server: &Server, text: &str) {
        let count = || server.log().matches("rollout in force").count();
        let before = count();
        self.write(text);
        server.signal(Signal::HUP);
        until("the rollout is in force", async || count() > before).await;
    }
}

/// A rollout that copies everything to `to`.
pub(crate) fn mirror(to: SocketAddr) -> String {
    format!(r#"{{"mirror":{{"url":"http://{to}","percent":100}}}}"#)
}

/// A rollout that forwards a share to `to`.
pub(crate) fn forward(to: SocketAddr, percent: u32, by: &str) -> String {
    format!(r#"{{"forward":{{"url":"http://{to}","percent":{percent},"by":"{by}"}}}}"#)
}

/// An address at which nothing listens.
pub(crate) async fn unused() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// What the proxy does with what it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Pass,
    /// Each piece of a response waits so long.
    Delay(Duration),
    /// Requests are read, and there is never a response.
    Hang,
    /// The connection is closed when a request begins.
    Close,
}

/// A proxy for TCP.
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    mode: watch::Sender<Mode>,
    seen: Arc<Mutex<Vec<u8>>>,
    open: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    _running: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn to(server: SocketAddr, mode: Mode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (mode, modes) = watch::channel(mode);
        let (seen, open, most) = (Arc::default(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut running = JoinSet::new();
        let (log, count, max) = (Arc::clone(&seen), Arc::clone(&open), Arc::clone(&most));
        running.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                max.fetch_max(count.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let (count, log, modes) = (Arc::clone(&count), Arc::clone(&log), modes.clone());
                connections.spawn(async move {
                    carry(client, server, &log, modes).await;
                    count.fetch_sub(1, Ordering::SeqCst);
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { addr, mode, seen, open, most, _running: running }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// What clients have sent.
    pub(crate) fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock()).into_owned()
    }

    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// The most connections that were open at once.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

/// Carries bytes between a client and the server until either closes its connection.
async fn carry(mut client: TcpStream, server: SocketAddr, log: &Mutex<Vec<u8>>, modes: watch::Receiver<Mode>) {
    let Ok(mut upstream) = TcpStream::connect(server).await else { return };
    let (mut request, mut response) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    loop {
        tokio::select! {
            read = client.read(&mut request) => match read {
                Ok(0) | Err(_) => return,
                Ok(length) => {
                    let mode = *modes.borrow();
                    if mode == Mode::Close {
                        return;
                    }
                    log.lock().extend_from_slice(&request[..length]);
                    if mode != Mode::Hang && upstream.write_all(&request[..length]).await.is_err() {
                        return;
                    }
                }
            },
            read = upstream.read(&mut response) => match read {
                Ok(0) | Err(_) => return,
                Ok(length) => {
                    let mode = *modes.borrow();
                    if let Mode::Delay(time) = mode {
                        sleep(time).await;
                    }
                    if client.write_all(&response[..length]).await.is_err() {
                        return;
                    }
                }
            },
        }
    }
}
