//! Benchmarks of each component that handles a payload: `cargo bench`, or `cargo bench -- decode` for one of them.
//!
//! Each time is that of a whole batch, frame or commit. The lines below it are payloads or jobs, and bytes, per second. All
//! payloads are different.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a benchmark fails by panicking")]

mod commit;
mod decode;
mod frame;
mod inflate;
mod queue;
mod receipt;
mod sample;
mod tenants;
mod trace;

fn main() {
    divan::main();
}
