//! Every rejection of a request, with its status, its outcome in the metrics and its problem document (RFC 9457).

use std::net::IpAddr;

use axum::body::Body;
use axum::http::header::{ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::request_id::RequestId;
use crate::audit::{AuditLog, Denial, DeniedRequest};
use crate::config::Ack;
use crate::decode;
use crate::headers::MILLPOND_REJECTION;
use crate::log_throttle::LogThrottle;
use crate::metrics::Outcome;
use crate::queue::{Full, PushError};
use crate::recent::{Recent, Rejected};
use crate::segment::InvalidJobId;
use crate::server::HEADERS_MAX;
use crate::spool::SpoolError;
use crate::tenants::RateLimit;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
/// RFC 6750, 3: without an error code, since the request had no token.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"millpond\"");
const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// A client can repeat a request that triggers a bug.
static INTERNAL_ERROR_LOG: LogThrottle = LogThrottle::for_clients();

/// Why a request is rejected. The message says what happened and what to do; the time of a retry is added to it.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Problem {
    #[error(transparent)]
    InvalidBatch(#[from] decode::InvalidBatch),
    #[error("{0}")]
    InvalidBody(String),
    #[error("{0}")]
    InvalidHead(&'static str),
    #[error("{0}")]
    InvalidQuery(&'static str),
    #[error(transparent)]
    InvalidReceipt(#[from] InvalidJobId),
    #[error("the envelope's `token` is not a string: send it as a JSON string")]
    InvalidToken,
    #[error("the request has no token: send it as Authorization: Bearer, as X-Api-Key, or as the envelope's `token`")]
    NoToken,
    #[error("unknown token: ask the operator of this server for a valid one")]
    UnknownToken,
    #[error(
        "ack={} is not allowed, the maximum is {}; the batch was not accepted: send it without `ack` or with a lower \
         level, or ask the operator to raise ACK_MAX or the tenant's ack_max",
        requested.name(),
        max.name()
    )]
    AckNotAllowed {
        requested: Ack,
        max: Ack,
        /// For the audit log.
        tenant: Option<String>,
    },
    #[error(
        "{feature} is switched off for this client; nothing was accepted or looked up: do without it, or ask the operator to \
         switch it on in ROLLOUT_FILE"
    )]
    FeatureOff {
        /// Its name in `ROLLOUT_FILE`.
        feature: &'static str,
        /// For the audit log.
        tenant: Option<String>,
    },
    #[error(
        "requests from web pages of other origins are rejected: the operator can allow the origin in ALLOWED_ORIGINS, or set \
         TOKENS_FILE"
    )]
    CrossOrigin,
    #[error("not found: POST batches to /v1/payloads")]
    NotFound,
    #[error(
        "unknown job: neither this server nor the store has it. If another server accepted it, try again after its OBJECT_MAX_AGE"
    )]
    UnknownJob,
    #[error("method not allowed: see the Allow header")]
    MethodNotAllowed,
    #[error("the body did not arrive in time: send the request again")]
    SlowBody,
    #[error("the headers did not arrive in time: send the request again")]
    SlowHeaders,
    #[error("length required: send the body with a Content-Length, or chunked")]
    LengthRequired,
    #[error("{0}")]
    TooLarge(String),
    #[error("unsupported Content-Type: send application/json, application/x-ndjson or application/jsonl, in UTF-8")]
    UnsupportedType,
    #[error("unsupported Content-Encoding: send the body plain, or as one of gzip, deflate and zstd")]
    UnsupportedEncoding,
    #[error("unsupported Transfer-Encoding: send a Content-Length, or chunked as the only transfer coding")]
    UnsupportedCoding,
    #[error("the request has more than {HEADERS_MAX} header lines: send fewer")]
    TooManyHeaders,
    #[error("the tenant's {} limit is exceeded; the batch was not accepted", limit.name())]
    RateLimited {
        limit: RateLimit,
        /// Seconds.
        retry_after: u64,
    },
    #[error("internal error; the batch was not accepted: send it again")]
    Internal,
    #[error("the queue is full; the batch was not accepted")]
    QueueFull,
    #[error("the tenant's share of the queue is full; the batch was not accepted")]
    ShareFull,
    #[error("the tenant's share of the spool is full; the batch was not accepted")]
    SpoolShareFull,
    #[error("the spool is full; the batch was not accepted")]
    SpoolFull,
    #[error("commits to the spool fail; the batch was not accepted")]
    SpoolFailed,
    #[error("the broker does not take commits; the batch was not accepted")]
    BrokerFailed,
    #[error(
        "the commit was not confirmed, so the batch may be stored: send it again only if a duplicate is better than a loss"
    )]
    NotConfirmed,
    #[error(
        "the batch was forwarded to another version, whose response did not arrive, so the batch may be stored: send it again only \
         if a duplicate is better than a loss"
    )]
    ForwardUnknown,
    #[error("the store cannot be asked for the state of the job")]
    StoreUnavailable,
    #[error("too many lookups of jobs use the store")]
    StoreBusy,
    #[error("{0}")]
    Unhealthy(&'static str),
    #[error("the server is draining; the batch was not accepted")]
    Draining,
    #[error("this server uploads batches and accepts none (ROLE=worker): send them to a front end")]
    NoFrontEnd,
    #[error("too many connections; the request was not read")]
    TooManyConnections,
    #[error("too many connections from this address; the request was not read: reuse connections")]
    TooManyFromAddress,
    #[error("too many requests are in flight; the request was not read")]
    TooManyRequests,
    #[error("too many requests from this address are in flight; the request was not read: wait for responses")]
    TooManyRequestsFromAddress,
}

/// When a client may retry.
#[derive(Debug, Clone, Copy)]
enum Retry {
    /// A retry of the same request fails the same way, or needs no waiting.
    Never,
    /// When the queue has drained at its recent rate.
    QueueDrains,
    /// After this many seconds.
    After(u64),
    /// After a random number of seconds in this range, so that clients do not return together.
    Between(u64, u64),
}

/// The body of a rejection. Its type is `about:blank`, so its title is the reason phrase of the status.
#[derive(Serialize)]
struct ProblemDocument<'a> {
    title: &'a str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    byte: Option<usize>,
    request_id: &'a str,
}

impl From<PushError> for Problem {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Full(full) => full.into(),
            PushError::Closed => Self::Draining,
        }
    }
}

impl From<Full> for Problem {
    fn from(full: Full) -> Self {
        match full {
            Full::Queue => Self::QueueFull,
            Full::Share => Self::ShareFull,
            Full::SpoolShare => Self::SpoolShareFull,
        }
    }
}

impl From<SpoolError> for Problem {
    fn from(error: SpoolError) -> Self {
        match error {
            SpoolError::Full => Self::SpoolFull,
            // The dispatcher commits superseded jobs to another segment.
            SpoolError::Failed(_) | SpoolError::Superseded => Self::SpoolFailed,
            SpoolError::Broker(_) => Self::BrokerFailed,
            SpoolError::Unknown(_) => Self::NotConfirmed,
        }
    }
}

impl Problem {
    /// The one table of statuses, outcomes and retries.
    fn class(&self) -> (StatusCode, Outcome, Retry) {
        use Retry::{After, Between, Never, QueueDrains};
        const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
        match self {
            Self::InvalidBatch(_)
            | Self::InvalidBody(_)
            | Self::InvalidHead(_)
            | Self::InvalidQuery(_)
            | Self::InvalidReceipt(_)
            | Self::InvalidToken => (StatusCode::BAD_REQUEST, Outcome::Invalid, Never),
            Self::NoToken => (StatusCode::UNAUTHORIZED, Outcome::NoToken, Never),
            Self::UnknownToken => (StatusCode::FORBIDDEN, Outcome::UnknownToken, Never),
            Self::AckNotAllowed { .. } | Self::FeatureOff { .. } => (StatusCode::FORBIDDEN, Outcome::NotAllowed, Never),
            Self::CrossOrigin => (StatusCode::FORBIDDEN, Outcome::CrossOrigin, Never),
            Self::NotFound | Self::UnknownJob => (StatusCode::NOT_FOUND, Outcome::NotUnderstood, Never),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, Outcome::NotUnderstood, Never),
            Self::SlowBody | Self::SlowHeaders => (StatusCode::REQUEST_TIMEOUT, Outcome::Slow, Never),
            Self::LengthRequired => (StatusCode::LENGTH_REQUIRED, Outcome::NotUnderstood, Never),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, Outcome::TooLarge, Never),
            Self::UnsupportedType | Self::UnsupportedEncoding => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, Outcome::NotUnderstood, Never)
            }
            Self::UnsupportedCoding => (StatusCode::NOT_IMPLEMENTED, Outcome::NotUnderstood, Never),
            Self::TooManyHeaders => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Outcome::Invalid, Never),
            Self::RateLimited { retry_after, .. } => {
                (StatusCode::TOO_MANY_REQUESTS, Outcome::OverRate, After(*retry_after))
            }
            Self::TooManyFromAddress => (StatusCode::TOO_MANY_REQUESTS, Outcome::TooManyFromAddress, Between(5, 10)),
            Self::TooManyRequestsFromAddress => {
                (StatusCode::TOO_MANY_REQUESTS, Outcome::TooManyRequestsFromAddress, Between(1, 2))
            }
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, Outcome::Failed, Never),
            Self::QueueFull => (UNAVAILABLE, Outcome::QueueFull, QueueDrains),
            Self::ShareFull => (UNAVAILABLE, Outcome::ShareFull, QueueDrains),
            Self::SpoolShareFull => (UNAVAILABLE, Outcome::SpoolShareFull, QueueDrains),
            Self::SpoolFull | Self::SpoolFailed | Self::BrokerFailed | Self::NotConfirmed => {
                (UNAVAILABLE, Outcome::NoSpool, QueueDrains)
            }
            Self::StoreUnavailable => (UNAVAILABLE, Outcome::Failed, QueueDrains),
            Self::ForwardUnknown => (UNAVAILABLE, Outcome::Failed, Between(1, 3)),
            Self::StoreBusy => (UNAVAILABLE, Outcome::Failed, Between(1, 3)),
            Self::Unhealthy(_) => (UNAVAILABLE, Outcome::Other, QueueDrains),
            Self::Draining => (UNAVAILABLE, Outcome::Draining, QueueDrains),
            Self::NoFrontEnd => (UNAVAILABLE, Outcome::NotUnderstood, Between(5, 10)),
            Self::TooManyConnections => (UNAVAILABLE, Outcome::TooManyConnections, Between(5, 10)),
            Self::TooManyRequests => (UNAVAILABLE, Outcome::TooManyRequests, Between(1, 2)),
        }
    }

    /// How the rejection is counted.
    pub(super) fn outcome(&self) -> Outcome {
        self.class().1
    }

    /// The status.
    pub(super) fn status(&self) -> StatusCode {
        self.class().0
    }

    /// Whether the tenant has used up its share, which is not the fault of the server.
    pub(super) fn is_share_full(&self) -> bool {
        matches!(self, Self::ShareFull | Self::SpoolShareFull)
    }

    /// Whether the same request may be accepted later.
    pub(super) fn is_temporary(&self) -> bool {
        self.status().is_server_error() || self.outcome().is_throttled()
    }

    /// Whether the connection closes after the response, because the bytes that follow may not be a request.
    fn closes_connection(&self) -> bool {
        matches!(
            self,
            Self::InvalidHead(_)
                | Self::UnsupportedCoding
                | Self::SlowBody
                | Self::SlowHeaders
                | Self::TooManyConnections
                | Self::TooManyFromAddress
                | Self::Draining
        )
    }

    /// Records the rejection for the operators' page. Failed health checks are none.
    pub(super) fn record(&self, recent: &Recent, id: &RequestId, address: Option<IpAddr>, tenant: Option<&str>) {
        let (status, outcome, _) = self.class();
        if outcome != Outcome::Other {
            let (status, outcome) = (status.as_u16(), outcome.text());
            recent
                .rejected(Rejected { outcome, status, tenant, address, request_id: id.as_str() }, || self.to_string());
        }
    }

    /// Logs a rejection with 401 or 403 to the audit log.
    pub(super) fn audit(&self, log: &AuditLog, id: &RequestId, client: Option<IpAddr>) {
        let (kind, tenant) = match self {
            Self::NoToken => (Denial::NoToken, None),
            Self::UnknownToken => (Denial::UnknownToken, None),
            Self::AckNotAllowed { tenant, .. } => (Denial::AckNotAllowed, tenant.as_deref()),
            Self::FeatureOff { tenant, .. } => (Denial::FeatureOff, tenant.as_deref()),
            Self::CrossOrigin => (Denial::CrossOrigin, None),
            _ => return,
        };
        let (status, detail) = (self.class().0.as_u16(), self.to_string());
        log.denied(kind, &DeniedRequest { status, client, tenant, request_id: id.as_str(), detail: &detail });
    }

    /// The complete response. Headers that the routes have set, such as `Allow`, are kept. `client` is logged; nothing that
    /// a client wrote into its headers is. `queue_drains` returns the seconds until the queue has drained.
    pub(super) fn render(
        &self,
        id: &RequestId,
        client: Option<IpAddr>,
        routed: Response,
        queue_drains: impl FnOnce() -> u64,
    ) -> Response {
        let (mut parts, _) = routed.into_parts();
        parts.headers.remove(CONTENT_LENGTH);
        parts.status = self.class().0;
        let (body, detail) = self.write(id, &mut parts.headers, queue_drains);
        if parts.status == StatusCode::INTERNAL_SERVER_ERROR {
            if let Some(suppressed) = INTERNAL_ERROR_LOG.permit() {
                tracing::error!(request_id = id.as_str(), detail, suppressed, "request failed");
            }
        } else {
            let (status, client) = (parts.status, client.map(tracing::field::display));
            tracing::debug!(request_id = id.as_str(), %status, client, detail, "request rejected");
        }
        Response::from_parts(parts, Body::from(body))
    }

    /// Adds the headers of the rejection; returns its body and its detail.
    pub(super) fn write(
        &self,
        id: &RequestId,
        headers: &mut HeaderMap,
        queue_drains: impl FnOnce() -> u64,
    ) -> (Vec<u8>, String) {
        let (status, _, retry) = self.class();
        let retry_after = match retry {
            Retry::Never => None,
            Retry::QueueDrains => Some(queue_drains()),
            Retry::After(seconds) => Some(seconds),
            Retry::Between(min, max) => Some(fastrand::u64(min..=max)),
        };
        let mut detail = self.to_string();
        headers.insert(CONTENT_TYPE, PROBLEM_JSON);
        if let Some(seconds) = retry_after {
            detail.push_str(&format!("; retry after {seconds} s"));
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if matches!(self, Self::UnsupportedEncoding) {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate, zstd"));
        }
        if matches!(self, Self::NoToken) {
            headers.insert(WWW_AUTHENTICATE, CHALLENGE);
        }
        if self.is_share_full() {
            headers.insert(MILLPOND_REJECTION, HeaderValue::from_static(self.outcome().text()));
        }
        if self.closes_connection() {
            headers.insert(CONNECTION, CLOSE);
        }
        let (payload, byte) = match self {
            Self::InvalidBatch(invalid) => (invalid.payload, Some(invalid.byte)),
            _ => (None, None),
        };
        let title = status.canonical_reason().unwrap_or_default();
        let members =
            ProblemDocument { title, status: status.as_u16(), detail, payload, byte, request_id: id.as_str() };
        (serde_json::to_vec(&members).unwrap_or_default(), members.detail)
    }
}

impl IntoResponse for Problem {
    /// The status, with the problem as an extension: the service, which knows the request's id, renders it.
    fn into_response(self) -> Response {
        let mut response = self.class().0.into_response();
        response.extensions_mut().insert(self);
        response
    }
}
