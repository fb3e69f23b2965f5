//! One run from beginning to end: a store, a server, a load, and the proof.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::ledger::Ledger;
use crate::load::{self, Control, Plan};
use crate::payload::Payloads;
use crate::readback::{Reader, Store};
use crate::report::{ProgramReport, Report, ServerReport, Shown};
use crate::s3::{FaultPlan, S3Server};
use crate::server::{Exit, Program, Server, Usage};
use crate::timeline::{Observer, Sample};

/// The bucket of an S3 server in this process.
const BUCKET: &str = "millpond";

/// What an S3 server in this process keeps in memory, in bytes: some 15 s of the most that two cores send, compressed.
const MEMORY_LIMIT: usize = 1 << 30;

/// How often a running server's store is looked at for what is still to come.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What to send to.
#[derive(Debug, Clone)]
pub enum Target {
    /// A server that runs already, at [`Plan::target`].
    Running,
    /// A program to start.
    Spawn(Program),
    /// This very program as a [`Baseline`](crate::baseline::Baseline), which may lose what it accepted.
    Baseline(Program),
}

/// Where to look for what was accepted.
#[derive(Debug, Clone)]
pub enum Place {
    /// Nowhere: the answers alone are counted.
    Nowhere,
    /// A fresh folder, which the server started gets as `STORE_DIR` and which is deleted at the end.
    Fresh,
    /// A store there is. A server that is started gets nothing of it but what its environment says.
    Given(Store),
    /// An S3 server in this process, over a fresh folder, which goes wrong as planned.
    InProcess(FaultPlan),
    /// The same, but it keeps the objects in memory and costs as little as can be.
    InMemory(FaultPlan),
}

/// A run.
#[derive(Debug, Clone)]
pub struct Trial {
    /// What to call it.
    pub name: String,
    /// What to send. Its target is filled in when a server is started.
    pub plan: Plan,
    /// What to send it to.
    pub target: Target,
    /// Where what was accepted has to be.
    pub place: Place,
    /// The admin listener of a server that runs already. One that is started says itself where it is.
    pub admin: Option<SocketAddr>,
    /// SIGTERM to the server this long after the load began, and the load goes on.
    pub stop_after: Option<Duration>,
    /// How long to wait after the load until all that was accepted is in the store of the running server.
    pub settle: Duration,
    /// How long a server may take to stop.
    pub exit_limit: Duration,
}

/// What a load leaves to be told.
struct Loaded {
    done: load::Done,
    /// What the server, and this process, had used by its end.
    server: Usage,
    own: Usage,
    timeline: Vec<Sample>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere => write!(f, "not looked at"),
            Self::Fresh => write!(f, "a fresh folder"),
            Self::Given(Store::Dir(folder)) => write!(f, "the folder {}", folder.display()),
            Self::Given(Store::S3 { bucket, prefix, .. }) => write!(f, "s3://{bucket}/{prefix}"),
            Self::InProcess(_) => write!(f, "an S3 server in loadtest"),
            Self::Given(Store::Memory(_)) | Self::InMemory(_) => write!(f, "an S3 server in loadtest, in memory"),
        }
    }
}

impl Place {
    /// What the S3 server of this process does wrong, if there is one.
    pub(crate) fn faults(&self) -> Option<&FaultPlan> {
        match self {
            Self::InProcess(faults) | Self::InMemory(faults) => Some(faults),
            Self::Nowhere | Self::Fresh | Self::Given(_) => None,
        }
    }
}

impl Trial {
    /// Carries it out, calling `progress` once a second during the load and at its end.
    ///
    /// # Errors
    ///
    /// It could not be set up, or the store could not be read. What the server does wrong is in the report.
    pub async fn run(mut self, control: Control, progress: impl FnMut(&Sample)) -> anyhow::Result<Report> {
        let fresh = TempDir::with_prefix("loadtest-").context("making a folder")?;
        let s3 = match &self.place {
            Place::InProcess(faults) => {
                let s3 = S3Server::start(&fresh.path().join("s3"), BUCKET).await?;
                s3.faults().set(faults.clone());
                Some(s3)
            }
            Place::InMemory(faults) => {
                let s3 = S3Server::start_in_memory(BUCKET, MEMORY_LIMIT).await?;
                s3.faults().set(faults.clone());
                Some(s3)
            }
            Place::Nowhere | Place::Fresh | Place::Given(_) => None,
        };
        let program = self.program(fresh.path(), s3.as_ref())?;
        let about = match (&self.target, &program) {
            (Target::Spawn(given) | Target::Baseline(given), Some(whole)) => {
                Some(ProgramReport::of(given, whole).await)
            }
            (Target::Running, _) | (_, None) => None,
        };
        let mut server = match &program {
            Some(program) => Some(Server::start(program).await?),
            None => None,
        };
        if let Some(server) = &server {
            self.plan.target = server.addr()?;
        }
        let payloads = Payloads::new(self.plan.run, self.plan.payload_size);
        let mut reader = self.store(fresh.path(), s3.as_ref()).map(|store| Reader::new(store, payloads));

        let before = server.as_mut().map(Server::usage).unwrap_or_default();
        let own_before = Usage::of(std::process::id()).unwrap_or_default();
        let began = now();
        let Loaded { mut done, server: after, own, timeline } = self.load(server.as_mut(), &control, progress).await?;
        let own_cpu_micros = cpu_between(own_before, own);

        if let Some(reader) = &mut reader {
            settle(reader, &mut done.ledger, self.settle).await?;
        }
        let exit = match server {
            Some(server) => Some(self.stop(server, &control).await?),
            None => None,
        };
        let stats = s3.as_ref().map(|s3| {
            // The faults were for the server. What it left is read without them.
            s3.faults().set(FaultPlan::none());
            s3.stats()
        });
        let objects = match &mut reader {
            Some(reader) => {
                reader.read(&mut done.ledger).await?;
                Some(reader.objects())
            }
            None => None,
        };
        if let Some(s3) = s3 {
            s3.stop().await;
        }
        let server = exit.map(|exit| ServerReport::new(before, after, exit, &done.tally, self.plan.shape.mean()));
        let shown = Shown { began, own_cpu_micros, program: about, server, objects, s3: stats, timeline };
        Ok(Report::new(&self, &done, shown))
    }

    fn program(&self, fresh: &Path, s3: Option<&S3Server>) -> anyhow::Result<Option<Program>> {
        let (Target::Spawn(program) | Target::Baseline(program)) = &self.target else {
            if s3.is_some() || matches!(self.place, Place::Fresh) {
                bail!("a server that runs already cannot be given a store: say where its store is");
            }
            return Ok(None);
        };
        let mut program = program.clone();
        let mut env = s3.map(S3Server::env).unwrap_or_default();
        let folder = |name: &str| fresh.join(name).to_string_lossy().into_owned();
        if matches!(self.place, Place::Fresh) {
            env.push(("STORE_DIR".to_owned(), folder("objects")));
        }
        // Never the spool of an earlier run: what lies there would be stored in this one.
        env.push(("SPOOL_DIR".to_owned(), folder("spool")));
        env.append(&mut program.env);
        program.env = env;
        Ok(Some(program))
    }

    fn store(&self, fresh: &Path, s3: Option<&S3Server>) -> Option<Store> {
        match (&self.place, s3) {
            (Place::Fresh, _) => Some(Store::Dir(fresh.join("objects"))),
            (Place::Given(store), _) => Some(store.clone()),
            (Place::InProcess(_), Some(s3)) => {
                Some(Store::S3 { client: s3.client(), bucket: s3.bucket().to_owned(), prefix: String::new() })
            }
            (Place::InMemory(_), Some(s3)) => s3.memory().map(Store::Memory),
            (Place::Nowhere | Place::InProcess(_) | Place::InMemory(_), _) => None,
        }
    }

    async fn load(
        &self,
        server: Option<&mut Server>,
        control: &Control,
        mut progress: impl FnMut(&Sample),
    ) -> anyhow::Result<Loaded> {
        let pid = server.as_ref().map(|server| server.pid());
        let started = server.as_ref().map(|server| server.admin_addr());
        let admin = || started.as_ref().map_or(self.admin, |started| started());
        let (seconds, mut coming) = mpsc::unbounded_channel();
        let load = async {
            let tell = move |progress: &load::Progress<'_>| {
                // An error is impossible: the other end is there until this one is gone.
                let _ = seconds.send(Sample::of(progress));
            };
            let done = load::run(self.plan.clone(), control.clone(), tell).await?;
            // Taken at once, and not when the last scrape is over.
            let usage = |pid: Option<u32>| pid.and_then(Usage::of).unwrap_or_default();
            anyhow::Ok((done, usage(pid), usage(Some(std::process::id()))))
        };
        // Beside the load, so that a server slow to show its metrics does not hold it up.
        let observe = async {
            let mut observer = Observer::new(admin, pid);
            while let Some(sample) = coming.recv().await {
                progress(observer.look(sample).await);
            }
            observer.into_samples()
        };
        let both = async {
            let (loaded, timeline) = tokio::join!(load, observe);
            let (done, server, own) = loaded?;
            Ok(Loaded { done, server, own, timeline })
        };
        let watch = async {
            if let Some(server) = server {
                if let Some(time) = self.stop_after
                    && tokio::time::timeout(time, server.ended()).await.is_err()
                {
                    // First the note, so that no connection it refuses from now on is tried again.
                    control.server_leaving.cancel();
                    server.terminate()?;
                }
                server.ended().await?;
                // There is nobody left to send to, and its exit code will say whether that was to be expected.
                control.server_leaving.cancel();
                control.end.cancel();
            }
            std::future::pending().await
        };
        tokio::select! {
            loaded = Box::pin(both) => loaded,
            wrong = watch => wrong,
        }
    }

    async fn stop(&self, server: Server, control: &Control) -> anyhow::Result<Exit> {
        if !control.server_leaving.is_cancelled() {
            // One that is gone by now has an exit code that says more than this error would.
            let _ = server.terminate();
        }
        server.wait(self.exit_limit).await
    }
}

/// Reads the store of a running server until all is there or the time is over.
async fn settle(reader: &mut Reader, ledger: &mut Ledger, limit: Duration) -> anyhow::Result<()> {
    let start = Instant::now();
    while start.elapsed() < limit {
        reader.read(ledger).await?;
        if ledger.complete() {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// The address and the path of a URL such as `http://127.0.0.1:8080/v1/payloads`.
///
/// # Errors
///
/// It is no such URL, or its host is unknown.
pub async fn resolve(url: &str) -> anyhow::Result<(SocketAddr, Option<String>)> {
    let rest = url.strip_prefix("http://").with_context(|| format!("{url} does not begin with http://"))?;
    let (host, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let host = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let mut addresses = tokio::net::lookup_host(&host).await.with_context(|| format!("looking up {host}"))?;
    let address = addresses.next().with_context(|| format!("{host} has no address"))?;
    Ok((address, (path.len() > 1).then(|| path.to_owned())))
}

fn now() -> String {
    // The only way that this fails is a clock set to before the year 1.
    DateTime::from_secs(DateTime::from(SystemTime::now()).secs()).fmt(DateTimeFormat::DateTime).unwrap_or_default()
}

/// The usage between two looks, in microseconds of CPU.
pub(crate) fn cpu_between(before: Usage, after: Usage) -> u64 {
    after.cpu_micros.saturating_sub(before.cpu_micros)
}
