//! The limits of decoding, and the memory that it reserves.

use super::*;

fn error(body: &str, format: BatchFormat, limits: &Limits) -> DecodeError {
    Batch::parse(body.as_bytes(), format, limits, &mut |_| true).expect_err("it exceeds a limit")
}

#[test]
fn decoding_stops_at_the_first_payload_member_or_step_above_the_limit() {
    // The invalid JSON after the limit is not reached.
    let limits = Limits { payloads: 3, members: 2, steps: 100, ..LIMITS };
    assert_eq!(
        error("[{},{},{},{},nonsense", BatchFormat::Json, &limits),
        DecodeError::LimitExceeded(LimitExceeded::Payloads(3))
    );
    assert_eq!(
        error("{}\n{}\n{}\n{}\nnonsense", BatchFormat::Ndjson, &limits),
        DecodeError::LimitExceeded(LimitExceeded::Payloads(3))
    );
    assert!(read(b"[{},{},{}]", BatchFormat::Json, &limits).is_ok());
    let envelope = r#"{"data":[{}],"a":1,"b":2,"c":3 nonsense"#;
    assert_eq!(error(envelope, BatchFormat::Json, &limits), DecodeError::LimitExceeded(LimitExceeded::Members(2)));
    let late = r#"{"a":1,"b":2,"c":3,"data":[{}] nonsense"#;
    assert_eq!(error(late, BatchFormat::Json, &limits), DecodeError::LimitExceeded(LimitExceeded::Members(2)));
    assert!(read(br#"{"a":1,"b":2,"c":3}"#, BatchFormat::Json, &limits).is_ok(), "a payload may have more");
    for many in ["0,", "[],", "\"\\n\\n\\n\\n\\n\\n\",", "{\"a\":1},", "{\"é\":1},", "1e100,", "\"\\u00e9\","] {
        let body = format!("[{{\"a\":[{}nonsense", many.repeat(100));
        assert_eq!(
            error(&body, BatchFormat::Json, &limits),
            DecodeError::LimitExceeded(LimitExceeded::Steps(100)),
            "{many}"
        );
    }
}

#[test]
fn long_names_long_numbers_and_empty_lines_cost_steps() {
    let limits = Limits { steps: 100, ..LIMITS };
    let over = DecodeError::LimitExceeded(LimitExceeded::Steps(100));
    let name = |letter: &str, bytes: usize| {
        let name = letter.repeat(bytes / letter.len());
        format!("[{{\"{name}\":nonsense")
    };
    // One long name is enough.
    assert_eq!(error(&name("Σ", 200), BatchFormat::Json, &limits), over);
    assert_eq!(error(&name("\\u03a3", 200), BatchFormat::Json, &limits), over);
    assert!(matches!(error(&name("Σ", 60), BatchFormat::Json, &limits), DecodeError::Invalid(_)));
    assert!(
        matches!(error(&name("x", 50_000), BatchFormat::Json, &limits), DecodeError::Invalid(_)),
        "ASCII names are not folded"
    );
    let number = format!("[{{\"a\":1.{}e308,nonsense", "7".repeat(900));
    assert_eq!(error(&number, BatchFormat::Json, &limits), over);
    for halfway in ["2.4703282292062327208e-324", "1.7976931348623158079e308"] {
        let numbers = format!("[{{\"a\":[{}nonsense", format!("{halfway},").repeat(20));
        assert_eq!(error(&numbers, BatchFormat::Json, &limits), over, "{halfway}");
    }
    for line in ["\n", "\r\n", " \n"] {
        assert_eq!(error(&format!("{}nonsense", line.repeat(100)), BatchFormat::Ndjson, &limits), over);
        assert!(matches!(
            error(&format!("{}nonsense", line.repeat(90)), BatchFormat::Ndjson, &limits),
            DecodeError::Invalid(_)
        ));
    }
}

#[test]
fn a_body_costs_what_its_values_cost() {
    let cost = |body: &str| {
        let suffices = |steps: &usize| {
            Batch::parse(body.as_bytes(), BatchFormat::Json, &Limits { steps: *steps, ..LIMITS }, &mut |_| true).is_ok()
        };
        (0..100).find(suffices)
    };
    // The object, its name and the value.
    assert_eq!(cost("[{\"a\":1}]"), Some(3));
    // And the check of its range: 4, and one for 8 bytes.
    assert_eq!(cost("[{\"a\":1.7976931348623157e308}]"), Some(3 + 4 + 22 / 8));
    // A name with three non-ASCII letters, of which each costs 2: 16, and one for 8 bytes.
    assert_eq!(cost(&format!("[{{\"ÉÉÉ{}\":1}}]", "x".repeat(26))), Some(2 + 16 + 32 / 8 + 2 * 3));
}

#[test]
fn the_names_of_nested_objects_are_limited_together() {
    let object = |names: usize, inner: &str| {
        let names: String = (0..names).map(|number| format!("\"{number}\":0,")).collect();
        format!("{{{names}\"inner\":{inner}}}")
    };
    let max = scan::OPEN_NAMES_MAX;
    assert!(decode_bare(&object(max - 1, "1"), BatchFormat::Ndjson).is_ok());
    let invalid = decode_error(object(max, "1").as_bytes(), BatchFormat::Ndjson);
    assert!(invalid.reason.contains("more than 65536 member names in nested objects: split the payload"), "{invalid}");
    assert!(decode_bare(&object(max / 2, &object(max / 2, "1")), BatchFormat::Ndjson).is_err());
    assert!(decode_any(&object(max, "1"), BatchFormat::Ndjson).is_ok(), "with READERS=any names are not kept");
}

#[test]
fn memory_for_payloads_is_reserved_before_it_is_allocated() {
    let body = format!("[{}{{}}]", "{},".repeat(999));
    let mut reserved = Vec::new();
    let batch = Batch::parse(body.as_bytes(), BatchFormat::Json, &LIMITS, &mut |bytes| {
        reserved.push(bytes);
        true
    });
    assert_eq!(batch.unwrap().payloads.capacity(), LIMITS.payloads, "no more than the limit");
    // Twice the old list, which is copied, and what is added to it.
    let expected = [2 * 32 + 32, 2 * 64 + 64, 2 * 128 + 128, 2 * 256 + 256, 2 * 512 + 488];
    assert_eq!(reserved, expected.map(|payloads| payloads * size_of::<&str>()));
    let error = Batch::parse(body.as_bytes(), BatchFormat::Json, &LIMITS, &mut |bytes| bytes < 4096);
    assert_eq!(error.unwrap_err(), DecodeError::OutOfBudget);
}

#[test]
fn the_minimum_overhead_is_that_of_a_line_without_an_envelope() {
    for meta in [META, BARE, BatchMetadata { tenant: Some("acme"), variant: Some("b"), ..META }] {
        let line = decode(b"{}", BatchFormat::Json, &meta).unwrap();
        assert_eq!(line.bytes.len(), meta.min_line_overhead() + 2, "{meta:?}");
    }
}
