mod limits;
mod readers;

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;

use super::*;

const META: BatchMetadata<'static> = BatchMetadata {
    received_at: UNIX_EPOCH,
    request_id: "r-1",
    tenant: None,
    variant: None,
    sqsd: None,
    record: Record::Envelope,
};
const BARE: BatchMetadata<'static> = BatchMetadata { record: Record::Payload, ..META };

const LIMITS: Limits =
    Limits { payloads: 1000, members: 10, steps: 1_000_000, depth: MAX_DEPTH, readers: Readers::Strict };
const ANY: Limits = Limits { readers: Readers::Any, ..LIMITS };

fn read<'a>(body: &'a [u8], format: BatchFormat, limits: &Limits) -> Result<Batch<'a>, InvalidBatch> {
    match Batch::parse(body, format, limits, &mut |_| true) {
        Ok(batch) => Ok(batch),
        Err(DecodeError::Invalid(invalid)) => Err(invalid),
        Err(other) => panic!("{other:?} for {:?}", String::from_utf8_lossy(body)),
    }
}

fn decode(body: &[u8], format: BatchFormat, meta: &BatchMetadata<'_>) -> Result<Lines, InvalidBatch> {
    Ok(LinesPlan::new(read(body, format, &LIMITS)?, meta).write())
}

/// The lines without the checks for readers.
fn decode_any(body: &str, format: BatchFormat) -> Result<String, InvalidBatch> {
    let lines = LinesPlan::new(read(body.as_bytes(), format, &ANY)?, &BARE).write();
    Ok(String::from_utf8(lines.bytes).unwrap())
}

fn decode_bare(body: &str, format: BatchFormat) -> Result<String, InvalidBatch> {
    decode(body.as_bytes(), format, &BARE).map(|lines| String::from_utf8(lines.bytes).unwrap())
}

fn decode_error(body: &[u8], format: BatchFormat) -> InvalidBatch {
    match decode(body, format, &META) {
        Err(invalid) => invalid,
        other => panic!("expected an error for {:?}, got {other:?}", String::from_utf8_lossy(body)),
    }
}

#[test]
fn headers_of_the_daemon_are_a_member_of_the_context_unless_the_envelope_has_it() {
    let meta = BatchMetadata { sqsd: Some(r#"{"queue":"q"}"#), ..META };
    for (body, context) in [
        (r#"{"a":1}"#, r#"{"sqsd":{"queue":"q"}}"#),
        (r#"[{"a":1}]"#, r#"{"sqsd":{"queue":"q"}}"#),
        (r#"{"data":[{"a":1}],"b":2}"#, r#"{"b":2,"sqsd":{"queue":"q"}}"#),
        (r#"{"data":[{"a":1}],"SQSD":2}"#, r#"{"SQSD":2}"#),
    ] {
        let line = String::from_utf8(decode(body.as_bytes(), BatchFormat::Json, &meta).unwrap().bytes).unwrap();
        assert!(line.ends_with(&format!(",\"context\":{context},\"payload\":{{\"a\":1}}}}\n")), "{line}");
        let bare = BatchMetadata { record: Record::Payload, ..meta };
        assert_eq!(decode(body.as_bytes(), BatchFormat::Json, &bare).unwrap().bytes, b"{\"a\":1}\n");
    }
}

#[test]
fn the_name_of_the_tenant_replaces_the_token_in_records() {
    let body = br#"{"version":"1","data":[{"a":1}],"token":"s\u0065cret"}"#;
    let named = BatchMetadata { tenant: Some("acme"), ..META };
    let line = String::from_utf8(decode(body, BatchFormat::Json, &named).unwrap().bytes).unwrap();
    assert!(line.contains(r#""request_id":"r-1","tenant":"acme","version":"1","payload""#), "{line}");
    let bare = decode(body, BatchFormat::Json, &BatchMetadata { record: Record::Payload, ..named }).unwrap();
    assert_eq!(bare.bytes, b"{\"a\":1}\n");
    let batch = read(body, BatchFormat::Json, &LIMITS).unwrap();
    assert_eq!(batch.token.and_then(Token::text).as_deref(), Some("secret"));
    assert!(!format!("{batch:?}").contains("cret"));
    for other in ["null", "1", "[]", "{}"] {
        let body = format!("{{\"data\":[{{}}],\"token\":{other}}}");
        assert_eq!(read(body.as_bytes(), BatchFormat::Json, &LIMITS).unwrap().token.unwrap().text(), None, "{other}");
    }
}

#[test]
fn every_line_repeats_the_fields_of_the_envelope() {
    let body = r#"{"version":"1.50","data":[{"a":1},{"b":2}],"token":"t","host":"h","n":[1]}"#;
    let meta = BatchMetadata { received_at: UNIX_EPOCH + Duration::from_millis(1_795_183_199_999), ..META };
    let lines = decode(body.as_bytes(), BatchFormat::Json, &meta).unwrap();
    let head = concat!(
        r#"{"received_at":"2026-11-20T13:59:59.999Z","request_id":"r-1","token":"t","version":"1.50","#,
        r#""context":{"host":"h","n":[1]},"payload":"#
    );
    assert_eq!(String::from_utf8(lines.bytes).unwrap(), format!("{head}{{\"a\":1}}}}\n{head}{{\"b\":2}}}}\n"));
    assert_eq!(lines.payloads, 2);
}

#[test]
fn missing_fields_are_omitted() {
    let lines = decode(b"[{}]", BatchFormat::Json, &META).unwrap();
    let text = String::from_utf8(lines.bytes).unwrap();
    assert_eq!(text, "{\"received_at\":\"1970-01-01T00:00:00.000Z\",\"request_id\":\"r-1\",\"payload\":{}}\n");
}

#[test]
fn every_format_decodes_to_the_same_payloads() {
    let expected = "{\"a\": 1}\n{\"b\":[2]}\n";
    assert_eq!(decode_bare(r#"{"data":[{"a": 1},{"b":[2]}]}"#, BatchFormat::Json).unwrap(), expected);
    assert_eq!(decode_bare(r#" [ {"a": 1} , {"b":[2]} ] "#, BatchFormat::Json).unwrap(), expected);
    assert_eq!(decode_bare("{\"a\": 1}\r\n\n  {\"b\":[2]}", BatchFormat::Ndjson).unwrap(), expected);
    assert_eq!(decode_bare("\n{\"token\":\"x\",\"n\":1}\n", BatchFormat::Json).unwrap(), "{\"token\":\"x\",\"n\":1}\n");
}

#[test]
fn escapes_in_names_are_resolved() {
    assert_eq!(decode_bare(r#"{"d\u0061ta":[{"a":1}]}"#, BatchFormat::Json).unwrap(), "{\"a\":1}\n");
}

#[test]
fn numbers_escapes_and_duplicate_names_are_stored_unchanged() {
    let payload = r#"{"n":1.50e+003,"big":1e999,"s":"\u00e9\ud83d\ude00\/\u0000","n":0}"#;
    assert_eq!(decode_any(&format!("[{payload}]"), BatchFormat::Json).unwrap(), format!("{payload}\n"));
}

#[test]
fn a_line_break_between_tokens_becomes_a_space() {
    assert_eq!(decode_bare("[{\r\n\"a\"\n:\t1}]", BatchFormat::Json).unwrap(), "{  \"a\" :\t1}\n");
}

#[test]
fn errors_name_the_payload_and_the_byte() {
    type Case = (&'static [u8], BatchFormat, Option<usize>, usize, &'static str);
    let cases: [Case; 26] = [
        (b"", BatchFormat::Json, None, 0, "empty"),
        (b" \n", BatchFormat::Ndjson, None, 2, "empty"),
        (b"[]", BatchFormat::Json, None, 2, "empty"),
        (b"{\"data\":[]}", BatchFormat::Json, None, 11, "empty"),
        (b"{\"data\":{}}", BatchFormat::Json, None, 8, "`data` is not an array"),
        (b"{\"data\": \"x\"}", BatchFormat::Json, None, 9, "`data` is not an array"),
        (b"nonsense", BatchFormat::Json, None, 0, "expected a JSON object"),
        (b" 7", BatchFormat::Json, None, 1, "expected a JSON object"),
        (b"[{},7]", BatchFormat::Json, Some(1), 4, "a number"),
        (b"[{},[{}]]", BatchFormat::Json, Some(1), 4, "an array"),
        (b"{\"data\":[{},null]}", BatchFormat::Json, Some(1), 12, "null"),
        (b"[\"x\"]", BatchFormat::Json, Some(0), 1, "a string"),
        (b"{}\nfalse", BatchFormat::Ndjson, Some(1), 3, "a boolean"),
        (b"[{\"a\":1},{\"a\":}]", BatchFormat::Json, Some(1), 14, "not JSON"),
        (b"[{\n\"a\":1},\n{\"a\" 1}]", BatchFormat::Json, Some(1), 16, "not JSON"),
        (b"[{} {}]", BatchFormat::Json, Some(1), 4, "not JSON: expected `,` or `]`"),
        (b"[{\"a\":1 2}]", BatchFormat::Json, Some(0), 8, "not JSON: expected `,` or `}`"),
        (b"[{\"a\":1}", BatchFormat::Json, Some(1), 8, "not JSON: the text ends inside"),
        (b"[{\"a\":1}] x", BatchFormat::Json, None, 10, "trailing"),
        (b"{}\n{}\n{\"a\":01}\n{}", BatchFormat::Ndjson, Some(2), 12, "not JSON"),
        (b"{}\n{} {}\n", BatchFormat::Ndjson, Some(1), 6, "trailing"),
        (b"\xef\xbb\xbf[{}]", BatchFormat::Json, None, 0, "byte order mark"),
        (b"[{\"a\":\"\xff\"}]", BatchFormat::Json, None, 7, "not UTF-8"),
        (b"[{\"a\":\"\0\"}]", BatchFormat::Json, Some(0), 7, "control character"),
        (b"[{\"a\":\"x\\ud83d\"}]", BatchFormat::Json, Some(0), 8, "surrogate"),
        (b"{\"data\":[{}],\"data\":[{}]}", BatchFormat::Json, None, 13, "twice"),
    ];
    for (body, format, payload, byte, reason) in cases {
        let invalid = decode_error(body, format);
        let shown = String::from_utf8_lossy(body);
        assert!(invalid.reason.contains(reason), "{shown:?}: {invalid}");
        assert_eq!((invalid.payload, invalid.byte), (payload, byte), "{shown:?}: {invalid}");
    }
}

#[test]
fn unpaired_surrogates_are_rejected_everywhere() {
    for half in [r"\ud800", r"\udc00", r"\ud83dx", r"\ud83d\n", r"\ud83d\ud83d\ude00", r"\\\uDFFF"] {
        assert!(
            decode_error(format!("[{{\"a\":\"{half}\"}}]").as_bytes(), BatchFormat::Json).reason.contains("surrogate"),
            "{half}"
        );
        assert!(
            decode_error(format!("{{\"data\":[{{}}],\"version\":\"{half}\"}}").as_bytes(), BatchFormat::Json)
                .payload
                .is_none()
        );
    }
    assert!(decode_bare(r#"[{"a":"\\ud800 \ud83d\ude00"}]"#, BatchFormat::Json).is_ok());
}

#[test]
fn nesting_is_limited() {
    let nested = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
    assert!(decode_bare(&nested(MAX_DEPTH), BatchFormat::Ndjson).is_ok());
    let invalid = decode_error(nested(MAX_DEPTH + 1).as_bytes(), BatchFormat::Ndjson);
    assert!(invalid.reason.contains("nested deeper"), "{invalid}");
    assert_eq!(invalid.byte, MAX_DEPTH * 5);
    let brackets_in_a_string = format!("[{{\"a\":\"\\\"{}\"}}]", "[{".repeat(500));
    assert!(decode_bare(&brackets_in_a_string, BatchFormat::Json).is_ok());
    let hundred_thousand = format!("[{{\"a\":{}{}}}]", "[".repeat(100_000), "]".repeat(100_000));
    assert!(decode_error(hundred_thousand.as_bytes(), BatchFormat::Json).reason.contains("nested deeper"));
    assert!(decode_error("[".repeat(100_000).as_bytes(), BatchFormat::Json).reason.contains("nested deeper"));
}

#[test]
fn a_plan_knows_the_size_of_the_lines_and_another_thread_can_write_them() {
    let body: &[u8] = br#"{"version":"0123456789","data":[{},{},{}]}"#;
    let batch = read(body, BatchFormat::Json, &LIMITS).unwrap();
    let plan = LinesPlan::new(batch.clone(), &META);
    let lines = plan.write();
    assert_eq!((plan.bytes(), plan.overhead()), (lines.bytes.len(), lines.bytes.len() - 3 * "{}".len()));
    let capacity = batch.payloads.capacity();
    let other = LinesPlan::new(batch, &META);
    assert_eq!(other.list_bytes(), capacity * size_of::<&str>());
    let owned = other.into_owned(Bytes::from_static(body)).unwrap();
    assert_eq!(owned.write(), lines);
    assert_eq!(owned.bytes(), lines.bytes.len());
    let head = plan.overhead() / 3 - "}\n".len();
    assert_eq!(owned.plan_bytes(), body.len() + 3 * 2 * size_of::<u32>() + head);
    assert!(plan.into_owned(Bytes::from_static(b"another body")).is_none());
}

/// JSON values of all kinds, with `space` wherever the grammar allows it.
fn json(space: &'static str) -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(|n| n.to_string()),
        any::<i64>().prop_map(|n| format!("{n}e-2")),
        any::<String>().prop_map(|s| Value::from(s).to_string()),
    ];
    leaf.prop_recursive(4, 24, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5)
                .prop_map(move |items| format!("[{space}{}{space}]", items.join(&format!("{space},{space}")))),
            object(space, inner),
        ]
    })
}

fn object(space: &'static str, value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop::collection::vec((any::<String>(), value), 0..5).prop_map(move |members| {
        let members: Vec<String> =
            members.into_iter().map(|(k, v)| format!("{}{space}:{space}{v}", Value::from(k))).collect();
        format!("{{{space}{}}}", members.join(","))
    })
}

proptest! {
    #[test]
    fn accepted_payloads_are_stored_byte_for_byte(payloads in prop::collection::vec(object(" ", json(" ")), 1..6)) {
        let expected = payloads.join("\n") + "\n";
        let data = payloads.join(",");
        prop_assert_eq!(decode_any(&format!("[{data}]"), BatchFormat::Json).unwrap(), expected.as_str());
        prop_assert_eq!(decode_any(&format!("{{\"x\":1,\"data\":[{data}]}}"), BatchFormat::Json).unwrap(), expected.as_str());
        prop_assert_eq!(decode_any(&expected, BatchFormat::Ndjson).unwrap(), expected);
    }

    #[test]
    fn only_line_breaks_between_tokens_become_spaces(payload in object("\r\n", json("\n"))) {
        let line = decode_any(&format!("[{payload}]"), BatchFormat::Json).unwrap();
        prop_assert_eq!(line, payload.replace(['\r', '\n'], " ") + "\n");
    }

    #[test]
    fn a_body_is_accepted_if_and_only_if_it_is_json(
        mut bytes in object(" ", json("\n")).prop_map(String::into_bytes),
        at in any::<prop::sample::Index>(),
        with in any::<u8>(),
    ) {
        let at = at.index(bytes.len());
        bytes[at] = with;
        let mut body = b"[".to_vec();
        body.extend_from_slice(&bytes);
        body.push(b']');
        let accepted = read(&body, BatchFormat::Json, &ANY).is_ok();
        let is_json = match serde_json::from_slice::<Vec<serde_json::Map<String, Value>>>(&body) {
            Ok(objects) => !objects.is_empty(),
            // `Value` stops at a number that exceeds an f64, so the rest is not checked.
            Err(error) if error.to_string().contains("number out of range") => return Ok(()),
            Err(_) => false,
        };
        prop_assert_eq!(accepted, is_json, "{:?}", String::from_utf8_lossy(&body));
    }
}
