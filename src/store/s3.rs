//! S3 through the SDK: the default credential chain and region, every timeout set, and no retries, since the worker owns
//! those. A body goes out of memory in one piece, so it is signed and summed as it is and not sent in chunks, which some
//! servers that speak S3 do not take.

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

use super::metadata::{found, metadata};
use super::{CONNECT_TIMEOUT, ErrorClass, ObjectInfo, StoreError, StoredObject};
use crate::config::S3Settings;

/// S3 drops a connection that idles for some 20 s; one that it is about to drop must not be used.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// An upload has this much time for its bytes, in bytes a second, beside `S3_TIMEOUT`: on a slow link many at once would
/// otherwise all time out, again and again.
const SLOWEST_UPLOAD: f64 = 1024.0 * 1024.0;

/// A bucket.
#[derive(Debug)]
pub struct S3Store {
    client: Client,
    bucket: String,
    /// The account that the bucket has to belong to: S3 answers 403 to a call if it belongs to another.
    expected_owner: Option<String>,
    location: String,
    /// Bucket, prefix and endpoint, for messages.
    target: String,
    if_none_match: bool,
    timeout: Duration,
    /// Set once a listing was denied.
    cannot_list: AtomicBool,
}

/// What a look at a key has shown.
pub(super) enum Seen {
    Object(There),
    Nothing,
    /// The role may not look, or there is nothing and it may not list.
    Denied,
}

/// An object.
pub(super) struct There {
    /// The segment that its metadata names.
    segment: Option<String>,
    found: StoredObject,
}

/// An object that was there before.
enum Kept {
    AsItIs(Option<StoredObject>),
    /// It is this segment's, and holds fewer payloads.
    Less,
}

impl Seen {
    pub(super) fn found(self) -> Option<StoredObject> {
        match self {
            Self::Object(there) => Some(there.found),
            Self::Nothing | Self::Denied => None,
        }
    }
}

impl There {
    fn is_of(&self, info: &ObjectInfo) -> bool {
        self.segment.as_ref() == Some(&info.segment.to_string())
    }

    /// Whether it is this segment's and holds at least as many payloads.
    fn holds_all_of(&self, info: &ObjectInfo) -> bool {
        self.is_of(info) && self.found.payloads.is_none_or(|payloads| payloads >= info.payloads)
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
        let place = match (endpoint, shared.region()) {
            (Some(endpoint), _) => without_credentials(endpoint),
            (None, Some(region)) => format!("AWS region {region}"),
            (None, None) => "AWS, no region set".to_owned(),
        };
        let slash = if prefix.is_empty() { "" } else { "/" };
        let target = format!("s3://{}{slash}{prefix} at {place}", settings.bucket);
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

    /// Bucket, prefix and endpoint, for messages.
    pub(super) fn target(&self) -> &str {
        &self.target
    }

    pub(super) fn location(&self) -> &str {
        &self.location
    }

    pub(super) async fn put(
        &self,
        key: &str,
        body: Bytes,
        info: &ObjectInfo,
        may_be_there: bool,
    ) -> Result<Option<StoredObject>, StoreError> {
        let mut is_conditional = self.if_none_match;
        if may_be_there && !is_conditional {
            match self.look(key).await? {
                Seen::Object(there) if there.holds_all_of(info) => return Ok(Some(there.found)),
                // What is there may hold more than this does, and only the store can tell whether anything is.
                Seen::Denied => is_conditional = info.is_damaged,
                Seen::Object(_) | Seen::Nothing => {}
            }
        }
        match self.send(key, body.clone(), info, is_conditional).await {
            Ok(()) => Ok(None),
            Err(error) if status(&error) == Some(412) => match self.is_there(key, info, may_be_there).await? {
                Kept::AsItIs(found) => Ok(found),
                // An earlier upload of the same segment when less of it could be read.
                Kept::Less => self.send(key, body, info, false).await.map(|()| None).map_err(|error| sorted(&error)),
            },
            Err(error) => Err(sorted(&error)),
        }
    }

    async fn send(
        &self,
        key: &str,
        body: Bytes,
        info: &ObjectInfo,
        is_conditional: bool,
    ) -> Result<(), SdkError<PutObjectError, HttpResponse>> {
        let timeouts = timeouts(self.timeout + Duration::from_secs_f64(body.len() as f64 / SLOWEST_UPLOAD));
        let put = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .set_expected_bucket_owner(self.expected_owner.clone())
            .key(key)
            .set_metadata(Some(metadata(info)))
            .set_if_none_match(is_conditional.then(|| "*".to_owned()))
            .body(ByteStream::from(body))
            .customize()
            .config_override(Config::builder().timeout_config(timeouts));
        put.send().await.map(drop)
    }

    /// The store says that the key is taken. The key is this segment's and no other's, so that should be this object, from
    /// an attempt whose answer was lost; but a word is not an object, so it is looked at. Where looking is not allowed the
    /// word has to do, if there was such an attempt.
    async fn is_there(&self, key: &str, info: &ObjectInfo, may_be_there: bool) -> Result<Kept, StoreError> {
        match self.look(key).await? {
            Seen::Object(there) if there.holds_all_of(info) => Ok(Kept::AsItIs(Some(there.found))),
            Seen::Object(there) if there.is_of(info) => Ok(Kept::Less),
            Seen::Denied if info.earlier_payloads.is_some_and(|earlier| earlier < info.payloads) => Ok(Kept::Less),
            Seen::Denied if may_be_there => Ok(Kept::AsItIs(None)),
            Seen::Object(_) => Err(StoreError::permanent("412 for If-None-Match, but what is there is another object")),
            Seen::Denied | Seen::Nothing => {
                Err(StoreError::permanent("412 for If-None-Match, but there is no object: try S3_IF_NONE_MATCH=off"))
            }
        }
    }

    async fn head(&self, key: &str) -> Result<HeadObjectOutput, SdkError<HeadObjectError, HttpResponse>> {
        let head = self.client.head_object().bucket(&self.bucket).key(key);
        head.set_expected_bucket_owner(self.expected_owner.clone()).send().await
    }

    /// What is under a key.
    pub(super) async fn look(&self, key: &str) -> Result<Seen, StoreError> {
        match self.head(key).await {
            Ok(head) => {
                let segment = head.metadata().and_then(|metadata| metadata.get("segment").cloned());
                Ok(Seen::Object(There { segment, found: head.metadata().map(found).unwrap_or_default() }))
            }
            Err(error) => match status(&error) {
                Some(404) => Ok(Seen::Nothing),
                Some(403) => Ok(Seen::Denied),
                _ => Err(sorted(&error)),
            },
        }
    }

    pub(super) async fn find(&self, key: &str) -> Result<Option<StoredObject>, StoreError> {
        match self.head(key).await {
            Ok(head) => Ok(Some(head.metadata().map(found).unwrap_or_default())),
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(sorted(&error)),
        }
    }

    /// Asks for the bucket's head. Being denied that says nothing: a role that may only put objects is a good one.
    pub(super) async fn check_reachable(&self) -> Result<(), StoreError> {
        match self
            .client
            .head_bucket()
            .bucket(&self.bucket)
            .set_expected_bucket_owner(self.expected_owner.clone())
            .send()
            .await
        {
            Ok(_) => Ok(()),
            Err(error) => match status(&error) {
                Some(404) => Err(StoreError::permanent("there is no such bucket: create it, or correct S3_BUCKET")),
                Some(403 | 405 | 501) => Ok(()),
                _ => Err(sorted(&error)),
            },
        }
    }

    pub(super) async fn read(&self, key: &str) -> Result<Bytes, StoreError> {
        let got = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .set_expected_bucket_owner(self.expected_owner.clone())
            .key(key)
            .send()
            .await
            .map_err(|error| sorted(&error))?;
        let body = got.body.collect().await.map_err(|error| StoreError::permanent(error.to_string()))?;
        Ok(body.into_bytes())
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let deleted = self
            .client
            .delete_object()
            .bucket(&self.bucket)
            .set_expected_bucket_owner(self.expected_owner.clone())
            .key(key)
            .send()
            .await;
        deleted.map(|_| ()).map_err(|error| sorted(&error))
    }
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

/// The error in the caller's terms: its class by the status and S3's code, and a message for people.
fn sorted<E>(error: &SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let code = error.code().unwrap_or_default();
    let class = if failure::is_timeout(error) { ErrorClass::TimedOut } else { class(status(error), code) };
    StoreError { class, message: failure::message(error) }
}

/// An endpoint as it may be logged.
fn without_credentials(endpoint: &str) -> String {
    let Some((scheme, rest)) = endpoint.split_once("://") else { return endpoint.to_owned() };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = authority.rsplit('@').next().unwrap_or_default();
    let slash = if path.is_empty() { "" } else { "/" };
    format!("{scheme}://{host}{slash}{path}")
}

/// Codes come from the list of error responses in S3's API reference.
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
        // A conditional conflict, a request that came too slowly, a clock that is being set right.
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
    fn credentials_in_an_endpoint_are_not_repeated() {
        assert_eq!(without_credentials("https://user:pass@s3.example.net/a"), "https://s3.example.net/a");
        assert_eq!(without_credentials("http://127.0.0.1:9000"), "http://127.0.0.1:9000");
    }

    #[test]
    fn errors_are_sorted_by_what_helps_against_them() {
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
