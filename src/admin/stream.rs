//! `GET /v1/stream`: the history, then each snapshot, as server-sent events (WHATWG HTML, 9.2).

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::keyed_semaphores::{KeyedPermit, KeyedSemaphores};
use crate::server::network;
use crate::status::{COLUMNS, Snapshot, Snapshots};

/// Streams of the process. Each has a connection, of which scrapes need some as well.
const STREAMS_MAX: usize = 32;
/// Streams of one address.
const STREAMS_PER_ADDRESS: usize = 8;

const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("5");

/// The permits of all streams.
#[derive(Debug)]
pub(super) struct Streams {
    all: Arc<Semaphore>,
    by_address: KeyedSemaphores<IpAddr>,
}

/// One stream. A slow reader skips snapshots: only the chunks of the current event are kept.
struct Stream {
    chunks: VecDeque<Bytes>,
    snapshots: Snapshots,
    is_ended: bool,
    _permits: (OwnedSemaphorePermit, KeyedPermit<IpAddr>),
}

impl Streams {
    pub(super) fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(STREAMS_MAX)), by_address: KeyedSemaphores::new(STREAMS_PER_ADDRESS) }
    }

    /// The response to a client at `address`.
    pub(super) fn open(&self, mut snapshots: Snapshots, address: IpAddr) -> Response {
        let Ok(permit) = Arc::clone(&self.all).try_acquire_owned() else {
            return reject(StatusCode::SERVICE_UNAVAILABLE, "too many streams are open: poll /v1/status instead\n");
        };
        let Some(of_address) = self.by_address.try_acquire(network(address)) else {
            let text = "too many streams of this address are open: close some, or poll /v1/status instead\n";
            return reject(StatusCode::TOO_MANY_REQUESTS, text);
        };
        let (rows, current) = snapshots.replay();
        let mut chunks = history(rows);
        chunks.extend(status(&current));
        let stream = Stream { chunks, snapshots, is_ended: false, _permits: (permit, of_address) };
        let body = Body::from_stream(unfold(stream, |mut stream| async move {
            let chunk = stream.next().await?;
            Some((Ok::<_, std::convert::Infallible>(chunk), stream))
        }));
        ([(CONTENT_TYPE, EVENT_STREAM), (CACHE_CONTROL, NO_STORE)], body).into_response()
    }

    /// Waits until no stream is open.
    pub(super) async fn closed(&self) {
        let _: Result<_, _> = self.all.acquire_many(STREAMS_MAX as u32).await;
    }
}

impl Stream {
    /// The next chunk; none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(chunk) = self.chunks.pop_front() {
            return Some(chunk);
        }
        if self.is_ended {
            return None;
        }
        match self.snapshots.next().await {
            Some(snapshot) => {
                self.chunks.extend(status(&snapshot));
                self.chunks.pop_front()
            }
            None => {
                self.is_ended = true;
                Some(Bytes::from_static(b"event: end\ndata: {\"reason\":\"shutdown\"}\n\n"))
            }
        }
    }
}

/// The event of the history. The rows share the memory of the history.
fn history(rows: Vec<Bytes>) -> VecDeque<Bytes> {
    let columns = serde_json::to_string(COLUMNS).unwrap_or_default();
    let mut chunks = VecDeque::with_capacity(rows.len() * 2 + 2);
    chunks.push_back(format!("event: history\ndata: {{\"columns\":{columns},\"rows\":[").into());
    for (index, row) in rows.into_iter().enumerate() {
        if index > 0 {
            chunks.push_back(Bytes::from_static(b","));
        }
        chunks.push_back(row);
    }
    chunks.push_back(Bytes::from_static(b"]}\n\n"));
    chunks
}

fn status(snapshot: &Snapshot) -> [Bytes; 3] {
    [Bytes::from_static(b"event: status\ndata: "), snapshot.json.clone(), Bytes::from_static(b"\n\n")]
}

fn reject(status: StatusCode, text: &'static str) -> Response {
    (status, [(RETRY_AFTER, RETRY_SECONDS)], text).into_response()
}
