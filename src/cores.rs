//! The cores of the machine.

use std::thread;

/// The cores that this process may use; 1 if that is unknown.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
