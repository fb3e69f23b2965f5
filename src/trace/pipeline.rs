//! The spans behind a request: its time in the queue, the commit of its frame, and the uploads of its segment.

use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry::KeyValue;
use opentelemetry::trace::{Link, SpanContext, SpanKind, Status};

use super::{LINKS_MAX, NewSpan, Parent, Tracer, failed, links, new_context};
use crate::segment::SegmentId;
use crate::store::ErrorClass;

/// The trace of a job, from its queueing to its commit.
#[derive(Debug, Clone)]
pub(crate) struct JobTrace {
    /// The span of its request.
    request: SpanContext,
    queued: SystemTime,
}

impl JobTrace {
    /// Of a job that is about to be queued.
    pub(super) fn new(request: SpanContext) -> Self {
        Self { request, queued: SystemTime::now() }
    }
}

/// The spans of the commits of a segment, at most as many as the span of an upload has links.
#[derive(Debug, Default)]
pub struct SegmentTrace {
    commits: Vec<SpanContext>,
    /// Commits beyond.
    dropped: u32,
}

impl SegmentTrace {
    fn add(&mut self, commit: SpanContext) {
        // One is the parent.
        if self.commits.len() <= LINKS_MAX {
            self.commits.push(commit);
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
    }
}

/// The commit of a frame that has jobs of sampled requests. The span ends when this is dropped.
pub(crate) struct CommitSpan {
    tracer: Arc<Tracer>,
    context: SpanContext,
    jobs: Vec<JobTrace>,
    began: SystemTime,
    attributes: Vec<KeyValue>,
    is_committed: bool,
}

/// One attempt to upload a segment that has traced commits. The span ends when this is dropped.
pub(crate) struct UploadSpan<'t> {
    tracer: &'t Tracer,
    context: SpanContext,
    parent: Parent,
    links: Vec<Link>,
    dropped_links: u32,
    began: SystemTime,
    attributes: Vec<KeyValue>,
    status: Status,
}

/// An attempt that has ended.
#[derive(Clone, Copy)]
pub(crate) struct UploadResult<'a> {
    pub(crate) segment: SegmentId,
    pub(crate) key: &'a str,
    pub(crate) bytes: usize,
    pub(crate) jobs: u64,
    /// Earlier attempts.
    pub(crate) failures: u32,
    pub(crate) error: Option<ErrorClass>,
}

impl Tracer {
    /// Begins the span of a commit. None if none of its jobs is traced.
    pub(crate) fn commit<'j>(self: &Arc<Self>, jobs: impl Iterator<Item = &'j JobTrace>) -> Option<CommitSpan> {
        let mut jobs = jobs.peekable();
        let context = new_context(jobs.peek()?.request.trace_id());
        let (jobs, began) = (jobs.cloned().collect(), SystemTime::now());
        let tracer = Arc::clone(self);
        Some(CommitSpan { tracer, context, jobs, began, attributes: Vec::new(), is_committed: false })
    }

    /// Begins the span of an upload. None if no commit of the segment is traced.
    pub(crate) fn upload(&self, trace: &SegmentTrace) -> Option<UploadSpan<'_>> {
        let (first, others) = trace.commits.split_first()?;
        let (links, dropped) = links(others.iter());
        Some(UploadSpan {
            tracer: self,
            context: new_context(first.trace_id()),
            parent: Parent::local(first),
            links,
            dropped_links: dropped.saturating_add(trace.dropped),
            began: SystemTime::now(),
            attributes: Vec::new(),
            status: failed("cancelled"),
        })
    }
}

impl CommitSpan {
    /// The frame is committed to the segment of this id and trace.
    pub(crate) fn committed(mut self, segment: SegmentId, trace: &mut SegmentTrace, jobs: usize, payloads: u32) {
        trace.add(self.context.clone());
        self.attributes = vec![
            KeyValue::new("millpond.segment", segment.to_string()),
            KeyValue::new("millpond.jobs", integer(jobs as u64)),
            KeyValue::new("millpond.payloads", i64::from(payloads)),
        ];
        self.is_committed = true;
    }
}

impl Drop for CommitSpan {
    fn drop(&mut self) {
        for job in &self.jobs {
            let mut queue = self.tracer.ended(NewSpan {
                context: new_context(job.request.trace_id()),
                parent: Parent::local(&job.request),
                kind: SpanKind::Internal,
                name: "queue",
                started: job.queued,
                attributes: Vec::new(),
                links: vec![Link::with_context(self.context.clone())],
                dropped_links: 0,
                status: Status::Unset,
            });
            queue.end_time = self.began.max(job.queued);
            self.tracer.export(queue);
        }
        let Some((first, others)) = self.jobs.split_first() else { return };
        let (links, dropped_links) = links(others.iter().map(|job| &job.request));
        let span = self.tracer.ended(NewSpan {
            context: self.context.clone(),
            parent: Parent::local(&first.request),
            kind: SpanKind::Internal,
            name: "commit",
            started: self.began,
            attributes: std::mem::take(&mut self.attributes),
            links,
            dropped_links,
            status: if self.is_committed { Status::Unset } else { failed("the commit failed") },
        });
        self.tracer.export(span);
    }
}

impl UploadSpan<'_> {
    /// Ends the span.
    pub(crate) fn end(mut self, result: &UploadResult<'_>) {
        self.attributes = vec![
            KeyValue::new("millpond.segment", result.segment.to_string()),
            KeyValue::new("millpond.object", result.key.to_owned()),
            KeyValue::new("millpond.object.bytes", integer(result.bytes as u64)),
            KeyValue::new("millpond.jobs", integer(result.jobs)),
            KeyValue::new("millpond.upload.failures", i64::from(result.failures)),
        ];
        self.attributes.extend(result.error.map(|class| KeyValue::new("error.type", class.name())));
        self.status = if result.error.is_some() { failed("the upload failed") } else { Status::Unset };
    }
}

impl Drop for UploadSpan<'_> {
    fn drop(&mut self) {
        let span = self.tracer.ended(NewSpan {
            context: self.context.clone(),
            parent: self.parent,
            kind: SpanKind::Client,
            name: "upload",
            started: self.began,
            attributes: std::mem::take(&mut self.attributes),
            links: std::mem::take(&mut self.links),
            dropped_links: self.dropped_links,
            status: std::mem::replace(&mut self.status, Status::Unset),
        });
        self.tracer.export(span);
    }
}

fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
