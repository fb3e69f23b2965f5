//! Servers to compare millpond with: the least that a server can do, and a simpler design, which puts every payload as an
//! object of its own. It has the default queue and workers of millpond.

mod put_per_payload;

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::post;
use axum::serve::ListenerExt;
use clap::ValueEnum;
use serde_json::value::RawValue;
use tokio::net::TcpListener;

pub use self::put_per_payload::Bucket;
use self::put_per_payload::PutPerPayload;
use crate::server::Program;

const MAX_BODY_BYTES: usize = 1 << 20;

/// A server to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Baseline {
    /// Reads each body and checks that it is JSON; stores nothing.
    Floor,
    /// Sends payloads to a dispatcher, which starts a task for each that waits for a free worker, which puts it.
    PutPerPayload,
}

/// The settings of [`Baseline::PutPerPayload`].
#[derive(Debug)]
pub struct Settings {
    /// Where payloads are put. The floor needs none.
    pub bucket: Option<Arc<Bucket>>,
    /// Workers of the dispatcher.
    pub workers: NonZeroUsize,
    /// Payloads in the channel.
    pub queue: NonZeroUsize,
}

impl Baseline {
    /// The name in the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// This program as that server.
    /// Errors: the path of this program is unknown.
    pub fn program(self) -> anyhow::Result<Program> {
        let path = std::env::current_exe().context("finding this program")?;
        let args = vec![OsString::from("baseline"), self.name().into()];
        Ok(Program { path, args, env: Vec::new(), log: None })
    }

    /// Serves until `shutdown` completes and requests under way have their responses. What has not been put by then is in
    /// tasks, and is lost when their runtime ends.
    /// Errors: accepting connections failed, or there is no bucket for a design that needs one.
    pub async fn serve(
        self,
        settings: &Settings,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> anyhow::Result<()> {
        let handler = match self {
            Self::Floor => post(accept),
            Self::PutPerPayload => {
                let bucket = settings.bucket.as_ref().with_context(|| format!("{} needs a bucket", self.name()))?;
                let server = PutPerPayload::start(bucket, settings.workers.get(), settings.queue.get());
                let server = Arc::new(server);
                post(move |body: Bytes| async move { server.accept(&body).await })
            }
        };
        let router = Router::new().route("/", handler.clone()).route("/v1/payloads", handler);
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        let router = router.layer(DefaultBodyLimit::max(MAX_BODY_BYTES));
        Ok(axum::serve(listener, router).with_graceful_shutdown(shutdown).await?)
    }
}

async fn accept(body: Bytes) -> impl IntoResponse {
    let json = [(header::CONTENT_TYPE, "application/json")];
    match serde_json::from_slice::<&RawValue>(&body) {
        Ok(_) => (StatusCode::ACCEPTED, json, r#"{"ack":"none"}"#),
        Err(_) => (StatusCode::BAD_REQUEST, json, r#"{"title":"not JSON"}"#),
    }
}
