//! The messages of a handover.

use serde::{Deserialize, Serialize};

/// The version of the protocol. A process rejects a handover with another version.
pub(super) const PROTOCOL: u32 = 1;

/// A message, as one line of JSON. Unknown members are ignored.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Message {
    /// The new process asks for the listeners.
    Hello { protocol: u32, version: String, pid: u32 },
    /// The listeners, in the order of the sockets that come with the message.
    Listeners { version: String, pid: u32, sockets: Vec<Socket> },
    /// The new process can accept connections.
    Ready,
    /// The old process will stop when the new one has confirmed this.
    Release,
    /// The new process will accept connections, and the old one has to stop.
    Taken,
    /// The old process stops accepting, so the new one accepts.
    Done,
    /// The handover has ended, and this process serves on.
    Error { text: String },
}

/// The other process of a handover, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) version: String,
}

/// The purpose of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Socket {
    Public,
    Admin,
}

impl Message {
    /// The message that a new process begins with.
    pub(super) fn hello() -> Self {
        Self::Hello { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").to_owned(), pid: std::process::id() }
    }
}
