//! The table of settings: what `--help` prints, where defaults are stated, and what a slip of the keyboard is held against.

/// One setting, as `--help` and the README show it.
#[derive(Debug)]
pub struct Setting {
    /// The environment variable.
    pub name: &'static str,
    /// Its default as one would write it, if it has one.
    pub default: Option<&'static str>,
    /// Its unit or its values.
    pub unit: &'static str,
    /// What it does.
    pub help: &'static str,
}

const fn setting(name: &'static str, default: &'static str, unit: &'static str, help: &'static str) -> Setting {
    Setting { name, default: Some(default), unit, help }
}

const fn unset(name: &'static str, unit: &'static str, help: &'static str) -> Setting {
    Setting { name, default: None, unit, help }
}

/// Every setting, in the order in which `--help` prints them.
pub const SETTINGS: &[Setting] = &[
    setting("LISTEN_ADDR", "0.0.0.0:8080", "address:port", "public listener; port 0 picks one"),
    setting("ADMIN_ADDR", "127.0.0.1:9090", "address:port", "admin listener, never public"),
    unset("ADMIN_TOKEN", "text", "what operators send as a Bearer token; a must where ADMIN_ADDR is not loopback"),
    unset("ADMIN_TOKEN_FILE", "file", "holds that token instead; read at the start"),
    unset("TLS_CERT", "file", "the public listener's certificate and its chain, in PEM; read again when it changes"),
    unset("TLS_KEY", "file", "its private key, in PEM"),
    unset(
        "TRUSTED_PROXIES",
        "addresses, networks",
        "proxies whose word on a sender's address is taken: 10.0.0.0/8, ::1",
    ),
    unset(
        "ALLOWED_ORIGINS",
        "*, origins",
        "web pages that may send without TOKENS_FILE: https://a.example, https://b.example",
    ),
    setting("PROXY_PROTOCOL", "off", "on, off", "connections from TRUSTED_PROXIES begin with a PROXY header, v1 or v2"),
    setting("ACK", "disk", "memory, disk, stored", "what an answer promises at least; a request may ask for more"),
    setting("ACK_MAX", "stored", "memory, disk, stored", "what a request may ask for at most; more is answered 403"),
    setting("ACK_TIMEOUT", "10s", "time", "an answer waits this long for what it is to promise"),
    setting("SPOOL_DIR", "./millpond-data/spool", "folder", "accepted work until it is stored, unless ACK=memory"),
    setting("SPOOL_MAX_BYTES", "10GiB", "size", "bytes in SPOOL_DIR; what does not fit is answered 503"),
    unset("S3_BUCKET", "name", "the bucket objects go to; unset, they go to STORE_DIR"),
    setting("S3_PREFIX", "", "path", "put before dt=YYYY-MM-DD/hr=HH in every key"),
    setting("S3_TIMEOUT", "10s", "time", "one attempt of one call to S3"),
    setting("S3_IF_NONE_MATCH", "on", "on, off", "send If-None-Match: * with a PUT; off for stores that lack it"),
    unset(
        "S3_EXPECTED_BUCKET_OWNER",
        "account id",
        "the AWS account that the bucket must belong to; S3 refuses every call if it does not",
    ),
    setting("STORE_DIR", "./millpond-data/objects", "folder", "the directory store, when S3_BUCKET is unset"),
    setting("MAX_WORKERS", "16", "1 to 1024", "concurrent uploads"),
    setting("MAX_QUEUE", "10000", "jobs", "jobs waiting; more are answered 503"),
    setting("MAX_QUEUE_BYTES", "256MiB", "size", "bytes of jobs waiting; more are answered 503"),
    setting("OBJECT_MAX_BYTES", "8MiB", "size", "an object is sealed at this size, as stored"),
    setting("OBJECT_MAX_AGE", "60s", "time", "an object is sealed at this age"),
    setting("STORED_LINGER", "200ms", "time", "an object that a request waits for is sealed after this"),
    setting(
        "STORED_INTERVAL",
        "1s",
        "time",
        "from one object sealed because a request waits for it to the next, at the least",
    ),
    setting("COMPRESSION", "gzip", "gzip, zstd, none", "of objects"),
    setting("RECORD", "envelope", "envelope, payload", "a stored line: with what is known about it, or bare"),
    setting(
        "RECEIPT_OBJECT",
        "key",
        "key, location",
        "what receipts name: the object's key, or with the bucket or folder before it, which needs TOKENS_FILE",
    ),
    setting(
        "READERS",
        "strict",
        "strict, any",
        "strict refuses payloads on which usual readers fail (docs/readers.md)",
    ),
    setting("MAX_BODY_BYTES", "1MiB", "size", "a request's body as sent; more is answered 413"),
    setting("MAX_DECODED_BYTES", "10MiB", "size", "a request's body decompressed; more is answered 413"),
    setting("MAX_CONNECTIONS", "16384", "connections", "open at once on the public listener; more are answered 503"),
    setting(
        "MAX_CONNECTIONS_PER_ADDRESS",
        "1024",
        "connections, off",
        "of one sender (IPv6: one /64); more are answered 429; off lifts its share of requests as well",
    ),
    setting("HEADER_TIMEOUT", "10s", "time", "from a request's first byte to the end of its headers; then 408"),
    setting("BODY_TIMEOUT", "30s", "time", "from the end of the headers to the end of the body; then 408"),
    setting("IDLE_TIMEOUT", "75s", "time", "a connection without a request; keep it above the load balancer's"),
    setting("SHUTDOWN_GRACE", "25s", "time", "from SIGTERM to the exit"),
    setting("RUST_LOG", "info", "filter", "what is logged, to standard error: warn, or info,millpond=debug"),
    setting("LOG_FORMAT", "text", "text, json", "of the log"),
    unset("TOKENS_FILE", "file", "tenants: digests of their tokens, and limits; unset, anybody may send"),
    setting(
        "TENANT_QUEUE_SHARE",
        "50%",
        "percent",
        "of MAX_QUEUE and MAX_QUEUE_BYTES, the most for one tenant; 100% is no limit",
    ),
    unset("TENANT_SPOOL_SHARE", "percent", "of SPOOL_MAX_BYTES, the most for one tenant; unset, TENANT_QUEUE_SHARE"),
    unset("AWS_REGION", "name", "the SDK's own, as are AWS_ACCESS_KEY_ID and the rest of its credential chain"),
    unset("AWS_ENDPOINT_URL_S3", "URL", "an S3-compatible server; the bucket then goes into the path"),
    unset("AWS_ENDPOINT_URL", "URL", "the same, for every service"),
];

/// The setting of exactly this name.
pub(super) fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// The setting that `name` was probably meant to be.
///
/// Short names need a close match:
/// at two slips `ACK` would be half the words in the dictionary.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let upper = name.to_ascii_uppercase();
    SETTINGS
        .iter()
        .map(|setting| (strsim::damerau_levenshtein(&upper, setting.name), setting.name))
        .filter(|(slips, near)| *slips <= slips_allowed(near))
        .min()
        .map(|(_, near)| near)
}

fn slips_allowed(name: &str) -> usize {
    match name.len() {
        0..=4 => 0,
        5..=7 => 1,
        _ => 2,
    }
}
