//! Connections that are rejected before a service has seen a request of them.

use crate::metrics::Outcome;

/// Why a connection is rejected before a service has seen a request of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// `max_connections` are open.
    TooManyConnections,
    /// The address has `max_per_address` connections open.
    TooManyFromAddress,
    /// The headers did not arrive within `header_timeout`.
    SlowHeaders,
}

/// The response to a rejected connection.
pub struct RenderedRejection {
    /// A complete HTTP/1.1 response.
    pub response: Vec<u8>,
    /// The outcome that is counted.
    pub outcome: Outcome,
}
