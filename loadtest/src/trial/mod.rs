//! One run from beginning to end: a store, a server, a load, perhaps an attack beside it, and the check of the store.

mod settings;
mod settle;

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::attack::{AttackReport, AttackRun, Monitor};
use crate::client::{SelfSigned, Target};
use crate::load::{self, Control, Plan};
use crate::payload::Payloads;
use crate::readback::{Reader, Store};
use crate::report::{self, FORMAT, Report, ServerReport};
use crate::s3::{FaultPlan, S3Server};
use crate::server::{Exit, Program, Server, Threads, Usage};
use crate::timeline::{Admin, Observer, Sample};

/// The bucket of an S3 server in this process.
const BUCKET: &str = "millpond";

/// The limit of an S3 server in memory, in bytes: some 15 s of the most that two cores send, compressed.
const MEMORY_LIMIT: usize = 1 << 30;

/// The server that is tested.
#[derive(Debug, Clone)]
pub enum TestedServer {
    /// One that runs already, at the plan's target.
    Running,
    /// A program to start.
    Spawn(Program),
    /// This program as a [`Baseline`](crate::baseline::Baseline), which may lose what it accepted.
    Baseline(Program),
}

/// The store that is checked.
#[derive(Debug, Clone)]
pub enum TestedStore {
    /// None: the responses alone are counted.
    None,
    /// A new directory, which the started server gets as `STORE_DIR` and which is deleted at the end.
    Fresh,
    /// One that exists, and that other clients may use. A started server gets it from its environment alone.
    Given(Store),
    /// An S3 server in this process, over a new directory, with these faults.
    InProcess(FaultPlan),
    /// The same with the objects in memory, which takes the least CPU.
    InMemory(FaultPlan),
}

/// A run.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Trial {
    pub name: String,
    /// What to send. A started server's address is filled in.
    pub plan: Plan,
    pub server: TestedServer,
    pub store: TestedStore,
    pub admin: Admin,
    /// Whether the started server gets a certificate, and the load uses TLS.
    pub tls: bool,
    /// An attack beside the load, or the measurements of one without it. Its target is filled in.
    pub attack: Option<AttackRun>,
    /// How long to wait after the load until everything accepted is in the store of the running server.
    pub settle: Duration,
    /// The `OBJECT_MAX_AGE` of the running server: until then, what it accepted may be in an open segment.
    pub object_max_age: Duration,
    pub exit_limit: Duration,
}

/// What is known at the end of a load.
struct Loaded {
    done: load::Done,
    /// What the server, and this process, had used by its end.
    server: Usage,
    threads: Threads,
    own: Usage,
    timeline: Vec<Sample>,
    no_metrics: Option<String>,
    attack: Option<AttackReport>,
}

impl fmt::Display for TestedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => write!(f, "none"),
            Self::Fresh => write!(f, "a new directory"),
            Self::Given(Store::Dir(folder)) => write!(f, "dir:{}", folder.display()),
            Self::Given(Store::S3 { bucket, prefix, .. }) => write!(f, "s3://{bucket}/{prefix}"),
            Self::InProcess(_) => write!(f, "an S3 server in loadtest"),
            Self::Given(Store::Memory(_)) | Self::InMemory(_) => write!(f, "an S3 server in loadtest, in memory"),
        }
    }
}

impl Trial {
    /// A run of a started server with a store of its own.
    pub fn new(name: impl Into<String>, plan: Plan, server: TestedServer, store: TestedStore) -> Self {
        Self {
            name: name.into(),
            plan,
            server,
            store,
            admin: Admin::default(),
            tls: false,
            attack: None,
            settle: Duration::ZERO,
            object_max_age: Duration::ZERO,
            exit_limit: Duration::from_secs(60),
        }
    }

    /// Carries it out, and calls `progress` once a second during the load and at its end.
    /// Errors: it could not be set up, or a store of its own could not be read. What the server does wrong is in the report.
    pub async fn run(mut self, control: Control, progress: impl FnMut(&Sample)) -> anyhow::Result<Report> {
        let fresh = TempDir::with_prefix("loadtest-").context("making a directory")?;
        let s3 = self.start_s3(fresh.path()).await?;
        let pair = if self.tls { Some(SelfSigned::generate(fresh.path())?) } else { None };
        let program = self.program(fresh.path(), s3.as_ref(), pair.as_ref())?;
        let settings = self.settings(program.as_ref()).await;
        let mut server = match &program {
            Some(program) => Some(Server::start(program).await?),
            None => None,
        };
        if let Some(server) = &server {
            self.plan.target = Target::from(server.addr()?);
            if let Some(pair) = &pair {
                self.plan.target = self.plan.target.with_tls(SelfSigned::HOST, Some(&pair.cert))?;
            }
        }
        if self.plan.streams > 0 {
            self.plan.target = self.plan.target.with_http2();
        }
        let mut reader = self.reader(fresh.path(), s3.as_ref());

        let before = server.as_mut().map(Server::usage).unwrap_or_default();
        let threads_before = server.as_ref().map(|server| Threads::of(server.pid())).unwrap_or_default();
        let own_before = Usage::of(std::process::id()).unwrap_or_default();
        let began = now();
        let mut loaded = self.load(server.as_mut(), &control, progress).await?;
        let ledger = &mut loaded.done.ledger;
        let settled = match &mut reader {
            Some(reader) => settle::settle(reader, ledger, self.settle, &self.admin).await,
            None => Ok(false),
        };
        let exit = match server {
            Some(server) => Some(self.stop(server, &control).await?),
            None => None,
        };
        let stats = s3.as_ref().map(|s3| {
            // The faults were for the server. Its objects are read without them.
            s3.faults().set(FaultPlan::none());
            s3.stats()
        });
        let (mut objects, mut not_checked, mut is_idle) = (None, None, false);
        match &mut reader {
            None => not_checked = Some("no --store was given".to_owned()),
            Some(reader) => {
                let read = match settled {
                    Ok(idle) => {
                        is_idle = idle;
                        reader.read(ledger).await
                    }
                    Err(wrong) => Err(wrong),
                };
                match read {
                    Ok(()) => objects = Some(reader.objects()),
                    Err(wrong) if reader.is_shared() => not_checked = Some(format!("{wrong:#}")),
                    Err(wrong) => return Err(wrong),
                }
            }
        }
        if let Some(s3) = s3 {
            s3.stop().await;
        }
        let mut totals = loaded.done.ledger.totals();
        if let (Some(objects), TestedStore::Given(_)) = (&objects, &self.store)
            && totals.accepted > 0
            && !totals.found()
        {
            not_checked = Some(format!(
                "no line of this run is in {} ({} objects were written there since the load began): check --store and the \
                 server's S3_PREFIX or STORE_DIR, and that --settle is longer than its OBJECT_MAX_AGE",
                self.store, objects.count
            ));
        }
        let is_checked = not_checked.is_none();
        if is_checked && totals.lost > 0 && !is_idle && !self.is_settled() {
            not_checked = Some(format!(
                "objects may still be open: {} accepted payloads are not in the store after --settle {:?}; give a --settle above \
                 the server's OBJECT_MAX_AGE (--object-max-age) and the time of its uploads, or --admin-url. If the number stays \
                 the same, they are lost",
                totals.lost, self.settle
            ));
            totals.unsettle();
        }
        let own_cpu = loaded.own.cpu_since(&own_before);
        let tally = &loaded.done.tally;
        let answered = tally.answered();
        if matches!(self.server, TestedServer::Running) && totals.accepted == 0 && answered > 0 {
            let hint = if tally.statuses.keys().any(|status| matches!(status, 401 | 403)) {
                ": check --token-file"
            } else {
                ""
            };
            not_checked = Some(format!("no payload was accepted{hint}"));
        }
        let server = exit.map(|exit| {
            // A server that has exited during the load could not be measured after it.
            let after = if loaded.server.cpu_micros > before.cpu_micros { loaded.server } else { exit.usage };
            let per_request = after.cpu_since(&before) as f64 / answered.max(1) as f64;
            let threads = loaded.threads.since(&threads_before);
            ServerReport {
                cpu_micros_per_request: per_request,
                cpu_micros_per_payload: per_request / self.plan.shape.mean(),
                serial_cpu_micros_per_request: report::serial(&threads, answered),
                threads: report::by_name(&threads, answered),
                cpu_seconds: exit.usage.cpu_seconds(),
                peak_memory: exit.usage.peak.max(after.peak),
                exit,
            }
        });
        let seconds = loaded.done.elapsed.as_secs_f64();
        Ok(Report {
            format: FORMAT,
            name: self.name,
            began,
            run: format!("{:08x}", self.plan.run),
            settings,
            seconds,
            requests_per_second: answered as f64 / seconds.max(f64::MIN_POSITIVE),
            accepted: tally.accepted.summary(),
            rejected: tally.rejected.summary(),
            latency: [tally.accepted.curve(), tally.rejected.curve()],
            late: (!self.plan.rate.is_unpaced()).then(|| tally.late.summary()),
            statuses: tally.statuses.clone(),
            unanswered: tally.unanswered,
            unsent: tally.unsent,
            connects: (tally.connects, tally.connect_errors),
            connect_error: tally.connect_error.clone(),
            request_error: tally.request_error.clone(),
            own_cpu_micros_per_request: own_cpu as f64 / answered.max(1) as f64,
            server,
            objects,
            s3: stats,
            payloads: totals.counts(),
            ledger: is_checked.then_some(totals),
            not_checked,
            timeline: loaded.timeline,
            no_metrics: loaded.no_metrics,
            attack: loaded.attack,
            conclusion: None,
        })
    }

    async fn start_s3(&self, fresh: &Path) -> anyhow::Result<Option<S3Server>> {
        let (s3, faults) = match &self.store {
            TestedStore::InProcess(faults) => (S3Server::start(&fresh.join("s3"), BUCKET).await?, faults),
            TestedStore::InMemory(faults) => (S3Server::start_in_memory(BUCKET, MEMORY_LIMIT).await?, faults),
            TestedStore::None | TestedStore::Fresh | TestedStore::Given(_) => return Ok(None),
        };
        s3.faults().set(faults.clone());
        Ok(Some(s3))
    }

    fn program(
        &self,
        fresh: &Path,
        s3: Option<&S3Server>,
        pair: Option<&SelfSigned>,
    ) -> anyhow::Result<Option<Program>> {
        let (TestedServer::Spawn(program) | TestedServer::Baseline(program)) = &self.server else {
            if s3.is_some() || matches!(self.store, TestedStore::Fresh) {
                bail!("a server that runs already has a store: give it with --store");
            }
            return Ok(None);
        };
        let mut env = s3.map(S3Server::env).unwrap_or_default();
        let folder = |name: &str| fresh.join(name).to_string_lossy().into_owned();
        if matches!(self.store, TestedStore::Fresh) {
            env.push(("STORE_DIR".to_owned(), folder("objects")));
        }
        // Never the spool of an earlier run, whose jobs would be stored in this one.
        env.push(("SPOOL_DIR".to_owned(), folder("spool")));
        env.extend(pair.into_iter().flat_map(SelfSigned::env));
        env.extend(program.env.iter().cloned());
        Ok(Some(Program { env, ..program.clone() }))
    }

    fn reader(&self, fresh: &Path, s3: Option<&S3Server>) -> Option<Reader> {
        let payloads = Payloads::new(self.plan.run, self.plan.payload_size);
        let store = match (&self.store, s3) {
            (TestedStore::Given(store), _) => return Some(Reader::shared(store.clone(), payloads)),
            (TestedStore::Fresh, _) => Store::Dir(fresh.join("objects")),
            (_, Some(s3)) => Store::of(s3),
            (TestedStore::None | TestedStore::InProcess(_) | TestedStore::InMemory(_), None) => return None,
        };
        Some(Reader::new(store, payloads))
    }

    async fn load(
        &self,
        server: Option<&mut Server>,
        control: &Control,
        mut progress: impl FnMut(&Sample),
    ) -> anyhow::Result<Loaded> {
        let pid = server.as_ref().map(|server| server.pid());
        let started = server.as_ref().map(|server| server.admin_addr());
        let admin = move || -> Option<SocketAddr> { started.as_ref().and_then(|started| started()) };
        let (seconds, mut samples) = mpsc::unbounded_channel();
        let load = async {
            let report = move |progress: &load::Progress<'_>| {
                // An error is impossible: the receiver lives as long as this sender.
                let _ = seconds.send(Sample::of(progress));
            };
            let done = load::run(self.plan.clone(), control.clone(), report).await?;
            // At once, and not after the last scrape.
            let usage = |pid: Option<u32>| pid.and_then(Usage::of).unwrap_or_default();
            let (server, own) = (usage(pid), usage(Some(std::process::id())));
            anyhow::Ok((done, server, own, pid.map(Threads::of).unwrap_or_default()))
        };
        // Beside the load, so that a slow scrape does not delay it.
        let observe = async {
            let mut observer = Observer::new(self.admin.clone(), admin, pid);
            while let Some(sample) = samples.recv().await {
                progress(observer.complete(sample).await);
            }
            observer.finish()
        };
        let attack = async {
            let Some(attack) = self.attack else { return Ok(None) };
            let attack = AttackRun { target: self.plan.target.addr, ..attack };
            attack.monitored(pid.map(|pid| Monitor { pid })).await.map(Some)
        };
        let all = async {
            let (loaded, (timeline, no_metrics), attack) = tokio::join!(load, observe, attack);
            let (done, server, own, threads) = loaded?;
            Ok(Loaded { done, server, threads, own, timeline, no_metrics, attack: attack? })
        };
        let exit = async {
            if let Some(server) = server {
                server.ended().await?;
                // The load ends, and the exit code says whether the exit was in order.
                control.server_leaving.cancel();
                control.end.cancel();
            }
            std::future::pending().await
        };
        tokio::select! {
            loaded = Box::pin(all) => loaded,
            wrong = exit => wrong,
        }
    }

    /// Whether the server has had the time to seal every segment: one that has exited has.
    fn is_settled(&self) -> bool {
        let is_running = matches!(self.server, TestedServer::Running);
        !is_running || self.object_max_age.is_zero() || self.settle > self.object_max_age
    }

    async fn stop(&self, server: Server, control: &Control) -> anyhow::Result<Exit> {
        if !control.server_leaving.is_cancelled() {
            // If it has exited, its exit code says more than this error.
            let _ = server.terminate();
        }
        server.wait(self.exit_limit).await
    }
}

fn now() -> String {
    // It fails only if the clock is set to before the year 1.
    DateTime::from_secs(DateTime::from(SystemTime::now()).secs()).fmt(DateTimeFormat::DateTime).unwrap_or_default()
}
