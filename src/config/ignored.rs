//! Settings that have no effect beside others, or less than was probably meant. They are warned of at the start.

use std::time::Duration;

use super::{Ack, Settings, StoreSettings};

/// Which of the settings that may have no effect were given.
pub(super) struct Given {
    pub(super) store_dir: bool,
    pub(super) spool_dir: bool,
    pub(super) spool_max_bytes: bool,
    pub(super) endpoint: bool,
    pub(super) s3_timeout: Option<Duration>,
}

pub(super) fn warnings(settings: &Settings, given: &Given) -> Vec<String> {
    let is_s3 = matches!(settings.store, StoreSettings::S3(_));
    let is_memory = settings.http.ack == Ack::Memory;
    let mut warnings = Vec::new();
    let mut warn = |when: bool, text: &str| {
        if when {
            warnings.push(text.to_owned());
        }
    };
    warn(is_s3 && given.store_dir, "STORE_DIR is ignored: objects go to S3_BUCKET");
    warn(is_memory && given.spool_dir, "SPOOL_DIR is ignored: ACK=memory keeps nothing on disk");
    warn(is_memory && given.spool_max_bytes, "SPOOL_MAX_BYTES is ignored: ACK=memory keeps nothing on disk");
    warn(!is_s3 && given.endpoint, "AWS_ENDPOINT_URL is ignored: S3_BUCKET is not set, so objects go to STORE_DIR");
    warn(
        is_s3 && given.s3_timeout.is_some_and(|timeout| timeout > settings.shutdown_grace),
        "S3_TIMEOUT is over SHUTDOWN_GRACE: a call that hangs while the server stops is not repeated; raise the second or \
         lower the first",
    );
    let batch = settings.http.max_decoded_bytes;
    if !is_memory && settings.spool.max_batch_bytes() < batch {
        warnings.push(format!(
            "SPOOL_MAX_BYTES is smaller than a batch may be: batches whose lines exceed {} bytes are answered 413; raise it, \
             or lower MAX_DECODED_BYTES={batch}",
            settings.spool.max_batch_bytes()
        ));
    }
    warnings
}
