//! The receipt of a job: its segment and its index there.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::SegmentId;

/// Names a job, as `<segment id>.<index>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobId {
    /// The segment of the job, and so its object.
    pub segment: SegmentId,
    /// Its index among the segment's jobs, from 0.
    pub index: u32,
}

/// The text is no receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a receipt from the `job` of a response: a UUIDv7, a dot and a number")]
pub struct InvalidJobId;

impl Serialize for JobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for JobId {
    type Err = InvalidJobId;

    fn from_str(text: &str) -> Result<Self, InvalidJobId> {
        let (segment, index) = text.split_once('.').ok_or(InvalidJobId)?;
        let job = Self {
            segment: segment.parse().map_err(|_| InvalidJobId)?,
            index: index.parse().map_err(|_| InvalidJobId)?,
        };
        // No plus signs and no leading zeros, so that a job has one name.
        if job.to_string() == text { Ok(job) } else { Err(InvalidJobId) }
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.segment, self.index)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn only_the_exact_text_of_a_receipt_is_parsed() {
        let segment = SegmentId::new(SystemTime::now());
        for index in [0, 17, u32::MAX] {
            let job = JobId { segment, index };
            assert_eq!(job.to_string().parse(), Ok(job));
        }
        for bad in [".", "1", "x.1", &format!("{segment}"), &format!("{segment}.-1"), &format!("{segment}.01")] {
            assert_eq!(bad.parse::<JobId>(), Err(InvalidJobId), "{bad}");
        }
        assert!(format!("{segment}.4294967296").parse::<JobId>().is_err());
    }
}
