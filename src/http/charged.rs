//! A response that keeps the memory charge of its request until it has been written.
//!
//! hyper drops the body of a response when it is in HTTP/2's send buffer, and the headers when their frame is made, although
//! both still wait there for the client. So the bytes themselves own the charge: it is released when the last of them has been
//! written, or dropped with the connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::http::{HeaderValue, Version};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::in_flight::Charge;
use super::request_id::RequestId;
use crate::headers::X_REQUEST_ID;

/// Bytes of a response with the charge that they own.
struct Owned<T> {
    bytes: T,
    _charge: Arc<Charge>,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Owned<T> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

/// The body of a response.
struct Charged {
    body: Body,
    charge: Arc<Charge>,
    /// Whether the frames outlive the body, in HTTP/2's send buffer.
    is_buffered: bool,
}

/// Adds the request's id to `response`, and keeps `charge` until it is written.
pub(super) fn keep(response: Response, charge: Arc<Charge>, version: Version, id: &RequestId) -> Response {
    // HTTP/1 writes one response at a time.
    let is_buffered = version == Version::HTTP_2;
    let (mut parts, body) = response.into_parts();
    let id = if is_buffered { owning(id, &charge) } else { id.clone().into() };
    parts.headers.insert(X_REQUEST_ID, id);
    Response::from_parts(parts, Body::new(Charged { body, charge, is_buffered }))
}

/// The id as a header that owns the charge.
fn owning(id: &RequestId, charge: &Arc<Charge>) -> HeaderValue {
    let bytes = HeaderValue::from(id.clone());
    let value = HeaderValue::from_maybe_shared(Bytes::from_owner(Owned { bytes, _charge: Arc::clone(charge) }));
    let mut value = value.unwrap_or_else(|_| id.clone().into());
    // Otherwise HPACK keeps it in its table after the response.
    value.set_sensitive(true);
    value
}

impl HttpBody for Charged {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if !self.is_buffered {
            return Poll::Ready(frame);
        }
        let own = |bytes| Bytes::from_owner(Owned { bytes, _charge: Arc::clone(&self.charge) });
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(own))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
