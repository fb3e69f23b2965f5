//! The audit log: one line with the target `millpond::audit` for each request that is rejected with 401 or 403, and for each
//! change by an operator. It contains the address of the client, the tenant if known and the request id, and never a token.
//!
//! Each kind of rejection has a throttle of its own, so that a flood of one kind neither fills the disk nor hides another
//! kind. The next line contains the number of suppressed lines.

use std::net::IpAddr;
use std::time::Duration;

use crate::log_throttle::LogThrottle;

/// The target of all lines, for filters: `RUST_LOG=warn,millpond::audit=info`.
pub const TARGET: &str = "millpond::audit";
/// The minimum time between two lines for the same kind of rejection.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// The kind of a rejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// 401: no token.
    NoToken,
    /// 403: no tenant has this token.
    UnknownToken,
    /// 403: the client may not request this ack level.
    AckNotAllowed,
    /// 403: a feature is off for the client.
    FeatureOff,
    /// 403: a web page of another origin.
    CrossOrigin,
}

/// A rejected request.
#[derive(Debug)]
pub struct DeniedRequest<'a> {
    /// The status of the response.
    pub status: u16,
    /// The address of the client, if known.
    pub client: Option<IpAddr>,
    /// The tenant, if known.
    pub tenant: Option<&'a str>,
    /// The request id of the response.
    pub request_id: &'a str,
    /// The detail of the response.
    pub detail: &'a str,
}

/// Logs rejections. Each kind has a throttle of its own.
#[derive(Debug)]
pub struct AuditLog {
    no_token: LogThrottle,
    unknown_token: LogThrottle,
    ack_not_allowed: LogThrottle,
    feature_off: LogThrottle,
    cross_origin: LogThrottle,
}

impl Default for AuditLog {
    fn default() -> Self {
        let [no_token, unknown_token, ack_not_allowed, feature_off, cross_origin] =
            [(); 5].map(|()| LogThrottle::new(LINE_INTERVAL));
        Self { no_token, unknown_token, ack_not_allowed, feature_off, cross_origin }
    }
}

impl AuditLog {
    /// Logs a rejection, unless one of the same kind was logged less than `LINE_INTERVAL` ago.
    pub fn denied(&self, kind: Denial, request: &DeniedRequest<'_>) {
        let throttle = match kind {
            Denial::NoToken => &self.no_token,
            Denial::UnknownToken => &self.unknown_token,
            Denial::AckNotAllowed => &self.ack_not_allowed,
            Denial::FeatureOff => &self.feature_off,
            Denial::CrossOrigin => &self.cross_origin,
        };
        let Some(suppressed) = throttle.permit() else { return };
        let DeniedRequest { status, client, tenant, request_id, detail } = request;
        let client = client.map(tracing::field::display);
        tracing::info!(target: TARGET, status, client, tenant, request_id, suppressed, detail, "request denied");
    }
}
