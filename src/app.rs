//! The wiring, and the order in which it is taken apart.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::task::{self, JoinSet};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::admin::{Admin, AdminService};
use crate::config::{self, Ack, Settings, TenantSettings};
use crate::disk::Disk;
use crate::health::Health;
use crate::http::{self, Edge, Limits, Public, Tls, Transport, TrustedProxies};
use crate::log_throttle::LogThrottle;
use crate::metrics::{Balance, Metrics};
use crate::permissions::is_readable_by_others;
use crate::pipeline::{Pipeline, PipelineContext};
use crate::queue::queue;
use crate::reload::{Followed, Reload};
use crate::shutdown::Shutdown;
use crate::spool::{Backlog, SealedSegment, Spool, Unadopted};
use crate::store::Store;
use crate::tenants::{Tenants, TenantsFile};
use crate::worker::backoff;

/// How often to look for what other processes have left in the spool.
const ADOPT_INTERVAL: Duration = Duration::from_secs(2);
/// How often it is logged that this fails.
const ADOPT_LOG_INTERVAL: Duration = Duration::from_secs(60);
/// The same while folders wait until others are done.
const ADOPT_WAITING_INTERVAL: Duration = Duration::from_millis(200);
/// Segments that may be in memory beside one for each worker: with that many, the dispatcher stops taking jobs.
const BACKLOG_MAX_SEGMENTS: usize = 1;
/// Of the time that a shutdown has, senders get at most this share to finish their requests.
const REQUESTS_SHARE: f64 = 0.4;
/// How long what was aborted may take to end.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections to the admin listener: a few scrapers and people.
const ADMIN_MAX_CONNECTIONS: usize = 64;
/// One address cannot keep the others away from it.
const ADMIN_MAX_PER_ADDRESS: usize = 16;
const ADMIN_HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const ADMIN_IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// The bound listeners.
pub struct Listeners {
    /// For senders.
    pub public: TcpListener,
    /// What TLS is spoken with on it, if it is.
    pub tls: Option<(Arc<Tls>, Followed)>,
    /// For operators.
    pub admin: TcpListener,
}

/// The state of the accepted work when the server has stopped.
#[derive(Debug)]
pub struct ExitSummary {
    /// The ledger at the end.
    pub balance: Balance,
    /// Whether what waits survives the process.
    pub is_durable: bool,
    /// What is known of damage on disk and of work of earlier processes.
    pub spool: SpoolEnd,
    /// Why it ended, if not because it was told to.
    pub failure: Option<anyhow::Error>,
}

/// What the ledger does not say about the spool at the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpoolEnd {
    /// Segments that are still there.
    pub segments: usize,
    /// Folders of dead processes that were not taken over.
    pub folders: usize,
    /// Segments that were damaged on disk.
    pub damaged: u64,
    /// Segments whose end could not be read, so that jobs may be lost.
    pub possibly_lost: u64,
    /// Jobs there, where their number is known.
    pub jobs_possibly_lost: u64,
}

impl SpoolEnd {
    fn of(context: &PipelineContext) -> Self {
        let Unadopted { waiting, failing, .. } = context.spool.unadopted();
        Self {
            segments: context.spool.segments().spooled(),
            folders: waiting + failing,
            damaged: context.metrics.segments_damaged.get(),
            possibly_lost: context.metrics.segments_possibly_lost.get(),
            jobs_possibly_lost: context.metrics.jobs_possibly_lost.get(),
        }
    }
}

/// The spool that the settings ask for, and what dead processes have left in it.
///
/// # Errors
/// When its folder cannot be read or written.
pub fn open_spool(settings: &Settings, disk: Arc<dyn Disk>) -> anyhow::Result<(Spool, Vec<SealedSegment>)> {
    match settings.http.ack {
        Ack::Memory if Spool::has_segments(&settings.spool, &*disk) => Err(anyhow!(
            "SPOOL_DIR={} holds accepted work that ACK=memory would not look at: start with ACK=disk until it is stored",
            settings.spool.dir.display()
        )),
        Ack::Memory => Ok((Spool::in_memory(settings.objects.compression), Vec::new())),
        Ack::Disk | Ack::Stored => Spool::on_disk(&settings.spool, &settings.objects, disk)
            .with_context(|| format!("SPOOL_DIR={} cannot be used", settings.spool.dir.display())),
    }
}

/// Reads `ADMIN_TOKEN_FILE`, if it is set, into the settings.
///
/// # Errors
/// When it cannot be read or holds no token. The error does not repeat what the file holds.
pub fn read_admin_token(settings: &mut Settings) -> anyhow::Result<()> {
    let Some(file) = &settings.admin_token_file else { return Ok(()) };
    let name = || format!("ADMIN_TOKEN_FILE={}", file.display());
    let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", name()))?;
    let token = config::admin_token(&text);
    settings.admin_token = Some(token.map_err(|expected| anyhow!("{}: expected {expected}", name()))?);
    if is_readable_by_others(file).with_context(|| format!("{} cannot be read", name()))? {
        tracing::warn!(file = %file.display(), "other users of this machine can read ADMIN_TOKEN_FILE: chmod 600 it");
    }
    Ok(())
}

/// The file of tenants that the settings name, followed from now on; `None` lets anybody send.
///
/// # Errors
/// What is wrong with it.
pub fn open_tenants(settings: &Settings, reload: &Reload) -> anyhow::Result<Option<TenantsFile>> {
    let Some(TenantSettings { file, .. }) = &settings.tenants else { return Ok(None) };
    let opened = TenantsFile::open(file.clone(), reload);
    opened.map(Some).with_context(|| format!("TOKENS_FILE={} is not good", file.display()))
}

/// Runs the server until it is told to stop, beginning with the segments that are `left`.
///
/// # Errors
/// When it cannot be set up.
pub async fn run(
    settings: Settings,
    (spool, left): (Spool, Vec<SealedSegment>),
    tenants: Option<TenantsFile>,
    listeners: Listeners,
    shutdown: Shutdown,
) -> anyhow::Result<ExitSummary> {
    let metrics = Arc::new(Metrics::new(Registry::new()).context("the metrics cannot be declared")?);
    let spool = Arc::new(spool);
    let is_durable = spool.is_durable();
    let health = Arc::new(Health::new(Arc::clone(&metrics.ledger)));
    let most = if is_durable { usize::MAX } else { settings.max_workers + BACKLOG_MAX_SEGMENTS };
    let backlog = Arc::new(Backlog::new(most));
    let context = PipelineContext { spool, backlog, health, metrics, shutdown: shutdown.clone() };
    let (jobs, receiver) =
        queue(settings.queue.max_jobs, settings.queue.max_bytes, Arc::clone(&context.metrics.ledger));
    let store = Arc::new(Store::connect(&settings).await);
    tracing::info!(store = store.location(), "objects go here");
    context.metrics.segments_adopted.inc_by(left.len() as u64);
    context.backlog.add(left);

    let mut pipeline = Pipeline::start(&settings, receiver, &context, &store)?;
    let mut looking = JoinSet::new();
    looking.spawn(reach(Arc::clone(&store), context.clone()));
    let mut aside = JoinSet::new();
    if is_durable {
        aside.spawn(adopt(context.clone()));
    }
    let admin = AdminService::new(Admin::new(&context, jobs.depth()), settings.admin_token);
    aside.spawn(serve_admin(listeners.admin, admin));
    let (tls, files) = listeners.tls.unzip();
    if let (Some(tls), Some(files)) = (tls.clone(), files) {
        aside.spawn(async move {
            let error = files.run(move || tls.reload()).await;
            tracing::error!(%error, "TLS_CERT and TLS_KEY can be followed no longer");
        });
    }

    let tenants = match (tenants, &settings.tenants) {
        (Some(file), Some(TenantSettings { queue_percent, spool_percent, .. })) => {
            let shares = jobs.share_limits(*queue_percent).with_spool(*spool_percent, settings.spool.max_bytes);
            let (tenants, following) = Tenants::new(file, shares, settings.http.max_body_bytes);
            aside.spawn(async move {
                let error = following.await;
                tracing::error!(%error, "TOKENS_FILE is followed no more");
            });
            Some(tenants)
        }
        _ => {
            tracing::warn!("anybody may send: TOKENS_FILE is not set");
            None
        }
    };
    let edge = Edge::new(&settings, jobs, context.clone(), store, tenants);
    let mut public = JoinSet::new();
    let serving =
        serve_public((listeners.public, tls), edge, &settings, Arc::clone(&context.metrics), shutdown.drain_token());
    public.spawn(serving);

    let mut failure = tokio::select! {
        () = shutdown.draining() => None,
        ended = pipeline.ended() => Some(ended.context("the pipeline ended by itself")),
        _ = public.join_next() => Some(anyhow!("the public listener ended by itself")),
        _ = aside.join_next() => Some(anyhow!("the admin listener, or the look at the spool or at files, ended by itself")),
    };

    tracing::info!(grace = ?settings.shutdown_grace, "stopping: requests in flight are finished, then the queue is drained");
    let began = Instant::now();
    let deadline = began + settings.shutdown_grace;
    shutdown.drain();
    context.backlog.retry_now(true);
    let drained = async {
        let requests_deadline = began + settings.shutdown_grace.mul_f64(REQUESTS_SHARE);
        if timeout_at(requests_deadline, public.join_next()).await.is_err() {
            tracing::warn!("requests were still in flight; they were not acknowledged");
        }
        // With the last connection the last sender into the queue goes, and that closes it.
        public.shutdown().await;
        pipeline.drained().await
    };
    tokio::select! {
        drained = timeout_at(deadline, drained) => match drained {
            Ok(result) => failure = failure.or(result.err()),
            Err(_) => tracing::warn!("SHUTDOWN_GRACE is over"),
        },
        () = shutdown.aborted() => tracing::warn!("stopping at once"),
    }
    // Both may hang in a call of the file system's, and both together have this time.
    let last = Instant::now() + ABORT_TIMEOUT;
    pipeline.abort(last).await;
    let spool = Arc::clone(&context.spool);
    let closing = task::spawn_blocking(move || spool.close());
    if timeout_at(last, closing).await.is_err() {
        tracing::warn!("SPOOL_DIR does not answer: this process's folder is left for the next process to tidy up");
    }
    Ok(ExitSummary { balance: context.metrics.ledger.balance(), is_durable, spool: SpoolEnd::of(&context), failure })
}

async fn serve_admin(listener: TcpListener, admin: AdminService) {
    let limits = Limits {
        max_connections: ADMIN_MAX_CONNECTIONS,
        header_timeout: ADMIN_HEADER_TIMEOUT,
        idle_timeout: ADMIN_IDLE_TIMEOUT,
    };
    // Until the process ends: a shutdown wants watching, too.
    let transport = Transport { max_per_address: Some(ADMIN_MAX_PER_ADDRESS), ..Transport::default() };
    http::serve(listener, move |peer| admin.of(&peer), limits, transport, None, CancellationToken::new()).await;
}

fn serve_public(
    (listener, tls): (TcpListener, Option<Arc<Tls>>),
    edge: Edge,
    settings: &Settings,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send + use<> {
    let limits = Limits {
        max_connections: settings.http.max_connections,
        header_timeout: settings.http.header_timeout,
        idle_timeout: settings.http.idle_timeout,
    };
    let transport = Transport {
        tls,
        proxies: TrustedProxies::new(&settings.transport.trusted_proxies),
        proxy_protocol: settings.transport.proxy_protocol,
        max_per_address: settings.transport.max_connections_per_address,
    };
    let public = Public::new(Arc::new(edge));
    http::serve(listener, move |peer| public.of(peer), limits, transport, Some(metrics), stop)
}

/// Looks for the store until it has been seen once, so that `/ready` tells of a missing bucket before the first upload.
async fn reach(store: Arc<Store>, context: PipelineContext) {
    let mut failures = 0;
    while context.metrics.objects.get() == 0 {
        match store.check_reachable().await {
            // A trouble that a worker has told of is for a worker to end.
            Ok(()) if failures == 0 => return,
            Ok(()) => {
                context.health.store_succeeded();
                return context.backlog.retry_now(false);
            }
            Err(error) => context.health.store_failed(&error),
        }
        sleep(backoff::delay(failures, fastrand::f64())).await;
        failures = failures.saturating_add(1);
    }
}

/// Looks now and then for processes that share the spool and have died since, or have stopped and left something.
async fn adopt(context: PipelineContext) {
    let log = LogThrottle::new(ADOPT_LOG_INTERVAL);
    loop {
        let unadopted = context.spool.unadopted();
        context.metrics.folders_unadopted(unadopted.waiting, unadopted.failing);
        sleep(if unadopted.waiting > 0 { ADOPT_WAITING_INTERVAL } else { ADOPT_INTERVAL }).await;
        context.spool.retry_cleanups().await;
        if context.shutdown.is_draining() {
            // What is there is the successor's.
            continue;
        }
        let spool = Arc::clone(&context.spool);
        let adopted = task::spawn_blocking(move || spool.adopt()).await;
        match adopted.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(segments) => {
                context.metrics.segments_adopted.inc_by(segments.len() as u64);
                context.backlog.add(segments);
            }
            Err(error) => {
                if let Some(suppressed) = log.permit() {
                    tracing::warn!(%error, suppressed, "cannot look for what dead processes have left");
                }
            }
        }
    }
}
