//! Reading a body: its format and encoding from the headers, and its bytes within the limits.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use axum::http::{HeaderMap, Version};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::time::timeout;

use super::problem::Problem;
use crate::decode::BatchFormat;
use crate::inflate::Encoding;
use crate::queue::Reservation;
use crate::server::WireBytes;

/// Limits of the framing of a chunked body (chunk sizes, whose leading zeros are unlimited, extensions and trailers): a fixed
/// part, and one for each byte of data. They allow the smallest chunks, and what hyper reads of pipelined requests.
const FRAMING_BASE_BYTES: u64 = 128 * 1024;
const FRAMING_PER_BYTE: u64 = 8;

/// The format by `Content-Type`; JSON without one.
pub(super) fn format(headers: &HeaderMap) -> Result<BatchFormat, Problem> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(BatchFormat::Json) };
    if value == "application/json" {
        return Ok(BatchFormat::Json);
    }
    let value = value.to_str().map_err(|_| Problem::UnsupportedType)?.to_ascii_lowercase();
    let mut parts = value.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let charset = parts.find_map(|parameter| parameter.strip_prefix("charset="));
    if charset.is_some_and(|charset| !matches!(charset.trim_matches('"'), "utf-8" | "utf8" | "us-ascii")) {
        return Err(Problem::UnsupportedType);
    }
    match essence {
        "application/json" => Ok(BatchFormat::Json),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(BatchFormat::Ndjson),
        _ if essence.starts_with("application/") && essence.ends_with("+json") => Ok(BatchFormat::Json),
        _ => Err(Problem::UnsupportedType),
    }
}

/// The encoding by `Content-Encoding`. Several are rejected, because they can nest a decompression bomb.
pub(super) fn encoding(headers: &HeaderMap) -> Result<Option<Encoding>, Problem> {
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return if headers.contains_key(CONTENT_ENCODING) { Err(Problem::UnsupportedEncoding) } else { Ok(None) };
    };
    match value.to_str().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "gzip" | "x-gzip" => Ok(Some(Encoding::Gzip)),
        "deflate" => Ok(Some(Encoding::Deflate)),
        "zstd" => Ok(Some(Encoding::Zstd)),
        "identity" => Ok(None),
        _ => Err(Problem::UnsupportedEncoding),
    }
}

/// The length by `Content-Length`, if there is one, checked before a byte of the body is read.
pub(super) fn length(headers: &HeaderMap, version: Version, max: usize) -> Result<Option<usize>, Problem> {
    let Some(length) = headers.get(CONTENT_LENGTH) else {
        let framed = version == Version::HTTP_2 || headers.contains_key(TRANSFER_ENCODING);
        return if framed { Ok(None) } else { Err(Problem::LengthRequired) };
    };
    // hyper rejects what is not a number; one that overflows is over the limit.
    let length = length.to_str().ok().and_then(|length| length.parse::<usize>().ok()).unwrap_or(usize::MAX);
    if length > max { Err(too_large(max)) } else { Ok(Some(length)) }
}

/// The whole body, whose bytes are reserved before they are kept.
pub(super) async fn read(
    body: Body,
    wire: Option<WireBytes>,
    reservation: &mut Reservation,
    max: usize,
    limit: Duration,
) -> Result<Bytes, Problem> {
    timeout(limit, collect(body, wire, reservation, max)).await.unwrap_or(Err(Problem::SlowBody))
}

async fn collect(
    mut body: Body,
    wire: Option<WireBytes>,
    reservation: &mut Reservation,
    max: usize,
) -> Result<Bytes, Problem> {
    let mut whole = Pieces::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            tracing::debug!(%error, "reading a body failed");
            Problem::InvalidBody("the body ended early, or its framing is invalid".to_owned())
        })?;
        let Ok(data) = frame.into_data() else { continue };
        let length = whole.len() + data.len();
        if length > max {
            return Err(too_large(max));
        }
        reservation.grow_to(length)?;
        whole.push(data, body.is_end_stream());
        check_framing(wire.as_ref(), length)?;
    }
    check_framing(wire.as_ref(), whole.len())?;
    Ok(whole.into_bytes())
}

/// Rejects a body of `length` bytes that has far more framing than data.
fn check_framing(wire: Option<&WireBytes>, length: usize) -> Result<(), Problem> {
    let max = (length as u64).saturating_mul(1 + FRAMING_PER_BYTE).saturating_add(FRAMING_BASE_BYTES);
    if wire.is_some_and(|wire| wire.count() > max) {
        return Err(Problem::InvalidBody(
            "the body has far more bytes of chunk framing than of data: send larger chunks, without leading zeros in their sizes".to_owned(),
        ));
    }
    Ok(())
}

fn too_large(max: usize) -> Problem {
    Problem::TooLarge(format!(
        "the body exceeds {max} bytes as sent (the lowest of MAX_BODY_BYTES, MAX_QUEUE_BYTES, the tenant's share of it, and what SPOOL_MAX_BYTES can hold): split the batch"
    ))
}

/// A body while it arrives. Most arrive in one piece, which is not copied.
#[derive(Default)]
enum Pieces {
    #[default]
    Empty,
    One(Bytes),
    Many(BytesMut),
}

impl Pieces {
    fn len(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::One(bytes) => bytes.len(),
            Self::Many(bytes) => bytes.len(),
        }
    }

    fn push(&mut self, data: Bytes, is_last: bool) {
        *self = match std::mem::take(self) {
            Self::Empty if is_last => Self::One(data),
            // A copy, because the piece keeps the whole read buffer in memory while the rest is awaited.
            Self::Empty => Self::Many(BytesMut::from(data.as_ref())),
            Self::One(first) => {
                let mut many = BytesMut::from(first);
                many.extend_from_slice(&data);
                Self::Many(many)
            }
            Self::Many(mut many) => {
                many.extend_from_slice(&data);
                Self::Many(many)
            }
        };
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Empty => Bytes::new(),
            Self::One(bytes) => bytes,
            Self::Many(bytes) => bytes.freeze(),
        }
    }
}
