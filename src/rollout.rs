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
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::http::Uri;
pub use features::{Feature, Features, Toggle};
pub use file::{FileError, parse};
pub(crate) use forward::{Forward, Forwarded};
pub use forward::{Forwarder, Tripped};
pub use guard::{Figures, Reason, Trip};
pub use mirror::Mirror;
pub(crate) use mirror::PendingCopy;
pub(crate) use original::{Original, is_relayed};
pub(crate) use outbound::Received;
pub use selection::{Percent, bucket};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
pub use variants::{Variant, Variants};

use crate::audit;
use crate::config::Settings;
use crate::metrics::{Metrics, WatchedFile};
use crate::reload::{Reload, WatchedFiles};
use crate::server::network;

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
    /// Each request is selected by its id.
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
    /// Reads the file at `path` and watches it from then on. `listener` is `LISTEN_ADDR`.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(path: PathBuf, listener: SocketAddr, reload: &Reload) -> Result<Self, FileError> {
        let watched = reload.watch(vec![path.clone()]);
        let plan = file::read(&path, listener)?;
        Ok(Self { path, plan, watched })
    }
}

/// The plan in force, and what acts on it.
pub struct Rollout {
    current: ArcSwap<Plan>,
    /// Hands requests to another version.
    pub forwarder: Forwarder,
    /// Copies batches to another version.
    pub mirror: Arc<Mirror>,
}

/// How much longer than `ACK_TIMEOUT` a response of the other version may take.
const RESPONSE_MARGIN: Duration = Duration::from_secs(5);
/// Forwarded bodies in flight may have one part in this many of `MAX_QUEUE_BYTES`.
const FORWARD_QUEUE_PART: usize = 4;

impl Rollout {
    /// The plan of `file`, a future that keeps it up to date with the file, and one that copies batches until `stop`. The first
    /// only ends with an error. `listener` is the bound public listener.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(
        file: RolloutFile,
        settings: &Settings,
        listener: SocketAddr,
        metrics: &Arc<Metrics>,
        stop: CancellationToken,
    ) -> std::io::Result<(
        Arc<Self>,
        impl Future<Output = std::io::Error> + Send + use<>,
        impl Future<Output = ()> + Send + use<>,
    )> {
        let RolloutFile { path, plan, mut watched } = file;
        watched.report_to(metrics.reloads(WatchedFile::Rollout));
        plan.log();
        metrics.variants.replace(plan.variants.names());
        let connector = outbound::connector()?;
        let response_timeout = settings.http.ack_timeout + RESPONSE_MARGIN;
        let (mirror, copies) =
            Mirror::new(connector.clone(), response_timeout, settings.mirror_max_bytes, Arc::clone(metrics));
        let rollout = Arc::new(Self {
            current: ArcSwap::from_pointee(plan),
            forwarder: Forwarder::new(
                connector,
                response_timeout,
                settings.queue.max_bytes / FORWARD_QUEUE_PART,
                Arc::clone(metrics),
            ),
            mirror: Arc::new(mirror),
        });
        let metrics = Arc::clone(metrics);
        let current = Arc::clone(&rollout);
        let watching = watched.run(move || {
            file::read(&path, listener).map(|plan| {
                plan.log();
                metrics.variants.replace(plan.variants.names());
                current.current.store(Arc::new(plan));
            })
        });
        let relaying = Arc::clone(&rollout);
        let watching = async move {
            tokio::select! {
                error = watching => error,
                () = relaying.forwarder.run(&relaying) => std::io::Error::other("forwarding has ended"),
            }
        };
        let copying = Arc::clone(&rollout.mirror).run(Arc::clone(&rollout), copies, stop);
        Ok((rollout, watching, copying))
    }

    /// The plan in force. Each reload makes a new one, even of an unchanged file.
    pub fn plan(&self) -> Arc<Plan> {
        self.current.load_full()
    }
}

impl Plan {
    /// Logs what is in force.
    fn log(&self) {
        let mirror = self.mirror.as_ref().map(|mirror| format!("{} of batches to {}", mirror.percent, mirror.url));
        let forward = self.forward.as_ref();
        let forward = forward.map(|to| format!("{} of {}s to {}", to.percent, to.by.name(), to.url));
        let none = || "none".to_owned();
        tracing::info!(
            target: audit::TARGET,
            mirror = mirror.unwrap_or_else(none),
            forward = forward.unwrap_or_else(none),
            features = %self.features,
            variants = %self.variants,
            "rollout in force"
        );
    }
}

#[cfg(test)]
mod tests;
