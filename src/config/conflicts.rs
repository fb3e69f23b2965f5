//! Settings that contradict each other. Each message says what is wrong and what to change.

use super::parse::{self, FRAME_LIMIT_BYTES, PUT_MAX_BYTES};
use super::reader::Reader;
use super::{Ack, ReceiptObject, Settings, StoreSettings};

/// No batch fits into a smaller spool.
const SPOOL_MIN_BYTES: usize = 32 * 1024;

pub(super) fn check(reader: &mut Reader, settings: &Settings) {
    let Settings { http, objects, queue, spool, transport, .. } = settings;
    let [has_bucket, has_tenants] = ["S3_BUCKET", "TOKENS_FILE"].map(|name| reader.is_set(name));
    let [has_token, has_token_file] = ["ADMIN_TOKEN", "ADMIN_TOKEN_FILE"].map(|name| reader.is_set(name));
    reader.reject_if(
        reader.is_set("S3_EXPECTED_BUCKET_OWNER") && !has_bucket,
        "S3_EXPECTED_BUCKET_OWNER is set but S3_BUCKET is not: set S3_BUCKET, or unset S3_EXPECTED_BUCKET_OWNER",
    );
    reader.reject_if(
        reader.is_set("AWS_ENDPOINT_URL_S3") && !has_bucket,
        "AWS_ENDPOINT_URL_S3 is set but S3_BUCKET is not: set S3_BUCKET, or unset AWS_ENDPOINT_URL_S3 to store objects in STORE_DIR",
    );
    reader.reject_if(
        matches!(&settings.store, StoreSettings::Dir(store) if parse::is_same_path(store, &spool.dir)),
        "STORE_DIR and SPOOL_DIR are the same directory: use two different directories",
    );
    reader
        .reject_if(has_token && has_token_file, "ADMIN_TOKEN and ADMIN_TOKEN_FILE are both set: set only one of them");
    reader.reject_if(
        !has_token && !has_token_file && !settings.admin_addr.ip().to_canonical().is_loopback(),
        "ADMIN_ADDR is not a loopback address and ADMIN_TOKEN is not set: set ADMIN_TOKEN, or use a loopback address such as 127.0.0.1:9090",
    );
    reader.reject_if(
        reader.are_valid(["LISTEN_ADDR", "ADMIN_ADDR"]) && parse::collide(http.listen_addr, settings.admin_addr),
        "LISTEN_ADDR and ADMIN_ADDR are the same address: use a different port for each",
    );
    reader.reject_if(
        reader.is_set("TLS_CERT") != reader.is_set("TLS_KEY"),
        "only one of TLS_CERT and TLS_KEY is set: set both, or neither",
    );
    reader.reject_if(
        transport.proxy_protocol && !reader.is_set("TRUSTED_PROXIES"),
        "PROXY_PROTOCOL is on but TRUSTED_PROXIES is not set: no PROXY header would be accepted; set TRUSTED_PROXIES to the addresses of the proxies",
    );
    reader.reject_if(
        reader.are_valid(["ACK", "ACK_MAX"]) && http.ack_max < http.ack,
        "ACK_MAX is lower than ACK: every request gets at least ACK; raise ACK_MAX or lower ACK",
    );
    reader.reject_if(
        settings.broker.is_some() && http.ack == Ack::Memory && reader.is_set("ACK"),
        "ACK is memory but BROKER_URL is set: every response then waits for the broker; unset ACK, or set it to replicated",
    );
    reader.reject_if(
        settings.broker.is_none() && http.ack == Ack::Replicated,
        "ACK is replicated but BROKER_URL is not set: nothing is replicated without a broker; set BROKER_URL, or use ACK=disk",
    );
    reader.reject_if(
        http.receipt_object == ReceiptObject::Location && !has_tenants,
        "RECEIPT_OBJECT is location but TOKENS_FILE is not set: every client would see the name of the bucket or directory; set TOKENS_FILE, or use RECEIPT_OBJECT=key",
    );
    reader.reject_if(
        objects.stored_linger > http.ack_timeout && reader.are_set(["STORED_LINGER", "ACK_TIMEOUT"]),
        "STORED_LINGER exceeds ACK_TIMEOUT: every request with ack=stored would time out; lower STORED_LINGER or raise ACK_TIMEOUT",
    );
    reader.reject_if(
        http.max_body_bytes > http.max_decoded_bytes && reader.are_set(["MAX_BODY_BYTES", "MAX_DECODED_BYTES"]),
        "MAX_BODY_BYTES exceeds MAX_DECODED_BYTES: both limits apply to an uncompressed body; lower MAX_BODY_BYTES or raise MAX_DECODED_BYTES",
    );
    reader.reject_if(
        spool.max_bytes < SPOOL_MIN_BYTES,
        "SPOOL_MAX_BYTES is below 32KiB: no batch would fit into the spool; raise it",
    );
    reader.reject_if(
        objects.max_bytes > spool.max_bytes && reader.are_set(["OBJECT_MAX_BYTES", "SPOOL_MAX_BYTES"]),
        "OBJECT_MAX_BYTES exceeds SPOOL_MAX_BYTES: an object must fit into the spool; lower OBJECT_MAX_BYTES or raise SPOOL_MAX_BYTES",
    );
    let frame = parse::largest_frame(http.max_decoded_bytes, queue.max_bytes);
    reader.reject_if(
        frame > FRAME_LIMIT_BYTES,
        "MAX_DECODED_BYTES and MAX_QUEUE_BYTES are too large: the lines of one batch (4 x MAX_DECODED_BYTES, at most MAX_QUEUE_BYTES) must stay under 4GiB; lower one of the two",
    );
    reader.reject_if(
        has_bucket && frame <= FRAME_LIMIT_BYTES && objects.max_bytes.saturating_add(frame) > PUT_MAX_BYTES,
        "OBJECT_MAX_BYTES plus the largest batch (4 x MAX_DECODED_BYTES, at most MAX_QUEUE_BYTES) exceeds the 5GiB limit of one PUT to S3: lower OBJECT_MAX_BYTES, MAX_DECODED_BYTES or MAX_QUEUE_BYTES",
    );
}
