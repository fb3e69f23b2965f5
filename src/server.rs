//! A TCP listener that serves HTTP: TLS, the PROXY protocol, connection limits and timeouts.
//!
//! It knows nothing of what a service does with a request, and takes the responses to rejected connections rendered.

mod acceptor;
mod connection;
mod listener;
mod peer;
mod proxy_protocol;
mod rejection;
mod tls;

pub use acceptor::{ServerConfig, ServerMetrics};
pub use connection::Timeouts;
pub(crate) use connection::{HEADERS_MAX, WireBytes, end_connection};
pub use listener::{bind, serve, serve_connection};
pub(crate) use peer::{ClientAddress, network};
pub use peer::{Peer, TrustedProxies};
pub use rejection::Rejection;
pub use tls::{Tls, TlsError};
