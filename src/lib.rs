//! millpond receives telemetry over HTTP and stores it in S3.
//!
//! ```text
//! request -> server -> http -> decode -> Job -> JobQueue -> Dispatcher -> segment -> Backlog -> worker -> Store (S3 | directory)
//! ```
//!
//! The [`server`] accepts connections and reads requests. A handler in [`http`] reads a batch within its limits, [`decode`]
//! turns it into lines, and a [`queue::Job`] goes onto the bounded [`queue`]. The [`dispatcher`] compresses all waiting jobs
//! as one frame ([`segment`]) and commits it to the open segment in the [`spool`]. A segment that is full or old enough goes
//! to an idle [`worker`], which uploads it to the [`store`] and keeps it until the store has confirmed it. [`tenants`] holds
//! tokens and rate limits. [`trace`] exports spans of sampled requests. [`app`] starts and stops all of this in order.

pub mod admin;
pub mod app;
pub mod audit;
mod bound;
pub mod broker;
pub mod cli;
pub mod config;
pub mod context;
mod cores;
pub mod decode;
pub mod digest;
pub mod disk;
pub mod dispatcher;
mod fleet;
pub mod handover;
mod headers;
pub mod health;
pub mod http;
mod https;
pub mod inflate;
mod keyed_semaphores;
pub mod log_filter;
mod log_throttle;
pub mod metrics;
mod percentile;
pub mod permissions;
mod pipeline;
mod profile;
pub mod queue;
pub mod recent;
pub mod reload;
mod rfc3339;
pub mod rollout;
pub mod segment;
pub mod server;
pub mod shutdown;
pub mod spool;
mod statsd;
pub mod status;
pub mod store;
pub mod tenants;
pub mod trace;
pub mod worker;
