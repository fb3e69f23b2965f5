//! Objects in this process's memory, and the few calls that a server under test makes. Its size is limited: beyond it PUTs
//! are rejected, and it cannot be read any more, since a missing object may be one that was rejected.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::ensure;
use bytes::Bytes;
use hyper::header::{ETAG, IF_NONE_MATCH};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use s3s::Body;

use crate::units::show_size;

use super::error::error;

/// The prefix of the headers with an object's metadata.
pub(super) const METADATA: &str = "x-amz-meta-";

/// The memory of an object beside its body, in bytes, roughly: its key, its metadata, and the map's entry. Without it, many
/// small objects would take many times the limit.
const OBJECT_COST: usize = 1 << 10;

/// A bucket in memory.
#[derive(Debug)]
pub struct Memory {
    bucket: String,
    /// In bytes of all objects.
    limit: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// By key as in the path of a request, with its escapes.
    objects: BTreeMap<String, Object>,
    bytes: usize,
    /// Whether an object was rejected because of the limit.
    full: bool,
}

#[derive(Debug)]
struct Object {
    body: Bytes,
    metadata: HeaderMap,
}

impl Object {
    /// Its share of the limit, in bytes.
    fn cost(&self) -> usize {
        self.body.len() + OBJECT_COST
    }
}

impl Memory {
    pub(super) fn new(bucket: &str, limit: usize) -> Self {
        Self { bucket: bucket.to_owned(), limit, held: Mutex::default() }
    }

    /// The keys of all objects, in order, as in URLs.
    /// Errors: it has rejected an object.
    pub fn keys(&self) -> anyhow::Result<Vec<String>> {
        let held = self.held();
        let limit = show_size(self.limit as u64);
        ensure!(!held.full, "the S3 server in memory is limited to {limit}: send less, or store in a directory");
        Ok(held.objects.keys().cloned().collect())
    }

    /// The body of the object under a key.
    pub fn get(&self, key: &str) -> Option<Bytes> {
        self.held().objects.get(key).map(|object| object.body.clone())
    }

    pub(super) fn respond(&self, request: &Request<Bytes>) -> anyhow::Result<Response<Body>> {
        let path = request.uri().path().trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        if bucket != self.bucket {
            return error(StatusCode::NOT_FOUND, "NoSuchBucket", "The specified bucket does not exist");
        }
        match (request.method(), key) {
            (&Method::HEAD, "") => Ok(Response::new(Body::empty())),
            (&Method::HEAD | &Method::GET, key) if !key.is_empty() => self.show(key),
            (&Method::PUT, key) if !key.is_empty() => self.put(key, request),
            _ => error(
                StatusCode::NOT_IMPLEMENTED,
                "NotImplemented",
                "A header you provided implies functionality that is not implemented.",
            ),
        }
    }

    fn put(&self, key: &str, request: &Request<Bytes>) -> anyhow::Result<Response<Body>> {
        let (headers, body) = (request.headers(), request.body());
        // A copy: the body shares the connection's buffer and would keep all of it. It is made before the lock is taken.
        let copy = Object {
            body: Bytes::from(body.to_vec()),
            metadata: headers
                .iter()
                .filter(|(name, _)| name.as_str().starts_with(METADATA))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        };
        let mut held = self.held();
        let before = held.objects.get(key).map(Object::cost);
        if before.is_some() && headers.contains_key(IF_NONE_MATCH) {
            return error(
                StatusCode::PRECONDITION_FAILED,
                "PreconditionFailed",
                "At least one of the pre-conditions you specified did not hold",
            );
        }
        let bytes = held.bytes - before.unwrap_or_default() + copy.cost();
        if bytes > self.limit {
            held.full = true;
            return error(StatusCode::SERVICE_UNAVAILABLE, "SlowDown", "Please reduce your request rate.");
        }
        held.objects.insert(key.to_owned(), copy);
        held.bytes = bytes;
        Ok(Response::builder().header(ETAG, "\"in-memory\"").body(Body::empty())?)
    }

    fn show(&self, key: &str) -> anyhow::Result<Response<Body>> {
        let held = self.held();
        let Some(object) = held.objects.get(key) else {
            return error(StatusCode::NOT_FOUND, "NoSuchKey", "The specified key does not exist.");
        };
        let mut response = Response::builder().header(ETAG, "\"in-memory\"").body(Body::from(object.body.clone()))?;
        response.headers_mut().extend(object.metadata.clone());
        Ok(response)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
