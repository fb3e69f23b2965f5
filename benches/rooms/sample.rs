//! What the rooms are given.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use loadtest::batch::{self, Encoding};
use loadtest::payload::{DEFAULT_SIZE, Number, Payloads};
use millpond::decode::{self, Limits, Lines, Meta, Readers, Record};

/// More than this a processor does not know by heart: it learns the branches of what comes again and again, and would be
/// faster than it is.
pub(crate) const LEARNT_BYTES: usize = 2_000_000;

/// So many payloads of so many bytes.
#[derive(Clone, Copy)]
pub(crate) struct Batch {
    pub(crate) payloads: usize,
    pub(crate) size: usize,
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {} B", self.payloads, self.size)
    }
}

/// From the least that is sent to the most that is taken (`MAX_DECODED_BYTES`).
pub(crate) fn batches() -> impl Iterator<Item = Batch> {
    let sizes = [100, DEFAULT_SIZE, 1000, 10_000, 100_000];
    let all = [1, 10, 100, 1000].into_iter().flat_map(move |payloads| sizes.map(|size| Batch { payloads, size }));
    all.filter(|batch| batch.payloads * batch.size <= 10_000_000)
}

impl Batch {
    /// Bodies of [`LEARNT_BYTES`] together, no two alike; at least one.
    pub(crate) fn bodies(self, form: batch::Form) -> Vec<Vec<u8>> {
        let count = (LEARNT_BYTES / (self.payloads * self.size)).max(1);
        (0..).take(count).map(|number| self.body(form, number)).collect()
    }

    /// The body that a sender makes of it; no two numbers have the same payloads.
    fn body(self, form: batch::Form, number: u32) -> Vec<u8> {
        let mut body = Vec::new();
        let mut writer = batch::Batch::new(Payloads::new(7, self.size), form, Encoding::Identity, "token").unwrap();
        writer.write(Number { client: number, sequence: 0 }, self.payloads, &mut body).unwrap();
        body
    }

    /// The lines that a job holds of it.
    pub(crate) fn lines(self, number: u32) -> Lines {
        let body = self.body(batch::Form::Envelope, number);
        let batch = decode::Batch::read(&body, decode::Form::Json, &limits(body.len()), &mut |_| true).unwrap();
        Lines::write(&batch, &meta(), |_| true).unwrap()
    }
}

/// What is taken of a body by default.
pub(crate) fn limits(sent: usize) -> Limits {
    Limits::new(sent, Record::Envelope, Readers::Strict)
}

/// What the server knows of a request.
pub(crate) fn meta() -> Meta<'static> {
    let request_id = "019d2f3c-8a51-7c3e-9b0e-5f6d7a8b9c0d";
    Meta { received_at: now(), request_id, tenant: None, record: Record::Envelope }
}

/// A moment in November 2026.
pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_795_000_000_123)
}
