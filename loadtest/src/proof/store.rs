//! The store of a proof, which can be taken away and given back.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::readback::Store;
use crate::s3::{Fault, FaultPlan, S3Server, Stats};

const BUCKET: &str = "millpond";

/// The most bytes of objects in memory.
const MEMORY_LIMIT: usize = 2 << 30;

/// How long an S3 server that was stopped tries to bind its port again, and how often.
const BIND_LIMIT: Duration = Duration::from_secs(10);
const BIND_EVERY: Duration = Duration::from_millis(100);

/// An outage of the store.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outage {
    /// Nothing listens there, or there is no such directory.
    Gone,
    /// Every call has this fault.
    Faulty(Fault),
}

/// A store in the proof's directory.
pub(super) enum ProofStore {
    Dir(PathBuf),
    /// Takes little CPU from the servers, and cannot be gone: its objects would be lost.
    Memory(Box<S3Server>),
    S3 {
        root: PathBuf,
        addr: SocketAddr,
        /// Its faults outside of outages.
        faults: FaultPlan,
        /// `None` while it is gone.
        server: Option<Box<S3Server>>,
        /// The calls of the servers before this one.
        stats: Stats,
    },
}

impl ProofStore {
    pub(super) fn dir(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir(folder.join("objects.real"))?;
        link(folder)?;
        Ok(Self::Dir(folder.to_owned()))
    }

    pub(super) async fn s3(folder: &Path, faults: FaultPlan) -> anyhow::Result<Self> {
        let root = folder.join("s3");
        let server = S3Server::start(&root, BUCKET).await?;
        server.faults().set(faults.clone());
        Ok(Self::S3 { root, addr: server.addr(), faults, server: Some(Box::new(server)), stats: Stats::default() })
    }

    pub(super) async fn memory() -> anyhow::Result<Self> {
        Self::memory_on(Ipv4Addr::LOCALHOST).await
    }

    /// The same for processes that reach this one at another address.
    pub(super) async fn memory_on(address: Ipv4Addr) -> anyhow::Result<Self> {
        let listen = SocketAddr::from((address, 0));
        Ok(Self::Memory(Box::new(S3Server::start_in_memory_on(listen, BUCKET, MEMORY_LIMIT).await?)))
    }

    /// The S3 server, unless it is gone.
    fn server(&self) -> Option<&S3Server> {
        match self {
            Self::Dir(_) => None,
            Self::Memory(s3) => Some(s3),
            Self::S3 { server, .. } => server.as_deref(),
        }
    }

    /// Has these faults from now on, if it is an S3 server.
    pub(super) fn set_faults(&self, faults: FaultPlan) {
        if let Some(s3) = self.server() {
            s3.faults().set(faults);
        }
    }

    /// The environment that points a server at it.
    pub(super) fn env(&self) -> Vec<(String, String)> {
        match self {
            Self::Dir(folder) => {
                vec![("STORE_DIR".to_owned(), folder.join("objects").to_string_lossy().into_owned())]
            }
            Self::Memory(_) | Self::S3 { .. } => self.server().map(S3Server::env).unwrap_or_default(),
        }
    }

    /// The store to read, from now on without faults; `None` while it is gone.
    pub(super) fn readable(&self) -> Option<Store> {
        match self {
            Self::Dir(folder) => Some(Store::Dir(folder.join("objects"))),
            Self::Memory(_) | Self::S3 { .. } => {
                self.set_faults(FaultPlan::none());
                self.server().map(Store::of)
            }
        }
    }

    pub(super) async fn take_away(&mut self, outage: Outage) -> anyhow::Result<()> {
        if let (Outage::Faulty(fault), Self::Memory(_) | Self::S3 { .. }) = (outage, &self) {
            self.set_faults(FaultPlan::always(fault).on_every_call());
            return Ok(());
        }
        match self {
            // A file in the place of the directory: every call below it fails.
            Self::Dir(folder) => {
                let file = folder.join("away");
                std::fs::write(&file, "the store is away")?;
                std::fs::rename(file, folder.join("objects"))?;
            }
            Self::Memory(_) => bail!("a store in memory cannot be gone: its objects would be lost"),
            Self::S3 { server, stats, .. } => {
                if let Some(s3) = server.take() {
                    stats.add(&s3.stats());
                    s3.stop().await;
                }
            }
        }
        Ok(())
    }

    /// Gives it back, if it is away.
    pub(super) async fn give_back(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Dir(folder) => link(folder)?,
            Self::Memory(_) => self.set_faults(FaultPlan::none()),
            Self::S3 { root, addr, faults, server, .. } => {
                let s3 = match server.take() {
                    Some(s3) => s3,
                    None => Box::new(start_again(*addr, root).await?),
                };
                s3.faults().set(faults.clone());
                *server = Some(s3);
            }
        }
        Ok(())
    }

    /// Stops it, and returns the calls of an S3 server.
    pub(super) async fn close(self) -> Option<Stats> {
        let (server, mut stats) = match self {
            Self::Dir(_) => return None,
            Self::Memory(s3) => (Some(s3), Stats::default()),
            Self::S3 { server, stats, .. } => (server, stats),
        };
        if let Some(s3) = server {
            stats.add(&s3.stats());
            s3.stop().await;
        }
        Some(stats)
    }
}

/// The directory of objects is a link, so that it can be replaced in one step.
fn link(folder: &Path) -> std::io::Result<()> {
    let link = folder.join("link");
    symlink(folder.join("objects.real"), &link)?;
    std::fs::rename(link, folder.join("objects"))
}

async fn start_again(addr: SocketAddr, root: &Path) -> anyhow::Result<S3Server> {
    let start = Instant::now();
    loop {
        match S3Server::start_on(addr, root, BUCKET).await {
            Ok(s3) => return Ok(s3),
            // An outgoing connection may have got the port.
            Err(wrong) if start.elapsed() > BIND_LIMIT => return Err(wrong),
            Err(_) => tokio::time::sleep(BIND_EVERY).await,
        }
    }
}
