//! A node of the broker: a `nats-server` with a folder and a configuration of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;

use super::disk::Disk;
use super::{Failure, Fleet};
use crate::client::{self, Target};
use crate::proof::testbed::Testbed;
use crate::server::{Program, Server};

/// The storage of a node. Streams reserve their limits.
const STORAGE: &str = "6GiB";

/// The name of a node's configuration.
const CONFIG: &str = "nats.conf";

/// The most bytes of an end of a segment, with its headers.
const END_MAX_BYTES: u64 = 1024;

/// How long a node may take for a response, and how often it is asked.
const RESPONSE_LIMIT: Duration = Duration::from_secs(2);
const ASK_EVERY: Duration = Duration::from_millis(100);

/// A node, which is away while it has no server.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    folder: PathBuf,
    program: Program,
    client: SocketAddr,
    cluster: SocketAddr,
    monitor: SocketAddr,
    starts: u32,
    /// Whether it syncs each write.
    syncs: bool,
    pub(super) server: Option<Server>,
    /// The disk of its streams, if its power can be cut. Dropped after the server.
    pub(super) disk: Option<Disk>,
}

/// What a node holds of a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(super) struct StreamState {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    #[serde(default)]
    pub(super) num_subjects: u64,
}

impl StreamState {
    /// Whether a stream of segments has nothing but the ends of segments, which have no payload.
    pub(super) fn has_only_ends(self) -> bool {
        self.messages == self.num_subjects && self.bytes <= self.messages * END_MAX_BYTES
    }
}

#[derive(Debug, Deserialize)]
struct JetStream {
    #[serde(default)]
    account_details: Vec<Account>,
}

#[derive(Debug, Deserialize)]
struct Account {
    #[serde(default)]
    stream_detail: Vec<Stream>,
}

#[derive(Debug, Deserialize)]
struct Stream {
    name: String,
    cluster: Option<Replicas>,
    state: StreamState,
}

#[derive(Debug, Deserialize)]
struct Replicas {
    leader: Option<String>,
}

impl Node {
    /// A cluster of nodes that are not started yet.
    /// Errors: no free ports, or the configurations cannot be written.
    pub(super) fn cluster(fleet: &Fleet, testbed: &Testbed<'_>) -> anyhow::Result<Vec<Self>> {
        let mut ports = free_ports(fleet.nodes as usize * 3)?.into_iter();
        let mut port = || ports.next().context("too few ports");
        let mut nodes = Vec::new();
        for name in fleet.node_names() {
            let [mut client, mut cluster, mut monitor] = [port()?, port()?, port()?];
            if let Some(network) = &testbed.network {
                let address = network.address(&name)?.into();
                for own in [&mut client, &mut cluster, &mut monitor] {
                    own.set_ip(address);
                }
            }
            let folder = testbed.path(&name);
            let args = vec!["--config".into(), folder.join(CONFIG).into()];
            let program = Program { path: fleet.nats.clone(), args, env: Vec::new(), log: None };
            let program = testbed.on_host(&name, program)?;
            let (starts, syncs, server, disk) = (0, !fleet.no_sync, None, None);
            nodes.push(Self { name, folder, program, client, cluster, monitor, starts, syncs, server, disk });
        }
        let routes: Vec<_> = nodes.iter().map(|node| format!("nats://{}", node.cluster)).collect();
        for node in &mut nodes {
            std::fs::create_dir(&node.folder)?;
            std::fs::write(node.folder.join(CONFIG), node.configuration(&routes))?;
            if fleet.failures.contains(&Failure::PowerCut) {
                node.disk = Some(Disk::mount(&node.store())?);
            }
        }
        Ok(nodes)
    }

    fn store(&self) -> PathBuf {
        self.folder.join("jetstream")
    }

    fn configuration(&self, routes: &[String]) -> String {
        let Self { name, client, cluster, monitor, .. } = self;
        let (store, sync) = (self.store(), if self.syncs { "sync_interval: always" } else { "" });
        let mut text = format!(
            "server_name: {name}\nlisten: \"{client}\"\nhttp: \"{monitor}\"\n\
             jetstream {{\n  store_dir: {store:?}\n  {sync}\n  max_file_store: {STORAGE}\n}}\n"
        );
        // A cluster of one has no majority to wait for.
        if let [_, _, ..] = routes {
            let routes = routes.join(", ");
            text += &format!("cluster {{\n  name: fleet\n  listen: \"{cluster}\"\n  routes: [{routes}]\n}}\n");
        }
        text
    }

    /// For `BROKER_URL`.
    pub(super) fn url(&self) -> String {
        format!("nats://{}", self.client)
    }

    /// Starts the process.
    pub(super) async fn spawn(&mut self) -> anyhow::Result<()> {
        self.starts += 1;
        let log = self.folder.join(format!("{}.log", self.starts));
        self.server = Some(Server::spawn(&Program { log: Some(log), ..self.program.clone() }).await?);
        Ok(())
    }

    /// Waits until its streams are as those of the other nodes. Starts it again if it has exited, because an outgoing connection
    /// may have got one of its ports.
    pub(super) async fn healthy(&mut self, limit: Duration) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let mut last = "no response".to_owned();
        while start.elapsed() < limit {
            if let Some(server) = &mut self.server {
                tokio::select! {
                    status = server.ended() => {
                        last = format!("exited with {}", status?);
                        self.server = None;
                    }
                    () = tokio::time::sleep(ASK_EVERY) => {}
                }
            } else {
                self.spawn().await?;
            }
            match self.get("/healthz").await {
                Ok((200, _)) => return Ok(start.elapsed()),
                Ok((status, body)) => last = format!("{status} {}", body.trim()),
                Err(_) => {}
            }
        }
        bail!("{} is not healthy after {limit:?}: {last}", self.name)
    }

    /// What it holds of a stream, and whether it leads the stream; `None` if it has no such stream.
    pub(super) async fn stream(&self, name: &str) -> anyhow::Result<Option<(StreamState, bool)>> {
        let (status, body) = self.get("/jsz?streams=true").await?;
        if status != 200 {
            bail!("{}: GET /jsz: {status}", self.name);
        }
        let state: JetStream = serde_json::from_str(&body).with_context(|| format!("reading /jsz of {}", self.name))?;
        let mut streams = state.account_details.into_iter().flat_map(|account| account.stream_detail);
        // A node alone has no cluster.
        let leads =
            |cluster: Option<Replicas>| cluster.is_none_or(|replicas| replicas.leader.as_ref() == Some(&self.name));
        Ok(streams.find(|stream| stream.name == name).map(|stream| (stream.state, leads(stream.cluster))))
    }

    async fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let target = Target::from(self.monitor);
        Ok(tokio::time::timeout(RESPONSE_LIMIT, client::get(&target, path, None)).await??)
    }
}

/// Ports of the loopback address that are free now.
fn free_ports(count: usize) -> std::io::Result<Vec<SocketAddr>> {
    // All are bound at the same time, so that they differ.
    let listeners: Result<Vec<_>, _> = (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect();
    listeners?.iter().map(TcpListener::local_addr).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_only_ends(messages: u64, bytes: u64, num_subjects: u64) -> bool {
        StreamState { messages, bytes, num_subjects }.has_only_ends()
    }

    #[test]
    fn a_frame_beside_the_ends_or_in_the_place_of_one_is_noticed() {
        assert!(has_only_ends(0, 0, 0));
        assert!(has_only_ends(417, 417 * 200, 417));
        assert!(!has_only_ends(418, 418 * 200, 417));
        assert!(!has_only_ends(1, END_MAX_BYTES + 1, 1));
    }
}
