//! The least that a server can do with a batch: read it, check that it is JSON, say 202. What millpond costs is told
//! as a multiple of what this costs.

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::post;
use axum::serve::ListenerExt;
use serde_json::value::RawValue;
use tokio::net::TcpListener;

const MAX_BODY_BYTES: usize = 1 << 20;

/// Serves until `shutdown` completes and the requests under way are answered.
///
/// # Errors
///
/// Accepting connections failed for good.
pub async fn serve(listener: TcpListener, shutdown: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
    let router = Router::new()
        .route("/", post(take))
        .route("/v1/payloads", post(take))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES));
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router).with_graceful_shutdown(shutdown).await
}

async fn take(body: Bytes) -> impl IntoResponse {
    let json = [(header::CONTENT_TYPE, "application/json")];
    match serde_json::from_slice::<&RawValue>(&body) {
        Ok(_) => (StatusCode::ACCEPTED, json, r#"{"ack":"none"}"#),
        Err(_) => (StatusCode::BAD_REQUEST, json, r#"{"title":"not JSON"}"#),
    }
}
