//! Every setting: its name, default, unit and check. Settings are environment variables, and nothing else.
//!
//! [`Settings::from_vars`] takes the variables as a parameter (only `main` reads the environment), lets envy sort them
//! into text by name, then checks each on its own and in pairs. All that is wrong is reported together.

mod ignored;
mod parse;
mod read;
mod slips;
mod table;

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

pub use table::{Group, SETTINGS, Setting};

use crate::decode::{Readers, Record};
use crate::digest::Digest;
use crate::segment::Compression;

/// The process exits with this code when the settings are bad (`EX_USAGE` of BSD's sysexits.h).
pub const EXIT_USAGE: u8 = 64;

/// The lines of a batch may be so many times `MAX_DECODED_BYTES`: what stands around payloads of a few bytes is larger
/// than they are, but what a sender has every line repeat is not to be a multiple of what it sent.
pub(crate) const LINES_PER_DECODED: usize = 4;
/// They may be so many bytes even where `MAX_DECODED_BYTES` is small.
pub(crate) const LINES_ALLOWED_BYTES: usize = 4 << 20;

/// What the server runs with, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where objects go.
    pub store: StoreSettings,
    /// Put before `dt=…` in every key; no slash at either end.
    pub prefix: String,
    /// The public edge.
    pub http: HttpSettings,
    /// How connections come to the public edge.
    pub transport: TransportSettings,
    /// The queue's two capacities.
    pub queue: QueueSettings,
    /// Who may send; `None` lets anybody.
    pub tenants: Option<TenantSettings>,
    /// How lines become objects.
    pub objects: ObjectSettings,
    /// Concurrent uploads.
    pub max_workers: usize,
    /// Where segments live until they are stored.
    pub spool: SpoolSettings,
    /// The admin listener's address; port 0 picks one.
    pub admin_addr: SocketAddr,
    /// What the admin routes ask for, if anything.
    pub admin_token: Option<Digest>,
    /// The file that holds it instead; it is read at the start.
    pub admin_token_file: Option<PathBuf>,
    /// From the signal to the exit.
    pub shutdown_grace: Duration,
    /// How the server logs.
    pub log: LogSettings,
    /// Settings that are ignored, or do less than was probably meant: to be shown at the start.
    pub warnings: Vec<String>,
}

/// Where segments live until they are stored, unless `ACK=memory` keeps them in memory.
#[derive(Debug, Clone)]
pub struct SpoolSettings {
    /// The folder.
    pub dir: PathBuf,
    /// Bytes in it, of every segment that is not stored yet.
    pub max_bytes: usize,
}

/// What a file holds beside a batch: its header, the frame's, and its last block.
const SPOOL_BESIDE_BATCH: usize = 8 * 1024;
/// Lines that do not compress become larger by less than this part of them.
const SPOOL_BATCH_GROWTH: usize = 256;

impl SpoolSettings {
    /// The largest batch, in bytes of its lines, that an empty spool can hold however badly it compresses.
    pub fn max_batch_bytes(&self) -> usize {
        let room = self.max_bytes.saturating_sub(SPOOL_BESIDE_BATCH);
        room - room / SPOOL_BATCH_GROWTH
    }
}

/// What `ADMIN_TOKEN_FILE` holds, without the end of its last line.
///
/// # Errors
/// What is expected of a token.
pub fn admin_token(text: &str) -> Result<Digest, String> {
    parse::token(text.trim_end_matches(['\n', '\r']))
}

/// Where objects go.
#[derive(Debug, Clone)]
pub enum StoreSettings {
    /// A directory on this machine: a first run needs no account.
    Dir(PathBuf),
    /// A bucket of S3 or of a server that speaks its protocol.
    S3(S3Settings),
}

/// How to talk to S3. Region, credentials and endpoint are the SDK's own, from `AWS_*`.
#[derive(Debug, Clone)]
pub struct S3Settings {
    /// The bucket's name.
    pub bucket: String,
    /// One attempt of one call, from the first byte sent to the last received.
    pub timeout: Duration,
    /// The account that the bucket has to belong to, sent with every call.
    pub expected_owner: Option<String>,
    /// Send `If-None-Match: *` with a PUT.
    pub if_none_match: bool,
    /// The server's URL, where it is not AWS's; for messages, since the SDK reads it, too.
    pub endpoint: Option<String>,
    /// Put the bucket into the path instead of the host name: on when an endpoint is set.
    pub path_style: bool,
}

/// The public edge.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// The public listener's address; port 0 picks one.
    pub listen_addr: SocketAddr,
    /// Open connections.
    pub max_connections: usize,
    /// From a request's first byte to the end of its headers.
    pub header_timeout: Duration,
    /// From the end of the headers to the end of the body.
    pub body_timeout: Duration,
    /// How long a connection may stay open without a request.
    pub idle_timeout: Duration,
    /// A body as it is sent, in bytes.
    pub max_body_bytes: usize,
    /// A body decompressed, in bytes.
    pub max_decoded_bytes: usize,
    /// What a stored line holds.
    pub record: Record,
    /// Whether to refuse what readers fail on.
    pub readers: Readers,
    /// What an answer promises at least.
    pub ack: Ack,
    /// What a request may ask for at most, unless its tenant has a limit of its own.
    pub ack_max: Ack,
    /// How long an answer waits for what it is to promise.
    pub ack_timeout: Duration,
    /// What a receipt's `object` names.
    pub receipt_object: ReceiptObject,
    /// Whose web pages may send where no token is asked for.
    pub allowed_origins: AllowedOrigins,
}

/// Origins of web pages (RFC 6454), beside the server's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedOrigins {
    /// Every page.
    Any,
    /// These, such as `https://a.example`.
    Only(Vec<String>),
}

impl Default for AllowedOrigins {
    fn default() -> Self {
        Self::Only(Vec::new())
    }
}

/// How connections come to the public edge, before they speak HTTP.
#[derive(Debug, Clone)]
pub struct TransportSettings {
    /// The pair of files for TLS; without it the listener speaks plain HTTP.
    pub tls: Option<TlsSettings>,
    /// Whose word on a sender's address is taken.
    pub trusted_proxies: Vec<IpNet>,
    /// Connections from trusted proxies begin with a PROXY header.
    pub proxy_protocol: bool,
    /// Open connections of one address, if they are limited.
    pub max_connections_per_address: Option<usize>,
}

/// Where the certificate lies, and its key; both PEM.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// The certificate, and after it those that vouch for it.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// The queue's two capacities; whichever is hit first is full.
#[derive(Debug, Clone, Copy)]
pub struct QueueSettings {
    /// Jobs waiting.
    pub max_jobs: usize,
    /// Bytes waiting.
    pub max_bytes: usize,
}

/// Who may send.
#[derive(Debug, Clone)]
pub struct TenantSettings {
    /// The file of tenants.
    pub file: PathBuf,
    /// How much of the queue one tenant may hold, in percent: 1 to 100.
    pub queue_percent: usize,
    /// How much of the spool one tenant may hold, in percent: 1 to 100.
    pub spool_percent: usize,
}

/// When a segment is sealed and how it is compressed.
#[derive(Debug, Clone, Copy)]
pub struct ObjectSettings {
    /// Sealed at this many bytes as stored.
    pub max_bytes: usize,
    /// Sealed at this age.
    pub max_age: Duration,
    /// Sealed this long after a job came that somebody waits to see stored.
    pub stored_linger: Duration,
    /// From one seal for the sake of such a job to the next, at the least.
    pub stored_interval: Duration,
    /// The codec of a segment's frames.
    pub compression: Compression,
}

/// How the server logs.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// Which spans and events, as `tracing_subscriber` reads them: `info`, or `info,millpond=debug`.
    pub filter: tracing_subscriber::filter::Targets,
    /// `json` instead of text.
    pub json: bool,
}

/// What a receipt's `object` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiptObject {
    /// The object's key in its store: nothing about the store itself.
    Key,
    /// The key behind the store's location: the bucket, or the directory's path.
    Location,
}

/// What an acknowledgement means; the later ones promise more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ack {
    /// The job is in the queue.
    Memory,
    /// Its frame is durable in the spool.
    Disk,
    /// Its object is in the store.
    Stored,
}

impl Ack {
    /// As it is written in settings, requests and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Stored => "stored",
        }
    }
}

impl FromStr for Ack {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        [Self::Memory, Self::Disk, Self::Stored].into_iter().find(|ack| ack.name() == name).ok_or(())
    }
}

/// All that is wrong with the settings, each with its name and what was expected.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SettingsError(Vec<String>);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(
            f,
            "{count} {} wrong (millpond --help lists them):",
            if count == 1 { "setting is" } else { "settings are" }
        )?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for SettingsError {}

impl Settings {
    /// Reads the settings from `vars`, names and values as the environment gives them.
    ///
    /// An empty value counts as unset. Names that are no setting are ignored, unless one is nearly a setting's name:
    /// that is taken for the slip that it is.
    ///
    /// # Errors
    /// [`SettingsError`] with everything that is wrong, not only the first.
    pub fn from_vars(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, SettingsError> {
        read::settings(vars)
    }
}
