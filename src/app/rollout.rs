//! Reads `ROLLOUT_FILE`, and starts what acts on it.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;

use crate::config::Settings;
use crate::context::PipelineContext;
use crate::reload::Reload;
use crate::rollout::{Rollout, RolloutFile};
use crate::tenants::{Tenants, TenantsFile};

/// Reads `ROLLOUT_FILE` and watches it from then on; `None` without it. `own` are the addresses of this server, and `tenants`
/// those that it may name.
///
/// # Errors
/// What is wrong with the file.
pub fn open_rollout(
    settings: &Settings,
    own: [SocketAddr; 2],
    tenants: Option<&TenantsFile>,
    reload: &Reload,
) -> anyhow::Result<Option<RolloutFile>> {
    let Some(file) = &settings.rollout_file else { return Ok(None) };
    let opened = RolloutFile::open(file.clone(), &own, reload);
    let opened = opened.with_context(|| format!("ROLLOUT_FILE={}", file.display()))?;
    opened.warn_of_unknown_tenants(|name| tenants.is_some_and(|tenants| tenants.has(name)));
    Ok(Some(opened))
}

/// Puts `ROLLOUT_FILE` in force. Returns the tasks that watch it and that copy batches as well.
pub(super) fn start_rollout(
    (file, own): (RolloutFile, [SocketAddr; 2]),
    tenants: Option<Arc<Tenants>>,
    settings: &Settings,
    context: &PipelineContext,
) -> anyhow::Result<(Arc<Rollout>, impl Future<Output = ()> + Send + use<>, impl Future<Output = ()> + Send + use<>)> {
    let started = Rollout::new((file, own), tenants, settings, &context.metrics, context.shutdown.drain_token());
    let (rollout, watching, copies) = started.context("ROLLOUT_FILE")?;
    let watching = async move {
        let error = watching.await;
        tracing::error!(%error, "watching ROLLOUT_FILE failed");
    };
    Ok((rollout, watching, copies))
}
