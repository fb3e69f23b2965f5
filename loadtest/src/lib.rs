//! Measures millpond, and proves that it loses nothing.
//!
//! * [`load`] sends numbered [`payload`]s in [`batch`]es with its [`client`] and records every response in a [`ledger`];
//! * [`readback`] reads the store and completes the ledger: nothing accepted may be lost, corrupt or stored twice;
//! * [`s3`] is an S3 server in this process with faults;
//! * [`server`] runs a server program and measures it;
//! * [`trial`] combines these into one run, whose result is a [`report`] with a [`timeline`];
//! * [`diff`] shows what changed between reports, with the intervals of [`stats`];
//! * [`proof`] kills, starves and replaces servers under load;
//! * [`attack`] sends what hostile clients send;
//! * [`baseline`] has servers to compare with: the least that a server can do, and simpler designs;
//! * `simulate` has a group of machines and its autoscaling policies, on paper;
//! * [`cli`] is the command line, and [`units`] reads and shows times and sizes.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking"))]

pub mod attack;
pub mod baseline;
pub mod batch;
pub mod cli;
pub mod client;
pub mod diff;
mod files;
pub mod ledger;
pub mod load;
pub mod payload;
pub mod proof;
pub mod readback;
pub mod report;
pub mod s3;
pub mod server;
mod simulate;
pub mod stats;
pub mod timeline;
pub mod trial;
pub mod units;
