//! Starts every task of the server, and stops them in order.

mod adopt;
mod check_store;
mod rollout;
mod summary;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use prometheus::Registry;
pub use rollout::open_rollout;
use rollout::start_rollout;
pub use summary::{ExitSummary, SpoolEnd};
use tokio::net::TcpListener;
use tokio::task::{self, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use self::adopt::adopt;
use self::check_store::check_store;
use crate::admin::{Admin, AdminService};
use crate::config::{self, Ack, Settings, TenantSettings};
use crate::context::PipelineContext;
use crate::disk::Disk;
use crate::fleet;
use crate::handover::Handover;
use crate::health::Health;
use crate::http::{ApiState, PublicService, rejection_outcome, render_rejection};
use crate::log_filter::LogFilter;
use crate::metrics::{Metrics, Route, WatchedFile};
use crate::permissions::is_readable_by_others;
use crate::pipeline::Pipeline;
use crate::queue::queue;
use crate::reload::{Reload, WatchedFiles};
use crate::rollout::RolloutFile;
use crate::server::{self, ServerConfig, ServerMetrics, Timeouts, Tls, TrustedProxies};
use crate::shutdown::Shutdown;
use crate::spool::{Backlog, SealedSegment, Spool};
use crate::statsd::Statsd;
use crate::status::{Sampler, Sources};
use crate::store::Store;
use crate::tenants::{Tenants, TenantsFile};
use crate::trace::Tracer;

/// Segments in memory in addition to one for each worker; with that many, the dispatcher takes no jobs.
const BACKLOG_MAX_SEGMENTS: usize = 1;
/// The share of `SHUTDOWN_GRACE`, and the longest time, after which a connection without a request ends while the server
/// drains. A client that sends more often gets its next response with `Connection: close`; an idle pool of connections delays
/// the shutdown by no more than this.
const DRAIN_IDLE_SHARE: f64 = 0.2;
const DRAIN_IDLE_MAX: Duration = Duration::from_secs(5);
/// How long aborted tasks may take to exit.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the export of the last spans may take.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections of the admin listener: a few scrapers and operators.
const ADMIN_MAX_CONNECTIONS: usize = 64;
/// Of one address, so that it cannot lock out the others.
const ADMIN_MAX_PER_ADDRESS: usize = 16;
const ADMIN_HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const ADMIN_IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// The bound listeners.
pub struct Listeners {
    /// For clients.
    pub public: TcpListener,
    /// The certificate of the public listener, with its files; plain TCP without one.
    pub tls: Option<(Arc<Tls>, WatchedFiles)>,
    /// For operators.
    pub admin: TcpListener,
}

/// What controls the running server from outside of it.
#[derive(Default)]
pub struct Controls {
    /// Stops it.
    pub shutdown: Shutdown,
    /// Changes its log.
    pub log_filter: LogFilter,
    /// Hands the listeners over to a new process; `None` without `HANDOVER_SOCKET`.
    pub handover: Option<Handover>,
    /// Cancelled when this process may accept connections, because no other process serves its listeners any more.
    pub ready: CancellationToken,
}

/// Opens the spool, and adopts the segments of processes that have exited.
///
/// # Errors
/// When its folder cannot be read or written.
pub fn open_spool(settings: &Settings, disk: Arc<dyn Disk>) -> anyhow::Result<(Spool, Vec<SealedSegment>)> {
    let has_segments = Spool::has_segments(&settings.spool, &*disk);
    let is_on_disk = match (&settings.broker, settings.http.ack) {
        (Some(broker), _) => {
            if has_segments {
                let (dir, servers) = (settings.spool.dir.display(), broker.servers.names());
                tracing::info!(%dir, servers, "SPOOL_DIR holds accepted jobs of earlier processes; they are stored from there");
            }
            has_segments
        }
        (None, Ack::Memory) if has_segments => {
            return Err(anyhow!(
                "SPOOL_DIR={} holds accepted jobs that ACK=memory does not store: start with ACK=disk until the spool is empty",
                settings.spool.dir.display()
            ));
        }
        (None, Ack::Memory) => false,
        (None, Ack::Disk | Ack::Replicated | Ack::Stored) => true,
    };
    if !is_on_disk {
        return Ok((Spool::in_memory(settings.objects.compression), Vec::new()));
    }
    Spool::on_disk(&settings.spool, &settings.objects, disk)
        .with_context(|| format!("SPOOL_DIR={} cannot be used", settings.spool.dir.display()))
}

/// Reads `ADMIN_TOKEN_FILE`, if it is set, into the settings.
///
/// # Errors
/// When it cannot be read or does not hold a token. The error does not contain the file's content.
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

/// Reads `TOKENS_FILE` and watches it from then on; `None` without tenants.
///
/// # Errors
/// What is wrong with the file.
pub fn open_tenants(settings: &Settings, reload: &Reload) -> anyhow::Result<Option<TenantsFile>> {
    let Some(TenantSettings { file, .. }) = &settings.tenants else { return Ok(None) };
    let opened = TenantsFile::open(file.clone(), reload);
    opened.map(Some).with_context(|| format!("TOKENS_FILE={}", file.display()))
}

/// Runs the server until its shutdown or a failure. `adopted` are the segments to store first.
///
/// # Errors
/// When it cannot start.
pub async fn run(
    settings: Settings,
    (spool, adopted): (Spool, Vec<SealedSegment>),
    (tenants, rollout): (Option<TenantsFile>, Option<RolloutFile>),
    listeners: Listeners,
    controls: Controls,
) -> anyhow::Result<ExitSummary> {
    let Controls { shutdown, log_filter, handover, ready } = controls;
    let metrics = Arc::new(Metrics::new(Registry::new()).context("cannot register the metrics")?);
    let (spool, fleet) = fleet::connect(&settings, spool).await?;
    let spool = Arc::new(spool);
    let is_durable = spool.is_durable();
    let health = Arc::new(Health::new(Arc::clone(&metrics.ledger), if fleet.is_some() { "broker" } else { "spool" }));
    let is_bounded = fleet.is_some() || !is_durable;
    let max_segments = if is_bounded { settings.max_workers + BACKLOG_MAX_SEGMENTS } else { usize::MAX };
    let backlog = Arc::new(Backlog::new(max_segments));
    let traces = settings.traces.as_ref().map(|traces| Tracer::new(traces, &metrics)).transpose();
    let (tracer, exporter) =
        traces.context("cannot read the certificates of the system for OTEL_EXPORTER_OTLP_ENDPOINT")?.unzip();
    let (recent, tracer) = (Arc::default(), tracer.map(Arc::new));
    let context = PipelineContext { spool, backlog, health, metrics, recent, shutdown: shutdown.clone(), tracer };
    let (jobs, receiver) =
        queue(settings.queue.max_jobs, settings.queue.max_bytes, Arc::clone(&context.metrics.ledger));
    let store = Arc::new(Store::connect(&settings).await);
    tracing::info!(store = store.location(), "storing objects");
    context.metrics.segments_adopted.inc_by(adopted.len() as u64);
    context.backlog.add(adopted);

    let mut pipeline = Pipeline::start(&settings, receiver, &context, &store)?;
    let mut exporting = JoinSet::new();
    if let Some(exporter) = exporter {
        pipeline.spawn_beside_workers(&mut exporting, exporter.run());
    }
    let mut store_check = JoinSet::new();
    store_check.spawn(check_store(Arc::clone(&store), context.clone()));
    let mut background = JoinSet::new();
    if is_durable {
        background.spawn(adopt(context.clone()));
    }
    if let Some(fleet) = fleet {
        fleet::start(&mut background, fleet, settings.role, &context, (&store, &settings.prefix));
    }
    let (tls, files) = listeners.tls.unzip();
    if let (Some(tls), Some(mut files)) = (tls.clone(), files) {
        files.report_to(context.metrics.reloads(WatchedFile::Certificate));
        background.spawn(async move {
            let error = files.run(move || tls.reload()).await;
            tracing::error!(%error, "watching TLS_CERT and TLS_KEY failed");
        });
    }

    let tenants = match (tenants, &settings.tenants) {
        (Some(file), Some(TenantSettings { queue_percent, spool_percent, .. })) => {
            let spool_limit = context.spool.tenant_limit(*spool_percent, settings.spool.max_bytes);
            let shares = jobs.share_limits(*queue_percent).with_spool(spool_limit);
            let (tenants, watching) = Tenants::new(file, shares, settings.http.max_body_bytes, &context.metrics);
            background.spawn(async move {
                let error = watching.await;
                tracing::error!(%error, "watching TOKENS_FILE failed");
            });
            Some(tenants)
        }
        _ => {
            tracing::warn!("TOKENS_FILE is not set: requests need no token");
            None
        }
    };
    let own = [&listeners.public, &listeners.admin]
        .map(|listener| listener.local_addr().context("a listener has no address"));
    let [public, admin] = own;
    let own = [public?, admin?];
    let mut copying = JoinSet::new();
    let rollout = match rollout {
        Some(file) => {
            let started = start_rollout((file, own), tenants.clone(), &settings, &context);
            let (rollout, watching, copies) = started?;
            background.spawn(watching);
            pipeline.spawn_beside_workers(&mut copying, copies);
            Some(rollout)
        }
        None => None,
    };
    let depth = jobs.depth();
    let sources = Arc::new(Sources::new(
        &settings,
        store.location(),
        context.clone(),
        depth,
        tenants.clone(),
        tls.clone(),
        rollout.clone(),
    ));
    let (sampler, snapshots) = Sampler::new(Arc::clone(&sources));
    let sampled = snapshots.clone();
    let mut statsd = Statsd::start(settings.statsd.as_ref(), context.metrics.statsd_failures.clone(), move || {
        sampled.current().families.clone()
    });
    let admin = Arc::new(Admin::new(Arc::clone(&sources), snapshots, log_filter));
    let admin_service = AdminService::new(Arc::clone(&admin), settings.admin_token);
    if !handover.as_ref().is_some_and(Handover::is_takeover) {
        ready.cancel();
    }
    let handed_over = shutdown.handed_over_token();
    background.spawn(when_ready(
        ready.clone(),
        handed_over.clone(),
        serve_admin(listeners.admin, admin_service, handed_over.clone()),
    ));
    let mut sampling = JoinSet::new();
    sampling.spawn(sampler.run());
    let state = ApiState::new(&settings, jobs, context.clone(), store, tenants, rollout);
    let mut public = JoinSet::new();
    let serving = serve_public(listeners.public, tls, state, &settings, &context);
    public.spawn(when_ready(ready.clone(), shutdown.drain_token(), serving));
    let mut handing_over = JoinSet::new();
    if let Some(handover) = handover {
        handing_over.spawn(handover.run(shutdown.clone(), Arc::clone(&context.metrics), ready));
    }

    let mut failure = tokio::select! {
        // The listener stops with the same token, and that is not a failure.
        biased;
        () = shutdown.draining() => None,
        exited = pipeline.exited() => Some(exited.context("the pipeline exited unexpectedly")),
        _ = public.join_next() => Some(anyhow!("the public listener exited unexpectedly")),
        () = statsd.exited() => Some(anyhow!("the task that sends metrics to STATSD_ADDR exited unexpectedly")),
        _ = exporting.join_next(), if !exporting.is_empty() => Some(anyhow!("the exporter of traces exited unexpectedly")),
        _ = background.join_next() => Some(anyhow!("a background task (admin listener, adopting, watching files) exited unexpectedly")),
        Some(ended) = handing_over.join_next() => Some(match ended {
            Ok(Err(error)) => anyhow!(error).context("the handover failed"),
            _ => anyhow!("the task that hands over the listeners exited unexpectedly"),
        }),
        _ = copying.join_next(), if !copying.is_empty() => Some(anyhow!("the task that copies batches exited unexpectedly")),
        _ = sampling.join_next() => Some(anyhow!("the sampler exited unexpectedly")),
    };

    tracing::info!(grace = ?settings.shutdown_grace, "shutting down: finishing requests in flight, then storing accepted jobs");
    let began = Instant::now();
    let deadline = began + settings.shutdown_grace;
    shutdown.drain();
    context.backlog.retry_now(true);
    let drained = async {
        let requests_deadline = began + settings.requests_grace();
        if timeout_at(requests_deadline, public.join_next()).await.is_err() {
            tracing::warn!("some requests did not finish in time and were not acknowledged");
        }
        // The connections hold the handles of the queue, so the last one closes the queue.
        public.shutdown().await;
        let drained = pipeline.drained().await;
        context.spool.all_queued().await;
        if handed_over.is_cancelled() {
            // Until the new process listens on HANDOVER_SOCKET, this one rejects others there.
            handing_over.join_next().await;
        }
        drained
    };
    tokio::select! {
        biased;
        () = shutdown.aborted() => tracing::warn!("aborting on a second signal"),
        drained = timeout_at(deadline, drained) => match drained {
            Ok(result) => failure = failure.or(result.err()),
            Err(_) => tracing::warn!("SHUTDOWN_GRACE has passed; aborting"),
        },
    }
    if let Some(tracer) = &context.tracer {
        tracer.close();
        tokio::select! {
            biased;
            () = shutdown.aborted() => {}
            flushed = timeout_at(deadline.min(Instant::now() + FLUSH_TIMEOUT), exporting.join_next()) => if flushed.is_err() {
                tracing::warn!("the last spans are dropped: they were not exported in time");
            },
        }
    }
    // Both may block in a system call, and share one deadline.
    let deadline = Instant::now() + ABORT_TIMEOUT;
    pipeline.abort(deadline).await;
    let spool = Arc::clone(&context.spool);
    let closing = task::spawn_blocking(move || spool.close());
    if timeout_at(deadline, closing).await.is_err() {
        tracing::warn!("SPOOL_DIR does not respond; the next process will adopt this process's folder");
    }
    sampling.shutdown().await;
    // Together, because the process has little time left.
    tokio::join!(admin.streams_ended(), statsd.finish(sources.gather()));
    let (balance, has_broker) = (context.metrics.ledger.balance(), context.spool.broker().is_some());
    Ok(ExitSummary { balance, is_durable, has_broker, spool: SpoolEnd::of(&context), failure })
}

/// Runs `serving` as soon as this process may accept connections, or never if `stop` is cancelled before.
async fn when_ready(ready: CancellationToken, stop: CancellationToken, serving: impl Future<Output = ()>) {
    tokio::select! {
        // A listener that is ready has connections in its queue, which are served also after `stop`.
        biased;
        () = ready.cancelled() => serving.await,
        () = stop.cancelled() => {}
    }
}

async fn serve_admin(listener: TcpListener, admin: AdminService, handed_over: CancellationToken) {
    let timeouts = Timeouts { header: ADMIN_HEADER_TIMEOUT, idle: ADMIN_IDLE_TIMEOUT, drain_idle: ADMIN_IDLE_TIMEOUT };
    let config = ServerConfig {
        max_per_address: Some(ADMIN_MAX_PER_ADDRESS),
        ..ServerConfig::plain(ADMIN_MAX_CONNECTIONS, timeouts, render_rejection)
    };
    // It runs until the process exits, so that operators can watch a shutdown. After a handover, new connections belong to the
    // new process.
    server::serve(listener, move |peer| admin.for_peer(&peer), config, handed_over).await;
}

fn serve_public(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    state: ApiState,
    settings: &Settings,
    context: &PipelineContext,
) -> impl Future<Output = ()> + Send + use<> {
    let Settings { http, transport, .. } = settings;
    let metrics = Arc::clone(&context.metrics);
    let config = ServerConfig {
        max_connections: http.max_connections,
        timeouts: Timeouts {
            header: http.header_timeout,
            idle: http.idle_timeout,
            drain_idle: settings.shutdown_grace.mul_f64(DRAIN_IDLE_SHARE).min(DRAIN_IDLE_MAX),
        },
        tls,
        proxies: TrustedProxies::new(&transport.trusted_proxies),
        proxy_protocol: transport.proxy_protocol,
        max_per_address: transport.max_connections_per_address,
        render: render_rejection,
        metrics: Some(ServerMetrics {
            connections: context.metrics.connections.clone(),
            failed_connections: context.metrics.failed_connections.clone(),
            on_reject: Box::new(move |rejection| metrics.request(Route::Other, rejection_outcome(rejection))),
        }),
    };
    let public = PublicService::new(Arc::new(state));
    server::serve(listener, move |peer| public.of(peer), config, context.shutdown.drain_token())
}
