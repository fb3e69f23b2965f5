//! The ack levels.

use std::str::FromStr;

/// The ack level: what an acknowledgement guarantees. Later levels guarantee more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ack {
    /// The job is in the queue.
    Memory,
    /// Its frame is durable in the spool.
    Disk,
    /// Its frame is durable in the broker, on as many machines as `BROKER_REPLICAS` says.
    Replicated,
    /// Its object is in the store.
    Stored,
}

impl Ack {
    /// Every level, the lowest first.
    pub const ALL: [Self; 4] = [Self::Memory, Self::Disk, Self::Replicated, Self::Stored];

    /// The name in settings, requests and responses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Replicated => "replicated",
            Self::Stored => "stored",
        }
    }
}

impl FromStr for Ack {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|ack| ack.name() == name).ok_or(())
    }
}
