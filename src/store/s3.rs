//! S3 through the SDK: the default credential chain and region, every timeout set, and no retries, since the worker owns
//! those. A body goes out of memory in one piece, so it is signed and summed as it is and not sent in chunks, which some
//! servers that speak S3 do not take.

use std::collections::HashMap;
use std::error::Error;
use std::ops::Range;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::config::Builder as ConfigBuilder;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::{Client, Config};
use aws_smithy_http_client::{Builder as HttpClientBuilder, tls};
use bytes::Bytes;

use super::{CONNECT_TIMEOUT, ErrorClass, Found, ObjectInfo, StoreError};
use crate::config::S3Settings;

/// S3 drops a connection that idles for some 20 s; one that it is about to drop must not be used.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// An upload has this much time for its bytes, in bytes a second, beside `S3_TIMEOUT`: on a slow link many at once would
/// otherwise all time out, again and again.
const SLOWEST_UPLOAD: f64 = 1024.0 * 1024.0;
/// An error message is cut here: a server may send anything.
const MESSAGE_MAX_CHARS: usize = 300;

/// A bucket.
#[derive(Debug)]
pub struct S3Store {
    client: Client,
    bucket: String,
    /// The account that the bucket has to belong to: S3 answers 403 to a call if it belongs to another.
    expected_owner: Option<String>,
    location: String,
    if_none_match: bool,
    timeout: Duration,
}

impl S3Store {
    pub(super) async fn connect(settings: &S3Settings) -> Self {
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
        let config = ConfigBuilder::from(&shared).force_path_style(path_style).build();
        Self {
            client: Client::from_conf(config),
            bucket: settings.bucket.clone(),
            expected_owner: settings.expected_owner.clone(),
            location: format!("s3://{}", settings.bucket),
            if_none_match: settings.if_none_match,
            timeout: settings.timeout,
        }
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
    ) -> Result<(), StoreError> {
        let timeouts = timeouts(self.timeout + Duration::from_secs_f64(body.len() as f64 / SLOWEST_UPLOAD));
        let put = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .set_expected_bucket_owner(self.expected_owner.clone())
            .key(key)
            .set_metadata(Some(metadata(info)))
            .set_if_none_match(self.if_none_match.then(|| "*".to_owned()))
            .body(ByteStream::from(body))
            .customize()
            .config_override(Config::builder().timeout_config(timeouts));
        match put.send().await {
            Ok(_) => Ok(()),
            Err(error) if status(&error) == Some(412) => self.is_there(key, info, may_be_there).await,
            Err(error) => Err(sorted(&error)),
        }
    }

    /// The store says that the key is taken. The key is this segment's and no other's, so that should be this object, from
    /// an attempt whose answer was lost; but a word is not an object, so it is looked at. Where looking is not allowed the
    /// word has to do, if there was such an attempt.
    async fn is_there(&self, key: &str, info: &ObjectInfo, may_be_there: bool) -> Result<(), StoreError> {
        let head = self
            .client
            .head_object()
            .bucket(&self.bucket)
            .set_expected_bucket_owner(self.expected_owner.clone())
            .key(key)
            .send()
            .await;
        let segment = info.segment.to_string();
        match head {
            Ok(head) if head.metadata().is_some_and(|metadata| metadata.get("segment") == Some(&segment)) => Ok(()),
            Err(error) if status(&error) == Some(403) && may_be_there => Ok(()),
            Ok(_) => Err(StoreError::permanent("412 for If-None-Match, but what is there is another object")),
            Err(error) if matches!(status(&error), Some(403 | 404)) => {
                Err(StoreError::permanent("412 for If-None-Match, but there is no object: try S3_IF_NONE_MATCH=off"))
            }
            Err(error) => Err(sorted(&error)),
        }
    }

    pub(super) async fn find(&self, key: &str) -> Result<Option<Found>, StoreError> {
        match self
            .client
            .head_object()
            .bucket(&self.bucket)
            .set_expected_bucket_owner(self.expected_owner.clone())
            .key(key)
            .send()
            .await
        {
            Ok(head) => Ok(Some(head.metadata().map(found).unwrap_or_default())),
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(sorted(&error)),
        }
    }

    /// Asks for the bucket's head. Being denied that says nothing: a role that may only put objects is a good one.
    pub(super) async fn reach(&self) -> Result<(), StoreError> {
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
                Some(404) => Err(StoreError::permanent(format!("there is no bucket {}", self.bucket))),
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

fn metadata(info: &ObjectInfo) -> HashMap<String, String> {
    let mut metadata = HashMap::from([
        ("segment".to_owned(), info.segment.to_string()),
        ("jobs".to_owned(), info.jobs.to_string()),
        ("payloads".to_owned(), info.payloads.to_string()),
    ]);
    if !info.dead.is_empty() {
        let places: Vec<String> = info.dead.iter().map(|places| format!("{}-{}", places.start, places.end)).collect();
        metadata.insert("dead".to_owned(), places.join(","));
    }
    metadata
}

/// Reads what [`metadata`] wrote.
fn found(metadata: &HashMap<String, String>) -> Found {
    let range = |text: &str| {
        let (start, end) = text.split_once('-')?;
        Some(start.parse().ok()?..end.parse().ok()?)
    };
    let dead: Vec<Range<u32>> =
        metadata.get("dead").map(|places| places.split(',').filter_map(range).collect()).unwrap_or_default();
    let jobs = metadata.get("jobs").and_then(|jobs| jobs.parse::<u32>().ok());
    let lost: u32 = dead.iter().map(|places| places.end.saturating_sub(places.start)).sum();
    Found { places: jobs.map(|jobs| jobs.saturating_add(lost)), dead }
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
    let class = match error {
        SdkError::TimeoutError(_) => ErrorClass::TimedOut,
        SdkError::DispatchFailure(failure) if failure.is_timeout() => ErrorClass::TimedOut,
        _ => class(status(error), code),
    };
    let message = match (status(error), error.message()) {
        (Some(status @ 501), _) => format!("{status} {code}: if the store lacks If-None-Match, S3_IF_NONE_MATCH=off"),
        (Some(status), Some(said)) => format!("{status} {code}: {said}"),
        (Some(status), None) => format!("{status} {code}"),
        (None, _) => DisplayErrorContext(error).to_string(),
    };
    StoreError { class, message: message.trim_end().chars().take(MESSAGE_MAX_CHARS).collect() }
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
    fn metadata_comes_back_as_what_it_was() {
        let segment = crate::segment::SegmentId::new(std::time::UNIX_EPOCH);
        let info = ObjectInfo { segment, jobs: 10, payloads: 20, dead: vec![3..5, 11..12] };
        assert_eq!(found(&metadata(&info)), Found { places: Some(13), dead: info.dead });
        assert_eq!(found(&HashMap::new()), Found::default());
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
