//! The story's handler: decode the collection, hand each of its payloads on, say 200.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use serde::Deserialize;
use serde_json::value::RawValue;

/// A payload as it came. The story decoded payloads into a structure and printed them again; this costs less and keeps
/// every byte, which is what a store that is read back is checked for.
pub(super) type Payload = Box<RawValue>;

/// What a design does with payloads.
pub(super) trait Intake: Send + Sync + 'static {
    /// Takes one payload; the request waits for it.
    fn take(&self, payload: Payload) -> impl Future<Output = ()> + Send;
}

#[derive(Deserialize)]
struct PayloadCollection {
    data: Vec<Payload>,
}

pub(super) fn router<T: Intake>(design: T) -> Router {
    Router::new().route("/", post(take::<T>)).route("/v1/payloads", post(take::<T>)).with_state(Arc::new(design))
}

async fn take<T: Intake>(State(design): State<Arc<T>>, body: Bytes) -> StatusCode {
    let Ok(collection) = serde_json::from_slice::<PayloadCollection>(&body) else { return StatusCode::BAD_REQUEST };
    for payload in collection.data {
        design.take(payload).await;
    }
    StatusCode::OK
}
