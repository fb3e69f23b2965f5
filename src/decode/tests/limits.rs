//! What decoding costs: it stops at the first thing over a limit, and takes no memory that it was not given.

use super::*;

fn refused(body: &str, form: BatchFormat, limits: &Limits) -> DecodeError {
    Batch::parse(body.as_bytes(), form, limits, &mut |_| true).expect_err("it is over a limit")
}

#[test]
fn decoding_stops_at_the_first_payload_member_or_step_over_its_limit() {
    // What follows the limit is not JSON, and is not looked at.
    let limits = Limits { payloads: 3, members: 2, steps: 100, ..LIMITS };
    assert_eq!(
        refused("[{},{},{},{},nonsense", BatchFormat::Json, &limits),
        DecodeError::LimitExceeded(LimitExceeded::Payloads(3))
    );
    assert_eq!(
        refused("{}\n{}\n{}\n{}\nnonsense", BatchFormat::Ndjson, &limits),
        DecodeError::LimitExceeded(LimitExceeded::Payloads(3))
    );
    assert!(read(b"[{},{},{}]", BatchFormat::Json, &limits).is_ok());
    let envelope = r#"{"data":[{}],"a":1,"b":2,"c":3 nonsense"#;
    assert_eq!(refused(envelope, BatchFormat::Json, &limits), DecodeError::LimitExceeded(LimitExceeded::Members(2)));
    let late = r#"{"a":1,"b":2,"c":3,"data":[{}] nonsense"#;
    assert_eq!(refused(late, BatchFormat::Json, &limits), DecodeError::LimitExceeded(LimitExceeded::Members(2)));
    assert!(read(br#"{"a":1,"b":2,"c":3}"#, BatchFormat::Json, &limits).is_ok(), "a payload may have more");
    for many in ["0,", "[],", "\"\\n\\n\\n\\n\\n\\n\",", "{\"a\":1},", "{\"é\":1},", "1e100,", "\"\\u00e9\","] {
        let body = format!("[{{\"a\":[{}nonsense", many.repeat(100));
        assert_eq!(
            refused(&body, BatchFormat::Json, &limits),
            DecodeError::LimitExceeded(LimitExceeded::Steps(100)),
            "{many}"
        );
    }
}

#[test]
fn long_names_long_numbers_and_empty_lines_take_steps_for_what_they_cost() {
    let limits = Limits { steps: 100, ..LIMITS };
    let over = DecodeError::LimitExceeded(LimitExceeded::Steps(100));
    let name = |letter: &str, bytes: usize| {
        let name = letter.repeat(bytes / letter.len());
        format!("[{{\"{name}\":nonsense")
    };
    // Once is enough if it is long enough.
    assert_eq!(refused(&name("Σ", 200), BatchFormat::Json, &limits), over);
    assert_eq!(refused(&name("\\u03a3", 200), BatchFormat::Json, &limits), over);
    assert!(matches!(refused(&name("Σ", 60), BatchFormat::Json, &limits), DecodeError::Invalid(_)));
    assert!(
        matches!(refused(&name("x", 50_000), BatchFormat::Json, &limits), DecodeError::Invalid(_)),
        "it is looked at once"
    );
    let number = format!("[{{\"a\":1.{}e308,nonsense", "7".repeat(900));
    assert_eq!(refused(&number, BatchFormat::Json, &limits), over);
    for halfway in ["2.4703282292062327208e-324", "1.7976931348623158079e308"] {
        let numbers = format!("[{{\"a\":[{}nonsense", format!("{halfway},").repeat(20));
        assert_eq!(refused(&numbers, BatchFormat::Json, &limits), over, "{halfway}");
    }
    for line in ["\n", "\r\n", " \n"] {
        assert_eq!(refused(&format!("{}nonsense", line.repeat(100)), BatchFormat::Ndjson, &limits), over);
        assert!(matches!(
            refused(&format!("{}nonsense", line.repeat(90)), BatchFormat::Ndjson, &limits),
            DecodeError::Invalid(_)
        ));
    }
}

#[test]
fn names_that_are_open_are_bounded_however_they_are_nested() {
    let object = |names: usize, inner: &str| {
        let names: String = (0..names).map(|number| format!("\"{number}\":0,")).collect();
        format!("{{{names}\"inner\":{inner}}}")
    };
    let most = scan::OPEN_NAMES_MAX;
    assert!(bare(&object(most - 1, "1"), BatchFormat::Ndjson).is_ok());
    let invalid = refusal(object(most, "1").as_bytes(), BatchFormat::Ndjson);
    assert!(invalid.reason.contains("over 65536 member names are open at once: split the payload"), "{invalid}");
    assert!(bare(&object(most / 2, &object(most / 2, "1")), BatchFormat::Ndjson).is_err());
    assert!(taken(&object(most, "1"), BatchFormat::Ndjson).is_ok(), "without readers names are not kept");
}

#[test]
fn memory_for_payloads_is_asked_for_before_it_is_taken() {
    let body = format!("[{}{{}}]", "{},".repeat(999));
    let mut asked = Vec::new();
    let batch = Batch::parse(body.as_bytes(), BatchFormat::Json, &LIMITS, &mut |bytes| {
        asked.push(bytes);
        true
    });
    let capacity = batch.unwrap().payloads.capacity();
    assert!(asked.is_sorted() && asked.last().is_some_and(|bytes| *bytes >= capacity * size_of::<&str>()), "{asked:?}");
    let refused = Batch::parse(body.as_bytes(), BatchFormat::Json, &LIMITS, &mut |bytes| bytes < 4096);
    assert_eq!(refused.unwrap_err(), DecodeError::OutOfBudget);
}

#[test]
fn the_least_around_a_payload_is_what_stands_there_without_an_envelope() {
    for meta in [META, BARE, BatchMetadata { tenant: Some("acme"), ..META }] {
        let line = decode(b"{}", BatchFormat::Json, &meta).unwrap();
        assert_eq!(line.bytes.len(), meta.min_line_overhead() + 2, "{meta:?}");
    }
}
