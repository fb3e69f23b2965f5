//! Bytes to text.

use super::InvalidBatch;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// The body as text.
pub(super) fn of(body: &[u8]) -> Result<&str, InvalidBatch> {
    if body.starts_with(BOM) {
        let reason = "the body begins with a byte order mark, which JSON does not allow: leave it out".to_owned();
        return Err(InvalidBatch { reason, payload: None, byte: 0 });
    }
    std::str::from_utf8(body).map_err(|error| InvalidBatch {
        reason: "the body is not UTF-8".to_owned(),
        payload: None,
        byte: error.valid_up_to(),
    })
}
