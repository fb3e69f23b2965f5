//! The server as others see it: its program, real sockets, the real SDK against a real S3 server.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod ack_limits;
mod admin_token;
mod attacks;
mod audit;
mod bodies;
mod bucket_owner;
mod conditional_put;
mod conformance;
mod crash;
mod damage;
mod decoding_cost;
mod disk_faults;
mod docs;
mod edge;
mod encode;
mod fairness;
mod faulty_disk;
mod in_process;
mod injection;
mod large_bodies;
mod lookups;
mod main_job;
mod openapi;
mod origins;
mod peers;
mod pressure;
mod receipts;
mod recovery;
mod repack;
mod requests;
mod scripted_s3;
mod settings;
mod shutdown;
mod slow;
mod spool_folder;
mod stops;
mod store_errors;
mod stuck;
mod support;
mod threads;
mod tls;
mod tokens;
mod waits;
