//! The rows of the last 15 minutes, as JSON arrays.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;

/// The rows that are kept: one a second for 15 minutes.
pub const HISTORY_MAX: usize = 15 * 60;

/// Declares the members of a row, in their order.
macro_rules! row {
    ($($member:ident,)+) => {
        /// What the members of a row are.
        pub const COLUMNS: &[&str] = &[$(stringify!($member)),+];

        /// One second. Members without a value are unknown.
        #[derive(Debug, Clone, Copy)]
        pub(super) struct Row {
            $(pub(super) $member: Option<f64>,)+
        }

        impl Row {
            /// The members, rounded to millionths, so that they have no digits without meaning.
            pub(super) fn values(&self) -> Vec<Option<f64>> {
                [$(self.$member),+].map(|value| value.map(|value| (value * 1e6).round() / 1e6)).to_vec()
            }
        }
    };
}

row! {
    timestamp,
    accepted_per_second,
    rejected_per_second,
    failed_per_second,
    payloads_per_second,
    received_bytes_per_second,
    stored_bytes_per_second,
    p50,
    p90,
    p99,
    commit_p99,
    upload_p99,
    queue_jobs,
    queue_bytes,
    spool_bytes,
    waiting_jobs,
    oldest_unstored_seconds,
    cpu_cores,
    memory_bytes,
    connections,
    busy_workers,
    jobs_per_commit,
}

/// The rows, oldest first.
#[derive(Debug, Default)]
pub struct History(Mutex<VecDeque<Bytes>>);

impl History {
    /// Adds a row, and publishes its snapshot in the same moment.
    pub(super) fn push(&self, row: Bytes, publish: impl FnOnce()) {
        let mut rows = self.0.lock();
        if rows.len() >= HISTORY_MAX {
            rows.pop_front();
        }
        rows.push_back(row);
        publish();
    }

    /// All rows but the newest, and the snapshot of the newest.
    pub(super) fn before_current<T>(&self, current: impl FnOnce() -> T) -> (Vec<Bytes>, T) {
        let rows = self.0.lock();
        let before = rows.len().saturating_sub(1);
        (rows.iter().take(before).cloned().collect(), current())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_keeps_the_newest_rows_up_to_its_bound() {
        let history = History::default();
        (0..HISTORY_MAX + 5).for_each(|row| history.push(row.to_string().into(), || ()));
        let (rows, ()) = history.before_current(|| ());
        assert_eq!((rows.len(), &*rows[0]), (HISTORY_MAX - 1, &b"5"[..]));
    }
}
