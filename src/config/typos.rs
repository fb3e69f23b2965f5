//! Misspelled names of settings, and targets of the log filter that do not exist.

use tracing_subscriber::filter::{LevelFilter, Targets};

use super::SETTINGS;

/// Names that other programs use for a setting of millpond or of the AWS SDK, and the right name.
const FOREIGN_NAMES: [(&str, &str); 16] = [
    ("AWS_BUCKET", "S3_BUCKET"),
    ("AWS_BUCKET_NAME", "S3_BUCKET"),
    ("AWS_S3_BUCKET", "S3_BUCKET"),
    ("S3_BUCKET_NAME", "S3_BUCKET"),
    ("S3_REGION", "AWS_REGION"),
    ("AWS_S3_REGION", "AWS_REGION"),
    ("S3_ENDPOINT", "AWS_ENDPOINT_URL_S3"),
    ("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
    ("AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3"),
    ("AWS_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3"),
    ("AWS_ACCESS_KEY", "AWS_ACCESS_KEY_ID"),
    ("S3_ACCESS_KEY", "AWS_ACCESS_KEY_ID"),
    ("S3_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID"),
    ("AWS_SECRET_KEY", "AWS_SECRET_ACCESS_KEY"),
    ("S3_SECRET_KEY", "AWS_SECRET_ACCESS_KEY"),
    ("S3_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY"),
];

/// Names that the SDK, the command line tools or the environments of AWS use, so that none of them is reported as a
/// misspelling of another one. `AWS_ENDPOINT_URL_…` is followed by the name of any service, so it is never reported.
const AWS_NAMES: [&str; 36] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_ACCOUNT_ID",
    "AWS_ACCOUNT_ID_ENDPOINT_MODE",
    "AWS_BEARER_TOKEN_BEDROCK",
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CREDENTIAL_EXPIRATION",
    "AWS_DEFAULTS_MODE",
    "AWS_DEFAULT_OUTPUT",
    "AWS_DEFAULT_PROFILE",
    "AWS_DEFAULT_REGION",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE",
    "AWS_EC2_METADATA_V1_DISABLED",
    "AWS_EXECUTION_ENV",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_MAX_ATTEMPTS",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
    "AWS_RETRY_MODE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SECURITY_TOKEN",
    "AWS_SESSION_TOKEN",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
];

/// Longer names may differ by two edits, shorter ones by one.
const AWS_SHORT: usize = 16;

/// The right name for a setting that another program calls `name`.
pub(super) fn foreign_name(name: &str) -> Option<&'static str> {
    FOREIGN_NAMES.iter().find(|(foreign, _)| *foreign == name).map(|(_, right)| *right)
}

/// The setting, or the variable of the SDK, that `name` is probably a misspelling of.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let upper = name.to_ascii_uppercase();
    if !upper.starts_with("AWS_") {
        return closest(&upper, SETTINGS.iter().map(|setting| setting.name), setting_edits);
    }
    if AWS_NAMES.contains(&name) || name.starts_with("AWS_ENDPOINT_URL") {
        return None;
    }
    let names = AWS_NAMES.into_iter().chain(["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"]);
    closest(&upper, names, |near| if near.len() < AWS_SHORT { 1 } else { 2 })
}

/// Short names need an exact match: within two edits of `ACK` are many ordinary names.
fn setting_edits(name: &str) -> usize {
    match name.len() {
        0..=4 => 0,
        5..=7 => 1,
        _ => 2,
    }
}

/// The candidate with the fewest edits to `name`, if these are at most `max_edits` of the candidate.
fn closest(
    name: &str,
    candidates: impl Iterator<Item = &'static str>,
    max_edits: impl Fn(&str) -> usize,
) -> Option<&'static str> {
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(edits, candidate)| *edits <= max_edits(candidate))
        .min()
        .map(|(_, candidate)| candidate)
}

/// The crates of this program that log.
const TARGETS: [&str; 22] = [
    "millpond",
    "axum",
    "aws_config",
    "aws_credential_types",
    "aws_runtime",
    "aws_sdk_s3",
    "aws_sdk_sts",
    "aws_sigv4",
    "aws_smithy_async",
    "aws_smithy_http",
    "aws_smithy_http_client",
    "aws_smithy_runtime",
    "aws_smithy_runtime_api",
    "h2",
    "hyper",
    "hyper_util",
    "log",
    "mio",
    "rustls",
    "tokio",
    "tokio_util",
    "tower",
];

/// A warning for each target of the filter that does not exist. It is an error if nothing of millpond would be logged
/// because of it.
pub(super) fn unknown_targets(text: &str, filter: &Targets) -> Result<Vec<String>, String> {
    let unknown: Vec<(&str, bool)> = text
        .split(',')
        .map(|directive| {
            directive.trim().split_once('=').map_or((directive.trim(), true), |(target, _)| (target, false))
        })
        .filter(|(target, is_bare)| !(target.is_empty() || *is_bare && target.parse::<LevelFilter>().is_ok()))
        .filter(|(target, _)| !TARGETS.contains(&target.split("::").next().unwrap_or_default()))
        .collect();
    if let Some((target, _)) = unknown.iter().find(|(_, is_bare)| *is_bare) {
        return Err(format!(
            "a level (error, warn, info, debug, trace or off), or a target and its level; not {target:?}"
        ));
    }
    let suggestion = |target: &str| {
        let near = closest(target, TARGETS.into_iter(), |_| 2);
        near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default()
    };
    match unknown.first() {
        Some((target, _)) if !filter.would_enable("millpond::app", &tracing::Level::ERROR) => Err(format!(
            "a target of this program, such as millpond=debug; {target:?} is unknown{}, and nothing would be logged",
            suggestion(target)
        )),
        _ => Ok(unknown
            .iter()
            .map(|(target, _)| format!("the unknown target {target:?} is ignored{}", suggestion(target)))
            .collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelled_names_of_the_sdk_are_found_and_its_own_names_are_not_reported() {
        for (misspelled, right) in [
            ("AWS_REGON", "AWS_REGION"),
            ("aws_region", "AWS_REGION"),
            ("AWS_ENDPOINT_UR", "AWS_ENDPOINT_URL"),
            ("AWS_SECRET_ACCES_KEY", "AWS_SECRET_ACCESS_KEY"),
        ] {
            assert_eq!(nearest(misspelled), Some(right), "{misspelled}");
        }
        for name in AWS_NAMES {
            assert_eq!((nearest(name), foreign_name(name)), (None, None), "{name}");
        }
        for name in
            ["AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL_SQS", "AWS_LAMBDA_FUNCTION_NAME", "AWS_XRAY_CONTEXT_MISSING"]
        {
            assert_eq!(nearest(name), None, "{name}");
        }
    }

    #[test]
    fn names_of_opentelemetry_are_not_reported_as_misspelt() {
        for (misspelled, right) in [
            ("OTEL_EXPORTERS_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
            ("OTEL_TRACE_SAMPLER", "OTEL_TRACES_SAMPLER"),
        ] {
            assert_eq!(nearest(misspelled), Some(right), "{misspelled}");
        }
        for signal in ["", "TRACES_", "METRICS_", "LOGS_"] {
            for name in [
                "CERTIFICATE",
                "CLIENT_CERTIFICATE",
                "CLIENT_KEY",
                "COMPRESSION",
                "INSECURE",
                "METRICS_TEMPORALITY_PREFERENCE",
                "TIMEOUT",
            ] {
                assert_eq!(nearest(&format!("OTEL_EXPORTER_OTLP_{signal}{name}")), None, "{signal}{name}");
            }
            if !signal.is_empty() {
                for name in ["ENDPOINT", "HEADERS", "PROTOCOL"] {
                    assert_eq!(nearest(&format!("OTEL_EXPORTER_OTLP_{signal}{name}")), None, "{signal}{name}");
                }
            }
        }
        for name in [
            "OTEL_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_BSP_EXPORT_TIMEOUT",
            "OTEL_BSP_MAX_QUEUE_SIZE",
            "OTEL_CONFIG_FILE",
            "OTEL_LOGS_EXPORTER",
            "OTEL_LOG_LEVEL",
            "OTEL_METRICS_EXPORTER",
            "OTEL_METRICS_EXEMPLAR_FILTER",
            "OTEL_METRIC_EXPORT_INTERVAL",
            "OTEL_PROPAGATORS",
            "OTEL_RESOURCE_ATTRIBUTES",
            "OTEL_SDK_DISABLED",
            "OTEL_SEMCONV_STABILITY_OPT_IN",
            "OTEL_SERVICE_VERSION",
            "OTEL_SPAN_LINK_COUNT_LIMIT",
            "OTEL_TRACES_EXPORTER",
        ] {
            assert_eq!(nearest(name), None, "{name}");
        }
    }

    #[test]
    fn targets_that_do_not_exist_are_reported() {
        let check = |text: &str| unknown_targets(text, &text.parse().unwrap());
        for good in ["info", "WARN", "3", "millpond", "millpond=debug,h2=off", "info,millpond::worker=trace", "off"] {
            assert_eq!(check(good), Ok(Vec::new()), "{good}");
        }
        assert!(check("verbose").unwrap_err().contains("\"verbose\""));
        assert!(check("milpond=debug").unwrap_err().contains("did you mean millpond?"));
        let warned = check("info,milpond=debug").unwrap();
        assert!(matches!(&warned[..], [warning] if warning.contains("did you mean millpond?")), "{warned:?}");
    }
}
