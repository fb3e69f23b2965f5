//! The audit log: one line, at level info and with the target `millpond::audit`, for each request that is refused with 401
//! or 403 and for each change that an operator makes. It names the client's address, the tenant where it is known and the
//! request's id, and never a token.
//!
//! A client can cause as many refusals as it likes, so each kind of them has a throttle of its own: a flood of one kind
//! neither fills the disk nor hides another kind. What was suppressed is counted in the next line.

use std::net::IpAddr;
use std::time::Duration;

use crate::log_throttle::LogThrottle;

/// The target of every line, for filters: `RUST_LOG=warn,millpond::audit=info`.
pub const TARGET: &str = "millpond::audit";
/// From one line about a kind of refusal to the next, at the least.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// What a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// 401: no token.
    NoToken,
    /// 403: a token that no tenant has.
    UnknownToken,
    /// 403: the client may not do what it asks for.
    NotAllowed,
}

/// A request that was refused.
#[derive(Debug)]
pub struct DeniedRequest<'a> {
    /// Answered with this status.
    pub status: u16,
    /// Where it came from, if that is known.
    pub client: Option<IpAddr>,
    /// Who sent it, if that is known.
    pub tenant: Option<&'a str>,
    /// Its id, as its answer has it.
    pub request_id: &'a str,
    /// What its sender is told.
    pub detail: &'a str,
}

/// Writes the lines about refusals.
#[derive(Debug)]
pub struct AuditLog {
    no_token: LogThrottle,
    unknown_token: LogThrottle,
    not_allowed: LogThrottle,
}

impl Default for AuditLog {
    fn default() -> Self {
        let [no_token, unknown_token, not_allowed] = [(); 3].map(|()| LogThrottle::new(LINE_INTERVAL));
        Self { no_token, unknown_token, not_allowed }
    }
}

impl AuditLog {
    /// Writes a line about a refusal, unless there was one of its kind a moment ago.
    pub fn denied(&self, kind: Denial, request: &DeniedRequest<'_>) {
        let throttle = match kind {
            Denial::NoToken => &self.no_token,
            Denial::UnknownToken => &self.unknown_token,
            Denial::NotAllowed => &self.not_allowed,
        };
        let Some(suppressed) = throttle.permit() else { return };
        let DeniedRequest { status, client, tenant, request_id, detail } = request;
        let client = client.map(tracing::field::display);
        tracing::info!(target: TARGET, status, client, tenant, request_id, suppressed, detail, "request denied");
    }
}
