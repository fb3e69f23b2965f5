//! What is refused for readers' sake, and the grammar against serde_json's.

use std::collections::HashSet;

use serde_json::value::RawValue;

use super::*;

#[test]
fn what_makes_a_reader_fail_on_the_whole_object_is_refused_by_default_and_taken_for_any_reader() {
    let long = "1".repeat(4301);
    let cases = [
        (r#"{"a":1,"a":2}"#.to_owned(), 7, "\"a\" stands twice"),
        (r#"{"a":1,"A":2}"#.to_owned(), 7, "\"A\" stands twice"),
        (r#"{"o":{"a":1,"b":[{"x":1,"\u0058":2}]}}"#.to_owned(), 24, r#""\u0058" stands twice"#),
        (r#"{"É":1,"é":2}"#.to_owned(), 8, "\"é\" stands twice"),
        (format!("{{\"a\":{long}}}"), 5, "1000 characters"),
        (r#"{"a":[1,18446744073709551616]}"#.to_owned(), 8, "64 bits"),
        (r#"{"a":-1e400}"#.to_owned(), 5, "floating point"),
        (format!("{{\"{}\":1}}", "n".repeat(50_001)), 2, "50000 bytes"),
    ];
    for (payload, at, reason) in cases {
        let shown: String = payload.chars().take(60).collect();
        let in_array = refusal(format!("[{{}},{payload}]").as_bytes(), BatchFormat::Json);
        assert_eq!((in_array.payload, in_array.byte), (Some(1), at + 4), "{shown}: {in_array}");
        assert!(in_array.reason.contains(reason), "{shown}: {in_array}");
        let in_line = refusal(format!("{{}}\n{payload}\n").as_bytes(), BatchFormat::Ndjson);
        assert_eq!((in_line.payload, in_line.byte), (Some(1), at + 3), "{shown}: {in_line}");
        assert!(refusal(payload.as_bytes(), BatchFormat::Json).reason.contains(reason), "{shown}");
        let in_context = format!("{{\"data\":[{{}}],\"context\":{payload}}}");
        assert_eq!(refusal(in_context.as_bytes(), BatchFormat::Json).payload, None, "{shown}");
        assert_eq!(taken(&payload, BatchFormat::Json).unwrap(), format!("{payload}\n"), "{shown}");
    }
    assert!(refusal(br#"{"data":[{}],"zone":1,"Zone":2}"#, BatchFormat::Json).reason.contains("twice"));
    assert!(taken(r#"{"data":[{}],"zone":1,"Zone":2}"#, BatchFormat::Json).is_ok());
    assert!(
        taken(r#"{"data":[{}],"zone":1,"zone":2}"#, BatchFormat::Json).is_err(),
        "it is not clear which one is meant"
    );
}

#[test]
fn a_record_leaves_its_payload_one_level_less_where_readers_matter() {
    let nested = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
    let depth = |record, readers| Limits::new(0, record, readers).depth;
    assert_eq!(depth(Record::Envelope, Readers::Strict), MAX_DEPTH - 1);
    assert_eq!(depth(Record::Payload, Readers::Strict), MAX_DEPTH);
    assert_eq!(depth(Record::Envelope, Readers::Any), MAX_DEPTH);
    let limits = Limits::new(0, Record::Envelope, Readers::Strict);
    for form in [BatchFormat::Json, BatchFormat::Ndjson] {
        assert!(read(nested(MAX_DEPTH - 1).as_bytes(), form, &limits).is_ok());
        assert!(read(nested(MAX_DEPTH).as_bytes(), form, &limits).is_err());
    }
    let context = |levels| format!("{{\"data\":[{{}}],\"x\":{}}}", nested(levels));
    assert!(read(context(MAX_DEPTH - 2).as_bytes(), BatchFormat::Json, &limits).is_ok());
    assert!(read(context(MAX_DEPTH - 1).as_bytes(), BatchFormat::Json, &limits).is_err());
}

#[test]
fn every_short_text_is_json_here_if_it_is_for_serde_json() {
    const ALPHABET: &[u8] = b"{}[],:\"\\01-.eu ";
    let mut texts = vec![String::new()];
    for _ in 0..4 {
        texts =
            texts.iter().flat_map(|text| ALPHABET.iter().map(move |byte| format!("{text}{}", *byte as char))).collect();
        for text in &texts {
            // Within a value, where every kind of value may stand.
            for body in [format!("{{\"a\":{text}}}"), format!("{{{text}}}"), format!("{{\"a\":[\"{text}]}}")] {
                let is_json = serde_json::from_str::<&RawValue>(&body).is_ok();
                assert_eq!(read(body.as_bytes(), BatchFormat::Ndjson, &ANY).is_ok(), is_json, "{body}");
            }
        }
    }
}

/// Whether some object in `json` has two names that are the same without their case.
fn has_twins(json: &str) -> bool {
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
        names.len() < members.len() || members.iter().any(|(_, value)| has_twins(value.get()))
    } else if json.starts_with('[') {
        let items: Vec<&RawValue> = serde_json::from_str(json).unwrap();
        items.iter().any(|item| has_twins(item.get()))
    } else {
        false
    }
}

/// Objects whose names are often the same.
fn twins() -> impl Strategy<Value = String> {
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
    fn a_payload_is_refused_if_and_only_if_an_object_in_it_has_a_name_twice(payload in twins()) {
        let is_taken = read(payload.as_bytes(), BatchFormat::Ndjson, &LIMITS).is_ok();
        prop_assert_eq!(is_taken, !has_twins(&payload), "{}", payload);
    }
}
