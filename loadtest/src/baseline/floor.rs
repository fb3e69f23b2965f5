//! The least that a server can do with a batch: read it, check that it is JSON, say 202. What millpond costs is told
//! as a multiple of what this costs.

use axum::Router;
use axum::body::Bytes;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::post;
use serde_json::value::RawValue;

pub(super) fn router() -> Router {
    Router::new().route("/", post(take)).route("/v1/payloads", post(take))
}

async fn take(body: Bytes) -> impl IntoResponse {
    let json = [(header::CONTENT_TYPE, "application/json")];
    match serde_json::from_slice::<&RawValue>(&body) {
        Ok(_) => (StatusCode::ACCEPTED, json, r#"{"ack":"none"}"#),
        Err(_) => (StatusCode::BAD_REQUEST, json, r#"{"title":"not JSON"}"#),
    }
}
