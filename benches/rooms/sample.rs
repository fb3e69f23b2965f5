//! The input of the benchmarks.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use loadtest::batch::{self, Encoding};
use loadtest::payload::{DEFAULT_SIZE, Number, Payloads};
use millpond::decode::{self, BatchMetadata, Limits, Lines, LinesPlan, Readers, Record};

/// The least bytes of different input. With less, the branch predictor learns the input, and the figures are too good.
pub(crate) const UNPREDICTED_BYTES: usize = 2_000_000;

/// A number of payloads of `size` bytes.
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

/// Batches from the smallest to those of `MAX_DECODED_BYTES`.
pub(crate) fn batches() -> impl Iterator<Item = Batch> {
    let sizes = [100, DEFAULT_SIZE, 1000, 10_000, 100_000];
    let all = [1, 10, 100, 1000].into_iter().flat_map(move |payloads| sizes.map(|size| Batch { payloads, size }));
    all.filter(|batch| batch.payloads * batch.size <= 10_000_000)
}

impl Batch {
    /// Different bodies of [`UNPREDICTED_BYTES`] in total; at least one.
    pub(crate) fn bodies(self, form: batch::Form) -> Vec<Vec<u8>> {
        let count = (UNPREDICTED_BYTES / (self.payloads * self.size)).max(1);
        (0..).take(count).map(|number| self.body(form, number)).collect()
    }

    /// The body of a client. Different numbers have different payloads.
    fn body(self, form: batch::Form, number: u32) -> Vec<u8> {
        let mut body = Vec::new();
        let mut writer = batch::Batch::new(Payloads::new(7, self.size), form, Encoding::Identity, "token").unwrap();
        writer.write(Number { client: number, sequence: 0 }, self.payloads, &mut body).unwrap();
        body
    }

    /// The lines of its job.
    pub(crate) fn lines(self, number: u32) -> Lines {
        let body = self.body(batch::Form::Envelope, number);
        let batch = decode::Batch::parse(&body, decode::BatchFormat::Json, &limits(body.len()), &mut |_| true).unwrap();
        LinesPlan::new(batch, &meta()).write()
    }
}

/// The default limits.
pub(crate) fn limits(sent: usize) -> Limits {
    Limits::new(sent, Record::Envelope, Readers::Strict)
}

/// The metadata of a request.
pub(crate) fn meta() -> BatchMetadata<'static> {
    let request_id = "019d2f3c-8a51-7c3e-9b0e-5f6d7a8b9c0d";
    BatchMetadata { received_at: now(), request_id, tenant: None, variant: None, sqsd: None, record: Record::Envelope }
}

/// A time in November 2026.
pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_795_000_000_123)
}
