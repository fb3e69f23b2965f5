//! The settings of a fleet: the role of the process, and the broker that keeps segments until they are stored.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::ServerAddr;
use percent_encoding::percent_decode_str;

use super::parse;
use super::reader::Reader;

/// The most servers in `BROKER_URL`. The client learns of the others from these.
const SERVERS_MAX: usize = 16;
/// NATS allows more, and names of subjects are compared for each message.
const STREAM_MAX_BYTES: usize = 64;
/// A smaller stream cannot hold the segments of one process.
const BROKER_MIN_BYTES: usize = 8 << 20;

/// What a process of a fleet does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It accepts batches and uploads segments.
    All,
    /// It accepts batches.
    Front,
    /// It uploads the segments of front ends.
    Worker,
}

impl Role {
    /// The name in `ROLE`.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Front => "front",
            Self::Worker => "worker",
        }
    }

    /// Whether the process accepts batches.
    pub fn accepts(self) -> bool {
        self != Self::Worker
    }

    /// Whether the process uploads segments of the broker.
    pub fn uploads(self) -> bool {
        self != Self::Front
    }
}

/// NATS JetStream as the spool.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// The servers to begin with.
    pub servers: Servers,
    /// A file with the credentials (a JWT and its seed).
    pub credentials: Option<PathBuf>,
    /// A file with the certificates of the authorities that sign the servers' certificates.
    pub ca: Option<PathBuf>,
    /// The name of the stream, and the first part of every subject.
    pub stream: String,
    /// The servers that keep each message.
    pub replicas: usize,
    /// The limit of the stream, in bytes.
    pub max_bytes: u64,
    /// How long an append is tried.
    pub append_timeout: Duration,
}

/// Addresses of servers, and how to log in there. `Debug` shows the addresses only.
#[derive(Clone)]
pub struct Servers {
    /// Without a user and a password: the client logs addresses.
    addresses: Vec<ServerAddr>,
    /// A user and its password.
    login: Option<(String, String)>,
}

impl Servers {
    /// The addresses.
    pub fn addresses(&self) -> Vec<ServerAddr> {
        self.addresses.clone()
    }

    /// The user and the password.
    pub fn login(&self) -> Option<(String, String)> {
        self.login.clone()
    }

    /// Hosts and ports.
    pub fn hosts(&self) -> Vec<String> {
        self.addresses.iter().map(server_name).collect()
    }

    /// The same, for messages.
    pub fn names(&self) -> String {
        self.hosts().join(", ")
    }
}

/// The host and the port, for messages.
pub(crate) fn server_name(server: &ServerAddr) -> String {
    let (host, port) = (server.host(), server.port());
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names())
    }
}

impl Reader {
    /// The role, and the broker if there is one. `append_timeout` is how long a request waits for its ack level.
    pub(super) fn fleet(&mut self, append_timeout: Duration) -> Option<(Role, Option<BrokerSettings>)> {
        let role =
            self.get("ROLE", parse::one_of([Role::All, Role::Front, Role::Worker].map(|role| (role.name(), role))))?;
        let credentials = self.get_optional("BROKER_CREDENTIALS", parse::path);
        let ca = self.get_optional("BROKER_CA", parse::path);
        let stream = self.get("BROKER_STREAM", stream_name)?;
        let replicas = self.get("BROKER_REPLICAS", parse::one_of([("1", 1), ("3", 3), ("5", 5)]))?;
        let max_bytes = self.get("BROKER_MAX_BYTES", parse::positive_size)?;
        self.reject_if(
            max_bytes < BROKER_MIN_BYTES,
            "BROKER_MAX_BYTES is below 8MiB: the open segments of a fleet would not fit; raise it",
        );
        let servers = self.get_optional("BROKER_URL", servers);
        if servers.is_none() && !self.is_set("BROKER_URL") {
            self.reject_if(
                role != Role::All,
                "ROLE is set but BROKER_URL is not: front ends and workers meet at a broker; set BROKER_URL, or unset ROLE",
            );
            for name in ["BROKER_CREDENTIALS", "BROKER_CA"] {
                self.reject_if(
                    self.is_set(name),
                    &format!("{name} is set but BROKER_URL is not: set BROKER_URL, or unset {name}"),
                );
            }
        }
        let broker = servers.map(|servers| BrokerSettings {
            servers,
            credentials,
            ca,
            stream,
            replicas,
            max_bytes: max_bytes as u64,
            append_timeout,
        });
        Some((role, broker))
    }
}

/// One or more URLs. The error does not contain them, since they may contain a password.
fn servers(text: &str) -> Result<Servers, String> {
    let expected = || {
        format!(
            "up to {SERVERS_MAX} URLs with commas between them, such as nats://10.0.0.1:4222, nats://10.0.0.2:4222 or tls://nats.example.net"
        )
    };
    let server = |url: &str| {
        let url = url.trim();
        let has_scheme = url.starts_with("nats://") || url.starts_with("tls://");
        let server = url.parse::<ServerAddr>().ok().filter(|server| has_scheme && !server.host().is_empty());
        let has_host_only = !url.contains(['?', '#']) && url.trim_end_matches('/').matches('/').count() == 2;
        server.filter(|_| has_host_only)
    };
    let found: Option<Vec<_>> = text.split(',').map(server).collect();
    let addresses = found.filter(|found| found.len() <= SERVERS_MAX).ok_or_else(expected)?;
    let login = login(&addresses)?;
    let addresses = addresses.into_iter().map(without_login).collect::<Option<_>>().ok_or_else(expected)?;
    Ok(Servers { addresses, login })
}

fn without_login(server: ServerAddr) -> Option<ServerAddr> {
    let mut url = server.into_inner();
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    ServerAddr::from_url(url).ok()
}

/// The user and the password that the URLs have in common.
fn login(addresses: &[ServerAddr]) -> Result<Option<(String, String)>, String> {
    let decoded = |part: &str| {
        let part = percent_decode_str(part).decode_utf8();
        part.map(String::from).map_err(|_| "a user and a password in UTF-8, percent-encoded".to_owned())
    };
    let mut found = None;
    for server in addresses {
        let login = match (server.username(), server.password()) {
            (Some(user), Some(password)) => (decoded(user)?, decoded(password)?),
            (None, None) => continue,
            _ => {
                return Err(
                    "a user and a password, such as nats://user:password@10.0.0.1:4222: tokens are not supported"
                        .to_owned(),
                );
            }
        };
        if found.as_ref().is_some_and(|found| *found != login) {
            return Err(
                "the same user and password in all URLs that have one: one login is used for all servers".to_owned()
            );
        }
        found = Some(login);
    }
    Ok(found)
}

/// A name that is one part of a subject.
fn stream_name(text: &str) -> Result<String, String> {
    let is_name = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if is_name && (1..=STREAM_MAX_BYTES).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err(format!("1 to {STREAM_MAX_BYTES} letters, digits, hyphens and underscores, such as millpond"))
    }
}
