//! Authentication and rate limits: tenants, the digests of their tokens, and their limits.
//!
//! A token is found by its SHA-256; tokens are not kept. Digests are compared in constant time. The time of the hash table
//! lookup depends only on the digest of the token that was sent, which the client can compute itself.

mod file;
mod rate_limits;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
pub use file::{FileError, RateLimits, TenantEntry, parse};
pub(crate) use file::{TenantName, without_values};
use rate_limits::RateLimiters;
pub use rate_limits::{RateLimit, RateLimitExceeded};

use crate::config::Ack;
use crate::digest::Digest;
use crate::metrics::{Metrics, TenantActivities, TenantActivity, WatchedFile};
use crate::queue::{Share, ShareLimits};
use crate::reload::{Reload, WatchedFiles};

/// Longer tokens are rejected without hashing them.
const TOKEN_MAX_BYTES: usize = 4096;

/// A tenant with its current limits.
#[derive(Debug)]
pub struct Tenant {
    name: String,
    limits: RateLimits,
    ack_max: Option<Ack>,
    rate_limiters: RateLimiters,
    share: Option<Share>,
    activity: Arc<TenantActivity>,
}

impl Tenant {
    /// The name: letters, digits and `._-`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The maximum ack level; `None` for `ACK_MAX`.
    pub fn ack_max(&self) -> Option<Ack> {
        self.ack_max
    }

    /// The rate limiters.
    pub fn rate_limiters(&self) -> &RateLimiters {
        &self.rate_limiters
    }

    /// The share of the queue; `None` if it is not limited.
    pub fn share(&self) -> Option<&Share> {
        self.share.as_ref()
    }

    /// What the tenant sends.
    pub fn activity(&self) -> &TenantActivity {
        &self.activity
    }
}

/// The file of tenants with its initial content.
#[derive(Debug)]
pub struct TenantsFile {
    path: PathBuf,
    entries: Vec<TenantEntry>,
    watched: WatchedFiles,
}

impl TenantsFile {
    /// Reads the file at `path` and watches it from then on.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(path: PathBuf, reload: &Reload) -> Result<Self, FileError> {
        let watched = reload.watch(vec![path.clone()]);
        let entries = file::read(&path)?;
        Ok(Self { path, entries, watched })
    }

    /// Whether it has a tenant of this name.
    pub fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.name == name)
    }
}

/// The current tenants.
#[derive(Debug)]
pub struct Tenants {
    by_token: ArcSwap<TenantsByToken>,
    /// The same tenants, each once.
    list: ArcSwap<Vec<Arc<Tenant>>>,
    shares: ShareLimits,
    /// Every burst of bytes allows one body of this size.
    max_body_bytes: usize,
    unauthenticated_share: Option<Share>,
    activities: Arc<TenantActivities>,
}

type TenantsByToken = HashMap<Digest, Arc<Tenant>>;

impl Tenants {
    /// The tenants of `file`, and a future that keeps them up to date with the file. It only ends with an error.
    pub fn new(
        file: TenantsFile,
        shares: ShareLimits,
        max_body_bytes: usize,
        metrics: &Metrics,
    ) -> (Arc<Self>, impl Future<Output = std::io::Error> + Send + use<>) {
        let TenantsFile { path, entries, mut watched } = file;
        watched.report_to(metrics.reloads(WatchedFile::Tokens));
        let tenants = Arc::new(Self::from_entries(entries, shares, max_body_bytes, Arc::clone(&metrics.tenants)));
        let current = Arc::clone(&tenants);
        let watching = watched.run(move || file::read(&path).map(|entries| current.replace(entries)));
        (tenants, watching)
    }

    /// A fixed list of tenants.
    pub fn from_entries(
        entries: Vec<TenantEntry>,
        shares: ShareLimits,
        max_body_bytes: usize,
        activities: Arc<TenantActivities>,
    ) -> Self {
        let unauthenticated_share = shares.new_share();
        let (by_token, list) = (ArcSwap::default(), ArcSwap::default());
        let tenants = Self { by_token, list, shares, max_body_bytes, unauthenticated_share, activities };
        tenants.replace(entries);
        tenants
    }

    /// Whether there is a tenant of this name.
    pub fn has(&self, name: &str) -> bool {
        self.list.load().iter().any(|tenant| tenant.name() == name)
    }

    /// The tenant with this token.
    pub fn find(&self, token: &[u8]) -> Option<Arc<Tenant>> {
        let is_plausible = (1..=TOKEN_MAX_BYTES).contains(&token.len());
        is_plausible.then(|| Digest::of(token)).and_then(|digest| self.by_token.load().get(&digest).cloned())
    }

    /// The current tenants, in the order of the file. The list is the same until they are replaced.
    pub fn list(&self) -> Arc<Vec<Arc<Tenant>>> {
        self.list.load_full()
    }

    /// The share of the queue for all requests whose tenant is not known yet.
    pub fn unauthenticated_share(&self) -> Option<&Share> {
        self.unauthenticated_share.as_ref()
    }

    /// The maximum size of a share of the queue, in bytes.
    pub fn max_share_bytes(&self) -> usize {
        self.shares.max_bytes()
    }

    /// Replaces the tenants. A tenant that was there before keeps its share of the queue, and its rate limiters unless its
    /// limits have changed.
    pub(crate) fn replace(&self, entries: Vec<TenantEntry>) {
        let old = self.by_token.load();
        let by_name: HashMap<&str, &Arc<Tenant>> = old.values().map(|tenant| (tenant.name(), tenant)).collect();
        let tenants = entries.len();
        let names: Vec<&str> = entries.iter().map(|entry| &*entry.name).collect();
        let activities = self.activities.of(&names);
        let mut by_token = TenantsByToken::with_capacity(tenants);
        let mut list = Vec::with_capacity(tenants);
        for (TenantEntry { name, tokens, limits, ack_max }, activity) in entries.into_iter().zip(activities) {
            let tenant = match by_name.get(&*name) {
                Some(same) if same.limits == limits && same.ack_max == ack_max => Arc::clone(same),
                previous => {
                    let share = previous.map_or_else(|| self.shares.new_share(), |previous| previous.share.clone());
                    let rate_limiters = RateLimiters::new(&limits, self.max_body_bytes);
                    Arc::new(Tenant { name, limits, ack_max, rate_limiters, share, activity })
                }
            };
            by_token.extend(tokens.into_iter().map(|token| (token, Arc::clone(&tenant))));
            list.push(tenant);
        }
        tracing::info!(tenants, tokens = by_token.len(), "tenants loaded");
        self.list.store(Arc::new(list));
        self.by_token.store(Arc::new(by_token));
    }
}

#[cfg(test)]
mod tests;
