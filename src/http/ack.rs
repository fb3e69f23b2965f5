//! The ack level of a request: at least the server's own (`ACK`), and more if the client may request it (`ACK_MAX`, or the
//! tenant's `ack_max`).
//!
//! A request for more than is allowed is rejected with 403 instead of being lowered: a client that relies on a level learns
//! with its first request that it never gets it. A lower level in a response only means that there was not enough time.

use super::auth::Identity;
use super::problem::Problem;
use crate::config::{Ack, HttpSettings};
use crate::tenants::Tenant;

/// The level that a request asks for, before it is known whether its client may.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestedAck {
    level: Ack,
    /// The level of every response.
    min: Ack,
    /// The most that a client without a limit of its own may request.
    max: Ack,
}

impl RequestedAck {
    pub(super) fn new(level: Ack, settings: &HttpSettings) -> Self {
        Self { level, min: settings.ack, max: settings.ack_max }
    }

    /// The level to reach.
    pub(super) fn level(self) -> Ack {
        self.level.max(self.min)
    }

    /// Whether the request asks for more than every request gets, and for the store.
    pub(super) fn asks_for_stored(self) -> bool {
        self.level == Ack::Stored && self.level > self.min
    }

    /// Rejects a client that may not request the level. An unauthenticated client passes; it is checked again when the token
    /// in its envelope is known.
    pub(super) fn check(self, identity: &Identity) -> Result<(), Problem> {
        let tenant = match identity {
            Identity::Unauthenticated(_) => return Ok(()),
            Identity::Anonymous => None,
            Identity::Tenant(tenant) => Some(tenant),
        };
        let max = tenant.and_then(|tenant| tenant.ack_max()).unwrap_or(self.max).max(self.min);
        if self.level > max {
            let tenant = tenant.map(|tenant| Tenant::name(tenant).to_owned());
            return Err(Problem::AckNotAllowed { requested: self.level, max, tenant });
        }
        Ok(())
    }
}
