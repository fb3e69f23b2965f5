//! What each room on the way of a payload takes, on its own: `cargo bench`, or `cargo bench -- decode` for one of them.
//!
//! Each figure is of a whole batch, frame or commit; the lines under it say what that comes to in payloads or jobs, and in
//! bytes, a second. No two payloads are alike.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a benchmark fails by panicking")]

mod commit;
mod decode;
mod frame;
mod inflate;
mod queue;
mod receipt;
mod sample;
mod tenants;

fn main() {
    divan::main();
}
