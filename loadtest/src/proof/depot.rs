//! Where the objects go: a store that can be taken away and given back.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::readback::Store;
use crate::report::S3Report;
use crate::s3::{Fault, FaultPlan, S3Server};

const BUCKET: &str = "millpond";

/// How long an S3 server that was stopped tries to get its port again, and how often.
const BIND_LIMIT: Duration = Duration::from_secs(10);
const BIND_EVERY: Duration = Duration::from_millis(100);

/// The ways for a store to be away.
#[derive(Debug, Clone, Copy)]
pub(super) enum Away {
    /// Nothing listens there, or there is no such folder.
    Gone,
    /// Every call goes wrong like this.
    Faulty(Fault),
}

/// A store in a folder of the proof's.
pub(super) enum Depot {
    Dir(PathBuf),
    S3 {
        root: PathBuf,
        addr: SocketAddr,
        /// What it does wrong when it is there.
        faults: FaultPlan,
        /// None while it is gone.
        server: Option<Box<S3Server>>,
        /// What the servers before this one have counted.
        counted: S3Report,
    },
}

impl Depot {
    pub(super) fn dir(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir(folder.join("objects.real"))?;
        link(folder)?;
        Ok(Self::Dir(folder.to_owned()))
    }

    pub(super) async fn s3(folder: &Path, faults: FaultPlan) -> anyhow::Result<Self> {
        let root = folder.join("s3");
        let server = S3Server::start(&root, BUCKET).await?;
        server.faults().set(faults.clone());
        Ok(Self::S3 { root, addr: server.addr(), faults, server: Some(Box::new(server)), counted: S3Report::default() })
    }

    /// The environment that points a server at it.
    pub(super) fn env(&self) -> Vec<(String, String)> {
        match self {
            Self::Dir(folder) => {
                vec![("STORE_DIR".to_owned(), folder.join("objects").to_string_lossy().into_owned())]
            }
            Self::S3 { server, .. } => server.as_ref().map(|s3| s3.env()).unwrap_or_default(),
        }
    }

    /// The way to read it; none while it is gone.
    pub(super) fn store(&self) -> Option<Store> {
        match self {
            Self::Dir(folder) => Some(Store::Dir(folder.join("objects"))),
            Self::S3 { server, .. } => server.as_ref().map(|s3| Store::S3 {
                client: s3.client(),
                bucket: s3.bucket().to_owned(),
                prefix: String::new(),
            }),
        }
    }

    pub(super) async fn take_away(&mut self, away: Away) -> anyhow::Result<()> {
        match self {
            // A file where the folder was: whatever is attempted below it fails.
            Self::Dir(folder) => {
                let file = folder.join("away");
                std::fs::write(&file, "the store is away")?;
                std::fs::rename(file, folder.join("objects"))?;
            }
            Self::S3 { server, counted, .. } => match (away, server.take()) {
                (Away::Gone, Some(s3)) => {
                    add(counted, &s3);
                    s3.stop().await;
                }
                (Away::Faulty(fault), Some(s3)) => {
                    s3.faults().set(FaultPlan::always(fault).on_every_call());
                    *server = Some(s3);
                }
                (_, None) => {}
            },
        }
        Ok(())
    }

    /// Gives it back, if it is away.
    pub(super) async fn give_back(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Dir(folder) => link(folder)?,
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

    /// From here on it does nothing wrong: what the servers left is read.
    pub(super) fn calm(&self) {
        if let Self::S3 { server: Some(s3), .. } = self {
            s3.faults().set(FaultPlan::none());
        }
    }

    /// Ends it, and says what it was asked.
    pub(super) async fn close(self) -> Option<S3Report> {
        match self {
            Self::Dir(_) => None,
            Self::S3 { server, mut counted, .. } => {
                if let Some(s3) = server {
                    add(&mut counted, &s3);
                    s3.stop().await;
                }
                Some(counted)
            }
        }
    }
}

/// The folder of objects is a link, so that it can go and come back in one step.
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
            // Some connection going out may have been given the port meanwhile.
            Err(wrong) if start.elapsed() > BIND_LIMIT => return Err(wrong),
            Err(_) => tokio::time::sleep(BIND_EVERY).await,
        }
    }
}

fn add(report: &mut S3Report, s3: &S3Server) {
    let stats = s3.stats();
    report.puts += stats.puts;
    report.stored += stats.stored;
    report.in_flight_peak = report.in_flight_peak.max(stats.in_flight_peak);
    for (name, count) in stats.faults {
        *report.faults.entry(name.to_owned()).or_default() += count;
    }
}
