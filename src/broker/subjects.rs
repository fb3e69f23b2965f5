//! The subjects of the broker.

use uuid::Uuid;

use crate::segment::{Compression, SegmentId, SegmentName};

/// The subjects and streams that follow from `BROKER_STREAM`.
#[derive(Debug, Clone)]
pub(crate) struct Subjects {
    stream: String,
}

/// The subject of a process that takes batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inbox(String);

impl Inbox {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Subjects {
    pub(super) fn new(stream: &str) -> Self {
        Self { stream: stream.to_owned() }
    }

    /// The name of the stream of the work queue.
    pub(super) fn work_stream(&self) -> String {
        format!("{}-work", self.stream)
    }

    /// The subjects of all segments.
    pub(super) fn segments(&self) -> String {
        format!("{}.segment.*.*", self.stream)
    }

    pub(super) fn segment(&self, id: SegmentId, compression: Compression) -> String {
        format!("{}.segment.{id}.{}", self.stream, compression.name())
    }

    /// The subjects that a segment may have.
    pub(super) fn segment_of_any_codec(&self, id: SegmentId) -> String {
        format!("{}.segment.{id}.*", self.stream)
    }

    /// The segment of a subject.
    pub(super) fn parse_segment(&self, subject: &str) -> Option<SegmentName> {
        let rest = subject.strip_prefix(self.stream.as_str())?.strip_prefix(".segment.")?;
        let (id, codec) = rest.split_once('.')?;
        let compression = Compression::ALL.into_iter().find(|compression| compression.name() == codec)?;
        Some(SegmentName { id: id.parse().ok()?, compression, committed: None })
    }

    /// The subjects of all segments to upload.
    pub(super) fn works(&self) -> String {
        format!("{}.work.*", self.stream)
    }

    pub(super) fn work(&self, id: SegmentId) -> String {
        format!("{}.work.{id}", self.stream)
    }

    /// The segment of a subject of the work queue.
    pub(super) fn parse_work(&self, subject: &str) -> Option<SegmentId> {
        subject.strip_prefix(self.stream.as_str())?.strip_prefix(".work.")?.parse().ok()
    }

    /// What the subjects begin with that this fleet's processes await replies on, and a dot.
    pub(super) fn replies(&self) -> String {
        format!("{}.", Self::reply_prefix(&self.stream))
    }

    /// What the subjects begin with on which a process of the fleet with this stream awaits replies.
    pub(super) fn reply_prefix(stream: &str) -> String {
        format!("_INBOX_{stream}")
    }

    pub(super) fn new_inbox(&self) -> Inbox {
        Inbox(format!("{}.process.{}", self.stream, Uuid::now_v7()))
    }

    /// The inbox with this subject. A message cannot make a process publish to any other subject.
    pub(super) fn inbox(&self, subject: &str) -> Option<Inbox> {
        let id = subject.strip_prefix(self.stream.as_str())?.strip_prefix(".process.")?;
        Uuid::try_parse(id).ok().map(|_| Inbox(subject.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_segment_is_found_by_its_subject_and_no_other_subject_is_one() {
        let subjects = Subjects::new("millpond");
        let id = SegmentId::new(SystemTime::now());
        for compression in Compression::ALL {
            let name = SegmentName { id, compression, committed: None };
            assert_eq!(subjects.parse_segment(&subjects.segment(id, compression)), Some(name));
        }
        assert_eq!(subjects.parse_work(&subjects.work(id)), Some(id));
        for other in ["millpond.segment.x.gzip", "other.segment.x.gzip", "millpond.segment", &subjects.work(id)] {
            assert_eq!(subjects.parse_segment(other), None, "{other}");
        }
    }

    #[test]
    fn only_the_subject_of_a_process_is_an_inbox() {
        let subjects = Subjects::new("millpond");
        let inbox = subjects.new_inbox();
        assert_eq!(subjects.inbox(inbox.as_str()), Some(inbox));
        for other in ["millpond.work.1", "$JS.API.STREAM.DELETE.millpond", "millpond.process.>", "millpond.process."] {
            assert_eq!(subjects.inbox(other), None, "{other}");
        }
    }
}
