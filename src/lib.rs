//! millpond takes telemetry in over HTTP and lands it in S3.
//!
//! ```text
//! request -> http -> decode -> Job -> JobQueue -> Dispatcher -> segment -> Backlog -> worker -> Store (S3 | directory)
//! ```
//!
//! A handler in [`http`] reads a batch within its limits, [`decode`] turns it into lines, and a [`queue::Job`] goes onto
//! the bounded [`queue`]. The [`dispatcher`] drains what waits, packs it into a frame ([`segment`]) and commits that to the
//! open segment in the [`spool`]. A segment that is full or old enough goes to an idle [`worker`], which puts it into the
//! [`store`] and keeps it until the store has said yes. Who may send, and how much, is in [`tenants`]. [`app`] wires these together and takes them apart in order.

pub mod admin;
pub mod app;
pub mod audit;
mod bound;
pub mod config;
pub mod decode;
pub mod digest;
pub mod disk;
pub mod dispatcher;
pub mod health;
pub mod http;
pub mod inflate;
mod log_throttle;
pub mod metrics;
pub mod permissions;
pub mod pipeline;
pub mod queue;
pub mod reload;
pub mod segment;
pub mod shutdown;
pub mod spool;
pub mod store;
pub mod tenants;
pub mod worker;
