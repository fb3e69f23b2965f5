//! The message of a failed call to S3: the cause, as the store or the operating system reports it, and what to do.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::iter;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

/// A longer cause is truncated, since a server may send anything.
const CAUSE_MAX_CHARS: usize = 300;
/// The region of the bucket, in the response to a call that was sent to another region.
const BUCKET_REGION: &str = "x-amz-bucket-region";

/// The cause of a failed call and the remedy, if one is known.
pub(super) fn message<E>(error: &SdkError<E, HttpResponse>) -> String
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let (cause, remedy) = match error.raw_response() {
        Some(response) => {
            let (status, code) = (response.status().as_u16(), error.code().unwrap_or_default());
            let cause = match error.message() {
                Some(message) => format!("{status} {code}: {message}"),
                None => format!("{status} {code}"),
            };
            (cause, remedy(status, code, response.headers().get(BUCKET_REGION)))
        }
        None => no_response(error, is_timeout(error)),
    };
    let cause: String = cause.trim_end().chars().take(CAUSE_MAX_CHARS).collect();
    if remedy.is_empty() { cause } else { format!("{cause}; {remedy}") }
}

pub(super) fn is_timeout<E>(error: &SdkError<E, HttpResponse>) -> bool {
    match error {
        SdkError::TimeoutError(_) => true,
        SdkError::DispatchFailure(failure) => failure.is_timeout(),
        _ => false,
    }
}

/// What to do about an error response. The codes are those of the list of error responses in S3's API reference.
fn remedy(status: u16, code: &str, region: Option<&str>) -> String {
    let text = match (status, code) {
        (_, "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException")
        | (301 | 307 | 308, _) => {
            return match region {
                Some(region) => format!("the bucket is in another region: set AWS_REGION={region}"),
                None => "the bucket is in another region: set AWS_REGION to that of the bucket".to_owned(),
            };
        }
        (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch") => {
            "the credentials are wrong: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        }
        (_, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") => "the credentials have expired: renew them",
        (_, "RequestTimeTooSkewed") => "this machine's clock is wrong: set it",
        (_, "NoSuchBucket") => "there is no such bucket: create it, or correct S3_BUCKET",
        (403, _) => "grant the server's user or role this call on this bucket and prefix",
        (501, _) => "if the store lacks If-None-Match, set S3_IF_NONE_MATCH=off",
        (429 | 503, _) => "the store is throttling: fewer uploads run at the same time until it accepts them",
        (200..=299, _) => "this is not a response of an S3 server: check the endpoint",
        _ => "",
    };
    text.to_owned()
}

/// Why there was no response, and what to do.
fn no_response(error: &(dyn Error + 'static), is_timeout: bool) -> (String, String) {
    let chain: Vec<&(dyn Error + 'static)> = iter::successors(Some(error), |error| (**error).source()).collect();
    let text = chain.iter().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    let kind = chain.iter().rev().find_map(|error| error.downcast_ref::<io::Error>()).map(io::Error::kind);
    let innermost = || chain.last().map(ToString::to_string).unwrap_or_default();
    let text = text.to_ascii_lowercase();
    let says = |words: &str| text.contains(words);
    let (cause, remedy) = if says("missing region") || says("region must be set") {
        ("no region is set".to_owned(), "set AWS_REGION")
    } else if says("credentials") || says("identity") {
        let remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role";
        ("no credentials were found".to_owned(), remedy)
    } else if says("dns error") || says("failed to lookup address") {
        let remedy = "check the endpoint's name, AWS_REGION and this machine's DNS";
        ("the host name cannot be resolved".to_owned(), remedy)
    } else if says("certificate") {
        let remedy = "check the endpoint's name, or add its CA to the system's certificates";
        (format!("the server's certificate is not accepted ({})", innermost()), remedy)
    } else if is_timeout {
        let remedy = "check the network to the store; if it is slow, raise S3_TIMEOUT";
        ("no response in time".to_owned(), remedy)
    } else {
        match kind {
            Some(ErrorKind::ConnectionRefused) => (
                "connection refused".to_owned(),
                "check that the store is running, and that AWS_ENDPOINT_URL_S3 is its address",
            ),
            Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof) => {
                ("the store closed the connection without a response".to_owned(), "")
            }
            Some(ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable) => {
                (innermost(), "check the network to the store")
            }
            _ => (innermost(), ""),
        }
    };
    (cause, remedy.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A library's error that wraps one of the operating system.
    #[derive(Debug, thiserror::Error)]
    #[error("client error (Connect)")]
    struct Wrapping(#[source] io::Error);

    #[test]
    fn the_cause_is_the_innermost_error_without_debug_output() {
        let failure = no_response(&Wrapping(ErrorKind::ConnectionRefused.into()), false);
        assert_eq!(failure.0, "connection refused");
        assert!(failure.1.contains("AWS_ENDPOINT_URL_S3"));
        let certificate = io::Error::new(ErrorKind::InvalidData, "invalid peer certificate: UnknownIssuer");
        let (cause, remedy) = no_response(&Wrapping(certificate), false);
        assert!(cause.contains("UnknownIssuer") && remedy.contains("CA"), "{cause}; {remedy}");
        let missing = no_response(&io::Error::other("Invalid Configuration: Missing Region"), false);
        assert_eq!(missing, ("no region is set".to_owned(), "set AWS_REGION".to_owned()));
        assert_eq!(no_response(&io::Error::other("slow"), true).0, "no response in time");
    }

    #[test]
    fn an_error_response_has_a_remedy() {
        let cases = [
            (301, "", Some("eu-west-1"), "AWS_REGION=eu-west-1"),
            (400, "AuthorizationHeaderMalformed", None, "AWS_REGION"),
            (403, "AccessDenied", None, "grant"),
            (403, "SignatureDoesNotMatch", None, "AWS_SECRET_ACCESS_KEY"),
            (404, "NoSuchBucket", None, "S3_BUCKET"),
            (501, "NotImplemented", None, "S3_IF_NONE_MATCH=off"),
        ];
        for (status, code, region, expected) in cases {
            assert!(remedy(status, code, region).contains(expected), "{status} {code}");
        }
        assert_eq!(remedy(500, "InternalError", None), "");
    }
}
