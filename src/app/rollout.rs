//! Reads `ROLLOUT_FILE`, and starts what acts on it.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use tokio::task::JoinSet;

use crate::config::Settings;
use crate::context::PipelineContext;
use crate::pipeline::Pipeline;
use crate::reload::Reload;
use crate::rollout::{Rollout, RolloutFile};

/// Reads `ROLLOUT_FILE` and watches it from then on; `None` without it.
///
/// # Errors
/// What is wrong with the file.
pub fn open_rollout(settings: &Settings, reload: &Reload) -> anyhow::Result<Option<RolloutFile>> {
    let Some(file) = &settings.rollout_file else { return Ok(None) };
    let opened = RolloutFile::open(file.clone(), settings.http.listen_addr, reload);
    opened.map(Some).with_context(|| format!("ROLLOUT_FILE={}", file.display()))
}

/// Puts `ROLLOUT_FILE` in force, and starts the tasks that watch it and that copy batches.
pub(super) fn start_rollout(
    file: RolloutFile,
    listener: SocketAddr,
    settings: &Settings,
    context: &PipelineContext,
    pipeline: &Pipeline,
    (background, copying): (&mut JoinSet<()>, &mut JoinSet<()>),
) -> anyhow::Result<Arc<Rollout>> {
    let started = Rollout::new(file, settings, listener, &context.metrics, context.shutdown.drain_token());
    let (rollout, watching, copies) = started.context("cannot set up TLS for the URLs of ROLLOUT_FILE")?;
    background.spawn(async move {
        let error = watching.await;
        tracing::error!(%error, "watching ROLLOUT_FILE failed");
    });
    pipeline.spawn_beside_workers(copying, copies);
    Ok(rollout)
}
