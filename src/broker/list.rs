//! Listing segments, page by page: a server names at most 100,000 subjects in one response.
//!
//! A page is read from the text of the response. So a listing takes the memory of one response, some 8 MB, and 24 bytes for each
//! segment of a page, however many segments wait.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use async_nats::Request;
use async_nats::jetstream;
use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Broker, BrokerError, RESPONSE_TIMEOUT, Tail, describe};
use crate::segment::{Compression, SegmentId, SegmentName};

/// How long a server may take for a page: it sorts all subjects for each.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// A segment that has messages: open, ended, or stored a short time ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListedSegment {
    pub(crate) id: SegmentId,
    pub(crate) compression: Compression,
    /// Its messages. 0 marks a segment that is in the work queue.
    pub(crate) messages: u32,
}

/// A part of the segments that are not in the work queue.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// By id.
    pub(crate) segments: Vec<ListedSegment>,
    /// The greatest id of the page, those in the work queue included.
    pub(crate) last: Option<SegmentId>,
    /// The number of subjects before the page and in it: the offset of the next page.
    pub(crate) end: usize,
    /// Whether there are no more segments.
    pub(crate) is_last: bool,
}

#[derive(Serialize)]
struct InfoRequest<'a> {
    offset: usize,
    subjects_filter: &'a str,
}

#[derive(Deserialize)]
struct InfoResponse<'a> {
    error: Option<jetstream::Error>,
    /// The subjects of all pages.
    #[serde(default)]
    total: usize,
    #[serde(borrow)]
    state: Option<State<'a>>,
}

#[derive(Deserialize)]
struct State<'a> {
    /// The number of messages of each subject.
    #[serde(borrow)]
    subjects: Option<&'a RawValue>,
}

/// Passes each subject on, without a map of them.
struct Subjects<F>(F);

#[derive(Deserialize)]
struct SubjectName<'a>(#[serde(borrow)] Cow<'a, str>);

impl Broker {
    /// Lists the segments from `offset` on that are not in the work queue. The queue is listed last, so that a segment that is sealed
    /// meanwhile is not in the page.
    pub(crate) async fn list(&self, offset: usize) -> Result<Page, BrokerError> {
        let mut segments = Vec::new();
        let (end, total) = self
            .subjects_of(
                &self.settings.stream,
                &self.subjects.segments(),
                (offset, PAGE_TIMEOUT),
                |subject, messages| {
                    let Some(SegmentName { id, compression, .. }) = self.subjects.parse_segment(subject) else {
                        return;
                    };
                    let messages = u32::try_from(messages).unwrap_or(u32::MAX);
                    segments.push(ListedSegment { id, compression, messages });
                },
            )
            .await?;
        segments.sort_unstable_by_key(|segment| segment.id);
        let last = segments.last().map(|segment| segment.id);
        let mut queued = 0;
        while !segments.is_empty() {
            let (end, total) = self
                .subjects_of(
                    &self.subjects.work_stream(),
                    &self.subjects.works(),
                    (queued, PAGE_TIMEOUT),
                    |subject, _| {
                        let Some(id) = self.subjects.parse_work(subject) else { return };
                        if let Ok(index) = segments.binary_search_by_key(&id, |segment| segment.id) {
                            segments[index].messages = 0;
                        }
                    },
                )
                .await?;
            queued = end;
            if end >= total {
                break;
            }
        }
        segments.retain(|segment| segment.messages > 0);
        Ok(Page { segments, last, end, is_last: end >= total })
    }

    /// Finds a segment by its id alone. Returns its codec and its last message.
    pub(crate) async fn find(&self, id: SegmentId) -> Result<Option<(SegmentName, Tail)>, BrokerError> {
        let mut name = None;
        let filter = self.subjects.segment_of_any_codec(id);
        self.subjects_of(&self.settings.stream, &filter, (0, RESPONSE_TIMEOUT), |subject, _| {
            name = name.or(self.subjects.parse_segment(subject));
        })
        .await?;
        let Some(name) = name else { return Ok(None) };
        Ok(self.tail_of(name).await?.map(|tail| (name, tail)))
    }

    /// Passes the subjects of a stream and the number of their messages to `each`: those from `offset` on, as many as the server lists at
    /// once. Returns the offset of the next ones, and the number of all.
    async fn subjects_of(
        &self,
        stream: &str,
        filter: &str,
        (offset, time): (usize, Duration),
        each: impl FnMut(&str, u64),
    ) -> Result<(usize, usize), BrokerError> {
        let request = InfoRequest { offset, subjects_filter: filter };
        let request = serde_json::to_vec(&request).map_err(BrokerError::unavailable)?;
        let request = Request::new().payload(Bytes::from(request)).timeout(Some(time));
        let response = self.client.send_request(format!("$JS.API.STREAM.INFO.{stream}"), request).await;
        parse(&response.map_err(BrokerError::unavailable)?.payload, offset, each)
    }
}

/// Reads the response of a server.
fn parse(response: &[u8], offset: usize, mut each: impl FnMut(&str, u64)) -> Result<(usize, usize), BrokerError> {
    let unreadable = |error: serde_json::Error| BrokerError::Unavailable(describe(&error));
    let InfoResponse { error, total, state } = serde_json::from_slice(response).map_err(unreadable)?;
    if let Some(error) = error {
        return Err(BrokerError::Unavailable(error.to_string()));
    }
    let mut end = offset;
    if let Some(subjects) = state.and_then(|state| state.subjects) {
        let subjects_seen = Subjects(|subject: &str, messages| {
            end += 1;
            each(subject, messages);
        });
        subjects_seen.deserialize(subjects).map_err(unreadable)?;
    }
    // A page without subjects is the last one, whatever the total was when it was counted.
    Ok((end, if end == offset { end } else { total }))
}

impl<'de, F: FnMut(&str, u64)> DeserializeSeed<'de> for Subjects<F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, F: FnMut(&str, u64)> Visitor<'de> for Subjects<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("subjects and the number of their messages")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((SubjectName(subject), messages)) = map.next_entry()? {
            self.0(&subject, messages);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The offset of the next page, the number of all subjects, and those of this page.
    type Read = (usize, usize, Vec<(String, u64)>);

    fn read(response: &str, offset: usize) -> Result<Read, BrokerError> {
        let mut subjects = Vec::new();
        let each = |subject: &str, messages| subjects.push((subject.to_owned(), messages));
        let (end, total) = parse(response.as_bytes(), offset, each)?;
        Ok((end, total, subjects))
    }

    #[test]
    fn a_page_says_where_the_next_one_begins() {
        let page =
            r#"{"total":7,"offset":2,"state":{"messages":9,"subjects":{"a.b":3,"a.\u003cc\u003e":1}},"created":"x"}"#;
        let subjects = vec![("a.b".to_owned(), 3), ("a.<c>".to_owned(), 1)];
        assert_eq!(read(page, 2), Ok((4, 7, subjects)));
    }

    #[test]
    fn a_page_without_subjects_is_the_last_one() {
        for page in [r#"{"total":7,"state":{"messages":0}}"#, r#"{"total":7,"state":{"subjects":{}}}"#] {
            assert_eq!(read(page, 5), Ok((5, 5, Vec::new())), "{page}");
        }
    }

    #[test]
    fn an_error_of_the_server_is_no_empty_page() {
        let missing = read(r#"{"error":{"code":404,"err_code":10059,"description":"stream not found"}}"#, 0);
        assert!(matches!(missing, Err(BrokerError::Unavailable(error)) if error.contains("stream not found")));
        assert!(read("{", 0).is_err());
    }
}
