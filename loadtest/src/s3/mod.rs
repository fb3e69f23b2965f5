//! An S3 server in this process that can be told to go wrong.
//!
//! Over a folder, s3s and s3s-fs speak the protocol and check the signatures. In memory it does no more than a PUT takes,
//! so that beside a server under test it hardly counts. What stands before either injects the faults.

mod fault;
mod memory;
mod service;
mod stats;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{BehaviorVersion, Region};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

pub use self::fault::{Fault, FaultPlan, Faults};
pub use self::memory::Memory;
pub use self::stats::Stats;

use self::service::{Keeper, Shared};
use self::stats::Counters;

/// The region that the server is said to be in.
pub const REGION: &str = "us-east-1";

/// What a client signs its requests with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// As `AWS_ACCESS_KEY_ID`.
    pub access_key: String,
    /// As `AWS_SECRET_ACCESS_KEY`.
    pub secret_key: String,
}

impl Credentials {
    /// Well-known nonsense: it guards nothing, and it has to be the same after a restart.
    fn example() -> Self {
        Self {
            access_key: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
        }
    }
}

/// A running server. Dropping it stops it, without waiting for its tasks; [`stop`](Self::stop) waits.
pub struct S3Server {
    addr: SocketAddr,
    bucket: String,
    credentials: Credentials,
    shared: Arc<Shared>,
    /// The one task that accepts, which owns those of the connections.
    accepting: JoinSet<()>,
}

impl S3Server {
    /// Serves the folder `root`, which is made if need be, with `bucket` in it, on a free port of the loopback.
    ///
    /// # Errors
    ///
    /// The folder cannot be made or the address cannot be bound.
    pub async fn start(root: &Path, bucket: &str) -> anyhow::Result<Self> {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), root, bucket).await
    }

    /// The same on a given address, so that a stopped server can be started again where its clients look for it.
    ///
    /// # Errors
    ///
    /// The folder cannot be made or the address cannot be bound.
    pub async fn start_on(listen: SocketAddr, root: &Path, bucket: &str) -> anyhow::Result<Self> {
        let folder = root.join(bucket);
        tokio::fs::create_dir_all(&folder).await.with_context(|| format!("making the bucket {}", folder.display()))?;
        let files = FileSystem::new(root).map_err(|wrong| anyhow::anyhow!("opening {}: {wrong:?}", root.display()))?;
        let credentials = Credentials::example();
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(&*credentials.access_key, &*credentials.secret_key));
        Self::listen(listen, bucket, credentials, Keeper::Folder(builder.build())).await
    }

    /// Serves `bucket` out of this process's memory, which takes objects of up to `limit` bytes in all, on a free port of
    /// the loopback. Signatures are not checked. Knows PUT, GET and HEAD of an object and HEAD of the bucket; for what is
    /// there, ask [`memory`](Self::memory).
    ///
    /// # Errors
    ///
    /// The address cannot be bound.
    pub async fn start_in_memory(bucket: &str, limit: usize) -> anyhow::Result<Self> {
        let keeper = Keeper::Memory(Arc::new(Memory::new(bucket, limit)));
        Self::listen(SocketAddr::from(([127, 0, 0, 1], 0)), bucket, Credentials::example(), keeper).await
    }

    async fn listen(
        listen: SocketAddr,
        bucket: &str,
        credentials: Credentials,
        keeper: Keeper,
    ) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            keeper,
            faults: Faults::new(),
            counters: Counters::default(),
            writes: TaskTracker::new(),
            writing: Mutex::new(HashSet::new()),
        });
        let listener = TcpListener::bind(listen).await.with_context(|| format!("binding {listen}"))?;
        let addr = listener.local_addr()?;
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { addr, bucket: bucket.to_owned(), credentials, shared, accepting })
    }

    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URL it answers at, as `AWS_ENDPOINT_URL_S3` wants it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The bucket it was started with.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The one pair of keys it takes.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The environment that points a millpond, or any program with an AWS SDK, at this server.
    pub fn env(&self) -> Vec<(String, String)> {
        [
            ("S3_BUCKET", self.bucket.clone()),
            ("AWS_ENDPOINT_URL_S3", self.endpoint()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", self.credentials.access_key.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.credentials.secret_key.clone()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// A client of the real SDK for this server, which does not retry.
    pub fn client(&self) -> Client {
        let keys = &self.credentials;
        let provider = aws_sdk_s3::config::Credentials::new(&keys.access_key, &keys.secret_key, None, None, "loadtest");
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static(REGION))
            .endpoint_url(self.endpoint())
            .credentials_provider(provider)
            .force_path_style(true)
            .retry_config(RetryConfig::disabled())
            .build();
        Client::from_conf(config)
    }

    /// What it keeps, if it keeps it in memory.
    pub fn memory(&self) -> Option<Arc<Memory>> {
        match &self.shared.keeper {
            Keeper::Memory(memory) => Some(Arc::clone(memory)),
            Keeper::Folder(_) => None,
        }
    }

    /// What goes wrong, and the way to change it.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// The counts up to now.
    pub fn stats(&self) -> Stats {
        self.shared.counters.snapshot()
    }

    /// Waits until the counts satisfy `enough`, and returns them. The caller bounds the time.
    pub async fn stats_when(&self, enough: impl FnMut(&Stats) -> bool) -> Stats {
        let mut counts = self.shared.counters.watch();
        match counts.wait_for(enough).await {
            Ok(stats) => stats.clone(),
            // The sender lives in `self`, so this cannot be; the counts as they are say no less.
            Err(_) => self.stats(),
        }
    }

    /// Stops: connections are refused and running calls cut off from here on, and none of its tasks is left when this
    /// returns. What was being written is there whole.
    pub async fn stop(mut self) {
        self.accepting.shutdown().await;
        self.shared.writes.close();
        self.shared.writes.wait().await;
    }
}

/// A client as the `AWS_*` variables say; path style when an endpoint is set.
pub async fn client_from_env() -> Client {
    let config = aws_config::defaults(BehaviorVersion::latest()).load().await;
    let has_endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].iter().any(|name| std::env::var_os(name).is_some());
    let config = aws_sdk_s3::config::Builder::from(&config).force_path_style(has_endpoint).build();
    Client::from_conf(config)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // Out of file descriptors or a client already gone: neither is a reason to stop serving.
                let Ok((stream, _)) = accepted else {
                    tokio::task::yield_now().await;
                    continue;
                };
                let _ = stream.set_nodelay(true);
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let service = service_fn(move |request| Arc::clone(&shared).answer(request));
                    // Its errors are the faults, and clients that hang up.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
            // Finished ones are taken out, or the set would grow with every connection ever made.
            Some(_) = connections.join_next() => {}
        }
    }
}
