//! What millpond is measured and proved with.
//!
//! * [`load`] sends numbered [`payload`]s in [`batch`]es and books every answer in a [`ledger`];
//! * [`readback`] reads the store and completes the ledger: nothing accepted may be lost, corrupt or there twice;
//! * [`s3`] is an S3 server in this process that can be told to go wrong;
//! * [`server`] runs a server program and takes its measures;
//! * [`trial`] puts these together into one run, whose outcome is a [`report`];
//! * [`timeline`] tells it second by second, and [`diff`] what changed from one report to another;
//! * [`proof`] kills, starves and replaces servers under load, and checks that nothing accepted was lost by it;
//! * [`attack`] is what hostile senders do, and what the others notice of it;
//! * [`baseline`] is what to compare with: the least that a server could do, and the designs that millpond came from;
//! * [`units`] reads and shows times and sizes.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking"))]

pub mod attack;
pub mod baseline;
pub mod batch;
pub mod diff;
pub mod ledger;
pub mod load;
pub mod payload;
pub mod proof;
pub mod readback;
pub mod report;
pub mod s3;
pub mod server;
pub mod timeline;
pub mod trial;
pub mod units;
