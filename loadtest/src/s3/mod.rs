//! An S3 server in this process with faults.
//!
//! Over a directory, s3s and s3s-fs speak the protocol and check the signatures. In memory it does only what a PUT needs, so
//! that it takes little CPU from a server under test. The service before either injects the faults.

mod error;
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

use self::service::{Backend, Shared};
use self::stats::Counters;

/// The region that clients sign for.
pub const REGION: &str = "us-east-1";

/// The keys that a client signs its requests with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// As `AWS_ACCESS_KEY_ID`.
    pub access_key: String,
    /// As `AWS_SECRET_ACCESS_KEY`.
    pub secret_key: String,
}

impl Credentials {
    /// The keys of AWS's documentation: they guard nothing, and have to be the same after a restart.
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
    /// The task that accepts connections and owns their tasks.
    accepting: JoinSet<()>,
}

impl S3Server {
    /// Serves the directory `root`, which is made if it is missing, with `bucket` in it, on a free loopback port.
    /// Errors: the folder cannot be made or the address cannot be bound.
    pub async fn start(root: &Path, bucket: &str) -> anyhow::Result<Self> {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), root, bucket).await
    }

    /// The same on a given address, so that a stopped server can be started again for the same clients.
    /// Errors: the folder cannot be made or the address cannot be bound.
    pub async fn start_on(listen: SocketAddr, root: &Path, bucket: &str) -> anyhow::Result<Self> {
        let folder = root.join(bucket);
        tokio::fs::create_dir_all(&folder).await.with_context(|| format!("making the bucket {}", folder.display()))?;
        let files = FileSystem::new(root).map_err(|wrong| anyhow::anyhow!("opening {}: {wrong:?}", root.display()))?;
        let credentials = Credentials::example();
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(&*credentials.access_key, &*credentials.secret_key));
        Self::listen(listen, bucket, credentials, Backend::Folder(builder.build())).await
    }

    /// Serves `bucket` from this process's memory, with objects of up to `limit` bytes in total, on a free loopback port.
    /// Signatures are not checked. Supports PUT, GET and HEAD of an object and HEAD of the bucket; [`memory`](Self::memory)
    /// has the objects.
    /// Errors: the address cannot be bound.
    pub async fn start_in_memory(bucket: &str, limit: usize) -> anyhow::Result<Self> {
        Self::start_in_memory_on(SocketAddr::from(([127, 0, 0, 1], 0)), bucket, limit).await
    }

    /// The same on a given address.
    /// Errors: the address cannot be bound.
    pub async fn start_in_memory_on(listen: SocketAddr, bucket: &str, limit: usize) -> anyhow::Result<Self> {
        let backend = Backend::Memory(Arc::new(Memory::new(bucket, limit)));
        Self::listen(listen, bucket, Credentials::example(), backend).await
    }

    async fn listen(
        listen: SocketAddr,
        bucket: &str,
        credentials: Credentials,
        backend: Backend,
    ) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            backend,
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

    /// Its URL, for `AWS_ENDPOINT_URL_S3`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The bucket it was started with.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The keys that it accepts.
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

    /// Its objects, if they are in memory.
    pub fn memory(&self) -> Option<Arc<Memory>> {
        match &self.shared.backend {
            Backend::Memory(memory) => Some(Arc::clone(memory)),
            Backend::Folder(_) => None,
        }
    }

    /// Its faults.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// The counts so far.
    pub fn stats(&self) -> Stats {
        self.shared.counters.snapshot()
    }

    /// Waits until the counts satisfy `enough`, and returns them. The caller limits the time.
    pub async fn stats_when(&self, enough: impl FnMut(&Stats) -> bool) -> Stats {
        let mut counts = self.shared.counters.watch();
        match counts.wait_for(enough).await {
            Ok(stats) => stats.clone(),
            // The sender is in `self`, so this does not happen.
            Err(_) => self.stats(),
        }
    }

    /// Stops: connections are refused, running calls are aborted, and all its tasks have ended when this returns. Objects
    /// that were being written are complete.
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
                // Out of file descriptors, or the client has disconnected: serving goes on.
                let Ok((stream, _)) = accepted else {
                    tokio::task::yield_now().await;
                    continue;
                };
                let _ = stream.set_nodelay(true);
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let service = service_fn(move |request| Arc::clone(&shared).respond(request));
                    // Its errors are the faults, and clients that disconnect.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
            // Otherwise the set would grow with every connection.
            Some(_) = connections.join_next() => {}
        }
    }
}
