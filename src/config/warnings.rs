//! Settings that have no effect beside others, or less effect than the operator probably expects. Logged at start.

use super::reader::Reader;
use super::{Ack, Settings, StoreSettings};
use crate::decode::Record;

pub(super) fn of(reader: &Reader, settings: &Settings) -> Vec<String> {
    let is_memory = settings.http.ack == Ack::Memory;
    let mut warnings = Vec::new();
    let mut warn_if = |condition: bool, warning: &str| {
        if condition {
            warnings.push(warning.to_owned());
        }
    };
    match &settings.store {
        StoreSettings::S3(s3) => {
            warn_if(reader.is_set("STORE_DIR"), "STORE_DIR is ignored: objects go to S3_BUCKET");
            warn_if(
                s3.timeout > settings.shutdown_grace,
                "S3_TIMEOUT exceeds SHUTDOWN_GRACE: an S3 call that hangs during shutdown is not retried; lower S3_TIMEOUT \
                 or raise SHUTDOWN_GRACE",
            );
        }
        StoreSettings::Dir(_) => warn_if(
            reader.is_set("AWS_ENDPOINT_URL"),
            "AWS_ENDPOINT_URL is ignored: S3_BUCKET is not set, so objects go to STORE_DIR",
        ),
    }
    for name in ["STATSD_PREFIX", "STATSD_TAGS", "STATSD_INTERVAL"] {
        warn_if(
            settings.statsd.is_none() && reader.is_set(name),
            &format!("{name} is ignored: STATSD_ADDR is not set, so no metrics are sent"),
        );
    }
    for (name, warning) in [
        ("SPOOL_DIR", "SPOOL_DIR is ignored: ACK=memory keeps nothing on disk"),
        ("SPOOL_MAX_BYTES", "SPOOL_MAX_BYTES is ignored: ACK=memory keeps nothing on disk"),
    ] {
        warn_if(is_memory && reader.is_set(name), warning);
    }
    warn_if(
        settings.http.sqsd_context && settings.http.record == Record::Payload,
        "SQSD_CONTEXT is ignored: with RECORD=payload a stored line has no context",
    );
    warn_if(
        reader.is_set("OTEL_TRACES_SAMPLER_ARG")
            && reader.value("OTEL_TRACES_SAMPLER").is_some_and(|name| !name.contains("traceidratio")),
        "OTEL_TRACES_SAMPLER_ARG is ignored: OTEL_TRACES_SAMPLER has no ratio",
    );
    let (batch, max_batch) = (settings.http.max_decoded_bytes, settings.spool.max_batch_bytes());
    if !is_memory && max_batch < batch {
        warnings.push(format!(
            "SPOOL_MAX_BYTES is smaller than the largest batch: batches whose lines exceed {max_batch} bytes are rejected \
             with 413; raise SPOOL_MAX_BYTES, or lower MAX_DECODED_BYTES={batch}"
        ));
    }
    warnings
}
