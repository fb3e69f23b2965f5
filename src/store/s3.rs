//! S3 through the SDK: the default credential chain and region, every timeout set, and no retries, since the worker owns
//! those. A body is sent from memory in one piece with its checksum, since some S3-compatible servers reject chunked bodies.

mod failure;
mod listing;

use std::error::Error;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::config::Builder as ConfigBuilder;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::head_object::{HeadObjectError, HeadObjectOutput};
use aws_sdk_s3::operation::put_object::PutObjectError;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::{Client, Config};
use aws_smithy_http_client::{Builder as HttpClientBuilder, tls};
use bytes::Bytes;

use super::metadata::{metadata, parse};
use super::{ErrorClass, StoreError, StoredObject, Upload};
use crate::config::S3Settings;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// S3 closes connections that are idle for about 20 s, and a request on one that is being closed fails.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// The lowest upload rate to allow for, in bytes a second. The timeout of an upload grows with its size, since concurrent
/// uploads on a slow link would otherwise time out again and again.
const UPLOAD_RATE_MIN: f64 = 1024.0 * 1024.0;

/// The operation of an upload, for messages.
const PUT: &str = "PutObject";

/// A call of the SDK on the store's bucket, which names the account that the bucket must belong to.
macro_rules! call {
    ($store:expr, $operation:ident) => {
        $store.client.$operation().bucket(&$store.bucket).set_expected_bucket_owner($store.expected_owner.clone())
    };
}
use call;

/// A bucket.
#[derive(Debug)]
pub struct S3Store {
    client: Client,
    bucket: String,
    /// The account that the bucket must belong to. S3 rejects a call with 403 if it belongs to another.
    expected_owner: Option<String>,
    pub(super) location: String,
    /// The bucket, prefix and endpoint, for messages.
    target: String,
    if_none_match: bool,
    timeout: Duration,
    /// Whether a listing was denied.
    cannot_list: AtomicBool,
}

/// The result of a HEAD of a key.
pub(super) enum Lookup {
    Object(Object),
    Missing,
    /// The role may not read objects, or there is none and the role may not list.
    Denied,
}

/// An object in the bucket.
pub(super) struct Object {
    /// The segment that its metadata names.
    segment: Option<String>,
    stored: StoredObject,
}

/// What to do about an object that exists.
enum Existing {
    Keep(Option<StoredObject>),
    /// It is of this segment, and holds fewer payloads.
    Replace,
}

impl Lookup {
    pub(super) fn object(self) -> Option<StoredObject> {
        match self {
            Self::Object(object) => Some(object.stored),
            Self::Missing | Self::Denied => None,
        }
    }
}

impl Object {
    fn is_of_segment(&self, upload: &Upload<'_>) -> bool {
        self.segment.as_ref() == Some(&upload.segment.to_string())
    }

    /// Whether it is of this segment and holds at least as many payloads.
    fn is_complete(&self, upload: &Upload<'_>) -> bool {
        self.is_of_segment(upload) && self.stored.payloads.is_none_or(|payloads| payloads >= upload.payloads)
    }
}

impl S3Store {
    pub(super) async fn connect(settings: &S3Settings, prefix: &str) -> Self {
        let http = HttpClientBuilder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc))
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .build_https();
        let shared = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .timeout_config(timeouts(settings.timeout))
            .retry_config(RetryConfig::disabled())
            .load()
            .await;
        let path_style = settings.path_style || shared.endpoint_url().is_some();
        let endpoint = settings.endpoint.as_deref().or_else(|| shared.endpoint_url());
        let server = match (endpoint, shared.region()) {
            (Some(endpoint), _) => without_credentials(endpoint),
            (None, Some(region)) => format!("AWS region {region}"),
            (None, None) => "AWS, no region set".to_owned(),
        };
        let slash = if prefix.is_empty() { "" } else { "/" };
        let target = format!("s3://{}{slash}{prefix} at {server}", settings.bucket);
        let config = ConfigBuilder::from(&shared).force_path_style(path_style).build();
        Self {
            client: Client::from_conf(config),
            bucket: settings.bucket.clone(),
            expected_owner: settings.expected_owner.clone(),
            location: format!("s3://{}", settings.bucket),
            target,
            if_none_match: settings.if_none_match,
            timeout: settings.timeout,
            cannot_list: AtomicBool::new(false),
        }
    }

    pub(super) async fn put(&self, upload: &Upload<'_>) -> Result<Option<StoredObject>, StoreError> {
        let mut is_conditional = self.if_none_match;
        if upload.may_exist && !is_conditional {
            match self.look_up(upload.key).await? {
                Lookup::Object(object) if object.is_complete(upload) => return Ok(Some(object.stored)),
                // An existing object may hold more than this one, and only a condition keeps it.
                Lookup::Denied => is_conditional = upload.is_damaged,
                Lookup::Object(_) | Lookup::Missing => {}
            }
        }
        match self.send(upload, is_conditional).await {
            Ok(()) => Ok(None),
            Err(error) if status(&error) == Some(412) => match self.existing(upload).await? {
                Existing::Keep(stored) => Ok(stored),
                // An earlier upload of the same segment, of which less could be read then.
                Existing::Replace => {
                    self.send(upload, false).await.map(|()| None).map_err(|error| self.error(PUT, &error))
                }
            },
            Err(error) => Err(self.error(PUT, &error)),
        }
    }

    async fn send(
        &self,
        upload: &Upload<'_>,
        is_conditional: bool,
    ) -> Result<(), SdkError<PutObjectError, HttpResponse>> {
        let transfer = Duration::from_secs_f64(upload.body.len() as f64 / UPLOAD_RATE_MIN);
        let put = call!(self, put_object)
            .key(upload.key)
            .set_metadata(Some(metadata(upload)))
            .set_if_none_match(is_conditional.then(|| "*".to_owned()))
            .body(ByteStream::from(upload.body.clone()))
            .customize()
            .config_override(Config::builder().timeout_config(timeouts(self.timeout + transfer)));
        put.send().await.map(drop)
    }

    /// What to do after a 412. The key is this segment's alone, so the object should be that of an earlier attempt whose
    /// response was lost. That is verified. Where the role may not read it, the 412 is enough if there was such an attempt.
    async fn existing(&self, upload: &Upload<'_>) -> Result<Existing, StoreError> {
        match self.look_up(upload.key).await? {
            Lookup::Object(object) if object.is_complete(upload) => Ok(Existing::Keep(Some(object.stored))),
            Lookup::Object(object) if object.is_of_segment(upload) => Ok(Existing::Replace),
            Lookup::Denied if upload.unconfirmed_payloads.is_some_and(|fewest| fewest < upload.payloads) => {
                Ok(Existing::Replace)
            }
            // An exited process stored it, perhaps when less of the segment could be read. A whole segment replaces nothing that
            // holds more.
            Lookup::Denied if upload.may_exist && upload.unconfirmed_payloads.is_none() && !upload.is_damaged => {
                Ok(Existing::Replace)
            }
            Lookup::Denied if upload.may_exist => Ok(Existing::Keep(None)),
            Lookup::Object(_) => Err(self.permanent(PUT, "412 for If-None-Match, but the key holds another object")),
            Lookup::Denied | Lookup::Missing => {
                Err(self.permanent(PUT, "412 for If-None-Match, but there is no object: try S3_IF_NONE_MATCH=off"))
            }
        }
    }

    async fn head(&self, key: &str) -> Result<HeadObjectOutput, SdkError<HeadObjectError, HttpResponse>> {
        call!(self, head_object).key(key).send().await
    }

    pub(super) async fn look_up(&self, key: &str) -> Result<Lookup, StoreError> {
        match self.head(key).await {
            Ok(head) => {
                let segment = head.metadata().and_then(|metadata| metadata.get("segment").cloned());
                Ok(Lookup::Object(Object { segment, stored: stored(&head) }))
            }
            Err(error) => match status(&error) {
                Some(404) => Ok(Lookup::Missing),
                Some(403) => Ok(Lookup::Denied),
                _ => Err(self.error("HeadObject", &error)),
            },
        }
    }

    pub(super) async fn find(&self, key: &str) -> Result<Option<StoredObject>, StoreError> {
        match self.head(key).await {
            Ok(head) => Ok(Some(stored(&head))),
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(self.error("HeadObject", &error)),
        }
    }

    /// A denied HEAD of the bucket is no error: a role that may only put objects is enough.
    pub(super) async fn check_reachable(&self) -> Result<(), StoreError> {
        match call!(self, head_bucket).send().await {
            Ok(_) => Ok(()),
            Err(error) => match status(&error) {
                Some(404) => {
                    Err(self.permanent("HeadBucket", "there is no such bucket: create it, or correct S3_BUCKET"))
                }
                Some(403 | 405 | 501) => Ok(()),
                _ => Err(self.error("HeadBucket", &error)),
            },
        }
    }

    pub(super) async fn read(&self, key: &str) -> Result<Bytes, StoreError> {
        let object = call!(self, get_object).key(key).send().await.map_err(|error| self.error("GetObject", &error))?;
        let body = object.body.collect().await.map_err(|error| self.permanent("GetObject", &error.to_string()))?;
        Ok(body.into_bytes())
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), StoreError> {
        call!(self, delete_object).key(key).send().await.map(drop).map_err(|error| self.error("DeleteObject", &error))
    }

    /// The error of a call: its class, from the status and S3's code, and a message for the operator.
    fn error<E>(&self, operation: &str, error: &SdkError<E, HttpResponse>) -> StoreError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let code = error.code().unwrap_or_default();
        let class = if failure::is_timeout(error) { ErrorClass::TimedOut } else { class(status(error), code) };
        StoreError { class, ..self.permanent(operation, &failure::message(error)) }
    }

    fn permanent(&self, operation: &str, message: &str) -> StoreError {
        StoreError::permanent(format!("{operation} on {}: {message}", self.target))
    }
}

fn stored(head: &HeadObjectOutput) -> StoredObject {
    head.metadata().map(parse).unwrap_or_default()
}

fn timeouts(attempt: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(attempt)
        .operation_attempt_timeout(attempt)
        .operation_timeout(attempt)
        .build()
}

fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// An endpoint without user name and password, for messages.
fn without_credentials(endpoint: &str) -> String {
    let Some((scheme, rest)) = endpoint.split_once("://") else { return endpoint.to_owned() };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = authority.rsplit('@').next().unwrap_or_default();
    let slash = if path.is_empty() { "" } else { "/" };
    format!("{scheme}://{host}{slash}{path}")
}

/// The codes are those of the list of error responses in S3's API reference.
fn class(status: Option<u16>, code: &str) -> ErrorClass {
    const THROTTLING: [&str; 6] = [
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
        "TooManyRequests",
        "BandwidthLimitExceeded",
    ];
    match (status, code) {
        (_, code) if THROTTLING.contains(&code) => ErrorClass::Throttled,
        (Some(429 | 503), _) => ErrorClass::Throttled,
        // A conflict of conditional writes, a request that was too slow, a clock that is being corrected.
        (_, "RequestTimeout" | "OperationAborted" | "ConditionalRequestConflict" | "RequestTimeTooSkewed") => {
            ErrorClass::Transient
        }
        (Some(300..=499 | 501 | 505), _) => ErrorClass::Permanent,
        _ => ErrorClass::Transient,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_an_endpoint_are_not_logged() {
        assert_eq!(without_credentials("https://user:pass@s3.example.net/a"), "https://s3.example.net/a");
        assert_eq!(without_credentials("http://127.0.0.1:9000"), "http://127.0.0.1:9000");
    }

    #[test]
    fn errors_are_classified_by_status_and_code() {
        use ErrorClass::{Permanent, Throttled, Transient};
        let cases = [
            (None, "", Transient),
            (Some(500), "InternalError", Transient),
            (Some(503), "SlowDown", Throttled),
            (Some(503), "", Throttled),
            (Some(429), "", Throttled),
            (Some(400), "RequestTimeout", Transient),
            (Some(409), "ConditionalRequestConflict", Transient),
            (Some(403), "AccessDenied", Permanent),
            (Some(403), "RequestTimeTooSkewed", Transient),
            (Some(400), "ExpiredToken", Permanent),
            (Some(404), "NoSuchBucket", Permanent),
            (Some(301), "PermanentRedirect", Permanent),
            (Some(501), "NotImplemented", Permanent),
        ];
        for (status, code, expected) in cases {
            assert_eq!(class(status, code), expected, "{status:?} {code}");
        }
    }
}
