//! The level of acknowledgement that a request gets: at least the server's own (`ACK`), and more where the sender may ask for
//! it (`ACK_MAX`, or the tenant's `ack_max`).
//!
//! Asking for more than is allowed is refused with 403 and not lowered: a sender that relies on a level has to learn at its
//! first request that it will never get it, while a lower level in an answer says only that there was not enough time.

use super::Problem;
use super::sender::Sender;
use crate::config::{Ack, HttpSettings};
use crate::tenants::Tenant;

/// The level that a request asks for, until it is known whether its sender may.
#[derive(Debug, Clone, Copy)]
pub(super) struct AskedAck {
    level: Ack,
    /// What every answer promises.
    least: Ack,
    /// What a sender may ask for that has no limit of its own.
    most: Ack,
}

impl AskedAck {
    pub(super) fn new(level: Ack, settings: &HttpSettings) -> Self {
        Self { level, least: settings.ack, most: settings.ack_max }
    }

    /// The level that is to be reached.
    pub(super) fn level(self) -> Ack {
        self.level.max(self.least)
    }

    /// Refuses a sender that may not ask for the level. One that is not known yet is let through: it is checked again when
    /// its envelope has said who it is.
    pub(super) fn check(self, sender: &Sender) -> Result<(), Problem> {
        let tenant = match sender {
            Sender::Unnamed(_) => return Ok(()),
            Sender::Anybody => None,
            Sender::Tenant(tenant) => Some(tenant),
        };
        // What everybody gets, everybody may ask for.
        let most = tenant.and_then(|tenant| tenant.ack_max()).unwrap_or(self.most).max(self.least);
        if self.level > most {
            let tenant = tenant.map(|tenant| Tenant::name(tenant).to_owned());
            return Err(Problem::AckNotAllowed { asked: self.level, most, tenant });
        }
        Ok(())
    }
}
