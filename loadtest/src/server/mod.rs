//! A server program as a child process: started on free ports, measured, and stopped.

mod log;
mod threads;
mod usage;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use self::threads::{Thread, Threads};
pub use self::usage::Usage;

use self::log::{Log, Logged};

/// How long a server may take until it logs its address.
const START_LIMIT: Duration = Duration::from_secs(20);

/// How often a stopping server is measured, since a process that has exited cannot be.
const SAMPLE_EVERY: Duration = Duration::from_millis(50);

/// A process and its pipes end at almost the same time: the wait for the second of them.
const LAST_LINES: Duration = Duration::from_secs(1);

/// A program to start.
#[derive(Debug, Clone)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its environment beside this process's own; `LISTEN_ADDR` and `ADMIN_ADDR` are free ports unless given.
    pub env: Vec<(String, String)>,
    /// Where its log goes; `None` is this process's standard error.
    pub log: Option<PathBuf>,
}

/// A running server. It is killed when this is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    pid: Pid,
    /// Those that it has logged so far.
    addresses: watch::Receiver<Logged>,
    /// The last measurement.
    usage: Usage,
    /// The tasks that read its log.
    log: JoinSet<()>,
}

/// How a server exited.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Exit {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    pub status: String,
    /// From the signal to its exit, in seconds.
    pub seconds: f64,
    pub killed: bool,
    pub usage: Usage,
}

impl Server {
    /// Starts the program and waits until it has logged its address.
    /// Errors: it cannot be started, exits before it listens, or does not log its address in 20 s.
    pub async fn start(program: &Program) -> anyhow::Result<Self> {
        let mut server = Self::spawn(program).await?;
        server.listening().await.with_context(|| program.path.display().to_string())?;
        Ok(server)
    }

    /// Starts the program.
    /// Errors: it cannot be started.
    pub async fn spawn(program: &Program) -> anyhow::Result<Self> {
        let shown = program.path.display();
        let mut command = Command::new(&program.path);
        // The settings of another store in this process's environment must not add to those that are given.
        if program.env.iter().any(|(name, _)| name == "STORE_DIR") {
            for other in ["S3_BUCKET", "S3_PREFIX", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"] {
                command.env_remove(other);
            }
        } else if program.env.iter().any(|(name, _)| name == "S3_BUCKET") {
            command.env_remove("STORE_DIR").env_remove("S3_PREFIX");
        }
        command
            .args(&program.args)
            .envs([("LISTEN_ADDR", "127.0.0.1:0"), ("ADMIN_ADDR", "127.0.0.1:0"), ("NO_COLOR", "1")])
            .envs(program.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C at the terminal is for this process, which stops the load first, and then the server.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("starting {shown}"))?;
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).context("the server has no process id")?;

        let mut tasks = JoinSet::new();
        let log = Log::open(program.log.as_deref()).await?;
        let addresses = log.addresses();
        if let Some(out) = child.stdout.take() {
            tasks.spawn(log.clone().copy(out));
        }
        if let Some(err) = child.stderr.take() {
            tasks.spawn(log.copy(err));
        }
        Ok(Self { child, pid, addresses, usage: Usage::default(), log: tasks })
    }

    /// Waits until it has logged its address.
    /// Errors: it exits before it listens, or does not log its address in 20 s.
    pub async fn listening(&mut self) -> anyhow::Result<()> {
        let mut listening = self.addresses.clone();
        tokio::select! {
            found = tokio::time::timeout(START_LIMIT, listening.wait_for(|found| found.public.is_some())) => {
                match found.context("the server did not log its address")? {
                    Ok(_) => {}
                    // Its pipes close a moment before it exits.
                    Err(_) => match tokio::time::timeout(LAST_LINES, self.child.wait()).await {
                        Ok(status) => bail!("the server exited before it listened: {}", status?),
                        Err(_) => bail!("the server closed its log without an address in it"),
                    }
                }
            }
            status = self.child.wait() => bail!("the server exited before it listened: {}", status?),
        }
        Ok(())
    }

    /// Waits until it has logged that it took over the listeners of another process.
    /// Errors: it exits before, or has not in 20 s.
    pub async fn taken_over(&mut self) -> anyhow::Result<()> {
        let mut logged = self.addresses.clone();
        let taken = tokio::time::timeout(START_LIMIT, logged.wait_for(|logged| logged.took_over));
        tokio::select! {
            taken = taken => taken.context("the server did not log that it took over the listeners")?.map(drop).context("the server closed its log"),
            status = self.child.wait() => bail!("the server exited before it took over the listeners: {}", status?),
        }
    }

    /// Whether it has logged that it took over the listeners of another process.
    pub fn took_over(&self) -> bool {
        self.addresses.borrow().took_over
    }

    /// Whether it has logged that another process took over its listeners.
    pub fn handed_over(&self) -> bool {
        self.addresses.borrow().handed_over
    }

    /// The address that takes payloads.
    pub fn addr(&self) -> anyhow::Result<SocketAddr> {
        self.addresses.borrow().public.context("the server did not log its address")
    }

    /// A function for the address of its admin listener, which it may log a moment after the other.
    pub fn admin_addr(&self) -> impl Fn() -> Option<SocketAddr> + use<> {
        let addresses = self.addresses.clone();
        move || addresses.borrow().admin
    }

    /// The address of its admin listener, when it has logged it.
    /// Errors: it has not in this time.
    pub async fn admin(&self, limit: Duration) -> anyhow::Result<SocketAddr> {
        let mut logged = self.addresses.clone();
        let logged = tokio::time::timeout(limit, logged.wait_for(|logged| logged.admin.is_some()));
        let admin = logged.await.ok().and_then(|logged| logged.ok()?.admin);
        admin.with_context(|| format!("the server did not log the address of its admin listener in {limit:?}"))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// What it has used so far; the last measurement if it has exited.
    pub fn usage(&mut self) -> Usage {
        if let Some(usage) = Usage::of(self.pid()) {
            self.usage = usage;
        }
        self.usage
    }

    /// Sends it SIGTERM.
    /// Errors: it has exited.
    pub fn terminate(&self) -> anyhow::Result<()> {
        rustix::process::kill_process(self.pid, Signal::TERM).context("sending SIGTERM to the server")
    }

    /// Waits for its exit and measures it meanwhile. Cancel-safe.
    /// Errors: the operating system failed.
    pub async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let mut sampling = tokio::time::interval(SAMPLE_EVERY);
        loop {
            tokio::select! {
                status = self.child.wait() => return status.context("waiting for the server"),
                _ = sampling.tick() => {
                    self.usage();
                }
            }
        }
    }

    /// Waits for its exit, and kills it when `limit` has passed.
    /// Errors: the operating system failed.
    pub async fn wait(mut self, limit: Duration) -> anyhow::Result<Exit> {
        let start = Instant::now();
        let in_time = tokio::time::timeout(limit, self.ended()).await;
        match in_time {
            Ok(status) => self.exit(status?, start, false).await,
            Err(_) => {
                self.child.start_kill().context("killing the server")?;
                let status = self.ended().await?;
                self.exit(status, start, true).await
            }
        }
    }

    /// Kills it (SIGKILL), and waits until it is gone.
    /// Errors: the operating system failed.
    pub async fn stop_at_once(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("killing the server")
    }

    /// Kills it (SIGKILL), and waits for its exit.
    /// Errors: the operating system failed.
    pub async fn kill(mut self) -> anyhow::Result<Exit> {
        let start = Instant::now();
        self.usage();
        self.child.start_kill().context("killing the server")?;
        let status = self.ended().await?;
        self.exit(status, start, true).await
    }

    async fn exit(mut self, status: ExitStatus, start: Instant, killed: bool) -> anyhow::Result<Exit> {
        let seconds = start.elapsed().as_secs_f64();
        // The pipes end with the process, unless it left children behind.
        let last_lines = async { while self.log.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_LINES, last_lines).await;
        Ok(Exit { code: status.code(), status: status.to_string(), seconds, killed, usage: self.usage })
    }
}
