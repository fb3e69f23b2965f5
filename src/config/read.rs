//! Reads the settings: selects the variables that are settings, then parses each value or its default.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use super::{
    HttpSettings, LogSettings, ObjectSettings, QueueSettings, ReceiptObject, S3Settings, Settings, SettingsError,
    SpoolSettings, StoreSettings, TenantSettings, TlsSettings, TransportSettings, conflicts, parse, table, typos,
    warnings,
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

/// Settings that protect the server. Where one is set but empty, it is more likely that a template failed than that the
/// operator wants no protection.
const PROTECTIVE: [&str; 6] =
    ["ADMIN_TOKEN", "ADMIN_TOKEN_FILE", "TLS_CERT", "TLS_KEY", "TOKENS_FILE", "TRUSTED_PROXIES"];

/// Settings whose values may contain a secret. Messages do not repeat them.
const SECRET: [&str; 4] = ["ADMIN_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"];

/// Parses the values of the settings and collects every problem.
#[derive(Default)]
pub(super) struct Reader {
    /// The values that are set. The names are in lower case, as envy returns them.
    values: BTreeMap<String, String>,
    /// Names whose values are invalid. Their defaults stand in for them, so that all other problems are found as well.
    invalid: Vec<&'static str>,
    problems: Vec<String>,
}

impl Reader {
    /// Keeps the variables that are settings, and reports those that are probably meant to be one.
    fn select(&mut self, vars: impl IntoIterator<Item = (OsString, OsString)>) -> BTreeMap<String, String> {
        let vars: Vec<_> = vars.into_iter().collect();
        let is_set = |wanted: &str| vars.iter().any(|(name, value)| name == wanted && !value.is_empty());
        let mut selected = BTreeMap::new();
        for (name, value) in &vars {
            let Some(name) = name.to_str() else { continue };
            if table::find(name).is_none() {
                match typos::foreign_name(name) {
                    // Beside the right name, it is meant for another program.
                    Some(right) if value.is_empty() || is_set(right) => {}
                    Some(right) => self.problems.push(format!("{name}: unknown setting; use {right}")),
                    None => self.problems.extend(
                        typos::nearest(name).map(|near| format!("{name}: unknown setting; did you mean {near}?")),
                    ),
                }
                continue;
            }
            match value.to_str().map(str::trim) {
                None => self.problems.push(format!("{name}: expected text in UTF-8")),
                Some("") if PROTECTIVE.contains(&name) => {
                    self.problems
                        .push(format!("{name}: expected a value, but it is empty; unset it to run without it"));
                }
                Some("") => {}
                Some(value) => {
                    selected.insert(name.to_owned(), value.to_owned());
                }
            }
        }
        selected
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.values.get(&name.to_ascii_lowercase()).map(String::as_str)
    }

    /// Whether the operator has set `name`, to a valid value or not.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    pub(super) fn are_valid(&self, names: [&str; 2]) -> bool {
        names.iter().all(|name| !self.invalid.contains(name))
    }

    /// Whether the operator has set both to valid values. Where only one of two limits is set, the default of the other
    /// one does not conflict with it: the lower of the two applies.
    pub(super) fn are_set(&self, names: [&str; 2]) -> bool {
        self.are_valid(names) && names.iter().all(|name| self.is_set(name))
    }

    pub(super) fn reject_if(&mut self, is_wrong: bool, problem: &str) {
        if is_wrong {
            self.problems.push(problem.to_owned());
        }
    }

    /// The value of `name`; `None` if it is unset or invalid.
    fn get_optional<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let value = self.value(name)?;
        match parse(value) {
            Ok(value) => Some(value),
            Err(expected) => {
                let shown = if SECRET.contains(&name) { String::new() } else { format!("={value}") };
                self.problems.push(format!("{name}{shown}: expected {expected}"));
                self.invalid.push(name);
                None
            }
        }
    }

    /// The value of `name`, or its default in the table. Every setting that is read with this has a valid default.
    fn get<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        self.get_optional(name, &parse).or_else(|| parse(table::find(name)?.default?).ok())
    }

    fn read(&mut self) -> Option<Settings> {
        let (filter, log_warnings) = self.get("RUST_LOG", parse::log_filter)?;
        let http = self.http()?;
        let mut settings = Settings {
            store: self.store()?,
            prefix: self.get("S3_PREFIX", parse::prefix)?,
            transport: self.transport()?,
            queue: QueueSettings {
                max_jobs: self.get("MAX_QUEUE", parse::count(1..=100_000_000))?,
                max_bytes: self.get("MAX_QUEUE_BYTES", parse::positive_size)?,
            },
            tenants: self.tenants()?,
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
            admin_addr: self.get("ADMIN_ADDR", parse::address)?,
            admin_token: self.get_optional("ADMIN_TOKEN", parse::token),
            admin_token_file: self.get_optional("ADMIN_TOKEN_FILE", parse::path),
            shutdown_grace: self.get("SHUTDOWN_GRACE", parse::duration)?,
            log: LogSettings {
                filter,
                json: self.get("LOG_FORMAT", parse::one_of([("text", false), ("json", true)]))?,
            },
            warnings: log_warnings,
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

    fn tenants(&mut self) -> Option<Option<TenantSettings>> {
        let queue_percent = self.get("TENANT_QUEUE_SHARE", parse::percent)?;
        let spool_percent = self.get_optional("TENANT_SPOOL_SHARE", parse::percent).unwrap_or(queue_percent);
        let file = self.get_optional("TOKENS_FILE", parse::path);
        Some(file.map(|file| TenantSettings { file, queue_percent, spool_percent }))
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
