//! The checks for readers, and a comparison of the grammar with serde_json.

use std::collections::HashSet;

use serde_json::value::RawValue;

use super::*;

#[test]
fn payloads_on_which_readers_fail_are_rejected_unless_any_reader_is_set() {
    let long = "1".repeat(4301);
    let long_name = format!("duplicate member \"{}…\"", "n".repeat(80));
    let cases = [
        (r#"{"a":1,"a":2}"#.to_owned(), 7, "duplicate member \"a\""),
        (r#"{"a":1,"A":2}"#.to_owned(), 7, "duplicate member \"A\""),
        (r#"{"o":{"a":1,"b":[{"x":1,"\u0058":2}]}}"#.to_owned(), 24, r#"duplicate member "\u0058""#),
        (r#"{"É":1,"é":2}"#.to_owned(), 8, "duplicate member \"é\""),
        (format!("{{\"a\":{long}}}"), 5, "1000 characters"),
        (r#"{"a":[1,18446744073709551616]}"#.to_owned(), 8, "64 bits"),
        (r#"{"a":-1e400}"#.to_owned(), 5, "floating point"),
        (format!("{{\"{}\":1}}", "n".repeat(50_001)), 2, "50000 bytes"),
        (format!("{{\"{0}\":1,\"{0}\":2}}", "n".repeat(100)), 106, &long_name),
    ];
    for (payload, at, reason) in cases {
        let shown: String = payload.chars().take(60).collect();
        let in_array = decode_error(format!("[{{}},{payload}]").as_bytes(), BatchFormat::Json);
        assert_eq!((in_array.payload, in_array.byte), (Some(1), at + 4), "{shown}: {in_array}");
        assert!(in_array.reason.contains(reason), "{shown}: {in_array}");
        let in_line = decode_error(format!("{{}}\n{payload}\n").as_bytes(), BatchFormat::Ndjson);
        assert_eq!((in_line.payload, in_line.byte), (Some(1), at + 3), "{shown}: {in_line}");
        assert!(decode_error(payload.as_bytes(), BatchFormat::Json).reason.contains(reason), "{shown}");
        let in_context = format!("{{\"data\":[{{}}],\"context\":{payload}}}");
        assert_eq!(decode_error(in_context.as_bytes(), BatchFormat::Json).payload, None, "{shown}");
        assert_eq!(decode_any(&payload, BatchFormat::Json).unwrap(), format!("{payload}\n"), "{shown}");
    }
    assert!(decode_bare(&format!("{{\"{}\":1}}", "n".repeat(50_000)), BatchFormat::Json).is_ok());
    assert!(decode_error(br#"{"data":[{}],"zone":1,"Zone":2}"#, BatchFormat::Json).reason.contains("duplicate member"));
    assert!(decode_any(r#"{"data":[{}],"zone":1,"Zone":2}"#, BatchFormat::Json).is_ok());
    assert!(
        decode_any(r#"{"data":[{}],"zone":1,"zone":2}"#, BatchFormat::Json).is_err(),
        "duplicates in the envelope are always rejected"
    );
}

#[test]
fn the_record_counts_as_one_level_for_strict_readers() {
    let nested = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
    let depth = |record, readers| Limits::new(0, record, readers).depth;
    assert_eq!(depth(Record::Envelope, Readers::Strict), MAX_DEPTH - 1);
    assert_eq!(depth(Record::Payload, Readers::Strict), MAX_DEPTH);
    assert_eq!(depth(Record::Envelope, Readers::Any), MAX_DEPTH);
    let limits = Limits::new(0, Record::Envelope, Readers::Strict);
    for format in [BatchFormat::Json, BatchFormat::Ndjson] {
        assert!(read(nested(MAX_DEPTH - 1).as_bytes(), format, &limits).is_ok());
        assert!(read(nested(MAX_DEPTH).as_bytes(), format, &limits).is_err());
    }
    let context = |levels| format!("{{\"data\":[{{}}],\"x\":{}}}", nested(levels));
    assert!(read(context(MAX_DEPTH - 2).as_bytes(), BatchFormat::Json, &limits).is_ok());
    assert!(read(context(MAX_DEPTH - 1).as_bytes(), BatchFormat::Json, &limits).is_err());
}

#[test]
fn every_short_text_is_json_if_and_only_if_it_is_for_serde_json() {
    const ALPHABET: &[u8] = b"{}[],:\"\\01-.eu ";
    let mut texts = vec![String::new()];
    for _ in 0..4 {
        texts =
            texts.iter().flat_map(|text| ALPHABET.iter().map(move |byte| format!("{text}{}", *byte as char))).collect();
        for text in &texts {
            for body in [format!("{{\"a\":{text}}}"), format!("{{{text}}}"), format!("{{\"a\":[\"{text}]}}")] {
                let is_json = serde_json::from_str::<&RawValue>(&body).is_ok();
                assert_eq!(read(body.as_bytes(), BatchFormat::Ndjson, &ANY).is_ok(), is_json, "{body}");
            }
        }
    }
}

/// Whether an object in `json` has names that differ only in case.
fn has_duplicates(json: &str) -> bool {
    #[derive(Debug)]
    struct Members(Vec<(String, Box<RawValue>)>);
    impl<'de> serde::Deserialize<'de> for Members {
        fn deserialize<D: serde::Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
            struct All;
            impl<'de> serde::de::Visitor<'de> for All {
                type Value = Members;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                    let mut all = Vec::new();
                    while let Some(member) = map.next_entry()? {
                        all.push(member);
                    }
                    Ok(Members(all))
                }
            }
            json.deserialize_map(All)
        }
    }
    if json.starts_with('{') {
        let Members(members) = serde_json::from_str(json).unwrap();
        let names: HashSet<String> = members.iter().map(|(name, _)| name.to_lowercase()).collect();
        names.len() < members.len() || members.iter().any(|(_, value)| has_duplicates(value.get()))
    } else if json.starts_with('[') {
        let items: Vec<&RawValue> = serde_json::from_str(json).unwrap();
        items.iter().any(|item| has_duplicates(item.get()))
    } else {
        false
    }
}

/// Objects with many duplicate names.
fn objects_with_duplicates() -> impl Strategy<Value = String> {
    let name = || {
        const NAMES: &[&str] =
            &["a", "A", "b", "\\u0061", "\\u0042", "é", "É", "\\u00c9", "", "\\u0000", "long name", "Long Name"];
        prop::sample::select(NAMES)
    };
    let leaf = Just("1".to_owned());
    let inner = leaf.prop_recursive(3, 64, 40, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(","))),
            (prop::collection::vec((name(), inner), 0..4), 0..40_usize).prop_map(|(members, more)| {
                let members = members.into_iter().map(|(name, value)| format!("\"{name}\":{value}"));
                let more = (0..more).map(|number| format!("\"n{number}\":{number}"));
                format!("{{{}}}", more.chain(members).collect::<Vec<_>>().join(","))
            }),
        ]
    });
    inner.prop_map(|value| format!("{{\"value\":{value}}}"))
}

proptest! {
    #[test]
    fn a_payload_is_rejected_if_and_only_if_an_object_has_duplicate_names(payload in objects_with_duplicates()) {
        let is_accepted = read(payload.as_bytes(), BatchFormat::Ndjson, &LIMITS).is_ok();
        prop_assert_eq!(is_accepted, !has_duplicates(&payload), "{}", payload);
    }
}
