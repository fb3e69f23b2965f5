//! The settings. They are environment variables and nothing else.
//!
//! [`Settings::from_vars`] takes the variables as a parameter, since only `main` reads the environment. It checks each
//! value, then the combinations, and reports all problems together.

mod ack;
mod broker;
mod conflicts;
mod otlp;
mod parse;
mod read;
mod reader;
mod table;
mod typos;
mod warnings;

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hyper::{HeaderMap, Uri};
use ipnet::IpNet;
use tracing_subscriber::filter::Targets;

pub use ack::Ack;
pub(crate) use broker::server_name;
pub use broker::{BrokerSettings, Role, Servers};
#[cfg(test)]
pub(crate) use parse::SOCKET_PATH_MAX_BYTES;
pub use table::{Group, SETTINGS, Setting};

use crate::decode::{Readers, Record};
use crate::digest::Digest;
use crate::segment::Compression;

/// The exit code for invalid settings (`EX_USAGE` of BSD's sysexits.h).
pub const EXIT_USAGE: u8 = 64;

/// The lines of a batch may have this many times `MAX_DECODED_BYTES`: each line repeats the fields of the envelope, which
/// may be larger than a short payload.
pub(crate) const LINES_PER_DECODED: usize = 4;
/// The lines of a batch may always have this many bytes, however small `MAX_DECODED_BYTES` is.
pub(crate) const LINES_ALLOWED_BYTES: usize = 4 << 20;

/// The checked settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The store of the objects.
    pub store: StoreSettings,
    /// Precedes `dt=…` in every key. It has no slash at either end.
    pub prefix: String,
    /// The public listener: HTTP.
    pub http: HttpSettings,
    /// The public listener: connections.
    pub transport: TransportSettings,
    /// The capacity of the queue.
    pub queue: QueueSettings,
    /// The tenants; `None` disables authentication.
    pub tenants: Option<TenantSettings>,
    /// `ROLLOUT_FILE`; none if nothing is rolled out.
    pub rollout_file: Option<PathBuf>,
    /// The most bytes of copies for another version that wait or are on their way.
    pub mirror_max_bytes: usize,
    /// The size, age and compression of objects.
    pub objects: ObjectSettings,
    /// Concurrent uploads.
    pub max_workers: usize,
    /// The spool.
    pub spool: SpoolSettings,
    /// What the process does in a fleet.
    pub role: Role,
    /// The broker that is the spool; `None` for this machine.
    pub broker: Option<BrokerSettings>,
    /// The address of the admin listener; with port 0 the system chooses a port.
    pub admin_addr: SocketAddr,
    /// The digest of the token that the admin routes require.
    pub admin_token: Option<Digest>,
    /// The file that contains the admin token. It is read at start.
    pub admin_token_file: Option<PathBuf>,
    /// The StatsD daemon; `None` sends nothing.
    pub statsd: Option<StatsdSettings>,
    /// How long health checks fail before the shutdown begins.
    pub drain_delay: Duration,
    /// The path of the Unix socket on which listeners are handed over; `None` disables it.
    pub handover_socket: Option<PathBuf>,
    /// The time between the beginning of the shutdown and the exit.
    pub shutdown_grace: Duration,
    /// The export of traces; `None` disables it.
    pub traces: Option<TraceSettings>,
    /// The log.
    pub log: LogSettings,
    /// Settings that have no effect, or less effect than expected. Logged at start.
    pub warnings: Vec<String>,
}

/// The spool. `ACK=memory` keeps segments in memory instead.
#[derive(Debug, Clone)]
pub struct SpoolSettings {
    /// The directory.
    pub dir: PathBuf,
    /// The maximum size of all segments that are not stored yet, in bytes.
    pub max_bytes: usize,
}

/// The share of `SHUTDOWN_GRACE` in which connections must drain.
const REQUESTS_SHARE: f64 = 0.4;
/// Bytes of a file besides a batch: its header, the header of the frame, and the rest of the last block.
const SPOOL_OVERHEAD_BYTES: usize = 8 * 1024;
/// Incompressible lines grow by less than this share.
const SPOOL_BATCH_GROWTH: usize = 256;

impl SpoolSettings {
    /// The largest batch that an empty spool can hold if the batch is incompressible, in bytes of its lines.
    pub fn max_batch_bytes(&self) -> usize {
        let room = self.max_bytes.saturating_sub(SPOOL_OVERHEAD_BYTES);
        room - room / SPOOL_BATCH_GROWTH
    }
}

/// The digest of the token in `text`, the content of `ADMIN_TOKEN_FILE`. Line breaks at the end are ignored.
///
/// # Errors
/// What was expected instead, if the text is not a valid token.
pub fn admin_token(text: &str) -> Result<Digest, String> {
    parse::token(text.trim_end_matches(['\n', '\r']))
}

/// Parses a log filter, as `RUST_LOG` is parsed. Returns it with a warning for each target in it that does not exist.
///
/// # Errors
/// What was expected instead.
pub fn log_filter(text: &str) -> Result<(Targets, Vec<String>), String> {
    parse::log_filter(text)
}

/// A time, as settings have it: `200ms`, `60s`, `5m`.
///
/// # Errors
/// What was expected instead.
pub fn duration(text: &str) -> Result<Duration, String> {
    parse::duration(text)
}

/// The store of the objects.
#[derive(Debug, Clone)]
pub enum StoreSettings {
    /// A directory on this machine, which needs no account.
    Dir(PathBuf),
    /// A bucket of S3 or of a compatible server.
    S3(S3Settings),
}

/// S3. The SDK reads the region, the credentials and the endpoint from `AWS_*`.
#[derive(Debug, Clone)]
pub struct S3Settings {
    /// The name of the bucket.
    pub bucket: String,
    /// The timeout of one attempt of a call, from the first byte sent to the last byte received.
    pub timeout: Duration,
    /// The account that must own the bucket. Sent with every call.
    pub expected_owner: Option<String>,
    /// Whether to send `If-None-Match: *` with a PUT.
    pub if_none_match: bool,
    /// The URL of a server that is not AWS. For messages only: the SDK reads the same setting.
    pub endpoint: Option<String>,
    /// Whether the bucket is in the path instead of the host name. On if an endpoint is set.
    pub path_style: bool,
}

/// The public listener: HTTP.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// The address; with port 0 the system chooses a port.
    pub listen_addr: SocketAddr,
    /// The maximum number of open connections.
    pub max_connections: usize,
    /// The timeout from the first byte of a request to the end of its headers.
    pub header_timeout: Duration,
    /// The timeout from the end of the headers to the end of the body.
    pub body_timeout: Duration,
    /// The timeout of a connection without a request.
    pub idle_timeout: Duration,
    /// The maximum size of a body as it is sent, in bytes.
    pub max_body_bytes: usize,
    /// The maximum size of a decompressed body, in bytes.
    pub max_decoded_bytes: usize,
    /// The content of a line.
    pub record: Record,
    /// Whether the lines of a batch have the headers of the worker tier's daemon.
    pub sqsd_context: bool,
    /// Whether to reject payloads that common readers cannot read.
    pub readers: Readers,
    /// The minimum ack level of every response.
    pub ack: Ack,
    /// The maximum ack level that a request may ask for, unless the tenant has a limit of its own.
    pub ack_max: Ack,
    /// The maximum time that a request waits for its ack level.
    pub ack_timeout: Duration,
    /// The content of `object` in receipts.
    pub receipt_object: ReceiptObject,
    /// The web pages that may send requests if authentication is disabled.
    pub allowed_origins: AllowedOrigins,
}

/// Origins of web pages (RFC 6454) besides the origin of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedOrigins {
    /// All origins.
    Any,
    /// The listed origins, such as `https://a.example`.
    Only(Vec<String>),
}

impl Default for AllowedOrigins {
    fn default() -> Self {
        Self::Only(Vec::new())
    }
}

/// The public listener: connections before HTTP.
#[derive(Debug, Clone)]
pub struct TransportSettings {
    /// The files for TLS; `None` for plain HTTP.
    pub tls: Option<TlsSettings>,
    /// The proxies that are trusted to name the address of the client.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether connections from trusted proxies begin with a PROXY header.
    pub proxy_protocol: bool,
    /// The maximum number of open connections of one address; `None` for no limit.
    pub max_connections_per_address: Option<usize>,
}

/// The files of a certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// The certificate, followed by its chain.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// The capacity of the queue. It is full when either limit is reached.
#[derive(Debug, Clone, Copy)]
pub struct QueueSettings {
    /// The maximum number of jobs.
    pub max_jobs: usize,
    /// The maximum size of all jobs and reservations, in bytes.
    pub max_bytes: usize,
}

/// Authentication and the shares of tenants.
#[derive(Debug, Clone)]
pub struct TenantSettings {
    /// The file that lists the tenants.
    pub file: PathBuf,
    /// The share of the queue that one tenant may use, in percent: 1 to 100.
    pub queue_percent: usize,
    /// The share of the spool that one tenant may use, in percent: 1 to 100.
    pub spool_percent: usize,
}

/// When a segment is sealed, and how its frames are compressed.
#[derive(Debug, Clone, Copy)]
pub struct ObjectSettings {
    /// A segment is sealed at this size, in bytes as stored.
    pub max_bytes: usize,
    /// A segment is sealed at this age.
    pub max_age: Duration,
    /// The linger before a segment is sealed because a request waits for ack level `stored`.
    pub stored_linger: Duration,
    /// The minimum time between two such seals.
    pub stored_interval: Duration,
    /// The compression of frames.
    pub compression: Compression,
}

/// Metrics over UDP to a StatsD daemon.
#[derive(Debug, Clone)]
pub struct StatsdSettings {
    /// The host, a name or an IP address, and the port: `host:port`. The name is resolved while the server runs.
    pub addr: String,
    /// The first part of every name.
    pub prefix: String,
    /// How labels are sent.
    pub tags: StatsdTags,
    /// The time between two flushes.
    pub interval: Duration,
}

/// How labels are sent to a StatsD daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatsdTags {
    /// As parts of the name.
    Off,
    /// As tags of DogStatsD, which Telegraf, Vector and others understand too.
    Dogstatsd,
}

/// The export of traces over OTLP. The names of the settings are those of OpenTelemetry.
#[derive(Debug, Clone)]
pub struct TraceSettings {
    /// The URL to which spans are posted: the endpoint and `/v1/traces`.
    pub url: Uri,
    /// Headers of each export. They may contain credentials.
    pub headers: HeaderMap,
    /// The resource attribute `service.name`.
    pub service_name: String,
    /// Which requests are sampled.
    pub sampler: SamplerSettings,
}

/// Which requests are sampled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerSettings {
    /// Whether the sampled flag of a valid `traceparent` decides.
    pub follows_parent: bool,
    /// The decision for all other requests.
    pub root: RootSampler,
}

/// The decision for a request whose parent does not decide.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RootSampler {
    /// Every request.
    AlwaysOn,
    /// No request.
    AlwaysOff,
    /// This share of the trace ids, from 0 to 1.
    TraceIdRatio(f64),
}

/// The log.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// The filter in the syntax of `tracing_subscriber`: `info`, or `info,millpond=debug`.
    pub filter: Targets,
    /// Whether the format is JSON instead of text.
    pub json: bool,
}

/// The content of `object` in receipts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiptObject {
    /// The key of the object, which tells nothing about the store.
    Key,
    /// The location of the store (the bucket or the path of the directory), followed by the key.
    Location,
}

/// All problems of the settings, each with the name of the setting and what was expected.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SettingsError(Vec<String>);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, plural) = (self.0.len(), if self.0.len() == 1 { "" } else { "s" });
        write!(f, "{count} problem{plural} with the settings (millpond --help lists all settings):")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for SettingsError {}

impl Settings {
    /// Reads the settings from `vars`, the names and values of the environment.
    ///
    /// An empty value counts as unset. Unknown names are ignored, unless they are probably a misspelled setting.
    ///
    /// # Errors
    /// [`SettingsError`] with all problems.
    pub fn from_vars(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, SettingsError> {
        read::settings(vars)
    }

    /// How long a shutdown waits for requests in flight.
    pub fn requests_grace(&self) -> Duration {
        self.shutdown_grace.mul_f64(REQUESTS_SHARE)
    }
}
