//! The settings of OpenTelemetry, one value each: text in; a value, or what was expected instead, out. Pure.

use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Uri};
use percent_encoding::percent_decode_str;

use super::parse::one_of;
use super::{RootSampler, SamplerSettings};

/// A longer name is probably a mistake.
const SERVICE_NAME_MAX_BYTES: usize = 255;

/// The URL for traces. As OpenTelemetry specifies, the path of the signal is appended to the endpoint.
pub(super) fn traces_url(text: &str) -> Result<Uri, String> {
    let url = || {
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"))?;
        // Credentials belong into OTEL_EXPORTER_OTLP_HEADERS.
        let is_plain = !rest.is_empty() && !rest.starts_with(['/', ':']) && !rest.contains(['@', '?', '#']);
        is_plain.then(|| format!("{}/v1/traces", text.trim_end_matches('/')).parse().ok()).flatten()
    };
    url().ok_or_else(|| {
        "a URL without a user name, a password or a query, such as http://127.0.0.1:4318 or https://otlp.example.net"
            .to_owned()
    })
}

/// `name=value` pairs, separated by commas. The values are percent-encoded.
pub(super) fn headers(text: &str) -> Result<HeaderMap, String> {
    let header = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let value = percent_decode_str(value.trim()).collect::<Vec<u8>>();
        let mut value = HeaderValue::from_bytes(&value).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::from_bytes(name.trim().as_bytes()).ok()?, value))
    };
    let pairs = text.split(',').filter(|pair| !pair.trim().is_empty());
    pairs
        .map(header)
        .collect::<Option<_>>()
        .ok_or_else(|| "name=value pairs, separated by commas, with percent-encoded values".to_owned())
}

pub(super) fn protocol(text: &str) -> Result<(), String> {
    let is_supported = text == "http/protobuf";
    is_supported.then_some(()).ok_or_else(|| {
        "http/protobuf, which collectors receive on port 4318; grpc and http/json are not supported".to_owned()
    })
}

pub(super) fn service_name(text: &str) -> Result<String, String> {
    let is_valid = text.len() <= SERVICE_NAME_MAX_BYTES && !text.contains(char::is_control);
    is_valid.then(|| text.to_owned()).ok_or_else(|| {
        format!("a name of at most {SERVICE_NAME_MAX_BYTES} bytes without control characters, such as millpond")
    })
}

pub(super) fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| "a number from 0 to 1, such as 0.001".to_owned())
}

/// The sampler of this name. `ratio` is used if the name contains `traceidratio`.
pub(super) fn sampler(text: &str, ratio: f64) -> Result<SamplerSettings, String> {
    use RootSampler::{AlwaysOff, AlwaysOn, TraceIdRatio};
    let sampler = |follows_parent, root| SamplerSettings { follows_parent, root };
    one_of([
        ("always_on", sampler(false, AlwaysOn)),
        ("always_off", sampler(false, AlwaysOff)),
        ("traceidratio", sampler(false, TraceIdRatio(ratio))),
        ("parentbased_always_on", sampler(true, AlwaysOn)),
        ("parentbased_always_off", sampler(true, AlwaysOff)),
        ("parentbased_traceidratio", sampler(true, TraceIdRatio(ratio))),
    ])(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_the_signal_is_appended_to_the_endpoint() {
        for (endpoint, url) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://collector/", "http://collector/v1/traces"),
            ("https://[::1]:4318/base/", "https://[::1]:4318/base/v1/traces"),
        ] {
            assert_eq!(traces_url(endpoint).unwrap().to_string(), url);
        }
        for bad in [
            "127.0.0.1:4318",
            "grpc://a:4317",
            "http://",
            "http:///v1",
            "http://:4318",
            "http://user:secret@a",
            "http://a?key=secret",
            "http://a b",
        ] {
            assert!(!traces_url(bad).unwrap_err().contains("secret"), "{bad}");
        }
    }

    #[test]
    fn headers_are_decoded_and_their_values_are_not_printed() {
        let map = headers("authorization=Bearer%20hunter2, x-team = a ,").unwrap();
        assert!(map["authorization"] == "Bearer hunter2" && map["x-team"] == "a");
        assert!(!format!("{map:?}").contains("hunter2"));
        for bad in ["authorization", "=x", "a b=c", "a=%0A"] {
            assert!(headers(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn samplers_have_the_names_of_opentelemetry() {
        let root = RootSampler::TraceIdRatio(0.5);
        assert_eq!(sampler("traceidratio", 0.5), Ok(SamplerSettings { follows_parent: false, root }));
        assert_eq!(sampler("parentbased_traceidratio", 0.5), Ok(SamplerSettings { follows_parent: true, root }));
        for unknown in ["jaeger_remote", "ratio", "ALWAYS_ON"] {
            assert!(sampler(unknown, 0.5).unwrap_err().contains("parentbased_traceidratio"), "{unknown}");
        }
        assert_eq!([ratio("0"), ratio("1"), ratio("1e-3")], [Ok(0.0), Ok(1.0), Ok(0.001)]);
        for bad in ["-0.1", "1.1", "NaN", "inf", "1%", ""] {
            assert!(ratio(bad).is_err(), "{bad}");
        }
    }
}
