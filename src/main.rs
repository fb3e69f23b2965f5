//! The program: the command line, the environment, signals and exit codes.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use millpond::app::{self, ExitSummary, Listeners, SpoolEnd};
use millpond::config::{EXIT_USAGE, LogSettings, SETTINGS, Settings, TlsSettings};
use millpond::disk::RealDisk;
use millpond::http::{Tls, bind};
use millpond::metrics::Count;
use millpond::permissions::is_readable_by_others;
use millpond::reload::{Followed, Reload};
use millpond::segment::SegmentId;
use millpond::shutdown::Shutdown;
use millpond::spool::{ADOPTED_FOLDERS_MAX, Spool};
use millpond::store::Store;
use millpond::tenants::TenantsFile;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Something that was accepted is not in the store, or the server could not run.
const EXIT_FAILURE: u8 = 1;

/// After SHUTDOWN_GRACE, or a second signal, the process has this long to put its things in order.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Files that are open beside connections: listeners, the log, the spool's own, scrapes, refusals. Folders of dead processes
/// are counted by themselves ([`ADOPTED_FOLDERS_MAX`]).
const OTHER_FILES: usize = 256;
/// A connection to the store, a file that is being read or written.
const FILES_PER_WORKER: usize = 4;

const USAGE: &str = "\
millpond takes batches of JSON payloads in over HTTP and lands them in S3.

Usage: millpond            serve, until SIGTERM or SIGINT
       millpond --check    check the settings, write, read back and delete an object in the store, and exit
       millpond --help     print this
       millpond --version  print the version

Exit codes: 0 all that was accepted is stored, or kept in SPOOL_DIR; 1 some of it is lost or possibly lost, or the server
failed; 64 bad settings.

Settings are environment variables. Sizes are bytes or 512KiB, 8MiB, 10GiB; times are seconds or 200ms, 60s, 5m, 1h.
";

enum Command {
    Serve,
    Check,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => Command::Serve,
        (Some("--check"), None) => Command::Check,
        (Some("--help" | "-h"), None) => return print(&help()),
        (Some("--version" | "-V"), None) => return print(&format!("millpond {}\n", env!("CARGO_PKG_VERSION"))),
        _ => return refuse("millpond: unknown arguments; settings are environment variables, see millpond --help"),
    };
    let settings = match Settings::from_vars(std::env::vars_os()) {
        Ok(settings) => settings,
        Err(error) => return refuse(&format!("millpond: {error}")),
    };
    init_log(&settings.log);
    let done =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime").and_then(|runtime| {
            let done = runtime.block_on(async {
                match command {
                    Command::Serve => serve(settings).await,
                    Command::Check => check(settings).await,
                }
            });
            // What still blocks is not worth waiting for: a dispatcher that was told to stop at once, a file system that hangs.
            runtime.shutdown_background();
            done
        });
    match done {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

async fn serve(mut settings: Settings) -> anyhow::Result<ExitCode> {
    raise_open_files(&mut settings);
    // Before anything else, so that a signal that comes early is not lost.
    let signals = Signals::new().context("signals cannot be caught")?;
    let (shutdown, reload) = (Shutdown::default(), Reload::default());
    // In a task of its own, so that a file system that hangs under this one does not keep the process.
    let mut watching = JoinSet::new();
    watching.spawn(watch(signals, (shutdown.clone(), reload.clone()), settings.shutdown_grace));
    settings.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let opened = app::read_admin_token(&mut settings)
        .and_then(|()| open(&settings, &reload))
        .and_then(|opened| Ok((app::open_spool(&settings, Arc::new(RealDisk))?, opened)));
    let (spool, Opened { tenants, tls }) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            tracing::error!("{error:#}");
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    let listen = |what: &str, address| bind(address).with_context(|| format!("{what}: cannot listen on {address}"));
    let public = listen("LISTEN_ADDR", settings.http.listen_addr)?;
    let admin = listen("ADMIN_ADDR", settings.admin_addr)?;
    tracing::info!(addr = %public.local_addr()?, "listening");
    tracing::info!(addr = %admin.local_addr()?, "admin listening");

    let run = app::run(settings, spool, tenants, Listeners { public, tls, admin }, shutdown);
    let ended = run.await?;
    Ok(if conclude(&ended) { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILURE) })
}

/// Says how it ended; whether nothing is lost, nothing is possibly lost, and the server did not fail.
fn conclude(ExitSummary { balance, is_durable, spool, failure }: &ExitSummary) -> bool {
    if let Some(failure) = failure {
        tracing::error!("{failure:#}");
    }
    let Count { jobs, payloads } = balance.waiting;
    let is_lost = jobs > 0 && !is_durable;
    let is_damaged = balance.dead.jobs > 0 || spool.possibly_lost > 0;
    if is_lost {
        tracing::error!(jobs, payloads, "accepted and not stored: lost");
    } else if jobs > 0 {
        tracing::warn!(jobs, payloads, "not stored yet: kept in the spool for the next start");
    } else if spool.segments > 0 || spool.folders > 0 {
        let SpoolEnd { segments, folders, .. } = spool;
        tracing::warn!(
            segments,
            folders,
            "work of earlier processes is not stored yet: kept in the spool for the next start"
        );
    } else if spool.damaged > 0 && !is_damaged {
        let segments = spool.damaged;
        tracing::warn!(segments, "segments were damaged on disk, and no job in them was lost: see dead/ in SPOOL_DIR");
    } else if !is_damaged {
        let Count { jobs, payloads } = balance.stored;
        tracing::info!(jobs, payloads, "all that was accepted is stored");
    }
    if balance.dead.jobs > 0 {
        let Count { jobs, payloads } = balance.dead;
        tracing::error!(jobs, payloads, "accepted and damaged on disk: lost");
    }
    if spool.possibly_lost > 0 {
        let SpoolEnd { possibly_lost: segments, jobs_possibly_lost: known_jobs, .. } = spool;
        tracing::error!(
            segments,
            known_jobs,
            "the ends of segments could not be read: jobs are possibly lost, see dead/ in SPOOL_DIR"
        );
    }
    !is_lost && !is_damaged && failure.is_none()
}

/// Passes the signals on. A process that has not ended when its time is over, since a call of the file system's does not
/// return, is ended from here.
#[expect(clippy::disallowed_methods, reason = "returning from main is what hangs")]
async fn watch(mut signals: Signals, (shutdown, reload): (Shutdown, Reload), grace: Duration) {
    signals.stop(&reload).await;
    shutdown.drain();
    if timeout(grace, signals.stop(&reload)).await.is_ok() {
        shutdown.abort();
    }
    sleep(END_TIMEOUT).await;
    tracing::error!("a call of the system's does not return; ending without it. What is in SPOOL_DIR is kept");
    std::process::exit(i32::from(EXIT_FAILURE));
}

/// Raises the limit on open files as far as the system lets us, says what it allows, and lowers `MAX_CONNECTIONS` to that:
/// beyond it not only connections would fail, but uploads.
fn raise_open_files(settings: &mut Settings) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    let Some(files) = (if raised { maximum } else { current }) else { return };
    let others = OTHER_FILES + ADOPTED_FOLDERS_MAX + FILES_PER_WORKER * settings.max_workers;
    let connections = usize::try_from(files).unwrap_or(usize::MAX).saturating_sub(others).max(1);
    if connections < settings.http.max_connections {
        tracing::warn!(
            files,
            connections,
            "the limit on open files allows fewer connections than MAX_CONNECTIONS: raise ulimit -n"
        );
        settings.http.max_connections = connections;
    } else {
        tracing::info!(files, connections, "the limit on open files allows more connections than MAX_CONNECTIONS");
    }
}

/// What the settings name files for, read from them.
struct Opened {
    tenants: Option<TenantsFile>,
    tls: Option<(Arc<Tls>, Followed)>,
}

fn open(settings: &Settings, reload: &Reload) -> anyhow::Result<Opened> {
    // Followed before they are read, so that no change is missed, however long the start takes.
    let load = |files: &TlsSettings| {
        let followed = reload.follow(vec![files.cert.clone(), files.key.clone()]);
        Tls::load(files).map(|tls| (Arc::new(tls), followed))
    };
    let tls = settings.transport.tls.as_ref().map(load).transpose()?;
    let key = settings.transport.tls.as_ref().map(|files| ("TLS_KEY", &files.key));
    let tokens = settings.tenants.as_ref().map(|tenants| ("TOKENS_FILE", &tenants.file));
    for (setting, path) in key.into_iter().chain(tokens) {
        if is_readable_by_others(path).unwrap_or(false) {
            let file = path.display();
            tracing::warn!(setting, %file, "other users of this machine can read this file: chmod 600 it, and give it to the server's user");
        }
    }
    Ok(Opened { tenants: app::open_tenants(settings, reload)?, tls })
}

async fn check(mut settings: Settings) -> anyhow::Result<ExitCode> {
    let opened = app::read_admin_token(&mut settings)
        .and_then(|()| open(&settings, &Reload::default()))
        .and_then(|_| app::open_spool(&settings, Arc::new(RealDisk)))
        .and_then(|opened| Ok((opened, Spool::dead_files(&settings.spool, &RealDisk)?)));
    let ((spool, left), (damaged, damaged_bytes)) = match opened {
        Ok(opened) => opened,
        Err(error) => return Ok(refuse(&format!("millpond: {error:#}"))),
    };
    let left = left.len();
    spool.close();
    let store = Store::connect(&settings).await;
    let slash = if settings.prefix.is_empty() { "" } else { "/" };
    let id = SegmentId::new(std::time::SystemTime::now());
    let key = format!("{}{slash}.millpond-check-{id}", settings.prefix);
    store
        .check_write(&key, id)
        .await
        .with_context(|| format!("the settings are good, but not the store {}", store.location()))?;
    Ok(print(&format!(
        "The settings are good, and an object was written to {}, read back and deleted.\n\
         Found in the spool: segments of dead processes {left}, damaged files under dead/ {damaged} ({damaged_bytes} bytes).\n\
         {}",
        store.location(),
        settings.warnings.iter().map(|warning| format!("Warning: {warning}.\n")).collect::<String>()
    )))
}

/// SIGTERM and SIGINT, which stop; SIGHUP, which does not.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal that stops; those that do not are passed on.
    async fn stop(&mut self, reload: &Reload) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => reload.now(),
            }
        }
    }
}

fn init_log(settings: &LogSettings) {
    let format =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(settings.filter.clone());
    if settings.json {
        registry.with(format.json()).init();
    } else {
        registry.with(format).init();
    }
}

fn help() -> String {
    let name = SETTINGS.iter().map(|setting| setting.name.len()).max().unwrap_or_default();
    let default = SETTINGS.iter().filter_map(|setting| setting.default).map(str::len).max().unwrap_or_default();
    let unit = SETTINGS.iter().map(|setting| setting.unit.len()).max().unwrap_or_default();
    let mut help = format!("{USAGE}\n  {:name$}  {:default$}  {:unit$}\n", "setting", "default", "unit");
    for setting in SETTINGS {
        let given = match setting.default {
            None => "unset",
            Some("") => "empty",
            Some(text) => text,
        };
        help.push_str(&format!(
            "  {:name$}  {given:default$}  {:unit$}  {}\n",
            setting.name, setting.unit, setting.help
        ));
    }
    help
}

/// A closed pipe is no error of ours.
fn print(text: &str) -> ExitCode {
    let _: std::io::Result<()> = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// Says on standard error why the program does not run: there is no log yet.
fn refuse(text: &str) -> ExitCode {
    let _: std::io::Result<()> = std::io::stderr().write_all(format!("{text}\n").as_bytes());
    ExitCode::from(EXIT_USAGE)
}
