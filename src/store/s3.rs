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
use aws_sdk_s3::Client;
use aws_sdk_s3::config::Builder as ConfigBuilder;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::{Builder as HttpClientBuilder, tls};
use bytes::Bytes;

use super::{CONNECT_TIMEOUT, ErrorClass, Found, ObjectInfo, StoreError};
use crate::config::S3Settings;

/// S3 drops a connection that idles for some 20 s; one that it is about to drop must not be used.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// An error message is cut here: a server may send anything.
const MESSAGE_MAX_CHARS: usize = 300;

/// A bucket.
#[derive(Debug)]
pub struct S3Store {
    client: Client,
    bucket: String,
    location: String,
    if_none_match: bool,
}

impl S3Store {
    pub(super) async fn connect(settings: &S3Settings) -> Self {
        let http = HttpClientBuilder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc))
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(settings.timeout)
            .operation_attempt_timeout(settings.timeout)
            .operation_timeout(settings.timeout)
            .build();
        let shared = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .timeout_config(timeouts)
            .retry_config(RetryConfig::disabled())
            .load()
            .await;
        let path_style = settings.path_style || shared.endpoint_url().is_some();
        let config = ConfigBuilder::from(&shared).force_path_style(path_style).build();
        Self {
            client: Client::from_conf(config),
            bucket: settings.bucket.clone(),
            location: format!("s3://{}", settings.bucket),
            if_none_match: settings.if_none_match,
        }
    }

    pub(super) fn location(&self) -> &str {
        &self.location
    }

    pub(super) async fn put(&self, key: &str, body: Bytes, info: &ObjectInfo) -> Result<(), StoreError> {
        let put = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .set_metadata(Some(metadata(info)))
            .set_if_none_match(self.if_none_match.then(|| "*".to_owned()))
            .body(ByteStream::from(body));
        match put.send().await {
            Ok(_) => Ok(()),
            // The key is this segment's and no other's, so what is there already is this object, from an attempt whose
            // answer was lost.
            Err(error) if self.if_none_match && status(&error) == Some(412) => Ok(()),
            Err(error) => Err(sorted(&error)),
        }
    }

    pub(super) async fn find(&self, key: &str) -> Result<Option<Found>, StoreError> {
        match self.client.head_object().bucket(&self.bucket).key(key).send().await {
            Ok(head) => Ok(Some(head.metadata().map(found).unwrap_or_default())),
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(sorted(&error)),
        }
    }

    /// Asks for the bucket's head. Being denied that says nothing: a role that may only put objects is a good one.
    pub(super) async fn reach(&self) -> Result<(), StoreError> {
        match self.client.head_bucket().bucket(&self.bucket).send().await {
            Ok(_) => Ok(()),
            Err(error) => match status(&error) {
                Some(404) => Err(StoreError::permanent(format!("there is no bucket {}", self.bucket))),
                Some(code) if code < 500 => Ok(()),
                _ => Err(sorted(&error)),
            },
        }
    }

    pub(super) async fn prove(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let (client, bucket) = (&self.client, &self.bucket);
        let put = client.put_object().bucket(bucket).key(key).body(ByteStream::from(body.clone())).send().await;
        put.map_err(|error| sorted(&error).while_doing("write"))?;
        let got = client.get_object().bucket(bucket).key(key).send().await;
        let got = got.map_err(|error| sorted(&error).while_doing("read back"))?;
        let read = got.body.collect().await.map_err(|error| StoreError::permanent(format!("read back: {error}")))?;
        let deleted = client.delete_object().bucket(bucket).key(key).send().await;
        deleted.map_err(|error| sorted(&error).while_doing("delete"))?;
        if read.into_bytes() == body {
            Ok(())
        } else {
            Err(StoreError::permanent("what was read back is not what was written"))
        }
    }
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
    let class = class(status(error), code);
    let message = match (status(error), error.message()) {
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
        (Some(300..=499), _) => ErrorClass::Permanent,
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
        ];
        for (status, code, expected) in cases {
            assert_eq!(class(status, code), expected, "{status:?} {code}");
        }
    }
}
