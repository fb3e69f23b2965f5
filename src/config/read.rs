//! Reads the settings: from variables to [`Settings`], through everything that may be wrong with them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

use super::{
    HttpSettings, LogSettings, ObjectSettings, QueueSettings, ReceiptObject, S3Settings, Settings, SettingsError,
    SpoolSettings, StoreSettings, TenantSettings, TlsSettings, TransportSettings, ignored, parse, slips, table,
};

pub(super) fn settings(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Settings, SettingsError> {
    let mut check = Check::default();
    let known = check.sort(vars);
    let raw: Raw = match envy::from_iter(known) {
        Ok(raw) => raw,
        Err(error) => {
            check.problems.push(error.to_string());
            return Err(SettingsError(check.problems));
        }
    };
    let settings = check.read(&raw);
    match settings {
        Some(settings) if check.problems.is_empty() => Ok(settings),
        _ => Err(SettingsError(check.problems)),
    }
}

/// The variables as envy finds them: unset, or text that nobody has looked at yet.
#[derive(Debug, Default, Deserialize)]
struct Raw {
    ack: Option<String>,
    ack_max: Option<String>,
    ack_timeout: Option<String>,
    admin_addr: Option<String>,
    admin_token: Option<String>,
    admin_token_file: Option<String>,
    allowed_origins: Option<String>,
    aws_endpoint_url: Option<String>,
    aws_endpoint_url_s3: Option<String>,
    aws_region: Option<String>,
    body_timeout: Option<String>,
    compression: Option<String>,
    header_timeout: Option<String>,
    idle_timeout: Option<String>,
    listen_addr: Option<String>,
    log_format: Option<String>,
    max_body_bytes: Option<String>,
    max_connections: Option<String>,
    max_connections_per_address: Option<String>,
    max_decoded_bytes: Option<String>,
    max_queue: Option<String>,
    max_queue_bytes: Option<String>,
    max_workers: Option<String>,
    object_max_age: Option<String>,
    object_max_bytes: Option<String>,
    proxy_protocol: Option<String>,
    receipt_object: Option<String>,
    record: Option<String>,
    readers: Option<String>,
    rust_log: Option<String>,
    s3_bucket: Option<String>,
    s3_expected_bucket_owner: Option<String>,
    s3_if_none_match: Option<String>,
    s3_prefix: Option<String>,
    s3_timeout: Option<String>,
    shutdown_grace: Option<String>,
    spool_dir: Option<String>,
    spool_max_bytes: Option<String>,
    store_dir: Option<String>,
    stored_interval: Option<String>,
    stored_linger: Option<String>,
    tenant_queue_share: Option<String>,
    tenant_spool_share: Option<String>,
    tokens_file: Option<String>,
    tls_cert: Option<String>,
    tls_key: Option<String>,
    trusted_proxies: Option<String>,
}

/// Collects what is wrong while the settings are read.
#[derive(Default)]
struct Check {
    problems: Vec<String>,
    warnings: Vec<String>,
}

/// A smaller spool holds no batch that is worth sending.
const SPOOL_MIN_BYTES: usize = 32 * 1024;

/// Settings without which more is allowed.
const GUARDS: [&str; 6] = ["ADMIN_TOKEN", "ADMIN_TOKEN_FILE", "TLS_CERT", "TLS_KEY", "TOKENS_FILE", "TRUSTED_PROXIES"];

impl Check {
    /// Keeps the variables that are settings; reports those that are nearly one.
    fn sort(&mut self, vars: impl IntoIterator<Item = (OsString, OsString)>) -> BTreeMap<String, String> {
        let mut known = BTreeMap::new();
        let vars: Vec<_> = vars.into_iter().collect();
        let is_given = |right: &str| vars.iter().any(|(name, value)| name == right && !value.is_empty());
        // Another program's name beside the right one is for that program.
        let wrong = vars.iter().filter(|(_, value)| !value.is_empty()).filter_map(|(name, _)| {
            let name = name.to_str()?;
            slips::wrong_name(name).filter(|right| !is_given(right)).map(|right| (name.to_owned(), right))
        });
        self.problems.extend(wrong.map(|(name, right)| format!("{name}: no such setting; its name here is {right}")));
        for (name, value) in vars {
            let Some(name) = name.to_str() else { continue };
            if table::find(name).is_none() {
                if slips::wrong_name(name).is_some() {
                    continue;
                }
                if let Some(near) = slips::nearest(name) {
                    self.problems.push(format!("{name}: no such setting; did you mean {near}?"));
                }
                continue;
            }
            match value.into_string() {
                // A template that came out empty is not to open the doors.
                Ok(value) if value.trim().is_empty() && GUARDS.contains(&name) => {
                    self.problems.push(format!("{name}: expected a value; unset it to do without"));
                }
                Ok(value) if value.trim().is_empty() => {}
                Ok(value) => {
                    known.insert(name.to_owned(), value.trim().to_owned());
                }
                Err(_) => self.problems.push(format!("{name}: expected text in UTF-8")),
            }
        }
        known
    }

    /// The value of `name`, or its default from the table, through `parse`.
    fn get<T>(&mut self, name: &str, value: &Option<String>, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = value.as_deref().or_else(|| table::find(name).and_then(|setting| setting.default))?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(expected) => {
                self.problems.push(format!("{name}={text}: expected {expected}"));
                None
            }
        }
    }

    /// Checks a variable that has no default without repeating its value, which may hold a secret.
    fn quietly<T>(&mut self, name: &str, value: Option<&str>, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        match value.map(parse)? {
            Ok(value) => Some(value),
            Err(expected) => {
                self.problems.push(format!("{name}: expected {expected}"));
                None
            }
        }
    }

    /// Reports a pair of settings that contradict each other. Where only one of them was given, the other's default gives
    /// way to it instead: the lower of two limits holds.
    fn contradicts(&mut self, wrong: bool, both_given: bool, message: &str) {
        if wrong && both_given {
            self.problems.push(message.to_owned());
        }
    }

    /// Reads every setting before it gives up on any, so that all problems are found in one go.
    fn read(&mut self, raw: &Raw) -> Option<Settings> {
        let path_style = raw.aws_endpoint_url.is_some() || raw.aws_endpoint_url_s3.is_some();
        self.quietly("AWS_REGION", raw.aws_region.as_deref(), parse::region);
        self.quietly("AWS_ENDPOINT_URL", raw.aws_endpoint_url.as_deref(), parse::endpoint);
        self.quietly("AWS_ENDPOINT_URL_S3", raw.aws_endpoint_url_s3.as_deref(), parse::endpoint);
        let s3_asked_for = raw.s3_bucket.is_some();
        let bucket = self.get("S3_BUCKET", &raw.s3_bucket, parse::bucket);
        let timeout = self.get("S3_TIMEOUT", &raw.s3_timeout, parse::positive_duration);
        let expected_owner = self.get("S3_EXPECTED_BUCKET_OWNER", &raw.s3_expected_bucket_owner, parse::account_id);
        self.contradicts(
            raw.s3_expected_bucket_owner.is_some() && !s3_asked_for,
            true,
            "S3_EXPECTED_BUCKET_OWNER is set and S3_BUCKET is not: name the bucket, or unset the first",
        );
        let if_none_match = self.get("S3_IF_NONE_MATCH", &raw.s3_if_none_match, parse::switch);
        let dir = self.get("STORE_DIR", &raw.store_dir, parse::path);
        let prefix = self.get("S3_PREFIX", &raw.s3_prefix, parse::prefix);
        let admin_addr = self.get("ADMIN_ADDR", &raw.admin_addr, parse::address);
        let admin_token = self.quietly("ADMIN_TOKEN", raw.admin_token.as_deref(), parse::token);
        let admin_token_file = self.get("ADMIN_TOKEN_FILE", &raw.admin_token_file, parse::path);
        self.contradicts(
            raw.admin_token.is_some() && raw.admin_token_file.is_some(),
            true,
            "ADMIN_TOKEN and ADMIN_TOKEN_FILE are both set: set one of them",
        );
        self.contradicts(
            raw.aws_endpoint_url_s3.is_some() && !s3_asked_for,
            true,
            "AWS_ENDPOINT_URL_S3 is set and S3_BUCKET is not: name the bucket, or unset the endpoint to store in STORE_DIR",
        );
        let has_token = raw.admin_token.is_some() || raw.admin_token_file.is_some();
        self.contradicts(
            !has_token && admin_addr.is_some_and(|addr| !addr.ip().to_canonical().is_loopback()),
            true,
            "ADMIN_ADDR is not loopback and ADMIN_TOKEN is not set: give the admin listener a token, or bind it to 127.0.0.1",
        );
        let transport = self.transport(raw);
        let stored_linger = self.get("STORED_LINGER", &raw.stored_linger, parse::duration);
        let http = self.http(raw, admin_addr, stored_linger);
        let stored_interval = self.stored_interval(raw, http.as_ref().map(|http| http.ack_timeout));
        let max_jobs = self.get("MAX_QUEUE", &raw.max_queue, |s| parse::count(s, 1..=100_000_000));
        let max_queue_bytes = self.get("MAX_QUEUE_BYTES", &raw.max_queue_bytes, parse::positive_size);
        let tokens_file = self.get("TOKENS_FILE", &raw.tokens_file, parse::path);
        let queue_percent = self.get("TENANT_QUEUE_SHARE", &raw.tenant_queue_share, parse::percent);
        let spool_percent = self.get("TENANT_SPOOL_SHARE", &raw.tenant_spool_share, parse::percent);
        let max_object_bytes = self.get("OBJECT_MAX_BYTES", &raw.object_max_bytes, parse::object_size);
        let max_age = self.get("OBJECT_MAX_AGE", &raw.object_max_age, parse::positive_duration);
        let compression = self.get("COMPRESSION", &raw.compression, parse::compression);
        let max_workers = self.get("MAX_WORKERS", &raw.max_workers, |s| parse::count(s, 1..=1024));
        let spool_dir = self.get("SPOOL_DIR", &raw.spool_dir, parse::path);
        let spool_max_bytes = self.get("SPOOL_MAX_BYTES", &raw.spool_max_bytes, parse::positive_size);
        if let (Some(object), Some(spool)) = (max_object_bytes, spool_max_bytes) {
            self.contradicts(
                object > spool,
                raw.object_max_bytes.is_some() && raw.spool_max_bytes.is_some(),
                "OBJECT_MAX_BYTES is over SPOOL_MAX_BYTES: an object has to fit into the spool, so raise the second or lower the first",
            );
        }
        if let (None, Some(store), Some(spool)) = (&bucket, &dir, &spool_dir) {
            self.contradicts(
                parse::same_folder(store, spool),
                true,
                "STORE_DIR and SPOOL_DIR are one folder: give each a folder of its own",
            );
        }
        if let (Some(object), Some(queue), Some(http)) = (max_object_bytes, max_queue_bytes, &http) {
            let frame = parse::largest_frame(http.max_decoded_bytes, queue);
            // Defaults do not come near, so whatever was given is at fault.
            self.contradicts(
                frame > parse::FRAME_LIMIT_BYTES,
                true,
                "MAX_DECODED_BYTES and MAX_QUEUE_BYTES: the lines of one batch (4 x MAX_DECODED_BYTES, up to MAX_QUEUE_BYTES) have to stay under 4GiB, so lower one of the two",
            );
            self.contradicts(
                s3_asked_for && frame <= parse::FRAME_LIMIT_BYTES && object.saturating_add(frame) > parse::PUT_MAX_BYTES,
                true,
                "OBJECT_MAX_BYTES, with the largest batch on top (4 x MAX_DECODED_BYTES, up to MAX_QUEUE_BYTES), is over the 5GiB that S3 takes in one PUT: lower OBJECT_MAX_BYTES, MAX_DECODED_BYTES or MAX_QUEUE_BYTES",
            );
        }
        let shutdown_grace = self.get("SHUTDOWN_GRACE", &raw.shutdown_grace, parse::duration);
        let filter = self.get("RUST_LOG", &raw.rust_log, parse::log_filter);
        let text = raw.rust_log.as_deref().unwrap_or_default();
        match filter.as_ref().map_or(Ok(Vec::new()), |filter| slips::unknown_targets(text, filter)) {
            Ok(warnings) => self.warnings.extend(warnings),
            Err(expected) => self.problems.push(format!("RUST_LOG={text}: expected {expected}")),
        }
        if let Some(spool) = spool_max_bytes {
            self.contradicts(
                spool < SPOOL_MIN_BYTES,
                true,
                "SPOOL_MAX_BYTES is under 32KiB: no batch would fit into the spool",
            );
        }
        let json = self.get("LOG_FORMAT", &raw.log_format, parse::log_format);

        let store = match (s3_asked_for, bucket) {
            (true, bucket) => StoreSettings::S3(S3Settings {
                bucket: bucket?,
                timeout: timeout?,
                expected_owner,
                if_none_match: if_none_match?,
                endpoint: raw.aws_endpoint_url_s3.clone().or_else(|| raw.aws_endpoint_url.clone()),
                path_style,
            }),
            (false, _) => StoreSettings::Dir(dir?),
        };
        let mut settings = Settings {
            store,
            prefix: prefix?,
            http: http?,
            transport: transport?,
            queue: QueueSettings { max_jobs: max_jobs?, max_bytes: max_queue_bytes? },
            tenants: match tokens_file {
                Some(file) => {
                    let queue_percent = queue_percent?;
                    Some(TenantSettings { file, queue_percent, spool_percent: spool_percent.unwrap_or(queue_percent) })
                }
                None => None,
            },
            objects: ObjectSettings {
                max_bytes: max_object_bytes?,
                max_age: max_age?,
                stored_linger: stored_linger?,
                stored_interval: stored_interval?,
                compression: compression?,
            },
            max_workers: max_workers?,
            spool: SpoolSettings { dir: spool_dir?, max_bytes: spool_max_bytes? },
            admin_addr: admin_addr?,
            admin_token,
            admin_token_file,
            shutdown_grace: shutdown_grace?,
            log: LogSettings { filter: filter?, json: json? },
            warnings: std::mem::take(&mut self.warnings),
        };
        let given = ignored::Given {
            store_dir: raw.store_dir.is_some(),
            spool_dir: raw.spool_dir.is_some(),
            spool_max_bytes: raw.spool_max_bytes.is_some(),
            endpoint: raw.aws_endpoint_url.is_some(),
            s3_timeout: timeout,
        };
        let ignored = ignored::warnings(&settings, &given);
        settings.warnings.extend(ignored);
        Some(settings)
    }

    fn http(
        &mut self,
        raw: &Raw,
        admin_addr: Option<SocketAddr>,
        stored_linger: Option<Duration>,
    ) -> Option<HttpSettings> {
        let listen_addr = self.get("LISTEN_ADDR", &raw.listen_addr, parse::address);
        let max_connections = self.get("MAX_CONNECTIONS", &raw.max_connections, |s| parse::count(s, 1..=1_000_000));
        let header_timeout = self.get("HEADER_TIMEOUT", &raw.header_timeout, parse::positive_duration);
        let body_timeout = self.get("BODY_TIMEOUT", &raw.body_timeout, parse::positive_duration);
        let idle_timeout = self.get("IDLE_TIMEOUT", &raw.idle_timeout, parse::positive_duration);
        let max_body_bytes = self.get("MAX_BODY_BYTES", &raw.max_body_bytes, parse::positive_size);
        let max_decoded_bytes = self.get("MAX_DECODED_BYTES", &raw.max_decoded_bytes, parse::positive_size);
        let record = self.get("RECORD", &raw.record, parse::record);
        let readers = self.get("READERS", &raw.readers, parse::readers);
        let ack = self.get("ACK", &raw.ack, parse::ack);
        let ack_max = self.get("ACK_MAX", &raw.ack_max, parse::ack);
        if let (Some(least), Some(most)) = (ack, ack_max) {
            self.contradicts(
                most < least,
                true,
                "ACK_MAX is below ACK: every answer promises ACK at least, so raise the first or lower the second",
            );
        }
        let ack_timeout = self.get("ACK_TIMEOUT", &raw.ack_timeout, parse::positive_duration);
        let receipt_object = self.get("RECEIPT_OBJECT", &raw.receipt_object, parse::receipt_object);
        self.contradicts(
            receipt_object == Some(ReceiptObject::Location) && raw.tokens_file.is_none(),
            true,
            "RECEIPT_OBJECT is location and TOKENS_FILE is not set: every sender would be shown the bucket or the folder, so set TOKENS_FILE or use RECEIPT_OBJECT=key",
        );
        let allowed_origins = self.get("ALLOWED_ORIGINS", &raw.allowed_origins, parse::origins);
        if let (Some(linger), Some(wait)) = (stored_linger, ack_timeout) {
            self.contradicts(
                linger > wait,
                raw.stored_linger.is_some() && raw.ack_timeout.is_some(),
                "STORED_LINGER is over ACK_TIMEOUT: no answer would ever wait long enough, so raise the second or lower the first",
            );
        }
        if let (Some(public), Some(admin)) = (listen_addr, admin_addr) {
            self.contradicts(
                parse::collide(public, admin),
                true,
                "LISTEN_ADDR and ADMIN_ADDR are the same address: give each a port of its own",
            );
        }
        if let (Some(body), Some(decoded)) = (max_body_bytes, max_decoded_bytes) {
            self.contradicts(
                body > decoded,
                raw.max_body_bytes.is_some() && raw.max_decoded_bytes.is_some(),
                "MAX_BODY_BYTES is over MAX_DECODED_BYTES: a plain body is both, so raise the second or lower the first",
            );
        }
        Some(HttpSettings {
            listen_addr: listen_addr?,
            max_connections: max_connections?,
            header_timeout: header_timeout?,
            body_timeout: body_timeout?,
            idle_timeout: idle_timeout?,
            max_body_bytes: max_body_bytes?,
            max_decoded_bytes: max_decoded_bytes?,
            record: record?,
            readers: readers?,
            ack: ack?,
            ack_max: ack_max?,
            ack_timeout: ack_timeout?,
            receipt_object: receipt_object?,
            allowed_origins: allowed_origins.unwrap_or_default(),
        })
    }

    /// Where it is not given it gives way to a short `ACK_TIMEOUT`, so that half of that is left for the upload.
    fn stored_interval(&mut self, raw: &Raw, ack_timeout: Option<Duration>) -> Option<Duration> {
        let interval = self.get("STORED_INTERVAL", &raw.stored_interval, parse::duration)?;
        let Some(wait) = ack_timeout else { return Some(interval) };
        if raw.stored_interval.is_none() {
            return Some(interval.min(wait / 2));
        }
        self.contradicts(
            interval > wait,
            raw.ack_timeout.is_some(),
            "STORED_INTERVAL is over ACK_TIMEOUT: an answer would time out before its object is sealed, so raise the second or lower the first",
        );
        Some(interval.min(wait))
    }

    fn transport(&mut self, raw: &Raw) -> Option<TransportSettings> {
        let cert = self.get("TLS_CERT", &raw.tls_cert, parse::path);
        let key = self.get("TLS_KEY", &raw.tls_key, parse::path);
        self.contradicts(
            raw.tls_cert.is_some() != raw.tls_key.is_some(),
            true,
            "TLS_CERT and TLS_KEY go together: set both, or neither",
        );
        let trusted_proxies = self.get("TRUSTED_PROXIES", &raw.trusted_proxies, parse::networks);
        let proxy_protocol = self.get("PROXY_PROTOCOL", &raw.proxy_protocol, parse::switch);
        self.contradicts(
            proxy_protocol == Some(true) && raw.trusted_proxies.is_none(),
            true,
            "PROXY_PROTOCOL is on and TRUSTED_PROXIES is not set: nobody's PROXY header would be read, so name the proxies",
        );
        let per_address = |text: &str| parse::limit(text, 1..=1_000_000);
        let max_per_address = self.get("MAX_CONNECTIONS_PER_ADDRESS", &raw.max_connections_per_address, per_address);
        Some(TransportSettings {
            tls: cert.zip(key).map(|(cert, key)| TlsSettings { cert, key }),
            trusted_proxies: trusted_proxies.unwrap_or_default(),
            proxy_protocol: proxy_protocol?,
            max_connections_per_address: max_per_address?,
        })
    }
}
