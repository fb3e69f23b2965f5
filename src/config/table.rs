//! The table of settings: names, defaults and help texts. `--help` prints it, docs/configuration.md is generated from
//! it, and misspelt names are compared with it.

/// A heading under which `--help` and docs/configuration.md list settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group(pub &'static str);

/// One setting, as `--help` and docs/configuration.md show it.
#[derive(Debug)]
pub struct Setting {
    /// The settings of a group are adjacent in [`SETTINGS`].
    pub group: Group,
    /// The environment variable.
    pub name: &'static str,
    /// Its default, in the syntax of its value, if it has one.
    pub default: Option<&'static str>,
    /// Its unit or its values.
    pub unit: &'static str,
    /// What it does.
    pub help: &'static str,
}

impl Group {
    const fn setting(
        self,
        name: &'static str,
        default: &'static str,
        unit: &'static str,
        help: &'static str,
    ) -> Setting {
        Setting { group: self, name, default: Some(default), unit, help }
    }

    const fn unset(self, name: &'static str, unit: &'static str, help: &'static str) -> Setting {
        Setting { group: self, name, default: None, unit, help }
    }
}

const LISTENERS: Group = Group("Listeners");
const AUTHENTICATION: Group = Group("Authentication and tenants");
const DELIVERY: Group = Group("Delivery guarantees");
const QUEUE: Group = Group("Queue and spool");
const OBJECTS: Group = Group("Objects");
const STORE: Group = Group("Store");
const REQUESTS: Group = Group("Request and connection limits");
const PROCESS: Group = Group("Shutdown and log");

/// Every setting, in the order in which `--help` prints them.
pub const SETTINGS: &[Setting] = &[
    LISTENERS.setting(
        "LISTEN_ADDR",
        "0.0.0.0:8080",
        "address:port",
        "address of the public listener; port 0 picks a free port",
    ),
    LISTENERS.setting(
        "ADMIN_ADDR",
        "127.0.0.1:9090",
        "address:port",
        "address of the admin listener; never expose it to the internet",
    ),
    LISTENERS.unset(
        "ADMIN_TOKEN",
        "text",
        "Bearer token of the admin listener; required if ADMIN_ADDR is not a loopback address",
    ),
    LISTENERS.unset(
        "ADMIN_TOKEN_FILE",
        "file",
        "file that holds ADMIN_TOKEN; read at startup; set only one of the two",
    ),
    LISTENERS.unset("TLS_CERT", "file", "PEM certificate chain of the public listener; reloaded when it changes"),
    LISTENERS.unset("TLS_KEY", "file", "PEM private key of TLS_CERT"),
    LISTENERS.unset(
        "TRUSTED_PROXIES",
        "addresses, networks",
        "proxies that may state the client address, such as 10.0.0.0/8, ::1",
    ),
    LISTENERS.setting(
        "PROXY_PROTOCOL",
        "off",
        "on, off",
        "connections from TRUSTED_PROXIES begin with a PROXY protocol header, version 1 or 2",
    ),
    AUTHENTICATION.unset(
        "TOKENS_FILE",
        "file",
        "tenants with token digests and rate limits; if unset, requests are not authenticated",
    ),
    AUTHENTICATION.setting(
        "TENANT_QUEUE_SHARE",
        "50%",
        "percent",
        "largest part of MAX_QUEUE and MAX_QUEUE_BYTES that one tenant may use",
    ),
    AUTHENTICATION.unset(
        "TENANT_SPOOL_SHARE",
        "percent",
        "largest part of SPOOL_MAX_BYTES that one tenant may use; if unset, TENANT_QUEUE_SHARE",
    ),
    AUTHENTICATION.unset(
        "ALLOWED_ORIGINS",
        "*, origins",
        "web origins that may send without TOKENS_FILE, such as https://a.example, https://b.example",
    ),
    DELIVERY.setting(
        "ACK",
        "disk",
        "memory, disk, stored",
        "lowest ack level of a response; a request may ask for a higher one",
    ),
    DELIVERY.setting(
        "ACK_MAX",
        "stored",
        "memory, disk, stored",
        "highest ack level that a request may ask for; a higher one is rejected with 403",
    ),
    DELIVERY.setting(
        "ACK_TIMEOUT",
        "10s",
        "time",
        "longest wait for the ack level; then the response has the level reached",
    ),
    DELIVERY.setting(
        "RECEIPT_OBJECT",
        "key",
        "key, location",
        "`object` in responses: the key, or the location of the store and the key (requires TOKENS_FILE)",
    ),
    QUEUE.setting("MAX_QUEUE", "10000", "jobs", "jobs in the queue; when it is full, requests are rejected with 503"),
    QUEUE.setting(
        "MAX_QUEUE_BYTES",
        "256MiB",
        "size",
        "bytes in the queue; when it is full, requests are rejected with 503",
    ),
    QUEUE.setting(
        "SPOOL_DIR",
        "./millpond-data/spool",
        "folder",
        "directory of the spool, on a disk that outlives the process; not used with ACK=memory",
    ),
    QUEUE.setting(
        "SPOOL_MAX_BYTES",
        "10GiB",
        "size",
        "bytes in SPOOL_DIR; when it is full, requests are rejected with 503",
    ),
    OBJECTS.setting("OBJECT_MAX_BYTES", "8MiB", "size", "a segment is sealed at this compressed size"),
    OBJECTS.setting("OBJECT_MAX_AGE", "60s", "time", "a segment is sealed at this age"),
    OBJECTS.setting(
        "STORED_LINGER",
        "200ms",
        "time",
        "a segment is sealed this long after a request starts to wait for ack=stored",
    ),
    OBJECTS.setting("STORED_INTERVAL", "1s", "time", "shortest time between two segments sealed for ack=stored"),
    OBJECTS.setting("COMPRESSION", "gzip", "gzip, zstd, none", "compression of objects"),
    OBJECTS.setting(
        "RECORD",
        "envelope",
        "envelope, payload",
        "content of a stored line: the payload with its metadata, or only the payload",
    ),
    OBJECTS.setting(
        "READERS",
        "strict",
        "strict, any",
        "strict rejects payloads that common readers cannot read (docs/readers.md)",
    ),
    STORE.unset("S3_BUCKET", "name", "bucket for objects; if unset, objects go to STORE_DIR"),
    STORE.setting("S3_PREFIX", "", "path", "prefix of every key, before dt=YYYY-MM-DD/hr=HH"),
    STORE.setting(
        "S3_TIMEOUT",
        "10s",
        "time",
        "timeout of one attempt of an S3 call; an upload gets one more second for each MiB",
    ),
    STORE.setting(
        "S3_IF_NONE_MATCH",
        "on",
        "on, off",
        "send If-None-Match: * with a PUT; off for stores that do not support it",
    ),
    STORE.unset(
        "S3_EXPECTED_BUCKET_OWNER",
        "account id",
        "AWS account that owns the bucket; S3 rejects every call if another account owns it",
    ),
    STORE.setting("STORE_DIR", "./millpond-data/objects", "folder", "directory store, used if S3_BUCKET is unset"),
    STORE.setting("MAX_WORKERS", "16", "1 to 1024", "concurrent uploads"),
    STORE.unset(
        "AWS_REGION",
        "name",
        "read by the AWS SDK, like AWS_ACCESS_KEY_ID and the rest of its credential chain",
    ),
    STORE.unset(
        "AWS_ENDPOINT_URL_S3",
        "URL",
        "endpoint of an S3-compatible server; the bucket name then goes into the path",
    ),
    STORE.unset("AWS_ENDPOINT_URL", "URL", "endpoint for every AWS service; AWS_ENDPOINT_URL_S3 takes precedence"),
    REQUESTS.setting(
        "MAX_BODY_BYTES",
        "1MiB",
        "size",
        "size of a request body as sent; a larger one is rejected with 413",
    ),
    REQUESTS.setting(
        "MAX_DECODED_BYTES",
        "10MiB",
        "size",
        "size of a request body after decompression; a larger one is rejected with 413",
    ),
    REQUESTS.setting(
        "MAX_CONNECTIONS",
        "16384",
        "connections",
        "open connections on the public listener; more are rejected with 503",
    ),
    REQUESTS.setting(
        "MAX_CONNECTIONS_PER_ADDRESS",
        "1024",
        "connections, off",
        "of one client address (IPv6: one /64); more are rejected with 429; off also lifts its limit on requests",
    ),
    REQUESTS.setting(
        "HEADER_TIMEOUT",
        "10s",
        "time",
        "from the first byte of a request to the end of its headers; then 408",
    ),
    REQUESTS.setting("BODY_TIMEOUT", "30s", "time", "from the end of the headers to the end of the body; then 408"),
    REQUESTS.setting(
        "IDLE_TIMEOUT",
        "75s",
        "time",
        "closes a connection without a request; keep it above the idle timeout of the load balancer",
    ),
    PROCESS.setting("SHUTDOWN_GRACE", "25s", "time", "deadline of a graceful shutdown, from SIGTERM to the exit"),
    PROCESS.setting(
        "RUST_LOG",
        "info",
        "filter",
        "log filter, such as warn or info,millpond=debug; the log goes to standard error",
    ),
    PROCESS.setting("LOG_FORMAT", "text", "text, json", "format of log lines"),
];

/// The setting of exactly this name.
pub(super) fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// The setting that `name` probably misspells.
///
/// Short names need an exact match: within two edits of `ACK` are many ordinary names.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let upper = name.to_ascii_uppercase();
    SETTINGS
        .iter()
        .map(|setting| (strsim::damerau_levenshtein(&upper, setting.name), setting.name))
        .filter(|(edits, near)| *edits <= edits_allowed(near))
        .min()
        .map(|(_, near)| near)
}

fn edits_allowed(name: &str) -> usize {
    match name.len() {
        0..=4 => 0,
        5..=7 => 1,
        _ => 2,
    }
}
