//! Reads the settings: each value or its default, then the combinations.

use std::ffi::OsString;
use std::time::Duration;

use super::reader::Reader;
use super::{
    HttpSettings, LogSettings, ObjectSettings, QueueSettings, ReceiptObject, S3Settings, Settings, SettingsError,
    SpoolSettings, StatsdSettings, StatsdTags, StoreSettings, TenantSettings, TlsSettings, TraceSettings,
    TransportSettings, conflicts, otlp, parse, warnings,
};
use crate::decode::{Readers, Record};
use crate::segment::Compression;

pub(super) fn settings(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Settings, SettingsError> {
    let mut reader = Reader::default();
    let selected = reader.select(vars);
    match envy::from_iter(selected) {
        Ok(values) => reader.values = values,
        Err(error) => reader.problems.push(error.to_string()),
    }
    match reader.read() {
        Some(settings) if reader.problems.is_empty() => Ok(settings),
        _ => Err(SettingsError(reader.problems)),
    }
}

impl Reader {
    fn read(&mut self) -> Option<Settings> {
        let (filter, log_warnings) = self.get("RUST_LOG", parse::log_filter)?;
        let http = self.http()?;
        let (role, broker) = self.fleet(http.ack_timeout)?;
        let mut settings = Settings {
            store: self.store()?,
            prefix: self.get("S3_PREFIX", parse::prefix)?,
            transport: self.transport()?,
            queue: QueueSettings {
                max_jobs: self.get("MAX_QUEUE", parse::count(1..=100_000_000))?,
                max_bytes: self.get("MAX_QUEUE_BYTES", parse::positive_size)?,
            },
            tenants: self.tenants()?,
            rollout_file: self.get_optional("ROLLOUT_FILE", parse::path),
            mirror_max_bytes: self.get("MIRROR_MAX_BYTES", parse::positive_size)?,
            objects: ObjectSettings {
                max_bytes: self.get("OBJECT_MAX_BYTES", parse::object_size)?,
                max_age: self.get("OBJECT_MAX_AGE", parse::positive_duration)?,
                stored_linger: self.get("STORED_LINGER", parse::duration)?,
                stored_interval: self.stored_interval(http.ack_timeout)?,
                compression: self.get(
                    "COMPRESSION",
                    parse::one_of([
                        ("gzip", Compression::Gzip),
                        ("zstd", Compression::Zstd),
                        ("none", Compression::None),
                    ]),
                )?,
            },
            http,
            max_workers: self.get("MAX_WORKERS", parse::count(1..=1024))?,
            spool: SpoolSettings {
                dir: self.get("SPOOL_DIR", parse::path)?,
                max_bytes: self.get("SPOOL_MAX_BYTES", parse::positive_size)?,
            },
            role,
            broker,
            admin_addr: self.get("ADMIN_ADDR", parse::address)?,
            admin_token: self.get_optional("ADMIN_TOKEN", parse::token),
            admin_token_file: self.get_optional("ADMIN_TOKEN_FILE", parse::path),
            statsd: self.statsd()?,
            drain_delay: self.get("DRAIN_DELAY", parse::duration)?,
            handover_socket: self.get_optional("HANDOVER_SOCKET", parse::socket_path),
            shutdown_grace: self.get("SHUTDOWN_GRACE", parse::duration)?,
            traces: self.traces()?,
            log: LogSettings {
                filter,
                json: self.get("LOG_FORMAT", parse::one_of([("text", false), ("json", true)]))?,
            },
            warnings: log_warnings.into_iter().map(|warning| format!("RUST_LOG: {warning}")).collect(),
        };
        conflicts::check(self, &settings);
        settings.warnings.extend(warnings::of(self, &settings));
        Some(settings)
    }

    fn store(&mut self) -> Option<StoreSettings> {
        self.get_optional("AWS_REGION", parse::region);
        let any_endpoint = self.get_optional("AWS_ENDPOINT_URL", parse::endpoint);
        let endpoint = self.get_optional("AWS_ENDPOINT_URL_S3", parse::endpoint).or(any_endpoint);
        let timeout = self.get("S3_TIMEOUT", parse::positive_duration)?;
        let expected_owner = self.get_optional("S3_EXPECTED_BUCKET_OWNER", parse::account_id);
        let if_none_match = self.get("S3_IF_NONE_MATCH", parse::switch)?;
        let dir = self.get("STORE_DIR", parse::path)?;
        let path_style = endpoint.is_some();
        Some(match self.get_optional("S3_BUCKET", parse::bucket) {
            Some(bucket) => {
                StoreSettings::S3(S3Settings { bucket, timeout, expected_owner, if_none_match, endpoint, path_style })
            }
            None => StoreSettings::Dir(dir),
        })
    }

    fn http(&mut self) -> Option<HttpSettings> {
        Some(HttpSettings {
            listen_addr: self.get("LISTEN_ADDR", parse::address)?,
            max_connections: self.get("MAX_CONNECTIONS", parse::count(1..=1_000_000))?,
            header_timeout: self.get("HEADER_TIMEOUT", parse::positive_duration)?,
            body_timeout: self.get("BODY_TIMEOUT", parse::positive_duration)?,
            idle_timeout: self.get("IDLE_TIMEOUT", parse::positive_duration)?,
            max_body_bytes: self.get("MAX_BODY_BYTES", parse::positive_size)?,
            max_decoded_bytes: self.get("MAX_DECODED_BYTES", parse::positive_size)?,
            record: self
                .get("RECORD", parse::one_of([("envelope", Record::Envelope), ("payload", Record::Payload)]))?,
            sqsd_context: self.get("SQSD_CONTEXT", parse::switch)?,
            readers: self.get("READERS", parse::one_of([("strict", Readers::Strict), ("any", Readers::Any)]))?,
            ack: self.get("ACK", parse::ack)?,
            ack_max: self.get("ACK_MAX", parse::ack)?,
            ack_timeout: self.get("ACK_TIMEOUT", parse::positive_duration)?,
            receipt_object: self.get(
                "RECEIPT_OBJECT",
                parse::one_of([("key", ReceiptObject::Key), ("location", ReceiptObject::Location)]),
            )?,
            allowed_origins: self.get_optional("ALLOWED_ORIGINS", parse::origins).unwrap_or_default(),
        })
    }

    /// The default is lowered to half of `ACK_TIMEOUT`, so that the other half is left for the upload.
    fn stored_interval(&mut self, ack_timeout: Duration) -> Option<Duration> {
        let interval = self.get("STORED_INTERVAL", parse::duration)?;
        if !self.is_set("STORED_INTERVAL") {
            return Some(interval.min(ack_timeout / 2));
        }
        self.reject_if(
            interval > ack_timeout && self.are_set(["STORED_INTERVAL", "ACK_TIMEOUT"]),
            "STORED_INTERVAL exceeds ACK_TIMEOUT: a request with ack=stored would time out before its object is sealed; lower STORED_INTERVAL or raise ACK_TIMEOUT",
        );
        Some(interval.min(ack_timeout))
    }

    fn statsd(&mut self) -> Option<Option<StatsdSettings>> {
        let prefix = self.get("STATSD_PREFIX", parse::statsd_prefix)?;
        let tags =
            self.get("STATSD_TAGS", parse::one_of([("off", StatsdTags::Off), ("dogstatsd", StatsdTags::Dogstatsd)]))?;
        let interval = self.get("STATSD_INTERVAL", parse::statsd_interval)?;
        let addr = self.get_optional("STATSD_ADDR", parse::host_and_port);
        Some(addr.map(|addr| StatsdSettings { addr, prefix, tags, interval }))
    }

    fn tenants(&mut self) -> Option<Option<TenantSettings>> {
        let queue_percent = self.get("TENANT_QUEUE_SHARE", parse::percent)?;
        let spool_percent = self.get_optional("TENANT_SPOOL_SHARE", parse::percent).unwrap_or(queue_percent);
        let file = self.get_optional("TOKENS_FILE", parse::path);
        Some(file.map(|file| TenantSettings { file, queue_percent, spool_percent }))
    }

    fn traces(&mut self) -> Option<Option<TraceSettings>> {
        let url = self.get_optional("OTEL_EXPORTER_OTLP_ENDPOINT", otlp::traces_url);
        let headers = self.get_optional("OTEL_EXPORTER_OTLP_HEADERS", otlp::headers).unwrap_or_default();
        self.get("OTEL_EXPORTER_OTLP_PROTOCOL", otlp::protocol)?;
        let service_name = self.get("OTEL_SERVICE_NAME", otlp::service_name)?;
        let ratio = self.get("OTEL_TRACES_SAMPLER_ARG", otlp::ratio)?;
        let sampler = self.get("OTEL_TRACES_SAMPLER", |name| otlp::sampler(name, ratio))?;
        Some(url.map(|url| TraceSettings { url, headers, service_name, sampler }))
    }

    fn transport(&mut self) -> Option<TransportSettings> {
        let cert = self.get_optional("TLS_CERT", parse::path);
        let key = self.get_optional("TLS_KEY", parse::path);
        Some(TransportSettings {
            tls: cert.zip(key).map(|(cert, key)| TlsSettings { cert, key }),
            trusted_proxies: self.get_optional("TRUSTED_PROXIES", parse::networks).unwrap_or_default(),
            proxy_protocol: self.get("PROXY_PROTOCOL", parse::switch)?,
            max_connections_per_address: self.get("MAX_CONNECTIONS_PER_ADDRESS", parse::limit(1..=1_000_000))?,
        })
    }
}
