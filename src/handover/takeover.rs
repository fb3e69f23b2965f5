//! The new process: it receives the listeners, and completes the handover when it can accept connections.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use rustix::net::sockopt::socket_acceptconn;
use tokio::time::Instant;

use super::channel::Channel;
use super::message::{Message, Process, Socket};
use super::socket::connect;
use super::{HANDOVER_TIMEOUT, HandoverError};

/// The listeners of a running process, which serves on until `Takeover::complete`.
#[derive(Debug)]
pub struct Takeover {
    channel: Channel,
    old: Process,
    public: Option<TcpListener>,
    admin: Option<TcpListener>,
}

/// How a handover was completed.
#[derive(Debug)]
pub(super) enum Completion {
    /// The old process stops accepting. It rejects others at HANDOVER_SOCKET until the connection is closed.
    Released(Channel),
    /// The old process has exited.
    Alone(HandoverError),
}

/// Asks the process that listens at `path` for its listeners; `None` if no process does.
///
/// # Errors
/// If the path cannot be used, or the process does not hand over.
pub async fn request(path: &Path) -> Result<Option<Takeover>, HandoverError> {
    let Some(stream) = connect(path).await? else { return Ok(None) };
    let mut channel = Channel::new(stream)?;
    let deadline = Instant::now() + HANDOVER_TIMEOUT;
    // An error shows in the next message, which says why the old process closes the connection.
    let _: Result<(), HandoverError> = channel.send(&Message::hello(), &[]).await;
    let (old, names) = match channel.receive_until(deadline, "listeners").await {
        Ok(Message::Listeners { pid, version, sockets }) => (Process { pid, version }, sockets),
        Ok(other) => return Err(unexpected(other)),
        Err(error @ HandoverError::Exited) => {
            tracing::warn!(%error, "received no listeners: opening new ones");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    tracing::info!(pid = old.pid, version = old.version, "taking over the listeners of the running process");
    let mut takeover = Takeover { public: None, admin: None, old, channel };
    let sockets = takeover.channel.take_sockets();
    if sockets.len() != names.len() {
        return Err(HandoverError::Protocol(format!("{} sockets for {} listeners", sockets.len(), names.len())));
    }
    for (name, socket) in names.into_iter().zip(sockets) {
        if !socket_acceptconn(&socket).unwrap_or(false) {
            return Err(HandoverError::Protocol("a socket that is not a listener".to_owned()));
        }
        let listener = TcpListener::from(socket);
        listener.set_nonblocking(true)?;
        match name {
            Socket::Public => takeover.public = Some(listener),
            Socket::Admin => takeover.admin = Some(listener),
        }
    }
    Ok(Some(takeover))
}

fn unexpected(message: Message) -> HandoverError {
    match message {
        Message::Error { text } => HandoverError::Rejected(text),
        other => HandoverError::Protocol(format!("{other:?}")),
    }
}

impl Takeover {
    /// The public listener, if it listens on `address`.
    pub fn take_public(&mut self, address: SocketAddr) -> Option<TcpListener> {
        take(&mut self.public, address, "LISTEN_ADDR")
    }

    /// The admin listener, if it listens on `address`.
    pub fn take_admin(&mut self, address: SocketAddr) -> Option<TcpListener> {
        take(&mut self.admin, address, "ADMIN_ADDR")
    }

    /// The process that offers its listeners.
    pub(super) fn old(&self) -> &Process {
        &self.old
    }

    /// Completes the handover, after which this process has to accept connections. `on_silence` is called when the old process does not
    /// respond in time, so that this one has to accept beside it; the old one may still respond later.
    ///
    /// # Errors
    /// The old process serves on.
    pub(super) async fn complete(mut self, on_silence: impl Fn()) -> Result<Completion, HandoverError> {
        match self.converse(on_silence).await {
            Ok(()) => Ok(Completion::Released(self.channel)),
            // The old process would have sent an error if it served on.
            Err(error @ (HandoverError::Exited | HandoverError::Io(_))) => Ok(Completion::Alone(error)),
            Err(error) => Err(error),
        }
    }

    async fn converse(&mut self, on_silence: impl Fn()) -> Result<(), HandoverError> {
        for (send, expected, name) in
            [(Message::Ready, Message::Release, "release"), (Message::Taken, Message::Done, "done")]
        {
            // An error shows in the next message.
            let _: Result<(), HandoverError> = self.channel.send(&send, &[]).await;
            let received = match self.channel.receive_until(Instant::now() + HANDOVER_TIMEOUT, name).await {
                Err(HandoverError::TimedOut(_)) => {
                    on_silence();
                    self.channel.receive().await?
                }
                received => received?,
            };
            if received != expected {
                return Err(unexpected(received));
            }
        }
        Ok(())
    }
}

/// The listener, if it listens on `address`; port 0 stands for any port.
fn take(listener: &mut Option<TcpListener>, address: SocketAddr, setting: &str) -> Option<TcpListener> {
    let listener = listener.take()?;
    let old = listener.local_addr().ok()?;
    if old.ip() == address.ip() && (address.port() == 0 || old.port() == address.port()) {
        return Some(listener);
    }
    tracing::warn!(
        %old,
        new = %address,
        "{setting} differs from that of the running process: listening on the new address; the old one closes with that process"
    );
    None
}
