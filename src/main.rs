//! The program: command line, environment, signals and exit codes.

use std::ffi::OsStr;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use listenfd::ListenFd;
use millpond::app::{self, Controls, Listeners};
use millpond::broker::{self, Broker, BrokerCheck};
use millpond::cli::{self, CliError, Environment, Invocation};
use millpond::config::{BrokerSettings, EXIT_USAGE, LogSettings, Settings, TlsSettings};
use millpond::disk::RealDisk;
use millpond::handover::{self, Handover, Inherited, Takeover};
use millpond::log_filter::LogFilter;
use millpond::permissions::is_readable_by_others;
use millpond::reload::{Reload, WatchedFiles};
use millpond::rollout::{OUTBOUND_FILES_MAX, RolloutFile};
use millpond::segment::SegmentId;
use millpond::server::Tls;
use millpond::shutdown::Shutdown;
use millpond::spool::{ADOPTED_FOLDERS_MAX, Spool};
use millpond::store::Store;
use millpond::tenants::TenantsFile;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

/// The allocator whose heap profile `/debug/pprof/heap` returns.
#[cfg(feature = "heap-profile")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Accepted jobs are lost or possibly lost, or the server failed.
const EXIT_FAILURE: u8 = 1;

/// The process exits this long after SHUTDOWN_GRACE or a second signal, whatever blocks.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Open files other than connections: listeners, the log, the spool, scrapes, rejected connections. Adopted folders are counted
/// by [`ADOPTED_FOLDERS_MAX`].
const OTHER_FILES: usize = 256;
/// A connection to the store, a file that is read or written.
const FILES_PER_WORKER: usize = 4;

#[derive(Clone, Copy)]
enum Command {
    Serve,
    Check,
}

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os().skip(1)) {
        Ok(Invocation::Serve) => Command::Serve,
        Ok(Invocation::Check) => Command::Check,
        Ok(Invocation::Print(text)) => return print(&text),
        Ok(Invocation::Tool(tool)) => return exit_code(tool.run(&Environment::from_vars(std::env::vars_os()))),
        Err(text) => return usage_error(text.trim_end()),
    };
    let settings = match Settings::from_vars(std::env::vars_os()) {
        Ok(settings) => settings,
        Err(error) => return usage_error(&format!("millpond: {error}")),
    };
    let inherited = match command {
        Command::Serve => inherited(),
        Command::Check => Ok(Inherited::default()),
    };
    let inherited = match inherited {
        Ok(inherited) => inherited,
        Err(error) => return usage_error(&format!("millpond: {error}")),
    };
    let log_filter = init_log(&settings.log);
    match run(command, (settings, inherited), log_filter) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

/// The exit code of a command other than the server.
fn exit_code(result: Result<(), CliError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of a pipe has read enough.
        Err(CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(CliError::Reported) => ExitCode::from(EXIT_FAILURE),
        Err(CliError::Usage(text)) => usage_error(&format!("millpond: {text}")),
        Err(error) => {
            print_error(&format!("millpond: {error}"));
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

fn run(
    command: Command,
    (settings, inherited): (Settings, Inherited),
    log_filter: LogFilter,
) -> anyhow::Result<ExitCode> {
    let runtime = runtime::Builder::new_multi_thread()
        .thread_name("runtime")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(async {
        match command {
            Command::Serve => Box::pin(serve(settings, inherited, log_filter)).await,
            Command::Check => check(settings).await,
        }
    });
    // Without waiting for threads that block: an aborted dispatcher, a file system that does not respond.
    runtime.shutdown_background();
    result
}

async fn serve(mut settings: Settings, inherited: Inherited, log_filter: LogFilter) -> anyhow::Result<ExitCode> {
    raise_open_files(&mut settings);
    // First, so that an early signal is not lost.
    let signals = Signals::new().context("cannot install signal handlers")?;
    let (shutdown, reload) = (Shutdown::default(), Reload::default());
    // In its own task, so that it can end the process while this one blocks in the file system.
    let mut watching = JoinSet::new();
    let delays = (settings.drain_delay, settings.shutdown_grace);
    watching.spawn(handle_signals(signals, (shutdown.clone(), reload.clone()), delays));
    let ready = CancellationToken::new();
    watching.spawn(notify_service_manager(ready.clone(), shutdown.clone()));
    settings.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    // Before the spool is opened, so that a process that is rejected leaves nothing there.
    let mut takeover = match take_over(&settings).await {
        Ok(takeover) => takeover,
        Err(error) => {
            tracing::error!("{error}");
            return Ok(ExitCode::from(if error.is_usage() { EXIT_USAGE } else { EXIT_FAILURE }));
        }
    };
    let opened = app::read_admin_token(&mut settings)
        .and_then(|()| Ok(inherited.check(settings.admin_token.is_some())?))
        .and_then(|()| read_files(&settings, inherited.addresses(&settings), &reload))
        .and_then(|opened| Ok((app::open_spool(&settings, Arc::new(RealDisk))?, opened)));
    let (spool, SettingsFiles { tenants, rollout, tls }) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            tracing::error!("{error:#}");
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    let (public, admin) = handover::listen(&settings, inherited, takeover.as_mut()).await?;
    tracing::info!(addr = %public.local_addr()?, "listening");
    tracing::info!(addr = %admin.local_addr()?, "admin listening");
    let handover = settings.handover_socket.clone().map(|path| Handover::new(path, takeover, &public, &admin));
    let handover = handover.transpose().context("cannot duplicate the listeners for HANDOVER_SOCKET")?;

    let controls = Controls { shutdown, log_filter, handover, ready };
    let (files, listeners) = ((tenants, rollout), Listeners { public, tls, admin });
    // Boxed, because the future is large.
    let summary = Box::pin(app::run(settings, spool, files, listeners, controls)).await?;
    Ok(if summary.report() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILURE) })
}

/// The sockets that a service manager has opened.
fn inherited() -> Result<Inherited, handover::InheritedError> {
    // Without it, the variables may be meant for another process.
    let listen_fds = if std::env::var_os("LISTEN_PID").is_some() { ListenFd::from_env() } else { ListenFd::empty() };
    Inherited::take(listen_fds, std::env::var_os("LISTEN_FDNAMES").as_deref().and_then(OsStr::to_str))
}

/// Asks the running process for its listeners, if there is one.
async fn take_over(settings: &Settings) -> Result<Option<Takeover>, handover::HandoverError> {
    match &settings.handover_socket {
        Some(path) => handover::request(path).await,
        None => Ok(None),
    }
}

/// Tells systemd when the server is ready and when it stops, if `NOTIFY_SOCKET` is set (sd_notify(3)).
async fn notify_service_manager(ready: CancellationToken, shutdown: Shutdown) {
    let notify = |state: NotifyState<'_>| {
        if let Err(error) = sd_notify::notify(&[state]) {
            tracing::warn!(%error, "cannot notify the service manager at NOTIFY_SOCKET");
        }
    };
    ready.cancelled().await;
    notify(NotifyState::Ready);
    shutdown.draining().await;
    notify(NotifyState::Stopping);
}

/// Turns signals into the stages of the shutdown. Ends the process itself if a system call keeps it from exiting in time.
#[expect(clippy::disallowed_methods, reason = "returning from main may block")]
async fn handle_signals(
    mut signals: Signals,
    (shutdown, reload): (Shutdown, Reload),
    (delay, grace): (Duration, Duration),
) {
    let stopped_by_signal = tokio::select! {
        () = shutdown.draining() => false,
        () = signals.stop(&reload) => {
            shutdown.announce();
            if !delay.is_zero() {
                tracing::info!(?delay, "shutting down after DRAIN_DELAY: /health says 503, and requests are accepted");
                // A second signal ends the delay. A handover does not wait for it.
                tokio::select! {
                    () = shutdown.draining() => {}
                    _ = timeout(delay, signals.stop(&reload)) => {}
                }
            }
            true
        }
    };
    shutdown.drain();
    let second_signal = async {
        if !stopped_by_signal {
            // What stops a service does not know of its handover.
            signals.stop(&reload).await;
            tracing::info!("already shutting down; another signal aborts");
        }
        signals.stop(&reload).await;
    };
    if timeout(grace, second_signal).await.is_ok() {
        shutdown.abort();
    }
    sleep(EXIT_TIMEOUT).await;
    tracing::error!("a system call does not return; exiting without it. Jobs in SPOOL_DIR are kept");
    std::process::exit(i32::from(EXIT_FAILURE));
}

/// Raises the limit on open files as far as allowed, and lowers `MAX_CONNECTIONS` to it: above the limit, uploads would fail
/// as well.
fn raise_open_files(settings: &mut Settings) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    let Some(files) = (if raised { maximum } else { current }) else { return };
    let outbound_files = if settings.rollout_file.is_some() { OUTBOUND_FILES_MAX } else { 0 };
    let other_files = OTHER_FILES + ADOPTED_FOLDERS_MAX + FILES_PER_WORKER * settings.max_workers + outbound_files;
    let connections = usize::try_from(files).unwrap_or(usize::MAX).saturating_sub(other_files).max(1);
    if connections < settings.http.max_connections {
        tracing::warn!(files, connections, "the limit on open files lowers MAX_CONNECTIONS: raise ulimit -n");
        settings.http.max_connections = connections;
    } else {
        tracing::info!(files, connections, "the limit on open files allows MAX_CONNECTIONS");
    }
}

/// The content of the files that the settings name.
struct SettingsFiles {
    tenants: Option<TenantsFile>,
    rollout: Option<RolloutFile>,
    tls: Option<(Arc<Tls>, WatchedFiles)>,
}

/// `own` are the addresses of the listeners.
fn read_files(settings: &Settings, own: [SocketAddr; 2], reload: &Reload) -> anyhow::Result<SettingsFiles> {
    // Watched before they are read, so that no change is missed.
    let load = |files: &TlsSettings| {
        let followed = reload.watch(vec![files.cert.clone(), files.key.clone()]);
        Tls::load(files).map(|tls| (Arc::new(tls), followed))
    };
    let tls = settings.transport.tls.as_ref().map(load).transpose()?;
    let key = settings.transport.tls.as_ref().map(|files| ("TLS_KEY", &files.key));
    let tokens = settings.tenants.as_ref().map(|tenants| ("TOKENS_FILE", &tenants.file));
    let broker = settings.broker.as_ref();
    broker.map(broker::check_files).transpose()?;
    let credentials = broker.and_then(|broker| Some(("BROKER_CREDENTIALS", broker.credentials.as_ref()?)));
    for (setting, path) in key.into_iter().chain(tokens).chain(credentials) {
        if is_readable_by_others(path).unwrap_or(false) {
            let file = path.display();
            tracing::warn!(setting, %file, "other users of this machine can read this file: chmod 600 it, and make the server's user its owner");
        }
    }
    let tenants = app::open_tenants(settings, reload)?;
    let rollout = app::open_rollout(settings, own, tenants.as_ref(), reload)?;
    Ok(SettingsFiles { tenants, rollout, tls })
}

async fn check(mut settings: Settings) -> anyhow::Result<ExitCode> {
    let opened = app::read_admin_token(&mut settings)
        .and_then(|()| read_files(&settings, Inherited::default().addresses(&settings), &Reload::default()))
        .and_then(|_| app::open_spool(&settings, Arc::new(RealDisk)))
        .and_then(|opened| Ok((opened, Spool::dead_files(&settings.spool, &RealDisk)?)));
    let ((spool, adopted), (damaged, damaged_bytes)) = match opened {
        Ok(opened) => opened,
        Err(error) => return Ok(usage_error(&format!("millpond: {error:#}"))),
    };
    let adopted = adopted.len();
    spool.close();
    let broker = match &settings.broker {
        Some(broker) => format!("{}\n", check_broker(broker).await?),
        None => String::new(),
    };
    let store = Store::connect(&settings).await;
    let slash = if settings.prefix.is_empty() { "" } else { "/" };
    let id = SegmentId::new(std::time::SystemTime::now());
    let key = format!("{}{slash}.millpond-check-{id}", settings.prefix);
    store
        .check_write(&key, id)
        .await
        .with_context(|| format!("the settings are valid, but the store {} is not usable", store.location()))?;
    Ok(print(&format!(
        "The settings are valid, and an object was written to {}, read back and deleted.\n\
         Spool: segments of exited processes {adopted}, damaged files under dead/ {damaged} ({damaged_bytes} bytes).\n\
         {broker}{}",
        store.location(),
        settings.warnings.iter().map(|warning| format!("Warning: {warning}.\n")).collect::<String>()
    )))
}

async fn check_broker(settings: &BrokerSettings) -> anyhow::Result<BrokerCheck> {
    let checked = Broker::connect(settings).await.context("BROKER_CA cannot be used")?.check_usable().await;
    let servers = settings.servers.names();
    checked.with_context(|| format!("the settings are valid, but the broker at {servers} is not usable"))
}

/// SIGTERM and SIGINT stop the server; SIGHUP reloads files.
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

    /// Waits for SIGTERM or SIGINT; reloads on SIGHUP meanwhile.
    async fn stop(&mut self, reload: &Reload) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => reload.request(),
            }
        }
    }
}

fn init_log(settings: &LogSettings) -> LogFilter {
    let format =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let (filter, handle) = reload::Layer::new(settings.filter.clone());
    let registry = tracing_subscriber::registry().with(filter);
    if settings.json {
        registry.with(format.json()).init();
    } else {
        registry.with(format).init();
    }
    LogFilter::new(handle)
}

/// Ignores an error, such as a closed pipe.
fn print(text: &str) -> ExitCode {
    let _: std::io::Result<()> = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// Prints to standard error, because logging has not started.
fn usage_error(text: &str) -> ExitCode {
    print_error(text);
    ExitCode::from(EXIT_USAGE)
}

fn print_error(text: &str) {
    let _: std::io::Result<()> = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}
