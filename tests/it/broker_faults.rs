//! Appends to the broker whose acknowledgement is late, lost, or never sent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::nats::{Nats, batch, names, server};
use crate::support::{Server, until};

/// What a link does with the bytes of its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    /// Bytes of the broker are kept back.
    HoldReplies,
    /// Bytes in both directions are kept back.
    HoldAll,
    /// Connections are closed at once. What was kept back is lost.
    Cut,
}

/// A network link to the broker.
struct Link {
    addr: SocketAddr,
    mode: watch::Sender<Mode>,
    _connections: JoinSet<()>,
}

impl Link {
    async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mode = watch::Sender::new(Mode::Pass);
        let modes = mode.clone();
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let modes = modes.subscribe();
                connections.spawn(async move {
                    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    let mut cut = modes.clone();
                    tokio::select! {
                        () = copy(from_client, to_server, modes.clone(), &[Mode::HoldAll]) => {}
                        () = copy(from_server, to_client, modes, &[Mode::HoldAll, Mode::HoldReplies]) => {}
                        _ = cut.wait_for(|mode| *mode == Mode::Cut) => {}
                    }
                });
            }
        });
        Self { addr, mode, _connections: accepting }
    }

    fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn copy(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    mut modes: watch::Receiver<Mode>,
    holding: &[Mode],
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if modes.wait_for(|mode| !holding.contains(mode)).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// A front end behind a link, and a broker that other processes reach directly.
struct Scene {
    nats: Nats,
    link: Link,
    store: TempDir,
    front: Arc<Server>,
}

impl Scene {
    async fn start(ack_timeout: &str) -> Self {
        let nats = Nats::start().await;
        let link = Link::to(nats.port).await;
        let store = tempfile::tempdir().unwrap();
        let url = format!("nats://{}", link.addr);
        let env = [("OBJECT_MAX_AGE", "1h"), ("ACK_TIMEOUT", ack_timeout)];
        let front = Arc::new(server(&url, "front", &store, &env).await);
        Self { nats, link, store, front }
    }

    async fn worker(&self) -> Server {
        server(&self.nats.url(), "worker", &self.store, &[]).await
    }

    /// Posts a batch in the background. Returns the status.
    fn post(&self, name: &str) -> JoinSet<u16> {
        let (front, body) = (Arc::clone(&self.front), batch(name));
        let mut posting = JoinSet::new();
        posting.spawn(async move { front.post_json(&body).await.status });
        posting
    }

    /// Waits until the broker has so many messages with frames.
    async fn broker_has(&self, messages: u64) {
        let client = async_nats::connect(self.nats.url()).await.unwrap();
        let jetstream = async_nats::jetstream::new(client);
        until("the broker has the message", async || {
            let stream = jetstream.get_stream("millpond").await.unwrap();
            stream.cached_info().state.messages == messages
        })
        .await;
    }

    /// Stops the front end, and waits until a worker has stored exactly these batches, each once.
    async fn ends_with(self, expected: &[&str]) {
        let mut front = Arc::into_inner(self.front).expect("no request is on its way");
        assert_eq!(front.stop().await, Some(0));
        let _worker = server(&self.nats.url(), "worker", &self.store, &[]).await;
        let stored = || {
            let mut names = names(&self.store);
            names.retain(|name| name != "ignored");
            names.sort_unstable();
            names
        };
        until("all batches are stored", async || stored().len() >= expected.len()).await;
        // A second copy would be in a segment that was sealed before, and is uploaded soon after.
        sleep(Duration::from_secs(2)).await;
        assert_eq!(stored(), expected);
    }
}

#[tokio::test]
async fn an_append_whose_acknowledgement_is_lost_is_accepted_and_stored_once() {
    let scene = Scene::start("30s").await;
    assert_eq!(scene.post("1-before").join_next().await.unwrap().unwrap(), 202);
    scene.link.set(Mode::HoldReplies);
    let mut in_doubt = scene.post("2-in-doubt");
    scene.broker_has(2).await;
    scene.link.set(Mode::Cut);
    scene.link.set(Mode::Pass);
    assert_eq!(in_doubt.join_next().await.unwrap().unwrap(), 202, "the repeated append is recognized");
    drop(in_doubt);
    scene.ends_with(&["1-before", "2-in-doubt"]).await;
}

#[tokio::test]
async fn an_append_in_doubt_is_found_in_the_segment_that_a_reaper_has_ended() {
    let scene = Scene::start("60s").await;
    assert_eq!(scene.post("1-before").join_next().await.unwrap().unwrap(), 202);
    scene.link.set(Mode::HoldReplies);
    let mut in_doubt = scene.post("2-in-doubt");
    scene.broker_has(2).await;
    scene.link.set(Mode::Cut);
    let worker = scene.worker().await;
    worker.metric_is("millpond_segments_adopted_total", |adopted| adopted == 1.0).await;
    until("the segment is stored", async || names(&scene.store).len() == 2).await;
    scene.link.set(Mode::Pass);
    assert_eq!(in_doubt.join_next().await.unwrap().unwrap(), 202);
    drop(in_doubt);
    drop(worker);
    scene.ends_with(&["1-before", "2-in-doubt"]).await;
}

#[tokio::test]
async fn an_append_that_arrives_after_the_end_of_its_segment_goes_to_another_segment() {
    let scene = Scene::start("60s").await;
    assert_eq!(scene.post("1-before").join_next().await.unwrap().unwrap(), 202);
    scene.link.set(Mode::HoldAll);
    let mut late = scene.post("2-late");
    let worker = scene.worker().await;
    worker.metric_is("millpond_segments_adopted_total", |adopted| adopted == 1.0).await;
    until("the segment is stored", async || names(&scene.store).len() == 1).await;
    scene.link.set(Mode::Pass);
    assert_eq!(late.join_next().await.unwrap().unwrap(), 202);
    drop(late);
    drop(worker);
    scene.ends_with(&["1-before", "2-late"]).await;
}

#[tokio::test]
async fn a_batch_in_doubt_at_the_timeout_is_a_503_that_says_so_and_later_batches_are_accepted() {
    let scene = Scene::start("2s").await;
    assert_eq!(scene.post("1-before").join_next().await.unwrap().unwrap(), 202);
    scene.link.set(Mode::HoldReplies);
    let answer = scene.front.post_json(&batch("2-in-doubt")).await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("may be stored"), "{}", answer.text());
    scene.link.set(Mode::Pass);
    // Those that are rejected may be stored as well.
    until("a batch is accepted", async || scene.front.post_json(&batch("ignored")).await.status == 202).await;
    assert_eq!(scene.front.post_json(&batch("3-after")).await.status, 202);
    scene.ends_with(&["1-before", "2-in-doubt", "3-after"]).await;
}
