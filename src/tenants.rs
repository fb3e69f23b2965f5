//! Who may send, and how much: tenants, the digests of their tokens, and their limits.
//!
//! A token is looked for by its SHA-256, and digests are compared in constant time. What the look-up in the table itself may
//! tell by its duration is about the digest of what was sent, which the sender has: whoever knew a digest in the table
//! would still have to find a token for it. Tokens are not kept anywhere.

mod file;
mod quota;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

pub use file::{Entry, FileError, Limits, parse};
use quota::Quota;
pub use quota::{Limit, Over};

use crate::config::Ack;
use crate::digest::Digest;
use crate::queue::{Share, ShareLimits};
use crate::reload::{Followed, Reload};

/// A longer token belongs to no tenant, so it is refused without being hashed.
const TOKEN_MAX_BYTES: usize = 4096;

/// Who sends: one tenant, as long as its limits stay what they are.
#[derive(Debug)]
pub struct Tenant {
    name: String,
    limits: Limits,
    ack_max: Option<Ack>,
    quota: Quota,
    share: Option<Share>,
}

impl Tenant {
    /// Letters, digits and `._-`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The most that it may ask for; none if that is what everybody may.
    pub fn ack_max(&self) -> Option<Ack> {
        self.ack_max
    }

    /// What it may send in a time.
    pub fn quota(&self) -> &Quota {
        &self.quota
    }

    /// What it may hold of the queue; none if that is all of it.
    pub fn share(&self) -> Option<&Share> {
        self.share.as_ref()
    }
}

/// The file of tenants, as it was first read.
#[derive(Debug)]
pub struct TenantsFile {
    path: PathBuf,
    first: Vec<Entry>,
    followed: Followed,
}

impl TenantsFile {
    /// Reads the file at `path`, and follows it from now on.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(path: PathBuf, reload: &Reload) -> Result<Self, FileError> {
        let followed = reload.follow(vec![path.clone()]);
        let first = file::read(&path)?;
        Ok(Self { path, first, followed })
    }
}

/// The tenants that there are now.
#[derive(Debug)]
pub struct Tenants {
    by_token: RwLock<Arc<ByToken>>,
    /// Where what a tenant may hold of the queue is cut from.
    shares: ShareLimits,
    /// The largest body that is taken, which fits into every limit on bytes.
    max_body_bytes: usize,
    /// Held by whoever has not said yet who it is.
    unnamed: Option<Share>,
}

type ByToken = HashMap<Digest, Arc<Tenant>>;

impl Tenants {
    /// The tenants of `file`, and what keeps them as the file has them: to be run as long as they are needed.
    pub fn new(
        file: TenantsFile,
        shares: ShareLimits,
        max_body_bytes: usize,
    ) -> (Arc<Self>, impl Future<Output = std::io::Error> + Send + use<>) {
        let TenantsFile { path, first, followed } = file;
        let tenants = Arc::new(Self::of(first, shares, max_body_bytes));
        let current = Arc::clone(&tenants);
        let following = followed.run(move || file::read(&path).map(|entries| current.replace(entries)));
        (tenants, following)
    }

    /// The tenants that `entries` list, which do not change by themselves.
    pub fn of(entries: Vec<Entry>, shares: ShareLimits, max_body_bytes: usize) -> Self {
        let tenants = Self { by_token: RwLock::default(), unnamed: shares.new_share(), shares, max_body_bytes };
        tenants.replace(entries);
        tenants
    }

    /// Whose token this is, if it is anybody's.
    pub fn find(&self, token: &[u8]) -> Option<Arc<Tenant>> {
        let is_usual = (1..=TOKEN_MAX_BYTES).contains(&token.len());
        is_usual.then(|| Digest::of(token)).and_then(|digest| self.now().get(&digest).cloned())
    }

    /// What all those may hold of the queue together who have not said yet who they are.
    pub fn unnamed(&self) -> Option<&Share> {
        self.unnamed.as_ref()
    }

    /// More bytes than this no tenant holds of the queue.
    pub fn max_queue_bytes(&self) -> usize {
        self.shares.max_bytes()
    }

    fn now(&self) -> Arc<ByToken> {
        Arc::clone(&self.by_token.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts these tenants in the place of those that there were. Who is in both keeps what it holds of the queue, and if its
    /// limits have not changed, what it has used of them.
    fn replace(&self, entries: Vec<Entry>) {
        let old = self.now();
        let by_name: HashMap<&str, &Arc<Tenant>> = old.values().map(|tenant| (tenant.name(), tenant)).collect();
        let tenants = entries.len();
        let mut by_token = ByToken::with_capacity(tenants);
        for Entry { name, tokens, limits, ack_max } in entries {
            let tenant = match by_name.get(&*name) {
                Some(same) if same.limits == limits && same.ack_max == ack_max => Arc::clone(same),
                before => {
                    let share = before.map_or_else(|| self.shares.new_share(), |before| before.share.clone());
                    let quota = Quota::new(&limits, self.max_body_bytes);
                    Arc::new(Tenant { name, limits, ack_max, quota, share })
                }
            };
            by_token.extend(tokens.into_iter().map(|token| (token, Arc::clone(&tenant))));
        }
        tracing::info!(tenants, tokens = by_token.len(), "these tenants may send");
        *self.by_token.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(by_token);
    }
}

#[cfg(test)]
mod tests;
