//! Live upgrade: a new process receives the listening sockets of the running one, over the Unix socket `HANDOVER_SOCKET`.
//!
//! Messages are lines of JSON (`handover/message.rs`); the sockets come with `listeners` as `SCM_RIGHTS`. Both check that the other one
//! has the same user id.
//!
//! ```text
//! new                                    old
//!  | -- hello (protocol, version, pid) -> |
//!  | <- listeners, with the sockets ----- |   both hold the sockets, the old one accepts
//!  |   reads its files, opens the spool   |
//!  | -- ready --------------------------> |
//!  | <- release ------------------------- |
//!  | -- taken --------------------------> |   the old one has decided to stop
//!  | <- done ---------------------------- |   the old one stops accepting and drains
//!  |   accepts connections                |
//!  |   listens on HANDOVER_SOCKET         |
//!  | -- closes the connection ----------> |   the old one closes its HANDOVER_SOCKET
//! ```
//!
//! The new process accepts nothing before `done`, so its end before that costs no connection. After `taken`, it is the server, and its
//! end is that of a server. In the moment between, connections wait in the queue of the listener, which both processes hold.
//! `release` and `taken` ensure that the new process is still there when the old one has been paused.
//!
//! `error` instead of a message ends the handover; the process that sends it serves on. A process that ends the handover
//! always sends one, so a connection that closes without it means that the other process has exited.
//!
//! - The new process exits, hangs or is killed before `taken`: the old one has not stopped accepting, and serves on. A new
//!   process that continues after [`HANDOVER_TIMEOUT`] reads the `error` and exits.
//! - The old process is killed: the new one serves with the sockets that it has received, or opens new ones.
//! - The old process hangs after `ready`: the new one accepts after [`HANDOVER_TIMEOUT`], and serves on without `HANDOVER_SOCKET`.
//!   When the old one continues, it finds `ready`; when it is killed, the new one serves alone.
//! - A third process gets an `error`, because the old one handles one handover at a time, until the new one listens for the next.
//!
//! The socket file is bound with a temporary name and renamed, so a process never removes the socket of another one. It is not
//! removed at exit: a process that cannot connect to it replaces it.

mod channel;
mod inherited;
mod listeners;
mod message;
mod offer;
mod socket;
mod takeover;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use inherited::{Inherited, InheritedError};
pub use listeners::{ListenError, listen};
pub use takeover::{Takeover, request};

use crate::metrics::{HandoverResult, Metrics};
use crate::shutdown::Shutdown;
use offer::Offer;
use takeover::Completion;

/// How long the new process may take from the connection to `ready`, and each of the two to respond.
pub const HANDOVER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a handover failed.
#[derive(Debug, Error)]
pub enum HandoverError {
    /// The path cannot be used; the operator has to change the setting or the file.
    #[error("HANDOVER_SOCKET={}: {problem}", path.display())]
    Path {
        /// The setting.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The other process ended the handover.
    #[error("the running process ended the handover: {0}")]
    Rejected(String),
    /// The other process belongs to another user.
    #[error("the process at the other end of HANDOVER_SOCKET has user id {0}, not the id of this process")]
    OtherUser(u32),
    /// The other process did not respond within [`HANDOVER_TIMEOUT`].
    #[error("no {0} message within {HANDOVER_TIMEOUT:?}: check whether the other process hangs")]
    TimedOut(&'static str),
    /// The other process closed the connection, which means that it has exited.
    #[error("the other process has exited during the handover")]
    Exited,
    /// The other process sent something unexpected.
    #[error("unexpected message in the handover: {0}")]
    Protocol(String),
    /// The operating system's error.
    #[error("the connection to HANDOVER_SOCKET failed: {0}")]
    Io(#[from] io::Error),
}

impl HandoverError {
    /// Whether the setting, or the file that it names, has to be changed.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Path { .. })
    }
}

/// The part of a process in handovers: it completes the one by which it got its listeners, and then offers them to the next
/// process.
pub struct Handover {
    path: PathBuf,
    takeover: Option<Takeover>,
    public: OwnedFd,
    admin: OwnedFd,
}

impl Handover {
    /// Offers the listeners at `path` after it has completed `takeover`.
    ///
    /// # Errors
    /// If no file descriptors are left.
    pub fn new(
        path: PathBuf,
        takeover: Option<Takeover>,
        public: &TcpListener,
        admin: &TcpListener,
    ) -> io::Result<Self> {
        let [public, admin] = [public.as_fd().try_clone_to_owned()?, admin.as_fd().try_clone_to_owned()?];
        Ok(Self { path, takeover, public, admin })
    }

    /// Whether another process serves the listeners until `run` has completed its handover.
    pub(crate) fn is_takeover(&self) -> bool {
        self.takeover.is_some()
    }

    /// Runs until the shutdown, which a handover to a new process begins. Cancels `ready` when the other process of a takeover does not
    /// serve the listeners any more.
    ///
    /// # Errors
    /// The old process serves on, so this one has to exit.
    pub(crate) async fn run(
        self,
        shutdown: Shutdown,
        metrics: Arc<Metrics>,
        ready: CancellationToken,
    ) -> Result<(), HandoverError> {
        let Self { path, takeover, public, admin } = self;
        let mut old = None;
        if let Some(takeover) = takeover {
            let process = takeover.old().clone();
            let completion = tokio::select! {
                biased;
                // The old process sees that the connection is closed, and serves on.
                () = shutdown.draining() => return Ok(()),
                completion = takeover.complete(|| {
                    ready.cancel();
                    tracing::warn!(
                        pid = process.pid,
                        version = process.version,
                        "the running process does not respond: this process serves beside it; end the process with this pid"
                    );
                }) => completion?,
            };
            ready.cancel();
            match completion {
                Completion::Released(channel) => {
                    tracing::info!("took over the listeners");
                    old = Some(channel);
                }
                Completion::Alone(error) => {
                    tracing::warn!(%error, "took over the listeners; the old process had exited")
                }
            }
            metrics.handover(HandoverResult::Completed);
        }
        let listening = socket::listen(&path);
        // The old process rejects others at HANDOVER_SOCKET until its connection is closed.
        drop(old);
        match listening {
            Ok(listener) => {
                tracing::info!(path = %path.display(), "listening for handovers");
                Offer { public, admin }.serve(listener, &shutdown, &metrics).await;
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "cannot listen on HANDOVER_SOCKET: a live upgrade is not possible; check the folder and restart");
                drop((public, admin));
                shutdown.draining().await;
            }
        }
        Ok(())
    }
}
