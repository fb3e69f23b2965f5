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
    const fn set(self, name: &'static str, default: &'static str, unit: &'static str, help: &'static str) -> Setting {
        Setting { group: self, name, default: Some(default), unit, help }
    }

    const fn unset(self, name: &'static str, unit: &'static str, help: &'static str) -> Setting {
        Setting { group: self, name, default: None, unit, help }
    }
}

const NET: Group = Group("Listeners");
const AUTH: Group = Group("Authentication and tenants");
const ACKS: Group = Group("Delivery guarantees");
const QUEUE: Group = Group("Queue and spool");
const FLEET: Group = Group("Fleet");
const DATA: Group = Group("Objects");
const STORE: Group = Group("Store");
const HTTP: Group = Group("Request and connection limits");
const MONITORING: Group = Group("Monitoring");
const ROLLOUT: Group = Group("Rollout");
const RUN: Group = Group("Shutdown and log");

/// Every setting, in the order in which `--help` prints them.
pub const SETTINGS: &[Setting] = &[
    NET.set("LISTEN_ADDR", "0.0.0.0:8080", "address:port", "public listener; port 0 picks a free port"),
    NET.set("ADMIN_ADDR", "127.0.0.1:9090", "address:port", "admin listener; never expose it to the internet"),
    NET.unset("ADMIN_TOKEN", "text", "Bearer token of the admin listener; required if ADMIN_ADDR is not loopback"),
    NET.unset("ADMIN_TOKEN_FILE", "file", "holds ADMIN_TOKEN instead; read at startup"),
    NET.unset("TLS_CERT", "file", "PEM certificate chain of the public listener; reloaded when it changes"),
    NET.unset("TLS_KEY", "file", "PEM private key of TLS_CERT"),
    NET.unset("TRUSTED_PROXIES", "addresses, networks", "proxies whose X-Forwarded-For is trusted: 10.0.0.0/8, ::1"),
    NET.set("PROXY_PROTOCOL", "off", "on, off", "TRUSTED_PROXIES send a PROXY protocol header, version 1 or 2"),
    AUTH.unset("TOKENS_FILE", "file", "tenants, tokens and rate limits; if unset, no request is authenticated"),
    AUTH.set("TENANT_QUEUE_SHARE", "50%", "percent", "limit of one tenant in MAX_QUEUE and MAX_QUEUE_BYTES"),
    AUTH.unset("TENANT_SPOOL_SHARE", "percent", "limit of one tenant in SPOOL_MAX_BYTES or BROKER_MAX_BYTES; if unset, TENANT_QUEUE_SHARE"),
    AUTH.unset("ALLOWED_ORIGINS", "*, origins", "origins of web pages that may send when TOKENS_FILE is unset: https://a.example"),
    ACKS.set("ACK", "disk", "memory, disk, replicated, stored", "level that every request waits for; a request may ask for a higher one"),
    ACKS.set("ACK_MAX", "stored", "memory, disk, replicated, stored", "highest ack level of a request; a higher one gets 403"),
    ACKS.set("ACK_TIMEOUT", "10s", "time", "longest wait for the ack level; then the response has the level reached"),
    ACKS.set(
        "RECEIPT_OBJECT",
        "key",
        "key, location",
        "value of `object` in responses: the key, or location/key (requires TOKENS_FILE)",
    ),
    QUEUE.set("MAX_QUEUE", "10000", "jobs", "jobs in the queue; when it is full, requests get 503"),
    QUEUE.set("MAX_QUEUE_BYTES", "256MiB", "size", "bytes in the queue; when it is full, requests get 503"),
    QUEUE.set("SPOOL_DIR", "./millpond-data/spool", "folder", "the spool, on a durable disk; not used with ACK=memory"),
    QUEUE.set("SPOOL_MAX_BYTES", "10GiB", "size", "bytes in SPOOL_DIR; when it is full, requests get 503"),
    FLEET.set("ROLE", "all", "all, front, worker", "accept batches and upload them, or one of the two; see docs/fleet.md"),
    FLEET.unset("BROKER_URL", "URL, ...", "NATS servers that keep segments instead of SPOOL_DIR: nats://10.0.0.1:4222"),
    FLEET.unset("BROKER_CREDENTIALS", "file", "credentials for the NATS servers (.creds)"),
    FLEET.unset("BROKER_CA", "file", "certificates of authorities for tls:// in BROKER_URL, instead of those of the system"),
    FLEET.set("BROKER_STREAM", "millpond", "name", "stream of the segments, and first part of every subject"),
    FLEET.set("BROKER_REPLICAS", "3", "1, 3, 5", "NATS servers that keep each segment; 1 is lost with its disk"),
    FLEET.set("BROKER_MAX_BYTES", "10GiB", "size", "bytes in the stream; when it is nearly full, requests get 503"),
    DATA.set("OBJECT_MAX_BYTES", "8MiB", "size", "a segment is sealed at this compressed size"),
    DATA.set("OBJECT_MAX_AGE", "60s", "time", "a segment is sealed at this age"),
    DATA.set("STORED_LINGER", "200ms", "time", "time from a request with ack=stored to the seal of its segment"),
    DATA.set("STORED_INTERVAL", "1s", "time", "shortest time between two segments sealed for ack=stored"),
    DATA.set("COMPRESSION", "gzip", "gzip, zstd, none", "compression of objects"),
    DATA.set(
        "RECORD",
        "envelope",
        "envelope, payload",
        "a stored line has metadata and the payload, or only the payload",
    ),
    DATA.set("SQSD_CONTEXT", "off", "on, off", "keep the X-Aws-Sqsd-* headers of a batch as `context.sqsd` of its lines"),
    DATA.set("READERS", "strict", "strict, any", "strict rejects payloads on which readers fail (docs/readers.md)"),
    STORE.unset("S3_BUCKET", "name", "bucket for objects; if unset, objects go to STORE_DIR"),
    STORE.set("S3_PREFIX", "", "path", "prefix of every key, before dt=YYYY-MM-DD/hr=HH"),
    STORE.set("S3_TIMEOUT", "10s", "time", "timeout of one attempt of an S3 call; uploads get 1s more for each MiB"),
    STORE.set("S3_IF_NONE_MATCH", "on", "on, off", "send If-None-Match: * with a PUT; off for stores without it"),
    STORE.unset("S3_EXPECTED_BUCKET_OWNER", "account id", "AWS account that must own the bucket, or S3 rejects calls"),
    STORE.set("STORE_DIR", "./millpond-data/objects", "folder", "directory store, used if S3_BUCKET is unset"),
    STORE.set("MAX_WORKERS", "16", "1 to 1024", "concurrent uploads"),
    STORE.unset("AWS_REGION", "name", "AWS region; the SDK reads it, and AWS_ACCESS_KEY_ID and other AWS variables"),
    STORE.unset("AWS_ENDPOINT_URL_S3", "URL", "S3-compatible server; the bucket name then goes into the path"),
    STORE.unset("AWS_ENDPOINT_URL", "URL", "endpoint for every AWS service; AWS_ENDPOINT_URL_S3 takes precedence"),
    HTTP.set("MAX_BODY_BYTES", "1MiB", "size", "size of a body as sent; a larger one gets 413"),
    HTTP.set("MAX_DECODED_BYTES", "10MiB", "size", "size of a decompressed body; a larger one gets 413"),
    HTTP.set("MAX_CONNECTIONS", "16384", "connections", "open connections; more get 503"),
    HTTP.set(
        "MAX_CONNECTIONS_PER_ADDRESS",
        "1024",
        "connections, off",
        "open connections of one client address (IPv6: /64); more get 429; off also disables its limit on requests in flight",
    ),
    HTTP.set("HEADER_TIMEOUT", "10s", "time", "from a request's first byte to the end of its headers; then 408"),
    HTTP.set("BODY_TIMEOUT", "30s", "time", "from the end of the headers to the end of the body; then 408"),
    HTTP.set("IDLE_TIMEOUT", "75s", "time", "closes idle connections; keep it above the load balancer's idle timeout"),
    ROLLOUT.unset("ROLLOUT_FILE", "file", "JSON file with the rollout: mirror, forward, features, variants; see docs/rollout.md"),
    ROLLOUT.set("MIRROR_MAX_BYTES", "8MiB", "size", "copies of batches that wait or are on their way; more are dropped"),
    MONITORING.unset("STATSD_ADDR", "host:port", "StatsD daemon that receives the metrics over UDP; if unset, none are sent"),
    MONITORING.set("STATSD_PREFIX", "millpond", "text", "first part of every name that is sent to STATSD_ADDR"),
    MONITORING.set("STATSD_TAGS", "off", "off, dogstatsd", "labels as parts of the name, or as DogStatsD tags"),
    MONITORING.set("STATSD_INTERVAL", "10s", "time", "time between two flushes to STATSD_ADDR; at least 1s"),
    MONITORING.unset(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "URL",
        "OpenTelemetry collector for traces, such as http://127.0.0.1:4318; if unset, nothing is traced",
    ),
    MONITORING.unset(
        "OTEL_EXPORTER_OTLP_HEADERS",
        "name=value, ...",
        "headers of each export, such as authorization=Bearer%20abc; never logged",
    ),
    MONITORING.set("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "http/protobuf", "protocol of the export"),
    MONITORING.set("OTEL_SERVICE_NAME", "millpond", "text", "service.name of the spans"),
    MONITORING.set(
        "OTEL_TRACES_SAMPLER",
        "parentbased_traceidratio",
        "sampler",
        "always_on, always_off or traceidratio, or these with parentbased_, which follows the flag of traceparent",
    ),
    MONITORING.set("OTEL_TRACES_SAMPLER_ARG", "0.001", "0 to 1", "share of the requests that traceidratio samples"),
    RUN.set("DRAIN_DELAY", "0s", "time", "from SIGTERM to the shutdown: /health says 503, and requests are accepted"),
    RUN.set("SHUTDOWN_GRACE", "25s", "time", "deadline of a graceful shutdown, from the end of DRAIN_DELAY to the exit"),
    RUN.unset(
        "HANDOVER_SOCKET",
        "path",
        "Unix socket on which a new process receives the listeners of the running one; at most 107 bytes",
    ),
    RUN.set("RUST_LOG", "info", "filter", "log filter, such as warn or info,millpond=debug"),
    RUN.set("LOG_FORMAT", "text", "text, json", "format of log lines"),
];

/// The setting of exactly this name.
pub(super) fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}
