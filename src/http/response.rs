//! The JSON bodies of successful responses.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::segment::JobId;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The usual size of a body, so that its buffer is allocated once.
const USUAL_BYTES: usize = 384;

/// The response to an accepted batch. `job` and `object` are absent while the job is not committed.
#[derive(Serialize)]
pub(super) struct AcceptedBody<'a> {
    pub(super) request_id: &'a str,
    pub(super) payloads: u32,
    pub(super) ack: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) job: Option<JobId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) object: Option<Cow<'a, str>>,
}

/// The state of a job.
#[derive(Serialize)]
pub(super) struct JobBody<'a> {
    pub(super) job: JobId,
    pub(super) state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) object: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<&'static str>,
}

/// A response with `body` as one line of JSON.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let mut bytes = Vec::with_capacity(USUAL_BYTES);
    // Writing to a vector does not fail, and neither do these types.
    let _: serde_json::Result<()> = serde_json::to_writer(&mut bytes, body);
    bytes.push(b'\n');
    (status, [(CONTENT_TYPE, JSON)], Body::from(bytes)).into_response()
}
