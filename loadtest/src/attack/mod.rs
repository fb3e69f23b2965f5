//! Hostile senders, to see what a server does about them: slow ones, silent ones, and floods of what costs a sender less
//! than it costs the server.
//!
//! An attack goes to a loopback address only, with as many connections and for as long as it is told, and ends by itself.

pub mod frames;
mod script;
mod siege;
mod watch;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use clap::ValueEnum;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use self::script::Script;
pub use self::siege::{Besieged, Siege};
pub use self::watch::{Peak, Watch};
use crate::load::files;

/// The most connections of one attack. A loopback address has some 28,000 ports to call from.
const MAX_CONNECTIONS: u32 = 20_000;

/// No attack lasts longer.
const MAX_DURATION: Duration = Duration::from_secs(600);

/// From the end of one connection to the next in its place: what an attacker across a network would need at least.
const AGAIN: Duration = Duration::from_millis(20);

/// What the kernel holds of answers that an attacker does not read. Left to itself it takes tens of megabytes on some machines, and
/// the server would have to make millions of answers before it is held up.
const UNREAD_MAX_BYTES: u32 = 64 * 1024;

/// What a hostile sender does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attack {
    /// Headers a byte at a time.
    Slowloris,
    /// A body a byte at a time.
    SlowBody,
    /// Requests without end whose answers are never read.
    Unread,
    /// HTTP/2 requests whose answers have no window to be sent in.
    UnreadStreams,
    /// Connections that say nothing.
    Idle,
    /// A thousand requests in one write, again and again.
    Pipeline,
    /// Streams that are opened and cancelled at once (CVE-2023-44487).
    RapidReset,
    /// Streams that the server is made to reset (CVE-2025-8671).
    MadeYouReset,
    /// A header block without end (CVE-2024-27316).
    Continuation,
    /// The same with frames of no bytes.
    EmptyContinuation,
    /// A header block of few bytes that is megabytes once it is decoded.
    HpackBomb,
    /// Header blocks of as many fields as fit, all of them wrong.
    MalformedHeaders,
    /// Pings, each of which has to be answered (CVE-2019-9512), beside a request under way.
    Ping,
    /// The same, and the answers are never read.
    UnreadPings,
    /// Settings that change all the time, each of which has to be acknowledged (CVE-2019-9515).
    Settings,
    /// Acknowledgements of settings that were never sent.
    SettingsAcks,
    /// Priorities of streams that do not exist.
    Priority,
    /// Data frames of no bytes (CVE-2019-9518).
    EmptyData,
    /// Windows that open byte by byte.
    WindowUpdate,
    /// Trailers after the end.
    Trailers,
}

impl Attack {
    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// An attack and its bounds.
#[derive(Debug, Clone, Copy)]
pub struct Assault {
    /// What is done.
    pub attack: Attack,
    /// The server; a loopback address.
    pub target: SocketAddr,
    /// Connections at once.
    pub connections: u32,
    /// When it ends, at the latest.
    pub duration: Duration,
    /// Whether a connection that the server has ended is made anew.
    pub persists: bool,
    /// Bytes a second over all connections, as an attacker's line would have it; `None` is as fast as they are taken.
    pub bandwidth: Option<u64>,
}

/// What has come of an attack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Connections made.
    pub connected: u64,
    /// Those that the server ended.
    pub ended: u64,
    /// Connections that could not be made.
    pub refused: u64,
    /// Bytes sent.
    pub sent: u64,
    /// Bytes that came back.
    pub received: u64,
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.connected += other.connected;
        self.ended += other.ended;
        self.refused += other.refused;
        self.sent += other.sent;
        self.received += other.received;
    }
}

impl Assault {
    /// Carries it out, until its time is over or, if it does not persist, every connection has been ended.
    ///
    /// # Errors
    ///
    /// The target is not on this machine, or a bound is beyond what is allowed.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        ensure!(self.target.ip().is_loopback(), "{} is no loopback address: attacks stay on this machine", self.target);
        let connections = self.connections;
        ensure!((1..=MAX_CONNECTIONS).contains(&connections), "there may be 1 to {MAX_CONNECTIONS} connections");
        ensure!(self.duration <= MAX_DURATION, "an attack lasts {} s at most", MAX_DURATION.as_secs());
        files::allow(connections)?;
        let (script, until) = (Arc::new(Script::of(self.attack)), Instant::now() + self.duration);
        let mut senders = JoinSet::new();
        for _ in 0..connections {
            let script = Arc::clone(&script);
            senders.spawn(async move { self.attack_until(until, &script).await });
        }
        let mut total = Outcome::default();
        while let Some(done) = senders.join_next().await {
            total.add(done?);
        }
        Ok(total)
    }

    /// Seconds for each byte of one connection.
    fn pace(self) -> f64 {
        self.bandwidth.map_or(0.0, |bandwidth| f64::from(self.connections) / bandwidth.max(1) as f64)
    }

    async fn connect(self, script: &Script) -> io::Result<TcpStream> {
        let socket = if self.target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if !script.reads {
            socket.set_recv_buffer_size(UNREAD_MAX_BYTES)?;
        }
        socket.connect(self.target).await
    }

    async fn attack_until(self, until: Instant, script: &Script) -> Outcome {
        let mut outcome = Outcome::default();
        let began = Instant::now();
        loop {
            match timeout_at(until, self.connect(script)).await {
                Err(_) => break,
                Ok(Err(_)) => outcome.refused += 1,
                Ok(Ok(stream)) => {
                    outcome.connected += 1;
                    // The counts are kept when the time is over.
                    let done = timeout_at(until, talk(stream, script, self.pace(), &mut outcome)).await;
                    outcome.ended += u64::from(done.is_ok());
                }
            }
            let line_is_free = began + Duration::from_secs_f64(self.pace() * outcome.sent as f64);
            let again = line_is_free.max(Instant::now() + AGAIN);
            if !self.persists || again >= until {
                break;
            }
            sleep_until(again).await;
        }
        outcome
    }
}

/// Sends what the script says until the server has ended the connection.
async fn talk(stream: TcpStream, script: &Script, pace: f64, outcome: &mut Outcome) {
    let Outcome { sent, received, .. } = outcome;
    let (mut reader, mut writer) = stream.into_split();
    let write = async {
        if writer.write_all(&script.opening).await.is_err() {
            return;
        }
        *sent += script.opening.len() as u64;
        let mut at = 0;
        while let Some(bytes) = (script.next)(at) {
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
            *sent += bytes.len() as u64;
            at = at.wrapping_add(1);
            sleep(script.pause.max(Duration::from_secs_f64(pace * bytes.len() as f64))).await;
        }
        std::future::pending().await
    };
    let read = async {
        if !script.reads {
            return std::future::pending().await;
        }
        let mut buffer = vec![0; 16 << 10];
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            *received += count as u64;
        }
    };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn assault(target: SocketAddr) -> Assault {
        let duration = Duration::from_secs(60);
        Assault { attack: Attack::Idle, target, connections: 3, duration, persists: false, bandwidth: None }
    }

    #[tokio::test]
    async fn an_attack_stays_on_this_machine_and_within_its_bounds() {
        let elsewhere = assault(SocketAddr::from(([192, 0, 2, 1], 80)));
        assert!(elsewhere.run().await.unwrap_err().to_string().contains("loopback"));
        let here = assault(SocketAddr::from(([127, 0, 0, 1], 1)));
        let many = Assault { connections: MAX_CONNECTIONS + 1, ..here };
        assert!(many.run().await.unwrap_err().to_string().contains("connections"));
        let long = Assault { duration: MAX_DURATION + Duration::from_secs(1), ..here };
        assert!(long.run().await.unwrap_err().to_string().contains("600 s"));
    }

    #[tokio::test]
    async fn an_attack_is_over_when_the_server_has_ended_its_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let attack = assault(listener.local_addr().unwrap()).run();
        let server = async {
            for _ in 0..3 {
                drop(listener.accept().await.unwrap());
            }
        };
        let (outcome, ()) = tokio::join!(attack, server);
        assert_eq!(outcome.unwrap(), Outcome { connected: 3, ended: 3, ..Outcome::default() });
    }
}
