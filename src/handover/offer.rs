//! The old process: it offers its listeners to one new process at a time.

use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, sleep};

use super::channel::Channel;
use super::message::{Message, PROTOCOL, Process, Socket};
use super::{HANDOVER_TIMEOUT, HandoverError};
use crate::metrics::{HandoverResult, Metrics};
use crate::shutdown::Shutdown;

/// How long accepting pauses when no file descriptors are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long the new process may take to listen on HANDOVER_SOCKET, while this one rejects others there.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(2);

/// The listeners of this process.
pub(super) struct Offer {
    pub(super) public: OwnedFd,
    pub(super) admin: OwnedFd,
}

impl Offer {
    /// Hands over to the first process that becomes ready, and begins the shutdown; or returns when the shutdown begins.
    pub(super) async fn serve(self, listener: UnixListener, shutdown: &Shutdown, metrics: &Metrics) {
        loop {
            let stream = tokio::select! {
                biased;
                () = shutdown.draining() => return,
                stream = accept(&listener) => stream,
            };
            let mut channel = match Channel::new(stream) {
                Ok(channel) => channel,
                Err(error) => {
                    tracing::warn!(%error, "rejected a connection to HANDOVER_SOCKET");
                    continue;
                }
            };
            let mut new = None;
            // A shutdown that begins now does not end it: the new process can still serve.
            let result = reject_during(&listener, self.hand_over(&mut channel, &mut new)).await;
            let (pid, version) = (new.as_ref().map(|new| new.pid), new.as_ref().map(|new| new.version.as_str()));
            match result {
                Ok(()) => {
                    tracing::info!(pid, version, "handed over the listeners");
                    shutdown.hand_over();
                    // An address that the new process does not use has to close.
                    drop(self);
                    let listens = channel.receive_until(Instant::now() + LISTEN_TIMEOUT, "end of the connection");
                    let _: Result<Message, HandoverError> = reject_during(&listener, listens).await;
                    return;
                }
                Err(error) => {
                    metrics.handover(HandoverResult::Failed);
                    tracing::error!(
                        pid,
                        version,
                        %error,
                        "the handover failed; this process serves on; read the log of the new process, which has this pid"
                    );
                }
            }
        }
    }

    /// Sets `new` when the new process has said who it is.
    async fn hand_over(&self, channel: &mut Channel, new: &mut Option<Process>) -> Result<(), HandoverError> {
        let result = self.converse(channel, new).await;
        if let Err(error) = &result {
            // Without it, the new process would believe that this one has exited.
            let text = format!("{error}; the running process serves on");
            let _: Result<(), HandoverError> = channel.send(&Message::Error { text }, &[]).await;
        }
        result
    }

    async fn converse(&self, channel: &mut Channel, new: &mut Option<Process>) -> Result<(), HandoverError> {
        let deadline = Instant::now() + HANDOVER_TIMEOUT;
        let (protocol, pid, version) = match channel.receive_until(deadline, "hello").await? {
            Message::Hello { protocol, version, pid } => (protocol, pid, version),
            other => return Err(HandoverError::Protocol(format!("{other:?}"))),
        };
        let Process { pid, version } = &*new.insert(Process { pid, version });
        if protocol != PROTOCOL {
            return Err(HandoverError::Protocol(format!(
                "version {version} uses handover protocol {protocol}, and this process {PROTOCOL}: stop this process, then start the new one"
            )));
        }
        let listeners = Message::Listeners {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            sockets: vec![Socket::Public, Socket::Admin],
        };
        channel.send(&listeners, &[self.public.as_fd(), self.admin.as_fd()]).await?;
        tracing::info!(pid, version, "a new process has received the listeners");
        expect(channel, Message::Ready, "ready", deadline).await?;
        channel.send(&Message::Release, &[]).await?;
        expect(channel, Message::Taken, "taken", Instant::now() + HANDOVER_TIMEOUT).await?;
        // This process has decided to stop, so an error changes nothing.
        let _: Result<(), HandoverError> = channel.send(&Message::Done, &[]).await;
        Ok(())
    }
}

async fn expect(
    channel: &mut Channel,
    expected: Message,
    name: &'static str,
    deadline: Instant,
) -> Result<(), HandoverError> {
    match channel.receive_until(deadline, name).await? {
        received if received == expected => Ok(()),
        other => Err(HandoverError::Protocol(format!("{other:?}"))),
    }
}

/// Runs `future`, and rejects other processes meanwhile.
async fn reject_during<T>(listener: &UnixListener, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        tokio::select! {
            done = future.as_mut() => return done,
            third = accept(listener) => reject(third).await,
        }
    }
}

/// The next connection.
async fn accept(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections on HANDOVER_SOCKET; check the limit on open files");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Tells a third process that a handover is in progress.
async fn reject(stream: UnixStream) {
    let text = "another process is taking over: wait until it has finished, then try again".to_owned();
    if let Ok(channel) = Channel::new(stream) {
        // The message fits the socket's buffer.
        let _: Result<(), HandoverError> = channel.send(&Message::Error { text }, &[]).await;
    }
}
