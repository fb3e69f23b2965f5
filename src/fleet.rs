//! The tasks of a process whose segments are in the broker.
//!
//! A process that accepts batches adds the segments that it has ended to the work queue (`enqueue`), and learns from its
//! inbox when they are stored (`answers`). A process that uploads takes segments from the work queue (`pull`), and ends the
//! segments of processes that have exited (`reap`).

mod answers;
mod enqueue;
mod fate;
mod pull;
mod reap;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::answers::Answers;
use self::fate::Fates;
use self::pull::Puller;
use self::reap::Reaper;
use crate::broker::Broker;
use crate::config::{Role, Settings};
use crate::context::PipelineContext;
use crate::spool::{EndedSegments, Spool};
use crate::store::Store;

const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// The broker as the spool, and the segments that this process ends.
pub(crate) type BrokerSpool = (Arc<Broker>, EndedSegments);

/// Connects to the broker, if there is one, and makes it the spool.
///
/// # Errors
/// A file of the settings cannot be read, or the broker has streams that lose batches.
pub(crate) async fn connect(settings: &Settings, spool: Spool) -> anyhow::Result<(Spool, Option<BrokerSpool>)> {
    let Some(broker) = &settings.broker else { return Ok((spool, None)) };
    let connected = Broker::connect(broker).await.context("BROKER_CA cannot be used")?;
    connected.check_at_start().await?;
    tracing::info!(
        role = settings.role.name(),
        servers = broker.servers.names(),
        stream = broker.stream,
        replicas = broker.replicas,
        "segments are kept in the broker; whether its servers sync each message to disk (sync_interval: always) cannot be seen from here"
    );
    let (spool, ended) = spool.with_broker(Arc::clone(&connected), settings.objects.max_bytes);
    Ok((spool, Some((connected, ended))))
}

/// Starts the tasks of a process with this role. They run until the process exits.
pub(crate) fn start(
    tasks: &mut JoinSet<()>,
    (broker, ended): BrokerSpool,
    role: Role,
    context: &PipelineContext,
    (store, prefix): (&Arc<Store>, &str),
) {
    tasks.spawn(Arc::clone(&broker).watch());
    tasks.spawn(watch_health(context.clone()));
    let fates = Fates { broker, store: Arc::clone(store), prefix: prefix.to_owned() };
    if role.accepts() {
        tasks.spawn(enqueue::run(fates.clone(), ended, context.clone()));
        tasks.spawn(Answers { fates: fates.clone(), context: context.clone() }.run());
    }
    if role.uploads() {
        tasks.spawn(Puller::new(fates.clone(), context.clone()).run());
        tasks.spawn(Reaper::new(fates, context.clone()).run());
    }
}

/// Reports whether commits can succeed, also while there is nothing to commit.
async fn watch_health(context: PipelineContext) {
    loop {
        match context.spool.probe() {
            // A commit that fails is an outage as well, and ends with one that succeeds or with this.
            Ok(()) => context.health.spool_succeeded(),
            Err(error) => context.health.spool_failed(&error),
        }
        sleep(HEALTH_INTERVAL).await;
    }
}
