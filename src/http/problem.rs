//! Every refusal, its status, and what the sender is told (RFC 9457).

use std::net::IpAddr;

use axum::body::Body;
use axum::http::header::{ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::request_id::RequestId;
use crate::audit::{AuditLog, Denial, DeniedRequest};
use crate::config::Ack;
use crate::decode::Invalid;
use crate::log_throttle::LogThrottle;
use crate::metrics::Outcome;
use crate::queue::{Full, PushError};
use crate::segment::InvalidJobId;
use crate::spool::SpoolError;
use crate::tenants::Limit;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
/// RFC 6750, 3: without an error, since nothing was tried.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"millpond\"");
const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// A request that finds a bug can be sent again and again.
static FAILED: LogThrottle = LogThrottle::for_clients();

/// Why a request was refused.
#[derive(Debug, Clone)]
pub(crate) enum Problem {
    /// 400: the body is no batch.
    InvalidBatch(Invalid),
    /// 400: the body did not arrive, or not as its headers say.
    InvalidBody(String),
    /// 400: the head is not as HTTP has it.
    InvalidHead(&'static str),
    /// 400: the query is none of ours.
    InvalidQuery(String),
    /// 400: what should be a receipt is none.
    InvalidReceipt(InvalidJobId),
    /// 400: the envelope's token is no string.
    TokenNoString,
    /// 401.
    NoToken,
    /// 403: a token that nobody has.
    UnknownToken,
    /// 403: the sender may not ask for this level of acknowledgement.
    AckNotAllowed {
        /// What it asks for.
        asked: Ack,
        /// What it may ask for at most.
        most: Ack,
        /// Its name, for the log.
        tenant: Option<String>,
    },
    /// 404.
    NotFound,
    /// 404: no job by this receipt.
    UnknownJob,
    /// 405.
    MethodNotAllowed,
    /// 408: the body came too slowly.
    SlowBody,
    /// 411.
    LengthRequired,
    /// 413: what was too large, and what the limit is.
    TooLarge(String),
    /// 415: the body's type.
    UnsupportedType,
    /// 415: the body's encoding.
    UnsupportedEncoding,
    /// 429: the tenant is over one of its limits.
    OverRate {
        /// Which one.
        limit: Limit,
        /// Seconds.
        retry_after: u64,
    },
    /// 501: the body is framed in a way that is none of ours.
    UnsupportedCoding,
    /// 500: a bug.
    Internal,
    /// 503: the queue is full.
    QueueFull {
        /// Seconds.
        retry_after: u64,
    },
    /// 503: the sender's share of the queue is full.
    ShareFull {
        /// Seconds.
        retry_after: u64,
    },
    /// 503: the sender's share of the spool is full.
    SpoolShareFull {
        /// Seconds.
        retry_after: u64,
    },
    /// 503: the spool is full.
    SpoolFull {
        /// Seconds.
        retry_after: u64,
    },
    /// 503: the spool fails.
    SpoolFailed {
        /// Seconds.
        retry_after: u64,
    },
    /// 503: the job was queued, but not committed in time.
    NotConfirmed {
        /// Seconds.
        retry_after: u64,
    },
    /// 503: the store cannot say what became of a job.
    StoreSilent {
        /// Seconds.
        retry_after: u64,
    },
    /// 503: so many ask the store already that it is not asked for another.
    StoreBusy {
        /// Seconds.
        retry_after: u64,
    },
    /// 503: `/health` of a server that takes no batches now.
    Unhealthy {
        /// Why.
        reason: &'static str,
        /// Seconds.
        retry_after: u64,
    },
    /// 503: the server stops.
    Draining {
        /// Seconds.
        retry_after: u64,
    },
    /// 503: too many connections.
    TooManyConnections {
        /// Seconds.
        retry_after: u64,
    },
    /// 429: too many connections of one address.
    TooManyFromAddress {
        /// Seconds.
        retry_after: u64,
    },
    /// 408: the headers came too slowly.
    SlowHeaders,
    /// 431: more header lines than [`HEADERS_MAX`](super::head::HEADERS_MAX).
    TooManyHeaders,
    /// 503: the requests in flight hold all the memory that they may hold.
    TooManyRequests {
        /// Seconds.
        retry_after: u64,
    },
    /// 429: the requests of one address hold all the memory that they may hold.
    TooManyRequestsFromAddress {
        /// Seconds.
        retry_after: u64,
    },
    /// 403: a web page sent the request, and it is not known to be of this server's origin.
    CrossOrigin,
}

/// The body of an answer to a refused request. Its type is `about:blank`, so its title is the status's own.
#[derive(Serialize)]
struct Members<'a> {
    title: &'a str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    byte: Option<usize>,
    request_id: &'a str,
}

impl Problem {
    /// Why the queue did not take a job.
    pub(super) fn refused(error: PushError, retry_after: u64) -> Self {
        match error {
            PushError::Full(full) => Self::full(full, retry_after),
            PushError::Closed => Self::Draining { retry_after },
        }
    }

    /// Why there is no room for a batch.
    pub(super) fn full(full: Full, retry_after: u64) -> Self {
        match full {
            Full::Queue => Self::QueueFull { retry_after },
            Full::Share => Self::ShareFull { retry_after },
            Full::SpoolShare => Self::SpoolShareFull { retry_after },
        }
    }

    /// Why a commit failed.
    pub(super) fn not_committed(error: &SpoolError, retry_after: u64) -> Self {
        match error {
            SpoolError::Full => Self::SpoolFull { retry_after },
            SpoolError::Failed(_) => Self::SpoolFailed { retry_after },
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::InvalidBatch(_)
            | Self::InvalidBody(_)
            | Self::InvalidHead(_)
            | Self::InvalidQuery(_)
            | Self::InvalidReceipt(_)
            | Self::TokenNoString => StatusCode::BAD_REQUEST,
            Self::NoToken => StatusCode::UNAUTHORIZED,
            Self::UnknownToken | Self::AckNotAllowed { .. } | Self::CrossOrigin => StatusCode::FORBIDDEN,
            Self::OverRate { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::NotFound | Self::UnknownJob => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::SlowBody | Self::SlowHeaders => StatusCode::REQUEST_TIMEOUT,
            Self::LengthRequired => StatusCode::LENGTH_REQUIRED,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedType | Self::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::UnsupportedCoding => StatusCode::NOT_IMPLEMENTED,
            Self::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::QueueFull { .. }
            | Self::ShareFull { .. }
            | Self::SpoolShareFull { .. }
            | Self::StoreBusy { .. }
            | Self::SpoolFull { .. }
            | Self::SpoolFailed { .. }
            | Self::NotConfirmed { .. }
            | Self::StoreSilent { .. }
            | Self::Unhealthy { .. }
            | Self::Draining { .. }
            | Self::TooManyConnections { .. }
            | Self::TooManyRequests { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooManyFromAddress { .. } | Self::TooManyRequestsFromAddress { .. } => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// How the refusal is counted.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::InvalidBatch(_)
            | Self::InvalidBody(_)
            | Self::InvalidHead(_)
            | Self::InvalidQuery(_)
            | Self::InvalidReceipt(_)
            | Self::TooManyHeaders
            | Self::TokenNoString => Outcome::Invalid,
            Self::NoToken => Outcome::NoToken,
            Self::UnknownToken => Outcome::UnknownToken,
            Self::AckNotAllowed { .. } => Outcome::NotAllowed,
            Self::OverRate { .. } => Outcome::OverRate,
            Self::NotFound
            | Self::UnknownJob
            | Self::MethodNotAllowed
            | Self::LengthRequired
            | Self::UnsupportedType
            | Self::UnsupportedEncoding
            | Self::UnsupportedCoding => Outcome::NotUnderstood,
            Self::SlowBody | Self::SlowHeaders => Outcome::Slow,
            Self::TooLarge(_) => Outcome::TooLarge,
            Self::Internal => Outcome::Failed,
            Self::QueueFull { .. } => Outcome::QueueFull,
            Self::ShareFull { .. } => Outcome::ShareFull,
            Self::SpoolShareFull { .. } => Outcome::SpoolShareFull,
            Self::SpoolFull { .. } | Self::SpoolFailed { .. } | Self::NotConfirmed { .. } => Outcome::NoSpool,
            Self::StoreSilent { .. } | Self::StoreBusy { .. } => Outcome::Failed,
            Self::Unhealthy { .. } => Outcome::Other,
            Self::Draining { .. } => Outcome::Draining,
            Self::TooManyConnections { .. } => Outcome::TooManyConnections,
            Self::TooManyFromAddress { .. } => Outcome::TooManyFromAddress,
            Self::TooManyRequests { .. } => Outcome::TooManyRequests,
            Self::TooManyRequestsFromAddress { .. } => Outcome::TooManyRequestsFromAddress,
            Self::CrossOrigin => Outcome::CrossOrigin,
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::InvalidBatch(invalid) => invalid.to_string(),
            Self::InvalidBody(detail) | Self::InvalidQuery(detail) | Self::TooLarge(detail) => detail.clone(),
            Self::InvalidHead(detail) => (*detail).to_owned(),
            Self::InvalidReceipt(error) => error.to_string(),
            Self::UnknownJob => {
                "this machine does not have the job, and the store does not have its object, or not yet".to_owned()
            }
            Self::TokenNoString => "the envelope's `token` is no string: send the token as it is, in quotes".to_owned(),
            Self::NoToken => {
                "there is no token: send it as Authorization: Bearer, as X-Api-Key, or as the envelope's `token`"
                    .to_owned()
            }
            Self::UnknownToken => "this token is nobody's here: ask whoever runs the server for one".to_owned(),
            Self::AckNotAllowed { asked, most, .. } => format!(
                "this sender may not ask for ack={}, {} is the most; nothing was taken: send it without `ack` or with a \
                 lower one, or ask the operator to raise ACK_MAX or the tenant's ack_max",
                asked.name(),
                most.name()
            ),
            Self::OverRate { limit, retry_after } => {
                format!(
                    "this tenant is over its {}; nothing was taken: send it again after {retry_after} s",
                    limit.name()
                )
            }
            Self::NotFound => "there is nothing here: POST batches to /v1/payloads".to_owned(),
            Self::MethodNotAllowed => "this path takes other methods: see the Allow header".to_owned(),
            Self::SlowBody => "the body did not arrive in time: send it again".to_owned(),
            Self::SlowHeaders => "the headers did not arrive in time: send the request again".to_owned(),
            Self::LengthRequired => "send the body with a Content-Length, or chunked".to_owned(),
            Self::UnsupportedType => {
                "send the batch as application/json, application/x-ndjson or application/jsonl, in UTF-8".to_owned()
            }
            Self::UnsupportedEncoding => "send the body plain, or in one of gzip, deflate and zstd".to_owned(),
            Self::UnsupportedCoding => {
                "send the body with a Content-Length, or with chunked as its only Transfer-Encoding".to_owned()
            }
            Self::Internal => "the server failed; the batch was not taken: send it again".to_owned(),
            Self::QueueFull { retry_after } => {
                format!("the queue is full; the batch was not taken: send it again after {retry_after} s")
            }
            Self::ShareFull { retry_after } => format!(
                "this sender's share of the queue is full; the batch was not taken: send it again after {retry_after} s"
            ),
            Self::SpoolShareFull { retry_after } => format!(
                "this sender's share of the spool is full; the batch was not taken: send it again after {retry_after} s"
            ),
            Self::StoreBusy { retry_after } => {
                format!("too many lookups ask the store at once: ask again after {retry_after} s")
            }
            Self::TooManyHeaders => {
                format!("the request has more than {} header lines: send fewer", super::head::HEADERS_MAX)
            }
            Self::TooManyRequests { retry_after } => {
                format!(
                    "too many requests are in flight; the request was not read: send it again after {retry_after} s"
                )
            }
            Self::TooManyRequestsFromAddress { retry_after } => format!(
                "too many requests of this address are in flight; the request was not read: wait for answers, and send it \
                 again after {retry_after} s"
            ),
            Self::CrossOrigin => {
                "a web page sent this request, TOKENS_FILE is not set, and the page's origin is not known to be this \
                 server's: the operator can let it through with ALLOWED_ORIGINS"
                    .to_owned()
            }
            Self::SpoolFull { retry_after } => {
                format!("the spool is full; the batch was not taken: send it again after {retry_after} s")
            }
            Self::SpoolFailed { retry_after } => {
                format!("the spool fails; the batch was not taken: send it again after {retry_after} s")
            }
            Self::NotConfirmed { retry_after } => format!(
                "the spool is slow; the batch may have been taken or not: send it again after {retry_after} s if it must not be missed"
            ),
            Self::StoreSilent { retry_after } => {
                format!("the store cannot say what became of the job: ask again after {retry_after} s")
            }
            Self::Unhealthy { reason, .. } => (*reason).to_owned(),
            Self::Draining { retry_after } => {
                format!("the server is stopping; nothing was taken: send it again after {retry_after} s")
            }
            Self::TooManyConnections { retry_after } => {
                format!("too many connections; nothing was taken: connect again after {retry_after} s")
            }
            Self::TooManyFromAddress { retry_after } => {
                format!(
                    "too many connections of this address; nothing was taken: use those, or connect again after {retry_after} s"
                )
            }
        }
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::OverRate { retry_after, .. }
            | Self::QueueFull { retry_after }
            | Self::ShareFull { retry_after }
            | Self::SpoolShareFull { retry_after }
            | Self::StoreBusy { retry_after }
            | Self::SpoolFull { retry_after }
            | Self::SpoolFailed { retry_after }
            | Self::NotConfirmed { retry_after }
            | Self::StoreSilent { retry_after }
            | Self::Unhealthy { retry_after, .. }
            | Self::Draining { retry_after }
            | Self::TooManyConnections { retry_after }
            | Self::TooManyFromAddress { retry_after }
            | Self::TooManyRequests { retry_after }
            | Self::TooManyRequestsFromAddress { retry_after } => Some(*retry_after),
            _ => None,
        }
    }

    /// Whether the connection is of no use after this: what the sender may still send is not a request.
    fn ends_connection(&self) -> bool {
        matches!(
            self,
            Self::InvalidHead(_)
                | Self::UnsupportedCoding
                | Self::SlowBody
                | Self::SlowHeaders
                | Self::TooManyConnections { .. }
                | Self::TooManyFromAddress { .. }
                | Self::Draining { .. }
        )
    }

    fn body(&self, id: &RequestId) -> Vec<u8> {
        let (payload, byte) = match self {
            Self::InvalidBatch(invalid) => (invalid.payload, Some(invalid.byte)),
            _ => (None, None),
        };
        let status = self.status();
        let members = Members {
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: self.detail(),
            payload,
            byte,
            request_id: id.as_str(),
        };
        serde_json::to_vec(&members).unwrap_or_default()
    }

    fn headers(&self, headers: &mut HeaderMap) {
        headers.insert(CONTENT_TYPE, PROBLEM_JSON);
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if matches!(self, Self::UnsupportedEncoding) {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate, zstd"));
        }
        if matches!(self, Self::NoToken) {
            headers.insert(WWW_AUTHENTICATE, CHALLENGE);
        }
        if self.ends_connection() {
            headers.insert(CONNECTION, CLOSE);
        }
    }

    /// Enters a refusal with 401 or 403 in the audit log.
    pub(super) fn audit(&self, log: &AuditLog, id: &RequestId, client: Option<IpAddr>) {
        let (kind, tenant) = match self {
            Self::NoToken => (Denial::NoToken, None),
            Self::UnknownToken => (Denial::UnknownToken, None),
            Self::AckNotAllowed { tenant, .. } => (Denial::NotAllowed, tenant.as_deref()),
            _ if self.status() == StatusCode::FORBIDDEN => (Denial::NotAllowed, None),
            _ => return,
        };
        let (status, detail) = (self.status().as_u16(), self.detail());
        log.denied(kind, &DeniedRequest { status, client, tenant, request_id: id.as_str(), detail: &detail });
    }

    /// The whole answer. Headers that the routes have set, such as `Allow`, are kept. `client` is for the log alone, and an
    /// address: whatever a sender wrote into its headers, nothing of that is logged.
    pub(super) fn render(&self, id: &RequestId, client: Option<IpAddr>, routed: Response) -> Response {
        let status = self.status();
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            if let Some(suppressed) = FAILED.permit() {
                tracing::error!(request_id = id.as_str(), %status, detail = self.detail(), suppressed, "failed");
            }
        } else {
            let client = client.map(tracing::field::display);
            tracing::debug!(request_id = id.as_str(), %status, client, detail = self.detail(), "refused");
        }
        let (mut parts, _) = routed.into_parts();
        parts.status = status;
        parts.headers.remove(CONTENT_LENGTH);
        self.headers(&mut parts.headers);
        Response::from_parts(parts, Body::from(self.body(id)))
    }

    /// The answer as it goes over the wire in HTTP/1.1, for a sender whose request was never read.
    pub(super) fn on_the_wire(&self, id: &RequestId) -> Vec<u8> {
        let (status, body) = (self.status(), self.body(id));
        let mut headers = HeaderMap::new();
        self.headers(&mut headers);
        headers.insert(CONTENT_LENGTH, body.len().into());
        headers.insert(super::X_REQUEST_ID, id.clone().into());
        let mut wire = format!("HTTP/1.1 {status}\r\n").into_bytes();
        for (name, value) in &headers {
            wire.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        wire.extend_from_slice(b"\r\n");
        wire.extend_from_slice(&body);
        wire
    }
}

impl IntoResponse for Problem {
    /// Only the status and a note of what it was: the edge, which knows the request's id, renders it.
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}
