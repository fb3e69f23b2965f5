//! Connections that are rejected before a service has seen a request of them.

/// Why a connection is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// `max_connections` are open.
    TooManyConnections,
    /// The address has `max_per_address` connections open.
    TooManyFromAddress,
    /// The headers did not arrive within the header timeout.
    SlowHeaders,
}
