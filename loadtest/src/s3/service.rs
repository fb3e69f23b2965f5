//! One call: the fault that is due, and the backend.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::IF_NONE_MATCH;
use hyper::{Method, Request, Response, StatusCode};
use s3s::Body;
use s3s::service::S3Service;
use tokio_util::task::TaskTracker;

use super::error::error;
use super::fault::{Fault, Faults};
use super::memory::{METADATA, Memory};
use super::stats::Counters;

/// S3's limit of an object's metadata, names and values together.
const METADATA_MAX_BYTES: usize = 2048;

/// Shared by all connections.
pub(super) struct Shared {
    pub(super) backend: Backend,
    pub(super) faults: Faults,
    pub(super) counters: Counters,
    /// PUTs that are being written. They complete even if the client disconnects, as in S3: an object is stored with its
    /// metadata, or not at all.
    pub(super) writes: TaskTracker,
    /// Keys of conditional PUTs that are being written. s3s-fs checks for the object before it writes, so that two at once
    /// would both succeed; S3 responds with 409 to the second.
    pub(super) writing: Mutex<HashSet<String>>,
}

/// Where the objects are.
pub(super) enum Backend {
    /// s3s-fs, in a folder.
    Folder(S3Service),
    /// This process.
    Memory(Arc<Memory>),
}

impl Shared {
    /// Responds to one request; an error makes hyper close the connection without a response.
    pub(super) async fn respond(self: Arc<Self>, request: Request<Incoming>) -> anyhow::Result<Response<Body>> {
        let is_put = is_put_object(&request);
        let _in_flight = is_put.then(|| self.counters.put());
        let (head, body) = request.into_parts();
        // The body first: a response to a request that was read in part closes the connection, and every fault would look
        // like a dropped connection.
        let body = body.collect().await.context("reading the request's body")?.to_bytes();
        let request = Request::from_parts(head, body);

        let fault = self.faults.next(is_put);
        if let Some(fault) = fault {
            self.counters.fault(fault.name());
        }
        if self.faults.is_denied(is_put) {
            return error(StatusCode::FORBIDDEN, "AccessDenied", "Access Denied");
        }
        match fault {
            None => self.carry_out(is_put, request).await,
            Some(Fault::SlowDown) => {
                error(StatusCode::SERVICE_UNAVAILABLE, "SlowDown", "Please reduce your request rate.")
            }
            Some(Fault::InternalError) => error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "InternalError",
                "We encountered an internal error. Please try again.",
            ),
            Some(Fault::AccessDenied) => error(StatusCode::FORBIDDEN, "AccessDenied", "Access Denied"),
            Some(Fault::NoSuchBucket) => {
                error(StatusCode::NOT_FOUND, "NoSuchBucket", "The specified bucket does not exist")
            }
            Some(Fault::DropBefore) => bail!("dropped on purpose, before"),
            Some(Fault::DropAfter) => {
                self.carry_out(is_put, request).await?;
                bail!("dropped on purpose, after")
            }
            Some(Fault::UnavailableAfter) => {
                self.carry_out(is_put, request).await?;
                error(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "Service is unable to handle request.")
            }
            Some(Fault::Hang) => {
                self.faults.changed().await;
                self.carry_out(is_put, request).await
            }
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(time).await;
                self.carry_out(is_put, request).await
            }
        }
    }

    async fn carry_out(self: &Arc<Self>, is_put: bool, request: Request<Bytes>) -> anyhow::Result<Response<Body>> {
        if !is_put {
            return self.backend.call(request).await;
        }
        let shared = Arc::clone(self);
        self.writes.spawn(async move { shared.put(request).await }).await.context("writing the object")?
    }

    async fn put(&self, request: Request<Bytes>) -> anyhow::Result<Response<Body>> {
        let metadata = request.headers().iter().filter_map(|(name, value)| {
            let name = name.as_str().strip_prefix(METADATA)?;
            Some(name.len() + value.len())
        });
        if metadata.sum::<usize>() > METADATA_MAX_BYTES {
            let message = "Your metadata headers exceed the maximum allowed metadata size";
            return error(StatusCode::BAD_REQUEST, "MetadataTooLarge", message);
        }
        let conditional = request.headers().contains_key(IF_NONE_MATCH);
        let writing = conditional.then(|| Writing::begin(&self.writing, request.uri().path()));
        if let Some(None) = writing {
            return error(
                StatusCode::CONFLICT,
                "ConditionalRequestConflict",
                "The conditional request cannot succeed due to a conflicting operation against this resource.",
            );
        }
        let response = self.backend.call(request).await?;
        if response.status().is_success() {
            self.counters.stored();
        }
        Ok(response)
    }
}

impl Backend {
    async fn call(&self, request: Request<Bytes>) -> anyhow::Result<Response<Body>> {
        match self {
            Self::Folder(s3) => s3.call(request.map(Body::from)).await.map_err(|wrong| anyhow::anyhow!("{wrong:?}")),
            Self::Memory(memory) => memory.respond(&request),
        }
    }
}

/// The permit to write a key.
struct Writing<'a> {
    keys: &'a Mutex<HashSet<String>>,
    key: String,
}

impl<'a> Writing<'a> {
    fn begin(keys: &'a Mutex<HashSet<String>>, path: &str) -> Option<Self> {
        let mut held = keys.lock().unwrap_or_else(PoisonError::into_inner);
        held.insert(path.to_owned()).then(|| Self { keys, key: path.to_owned() })
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// A PUT to `/bucket/key` that is neither a copy nor a part of a multipart upload.
fn is_put_object(request: &Request<Incoming>) -> bool {
    let has_key = request.uri().path().trim_start_matches('/').split_once('/').is_some_and(|(_, key)| !key.is_empty());
    let is_part = request.uri().query().is_some_and(|query| query.contains("uploadId="));
    request.method() == Method::PUT && has_key && !is_part && !request.headers().contains_key("x-amz-copy-source")
}
