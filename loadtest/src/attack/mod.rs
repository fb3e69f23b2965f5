//! Attacks on a server: slow clients, silent ones, and floods that cost the client less than the server.
//!
//! An attack goes to a loopback address only, has a limited number of connections, and ends by itself.

pub mod frames;
mod monitor;
mod script;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

pub use self::monitor::{Monitor, Peak};
use self::script::Script;
use crate::files;

/// The most connections of one attack. A loopback address has some 28,000 ports for outgoing connections.
const MAX_CONNECTIONS: u32 = 20_000;

/// The longest attack.
const MAX_DURATION: Duration = Duration::from_secs(600);

/// From the end of a connection to the next: an attacker across a network needs at least this.
const RECONNECT: Duration = Duration::from_millis(20);

/// The receive buffer of an attacker that does not read. The default is tens of megabytes on some machines, and the server
/// would write millions of responses before it has to wait.
const UNREAD_MAX_BYTES: u32 = 64 * 1024;

/// What an attacker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attack {
    /// Headers a byte at a time.
    Slowloris,
    /// A body a byte at a time.
    SlowBody,
    /// Requests whose responses are never read.
    Unread,
    /// HTTP/2 requests whose responses have no flow-control window.
    UnreadStreams,
    /// Connections that send nothing.
    Idle,
    /// A thousand requests in one write, repeated.
    Pipeline,
    /// Streams that are opened and cancelled (CVE-2023-44487).
    RapidReset,
    /// Streams that the server is made to reset (CVE-2025-8671).
    MadeYouReset,
    /// A header block without end (CVE-2024-27316).
    Continuation,
    /// The same with frames of no bytes.
    EmptyContinuation,
    /// A header block of few bytes that decodes to megabytes.
    HpackBomb,
    /// Header blocks with as many fields as fit, all of them malformed.
    MalformedHeaders,
    /// Pings, each of which needs a response (CVE-2019-9512), beside a request under way.
    Ping,
    /// The same, and the responses are never read.
    UnreadPings,
    /// Settings that change, each of which has to be acknowledged (CVE-2019-9515).
    Settings,
    /// Acknowledgements of settings that were never sent.
    SettingsAcks,
    /// Priorities of streams that do not exist.
    Priority,
    /// Data frames of no bytes (CVE-2019-9518).
    EmptyData,
    /// Window updates of one byte.
    WindowUpdate,
    /// Trailers after the end of the stream.
    Trailers,
}

impl Attack {
    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// An attack and its limits.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the names say it")]
pub struct AttackRun {
    /// What the attacker does; `None` is nothing, to compare with.
    pub attack: Option<Attack>,
    /// The server; a loopback address.
    pub target: SocketAddr,
    pub connections: u32,
    pub duration: Duration,
    /// Whether a connection that the server has closed is replaced.
    pub reconnects: bool,
    /// Bytes a second over all connections; `None` is as fast as the server reads.
    pub bandwidth: Option<u64>,
}

/// An attack on a server whose process was monitored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct AttackReport {
    pub attack: Option<Attack>,
    pub outcome: Outcome,
    /// What the server had before.
    pub before: Peak,
    pub peak: Peak,
}

/// The result of an attack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Outcome {
    pub connected: u64,
    /// Those that the server closed.
    pub ended: u64,
    pub refused: u64,
    pub sent: u64,
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

impl AttackRun {
    /// Carries it out, until its duration has passed or, if it does not reconnect, every connection has been closed.
    /// Errors: the target is not on this machine, or a limit is exceeded.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        ensure!(
            self.target.ip().is_loopback(),
            "{} is not a loopback address: attacks stay on this machine",
            self.target
        );
        let connections = self.connections;
        ensure!((1..=MAX_CONNECTIONS).contains(&connections), "there may be 1 to {MAX_CONNECTIONS} connections");
        ensure!(self.duration <= MAX_DURATION, "an attack lasts {} s at most", MAX_DURATION.as_secs());
        files::allow(connections)?;
        let until = Instant::now() + self.duration;
        let Some(attack) = self.attack else { return Ok(Outcome::default()) };
        let script = Arc::new(Script::of(attack));
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

    /// The same, with the usage of the server's process.
    /// Errors: the same, or the server has exited.
    pub(crate) async fn monitored(self, server: Option<Monitor>) -> anyhow::Result<AttackReport> {
        let Some(server) = server else { bail!("only a server that is started here can be monitored") };
        let before = server.sample().context("the server has exited")?;
        let (outcome, peak) = server
            .during(async {
                // Also after an attack that is over, or is none.
                let ((), outcome) = tokio::join!(sleep(self.duration), self.run());
                outcome
            })
            .await;
        Ok(AttackReport { attack: self.attack, outcome: outcome?, before, peak })
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
                    // The counts are kept when the duration has passed.
                    let done = timeout_at(until, talk(stream, script, self.pace(), &mut outcome)).await;
                    outcome.ended += u64::from(done.is_ok());
                }
            }
            let line_is_free = began + Duration::from_secs_f64(self.pace() * outcome.sent as f64);
            let again = line_is_free.max(Instant::now() + RECONNECT);
            if !self.reconnects || again >= until {
                break;
            }
            sleep_until(again).await;
        }
        outcome
    }
}

/// Sends the script's bytes until the server has closed the connection.
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

    fn attack(target: SocketAddr) -> AttackRun {
        let duration = Duration::from_secs(60);
        let attack = Some(Attack::Idle);
        AttackRun { attack, target, connections: 3, duration, reconnects: false, bandwidth: None }
    }

    #[tokio::test]
    async fn an_attack_stays_on_this_machine_and_within_its_limits() {
        let elsewhere = attack(SocketAddr::from(([192, 0, 2, 1], 80)));
        assert!(elsewhere.run().await.unwrap_err().to_string().contains("loopback"));
        let here = attack(SocketAddr::from(([127, 0, 0, 1], 1)));
        let many = AttackRun { connections: MAX_CONNECTIONS + 1, ..here };
        assert!(many.run().await.unwrap_err().to_string().contains("connections"));
        let long = AttackRun { duration: MAX_DURATION + Duration::from_secs(1), ..here };
        assert!(long.run().await.unwrap_err().to_string().contains("600 s"));
    }

    #[tokio::test]
    async fn an_attack_is_over_when_the_server_has_closed_its_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let run = attack(listener.local_addr().unwrap()).run();
        let server = async {
            for _ in 0..3 {
                drop(listener.accept().await.unwrap());
            }
        };
        let (outcome, ()) = tokio::join!(run, server);
        assert_eq!(outcome.unwrap(), Outcome { connected: 3, ended: 3, ..Outcome::default() });
    }
}
