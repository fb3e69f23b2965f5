//! Labels whose values are the variants of an enum.

use axum::http::StatusCode;

use crate::store::ErrorClass;

/// A label of a metric. Its values have indexes from 0.
pub(super) trait Label: Copy {
    /// The values as text, in the order of their indexes.
    const VALUES: &'static [&'static str];

    fn index(self) -> usize;
}

/// Declares an enum and the text of each variant as the value of a label.
macro_rules! label {
    ($(#[$attribute:meta])* pub enum $name:ident { $($(#[$doc:meta])* $variant:ident = $value:literal,)+ }) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// Every variant, in the order of their indexes.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The variant as the value of its label.
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$variant => $value,)+
                }
            }
        }

        impl Label for $name {
            const VALUES: &'static [&'static str] = &[$($value),+];

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

label! {
    /// The result of a request.
    pub enum Outcome {
        /// 2xx for a batch.
        Accepted = "accepted",
        /// 400.
        Invalid = "invalid",
        /// 413.
        TooLarge = "too_large",
        /// 408.
        Slow = "slow",
        /// 404, 405, 411, 415, 501.
        NotUnderstood = "not_understood",
        /// 401: no token.
        NoToken = "no_token",
        /// 403: no tenant has the token.
        UnknownToken = "unknown_token",
        /// 403: the client lacks the permission.
        NotAllowed = "not_allowed",
        /// 429: the tenant exceeds a rate limit.
        OverRate = "over_rate",
        /// 503: the queue is full.
        QueueFull = "queue_full",
        /// 503: the tenant's share of the queue is full.
        ShareFull = "share_full",
        /// 503: the tenant's share of the spool is full.
        SpoolShareFull = "spool_share_full",
        /// 503: `MAX_CONNECTIONS` are open.
        TooManyConnections = "too_many_connections",
        /// 429: the address has `MAX_CONNECTIONS_PER_ADDRESS` open.
        TooManyFromAddress = "too_many_from_address",
        /// 503: the memory for requests in flight is used up.
        TooManyRequests = "too_many_requests",
        /// 429: the address has used up its part of the memory for requests in flight.
        TooManyRequestsFromAddress = "too_many_requests_from_address",
        /// 403: a web page of another origin.
        CrossOrigin = "cross_origin",
        /// 503: the spool is full or fails.
        NoSpool = "no_spool",
        /// 503: the server drains or shuts down.
        Draining = "draining",
        /// Not a batch: 2xx, or 503 of a health check.
        Other = "other",
        /// 500, or 503 because the store does not respond to a lookup.
        Failed = "failed",
    }
}

label! {
    /// Why a segment was sealed.
    pub enum SealReason {
        /// `OBJECT_MAX_BYTES`.
        Size = "size",
        /// `OBJECT_MAX_AGE`.
        Age = "age",
        /// A request waits for ack level `stored`.
        Urgent = "urgent",
        /// A commit failed.
        Fault = "fault",
        /// The spool is nearly full: storing the segment frees space.
        SpoolFull = "spool_full",
        /// The server drains or shuts down.
        Shutdown = "shutdown",
    }
}

label! {
    /// The kind of an outcome.
    pub enum RequestResult {
        /// A batch was accepted.
        Accepted = "accepted",
        /// A request was rejected: the client has to change it, or to send it later.
        Rejected = "rejected",
        /// The server failed.
        Failed = "failed",
        /// Not a batch.
        Other = "other",
    }
}

label! {
    /// A limit, which a gauge shows.
    pub enum Limit {
        /// `MAX_QUEUE`.
        QueueJobs = "queue_jobs",
        /// `MAX_QUEUE_BYTES`.
        QueueBytes = "queue_bytes",
        /// `SPOOL_MAX_BYTES`, or `BROKER_MAX_BYTES`.
        SpoolBytes = "spool_bytes",
        /// The memory for requests in flight.
        RequestsInFlightBytes = "requests_in_flight_bytes",
        /// `MAX_CONNECTIONS`.
        Connections = "connections",
        /// `MAX_WORKERS`.
        Workers = "workers",
    }
}

label! {
    /// Files that are reloaded when they change, by the setting that names them.
    pub enum WatchedFile {
        /// The tenants.
        Tokens = "TOKENS_FILE",
        /// The certificate and its key.
        Certificate = "TLS_CERT",
        /// What is rolled out.
        Rollout = "ROLLOUT_FILE",
    }
}

label! {
    /// What became of a copy of a batch.
    pub enum MirrorResult {
        /// The other server has responded.
        Sent = "sent",
        /// There was no space for it, or the other server could not be reached just before.
        Dropped = "dropped",
        /// No response came.
        Failed = "failed",
    }
}

label! {
    /// What became of a request that the plan selects for another version.
    pub enum ForwardResult {
        /// The response of the other version was passed on.
        Passed = "passed",
        /// The other version had not taken or had rejected it, so this server took it.
        TakenHere = "taken_here",
        /// The other version may have taken it.
        Unknown = "unknown",
        /// The client left before the other version had responded.
        Abandoned = "abandoned",
    }
}

label! {
    /// The class of a status.
    pub enum StatusClass {
        /// Taken.
        Success = "2xx",
        /// No server of this kind sends one.
        Redirection = "3xx",
        /// Rejected.
        ClientError = "4xx",
        /// Failed.
        ServerError = "5xx",
    }
}

impl StatusClass {
    /// The class of a final status.
    pub fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            0..300 => Self::Success,
            300..400 => Self::Redirection,
            400..500 => Self::ClientError,
            500.. => Self::ServerError,
        }
    }
}

label! {
    /// The result of a handover of the listeners.
    pub enum HandoverResult {
        /// This process serves the listeners of another one.
        Completed = "completed",
        /// This process did not hand over, and serves on.
        Failed = "failed",
    }
}

impl Outcome {
    /// The kind of the outcome.
    pub fn result(self) -> RequestResult {
        match self {
            Self::Accepted => RequestResult::Accepted,
            Self::Other => RequestResult::Other,
            Self::Failed => RequestResult::Failed,
            _ => RequestResult::Rejected,
        }
    }

    /// Whether the tenant exceeded a rate limit or a share.
    pub fn is_throttled(self) -> bool {
        matches!(self, Self::OverRate | Self::ShareFull | Self::SpoolShareFull)
    }
}

label! {
    /// The route of a request.
    pub enum Route {
        /// `/v1/payloads` and `/`.
        Payloads = "payloads",
        /// `/v1/jobs/{job}`.
        Jobs = "jobs",
        /// `/health`.
        Health = "health",
        /// Other paths, and connections that are rejected before a request is read.
        Other = "other",
    }
}

impl Route {
    /// The route of a path, for any method.
    pub fn of(path: &str) -> Self {
        match path {
            "/" | "/v1/payloads" => Self::Payloads,
            "/health" => Self::Health,
            _ if path.starts_with("/v1/jobs/") => Self::Jobs,
            _ => Self::Other,
        }
    }
}

impl Label for ErrorClass {
    const VALUES: &'static [&'static str] = &["transient", "throttled", "timed_out", "permanent"];

    fn index(self) -> usize {
        match self {
            Self::Transient => 0,
            Self::Throttled => 1,
            Self::TimedOut => 2,
            Self::Permanent => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_route_has_a_label_and_all_other_paths_share_one() {
        let routes = ["/", "/v1/payloads", "/v1/jobs/0", "/health", "/v1/jobs", "/healthy", "/x"].map(Route::of);
        use Route::{Health, Jobs, Other, Payloads};
        assert_eq!(routes, [Payloads, Payloads, Jobs, Health, Other, Other, Other]);
    }

    #[test]
    fn the_index_of_a_variant_is_that_of_its_text() {
        assert_eq!(Route::VALUES[Route::Health.index()], "health");
        assert_eq!(Outcome::VALUES[Outcome::Failed.index()], "failed");
        assert_eq!(SealReason::VALUES[SealReason::Shutdown.index()], "shutdown");
        assert_eq!(ErrorClass::VALUES[ErrorClass::Permanent.index()], "permanent");
    }
}
