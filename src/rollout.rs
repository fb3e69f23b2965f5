//! The rollout of another version or of a feature, for a share of the traffic. `ROLLOUT_FILE` says what, and is reloaded when
//! it changes.

mod features;
mod file;
mod forward;
mod guard;
mod mirror;
mod original;
mod outbound;
mod resolver;
mod selection;
mod variants;
mod window;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::http::Uri;
pub use features::{Feature, Features, Toggle};
pub use file::{FileError, parse};
use forward::Forwarder;
pub use forward::Tripped;
pub(crate) use forward::{Forward, Forwarded};
pub use guard::{Figures, Judgement, Reason, Trip};
pub use mirror::Mirror;
pub(crate) use mirror::{MirrorTarget, PendingCopy};
pub(crate) use original::{Original, is_relayed};
pub(crate) use outbound::Received;
pub(crate) use selection::draw;
pub use selection::{Percent, bucket};
use serde::Deserialize;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
pub use variants::{Variant, Variants};

use crate::audit;
use crate::bound::Bound;
use crate::config::Settings;
use crate::metrics::{Metrics, WatchedFile};
use crate::reload::{Reload, WatchedFiles};
use crate::server::network;
use crate::tenants::Tenants;

/// Open files of the connections to other versions. Each connection has two, and those to the previous url end only with their requests.
pub const OUTBOUND_FILES_MAX: usize = 2 * 2 * (forward::FORWARDS_MAX + mirror::SENDERS);

/// What is rolled out, to which share of the traffic.
#[derive(Debug, Default, Clone, PartialEq, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "an object with `mirror`, `forward`, `features` and `variants`, each optional"
)]
pub struct Plan {
    /// Where copies of accepted batches go.
    pub mirror: Option<MirrorTo>,
    /// Which other server handles requests.
    pub forward: Option<ForwardTo>,
    /// What clients may use.
    #[serde(default)]
    pub features: Features,
    /// What lines and metrics are stamped with.
    #[serde(default)]
    pub variants: Variants,
}

/// Where copies of accepted batches go.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `url` and `percent`")]
pub struct MirrorTo {
    /// The base of the other server's routes.
    #[serde(deserialize_with = "file::url")]
    pub url: Uri,
    /// The share of the batches.
    pub percent: Percent,
    /// Whether the copies contain the tokens of their clients.
    #[serde(default)]
    pub tokens: bool,
}

/// Which other server handles requests.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `url`, `percent` and `by`")]
pub struct ForwardTo {
    /// The base of the other server's routes.
    #[serde(deserialize_with = "file::url")]
    pub url: Uri,
    /// The share of the clients or requests.
    pub percent: Percent,
    /// What the share is a share of.
    pub by: By,
}

/// What a share is a share of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// All requests of a tenant go the same way; without tenants, of an address.
    Tenant,
    /// Each request is selected on its own.
    Request,
}

impl By {
    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Request => "request",
        }
    }
}

/// By what a client is selected: all of its requests are treated the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientKey<'a> {
    /// The name of its tenant.
    Tenant(&'a str),
    /// Without tenants its address, or the /64 network of an IPv6 address.
    Address(IpAddr),
}

impl<'a> ClientKey<'a> {
    /// The key of a client; none if neither its tenant nor its address is known.
    pub fn new(tenant: Option<&'a str>, address: Option<IpAddr>) -> Option<Self> {
        let address = || address.map(|address| Self::Address(network(address)));
        tenant.map(Self::Tenant).or_else(address)
    }

    fn selected_by(&self, percent: Percent, salt: &str) -> bool {
        match self {
            Self::Tenant(name) => percent.selects(salt, name),
            Self::Address(address) => percent.selects(salt, &address.to_string()),
        }
    }

    fn bucket(&self, salt: &str) -> u16 {
        match self {
            Self::Tenant(name) => bucket(salt, name),
            Self::Address(address) => bucket(salt, &address.to_string()),
        }
    }
}

/// `ROLLOUT_FILE` with its initial content.
#[derive(Debug)]
pub struct RolloutFile {
    path: PathBuf,
    plan: Plan,
    watched: WatchedFiles,
}

impl RolloutFile {
    /// Reads the file at `path` and watches it from then on. `own` are the addresses of this server.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(path: PathBuf, own: &[SocketAddr], reload: &Reload) -> Result<Self, FileError> {
        let watched = reload.watch(vec![path.clone()]);
        let plan = file::read(&path, own)?;
        Ok(Self { path, plan, watched })
    }

    /// Warns of tenants that are in no other file.
    pub fn warn_of_unknown_tenants(&self, is_known: impl Fn(&str) -> bool) {
        self.plan.features.warn_of_unknown_tenants(is_known);
    }
}

/// A plan with what acts on it.
pub struct InForce {
    /// The plan.
    pub plan: Plan,
    pub(crate) forward: Option<Arc<Forward>>,
    pub(crate) target: Option<Arc<MirrorTarget>>,
}

/// The plan in force, and what acts on it.
pub struct Rollout {
    current: ArcSwap<InForce>,
    forwarder: Forwarder,
    /// Copies batches to another version.
    pub mirror: Arc<Mirror>,
    metrics: Arc<Metrics>,
}

/// Why a rollout cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// TLS cannot be set up.
    #[error("cannot set up TLS for its URLs: {0}")]
    Tls(#[from] std::io::Error),
    /// The file was read before the addresses of the listeners were known.
    #[error(transparent)]
    File(#[from] FileError),
}

/// How much longer than `ACK_TIMEOUT` a response of the other version may take.
const RESPONSE_MARGIN: Duration = Duration::from_secs(5);
/// A shutdown stops to wait for the other version this long before the deadline of requests.
const DRAIN_MARGIN: Duration = Duration::from_secs(1);
/// Forwarded bodies in flight may have one part in this many of `MAX_QUEUE_BYTES`.
const FORWARD_QUEUE_PART: usize = 4;
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);

impl Rollout {
    /// The plan of `file`, a future that keeps it up to date with the file, and one that copies batches until `stop`. The first
    /// only ends with an error. `own` are the addresses on which this server listens.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn new(
        (file, own): (RolloutFile, [SocketAddr; 2]),
        tenants: Option<Arc<Tenants>>,
        settings: &Settings,
        metrics: &Arc<Metrics>,
        stop: CancellationToken,
    ) -> Result<
        (Arc<Self>, impl Future<Output = std::io::Error> + Send + use<>, impl Future<Output = ()> + Send + use<>),
        StartError,
    > {
        let RolloutFile { path, plan, mut watched } = file;
        file::check_urls(&plan, &own)?;
        watched.report_to(metrics.reloads(WatchedFile::Rollout));
        let connector = outbound::connector()?;
        let response_timeout = settings.http.ack_timeout + RESPONSE_MARGIN;
        let requests_grace = settings.requests_grace();
        let (mirror, copies) =
            Mirror::new(connector.clone(), response_timeout, settings.mirror_max_bytes, Arc::clone(metrics));
        let forwarder = Forwarder {
            connector,
            response_timeout,
            drain_timeout: requests_grace.saturating_sub(DRAIN_MARGIN).max(requests_grace / 2),
            metrics: Arc::clone(metrics),
            bytes: Arc::new(Bound::new(settings.queue.max_bytes / FORWARD_QUEUE_PART)),
        };
        let nothing = InForce { plan: Plan::default(), forward: None, target: None };
        let rollout = Arc::new(Self {
            current: ArcSwap::from_pointee(nothing),
            forwarder,
            mirror: Arc::new(mirror),
            metrics: Arc::clone(metrics),
        });
        rollout.put_in_force(plan);
        let current = Arc::clone(&rollout);
        let watching = watched.run(move || {
            file::read(&path, &own).map(|plan| {
                let is_known = |name: &str| tenants.as_ref().is_some_and(|tenants| tenants.has(name));
                plan.features.warn_of_unknown_tenants(is_known);
                current.put_in_force(plan);
            })
        });
        let current = Arc::clone(&rollout);
        let watching = async move {
            tokio::select! {
                error = watching => error,
                () = current.close_idle() => std::io::Error::other("maintenance has ended"),
            }
        };
        let copying = Arc::clone(&rollout.mirror).run(copies, stop);
        Ok((rollout, watching, copying))
    }

    /// The plan in force, with what acts on it.
    pub fn current(&self) -> Arc<InForce> {
        self.current.load_full()
    }

    /// Whether the guard has stopped forwarding.
    pub fn is_tripped(&self) -> bool {
        self.current.load().forward.as_ref().is_some_and(|forward| forward.is_tripped())
    }

    /// Puts a plan in force. What it has in common with the one before stays: connections, and what the guard knows. One task
    /// calls this.
    fn put_in_force(&self, plan: Plan) {
        plan.log();
        self.metrics.variants.replace(plan.variants.names());
        let previous = self.current.load();
        let forward = self.forwarder.replace(plan.forward.as_ref(), previous.forward.as_ref(), Instant::now());
        let target = self.mirror.replace(plan.mirror.as_ref(), previous.target.as_ref());
        self.current.store(Arc::new(InForce { plan, forward, target }));
    }

    /// Closes connections that were idle for too long, again and again.
    async fn close_idle(&self) {
        loop {
            sleep(MAINTENANCE_INTERVAL).await;
            let InForce { forward, target, .. } = &*self.current();
            forward.iter().for_each(|forward| forward.close_idle());
            target.iter().for_each(|target| target.close_idle());
        }
    }
}

impl Plan {
    /// Logs what is in force.
    fn log(&self) {
        let mirror = self.mirror.as_ref().map(|mirror| format!("{} of batches to {}", mirror.percent, mirror.url));
        let forward = self.forward.as_ref();
        let forward = forward.map(|to| format!("{} of {}s to {}", to.percent, to.by.name(), to.url));
        let off = || "off".to_owned();
        tracing::info!(
            target: audit::TARGET,
            mirror = mirror.unwrap_or_else(off),
            forward = forward.unwrap_or_else(off),
            features = %self.features,
            variants = %self.variants,
            "rollout in force"
        );
    }
}

#[cfg(test)]
mod tests;
