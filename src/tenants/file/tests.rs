use proptest::prelude::*;

use super::*;

const ONE: &str = "1b4f0e9851971998e732078544c96b36c3d01cedf7caa332359d6f1d83567014";
const EXAMPLE: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const TWO: &str = "60303AE22B998861BCE3B28F33EEC1BE758A213C86C93C076DBE9F558C11C752";
const THREE: &str = "fd61a03af4f77d870fc21e05e7e80678095c92d808cfb3b5c279ee04c74aca13";
const NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn wrong(text: &str) -> (usize, String) {
    match parse(text.as_bytes()) {
        Err(FileError::Invalid { line, reason }) => (line, reason),
        other => panic!("expected an error in {text}, got {other:?}"),
    }
}

#[test]
fn names_digests_and_limits_are_parsed_and_omitted_limits_are_unlimited() {
    let text = format!(
        r#"{{"tenants":[{{"name":"a.B_c-1","tokens_sha256":["{ONE}","{TWO}"],"limits":{{"bytes_per_second":5}}}},
        {{"name":"b","tokens_sha256":["{}"],"ack_max":"disk"}}]}}"#,
        "0".repeat(64)
    );
    let entries = parse(text.as_bytes()).unwrap();
    assert_eq!(entries.iter().map(|entry| &*entry.name).collect::<Vec<_>>(), ["a.B_c-1", "b"]);
    assert_eq!(entries[0].tokens, [Digest::of(b"test1"), Digest::of(b"test2")]);
    assert_eq!(entries[0].limits, RateLimits { bytes_per_second: Some(5), ..RateLimits::default() });
    assert_eq!(entries[1].limits, RateLimits::default());
    assert_eq!([entries[0].ack_max, entries[1].ack_max], [None, Some(Ack::Disk)]);
    let wrong = wrong(&text.replace("disk", "s3cret")).1;
    assert!(wrong.starts_with("ack_max must be memory") && !wrong.contains("s3cret"), "{wrong}");
}

#[test]
fn errors_name_the_line_and_the_remedy_but_never_the_content() {
    let entry = |name: &str, token: &str| format!("{{\"name\":\"{name}\",\n\"tokens_sha256\":[\"{token}\"]}}");
    let list = |entries: &[String]| format!("{{\"tenants\":[\n{}\n]}}", entries.join(",\n"));
    let limits = |limits: &str| {
        format!("{{\"tenants\":[{{\"name\":\"a\",\"tokens_sha256\":[\"{ONE}\"],\n\"limits\":{limits}}}]}}")
    };
    let cases = [
        (String::new(), 1, "EOF"),
        ("{\"tenants\":[]}".to_owned(), 1, "no tenant"),
        ("[\"s3cret\"]".to_owned(), 1, "expected"),
        ("{\"tenants\":\n\"s3cret\"}".to_owned(), 2, "expected an array"),
        ("{\"tenants\":[\n\"s3cret\"]}".to_owned(), 2, "expected an object with `name`"),
        ("{\"tenants\":[\n{\"s3cret\":\"a\"}]}".to_owned(), 2, "unknown member: expected one of `name`"),
        ("{\"tenants\":[{\"name\":\"a\",\n\"tokens_sha256\":\"s3cret\"}]}".to_owned(), 2, "expected an array"),
        (list(&[entry("a", "s3cret")]), 3, "printf %s TOKEN | sha256sum"),
        (list(&[entry("a", &ONE.replace('9', "é"))]), 3, "64 hexadecimal digits"),
        (list(&[entry("a", NOTHING)]), 3, "an empty token"),
        (list(&[entry("a", EXAMPLE)]), 3, "the documentation's example"),
        (list(&[entry("a", &EXAMPLE.to_ascii_uppercase())]), 3, "the documentation's example"),
        (list(&[entry("s3cret s3cret", ONE)]), 2, "1 to 64 letters"),
        (list(&[entry("", ONE)]), 2, "1 to 64 letters"),
        (list(&[entry(&"a".repeat(65), ONE)]), 2, "1 to 64 letters"),
        (list(&[entry("a\\n", ONE)]), 2, "1 to 64 letters"),
        (list(&[entry("a", ONE), entry("a", TWO)]), 6, "tenant a is listed twice"),
        (list(&[entry("a", ONE), entry("a", TWO), entry("b", THREE)]), 6, "tenant a is listed twice"),
        (list(&[entry("a", ONE), entry("b", &ONE.to_ascii_uppercase())]), 6, "a token of tenant b is listed twice"),
        ("{\"tenants\":[{\"name\":\"a\",\"tokens_sha256\":[]}]}".to_owned(), 1, "1 to 16 tokens"),
        ("{\"tenants\":[{\"name\":\"a\"}]}".to_owned(), 1, "missing member `tokens_sha256`"),
        (limits("{\"requests_per_second\":0}"), 2, "from 1 to 1000000"),
        (limits("{\"requests_per_second\":-1}"), 2, "expected u64"),
        (limits("{\"requests_per_second\":null}"), 2, "expected u64"),
        (limits("{\"burst_seconds\":3601}"), 2, "from 1 to 3600"),
        (limits("{\"s3cret\":1}"), 2, "unknown member"),
    ];
    for (text, line, what) in cases {
        let (at, reason) = wrong(&text);
        assert!(reason.contains(what), "{text}: {reason}");
        assert_eq!(at, line, "{text}: {reason}");
        assert!(!reason.contains("s3cret"), "{reason}");
    }
}

#[test]
fn the_number_of_tenants_is_limited() {
    let entry = |n: usize| format!("{{\"name\":\"t{n}\",\"tokens_sha256\":[\"{n:064x}\"]}}");
    let file = |count| format!("{{\"tenants\":[{}]}}", (0..count).map(entry).collect::<Vec<_>>().join(","));
    assert_eq!(parse(file(TENANTS_MAX).as_bytes()).unwrap().len(), TENANTS_MAX);
    assert!(wrong(&file(TENANTS_MAX + 1)).1.contains("100000 tenants"));
}

proptest! {
    #[test]
    fn every_valid_file_is_parsed_to_what_was_written(
        tenants in prop::collection::btree_map(
            "[A-Za-z0-9._-]{1,64}",
            (prop::collection::vec(any::<[u8; 32]>(), 1..=3), prop::option::of(1..=REQUESTS_PER_SECOND_MAX)),
            1..8,
        ),
    ) {
        let hex = |bytes: &[u8; 32]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let list: Vec<_> = tenants
            .iter()
            .map(|(name, (tokens, rate))| {
                let limits = rate.map(|rate| serde_json::json!({ "requests_per_second": rate }));
                let limits = limits.unwrap_or_else(|| serde_json::json!({}));
                let tokens: Vec<_> = tokens.iter().map(hex).collect();
                serde_json::json!({ "name": name, "tokens_sha256": tokens, "limits": limits })
            })
            .collect();
        let entries = parse(&serde_json::to_vec(&serde_json::json!({ "tenants": list })).unwrap()).unwrap();
        prop_assert_eq!(entries.len(), tenants.len());
        for (entry, (name, (tokens, rate))) in entries.iter().zip(&tenants) {
            prop_assert_eq!(&entry.name, name);
            let digests: Vec<Digest> = tokens.iter().map(|token| hex(token).parse().unwrap()).collect();
            prop_assert_eq!(&entry.tokens, &digests);
            prop_assert_eq!(entry.limits.requests_per_second, *rate);
        }
    }

    #[test]
    fn errors_never_repeat_the_content_of_the_file(
        template in 0..7_usize,
        secret in "[G-Z]{12}",
    ) {
        let templates = [
            "\"@\"", "{\"@\":1}", "{\"tenants\":\"@\"}", "{\"tenants\":[\"@\"]}", "{\"tenants\":[{\"name\":[\"@\"]}]}",
            "{\"tenants\":[{\"name\":\"a\",\"tokens_sha256\":[\"@, expected @\"]}]}",
            "{\"tenants\":[{\"name\":\"a\",\"limits\":\"@, expected 1\"}]}",
        ];
        let error = parse(templates[template].replace('@', &secret).as_bytes()).unwrap_err();
        prop_assert!(!error.to_string().contains(&secret), "{error}");
    }
}
