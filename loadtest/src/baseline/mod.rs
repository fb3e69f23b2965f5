//! What millpond is compared with: the least that a server can do, and the three designs of the story that it comes
//! from, which took a million requests a minute to S3 in Go and put every payload on its own.
//!
//! Each keeps the story's shape and its flaws, and is given what does not belong to the shape: the queue's size and the
//! number of workers that millpond has by default, payloads that are not taken apart, and keys that never meet.

mod bucket;
mod floor;
mod intake;
mod one_uploader;
mod put_per_payload;
mod task_per_payload;

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::Context;
use axum::extract::DefaultBodyLimit;
use axum::serve::ListenerExt;
use clap::ValueEnum;
use tokio::net::TcpListener;

pub use self::bucket::{Bucket, Puts};

use self::one_uploader::OneUploader;
use self::put_per_payload::PutPerPayload;
use self::task_per_payload::TaskPerPayload;
use crate::server::Program;

const MAX_BODY_BYTES: usize = 1 << 20;

/// A server to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Baseline {
    /// Reads each body and checks that it is JSON; stores nothing.
    Floor,
    /// Starts a task for each payload, which puts it.
    TaskPerPayload,
    /// Sends payloads into one buffered channel, which one task drains, putting one after the other.
    OneUploader,
    /// Sends payloads to a dispatcher, which starts a task for each that waits for one of the workers, which puts it.
    PutPerPayload,
}

/// What the designs of the story are run with.
#[derive(Debug)]
pub struct Settings {
    /// Where payloads are put. The floor needs none.
    pub bucket: Option<Arc<Bucket>>,
    /// Workers of the dispatcher.
    pub workers: NonZeroUsize,
    /// Payloads that the channels hold.
    pub queue: NonZeroUsize,
}

impl Baseline {
    /// The designs of the story, in its order.
    pub const STORY: [Self; 3] = [Self::TaskPerPayload, Self::OneUploader, Self::PutPerPayload];

    /// The name that the command line uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::TaskPerPayload => "task-per-payload",
            Self::OneUploader => "one-uploader",
            Self::PutPerPayload => "put-per-payload",
        }
    }

    /// This very program as that server.
    ///
    /// # Errors
    ///
    /// The operating system would not say where this program lies.
    pub fn program(self) -> anyhow::Result<Program> {
        let path = std::env::current_exe().context("finding this program")?;
        let args = ["baseline", self.name()].map(OsString::from).to_vec();
        Ok(Program { path, args, env: Vec::new(), log: None })
    }

    /// Serves until `shutdown` completes and the requests under way are answered. What has not been put by then is left
    /// in tasks, and is lost when their runtime ends.
    ///
    /// # Errors
    ///
    /// Accepting connections failed for good, or there is no bucket for a design that needs one.
    pub async fn serve(
        self,
        settings: &Settings,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> anyhow::Result<()> {
        let bucket = || settings.bucket.clone().with_context(|| format!("{} needs a bucket", self.name()));
        let (workers, queue) = (settings.workers.get(), settings.queue.get());
        let router = match self {
            Self::Floor => floor::router(),
            Self::TaskPerPayload => intake::router(TaskPerPayload::new(bucket()?)),
            Self::OneUploader => intake::router(OneUploader::start(bucket()?, queue)),
            Self::PutPerPayload => intake::router(PutPerPayload::start(&bucket()?, workers, queue)),
        };
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        let router = router.layer(DefaultBodyLimit::max(MAX_BODY_BYTES));
        Ok(axum::serve(listener, router).with_graceful_shutdown(shutdown).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_takes_each_by_its_name() {
        for baseline in Baseline::value_variants() {
            assert_eq!(Baseline::from_str(baseline.name(), false), Ok(*baseline));
        }
    }
}
