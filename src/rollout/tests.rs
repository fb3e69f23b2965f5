use super::*;

fn own() -> [SocketAddr; 2] {
    [SocketAddr::from(([0, 0, 0, 0], 8080)), SocketAddr::from(([127, 0, 0, 1], 9090))]
}

fn plan(text: &str) -> Plan {
    parse(text.as_bytes(), &own()).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_file_with_every_member_is_read() {
    let plan = plan(
        r#"{"mirror": {"url": "http://192.0.2.1:8080", "percent": 12.5},
            "forward": {"url": "https://other.example", "percent": 1, "by": "request"},
            "features": {"ack_stored": {"percent": 0, "tenants": ["a"], "except": ["b"]}, "receipts": {"percent": 100}},
            "variants": [{"name": "a", "percent": 50}, {"name": "b-2_x", "percent": 50.0}]}"#,
    );
    let mirror = plan.mirror.unwrap();
    assert_eq!(
        (mirror.url.to_string(), mirror.percent.percent(), mirror.tokens),
        ("http://192.0.2.1:8080/".into(), 12.5, false)
    );
    let forward = plan.forward.unwrap();
    assert_eq!((forward.url.host(), forward.percent.percent(), forward.by), (Some("other.example"), 1.0, By::Request));
    assert_eq!(plan.variants.list().len(), 2);
    assert_eq!(parse(b"{}", &own()).unwrap(), Plan::default());
}

#[test]
fn an_invalid_file_is_an_error_that_names_the_member_and_says_what_to_do() {
    let mirror = |url: &str, percent: &str| format!(r#"{{"mirror":{{"url":{url},"percent":{percent}}}}}"#);
    let other = "\"http://192.0.2.1\"";
    let variants = |list: &[(&str, f64)]| {
        let entry = |(name, percent): &(&str, f64)| format!(r#"{{"name":"{name}","percent":{percent}}}"#);
        format!(r#"{{"variants":[{}]}}"#, list.iter().map(entry).collect::<Vec<_>>().join(","))
    };
    let many: Vec<(String, f64)> = (0..17).map(|number| (format!("v{number}"), 1.0)).collect();
    let many: Vec<(&str, f64)> = many.iter().map(|(name, percent)| (&**name, *percent)).collect();
    for (text, expected) in [
        (String::new(), "the file is not valid JSON there"),
        ("x".into(), "line 1: expected value: the file is not valid JSON there"),
        (
            mirror("\"http://127.0.0.1:9090\"", "1"),
            "mirror.url is an address of this server (LISTEN_ADDR or ADMIN_ADDR)",
        ),
        (mirror("\"http://localhost:9090\"", "1"), "mirror.url is an address of this server"),
        ("[]".into(), "an object with `mirror`"),
        ("{} {}".into(), "trailing"),
        (r#"{"mirrors":{}}"#.into(), "mirrors: unknown member: expected one of `mirror`"),
        (r#"{"mirror":{},"mirror":{}}"#.into(), "url"),
        (r#"{"forward":null,"forward":null}"#.into(), "duplicate field `forward`"),
        (mirror(other, "10,\"by\":\"tenant\""), "mirror.by: unknown member"),
        (mirror(other, "101"), "mirror.percent: expected a number from 0 to 100"),
        (mirror(other, "-1"), "mirror.percent: expected a number from 0 to 100"),
        (mirror(other, "0.001"), "at most two decimals"),
        (mirror(other, "1e400"), "number out of range"),
        (mirror(other, "\"5\""), "mirror.percent: expected a number"),
        (mirror(other, "null"), "mirror.percent: expected a number"),
        (mirror("\"ftp://192.0.2.1\"", "1"), "mirror.url: expected http or https"),
        (mirror("\"192.0.2.1:80\"", "1"), "mirror.url: expected http or https"),
        (mirror("\"http://user:secret@192.0.2.1\"", "1"), "mirror.url: expected http or https"),
        (mirror("\"http://192.0.2.1/path\"", "1"), "mirror.url: expected http or https"),
        (mirror("\"http://192.0.2.1?q\"", "1"), "mirror.url: expected http or https"),
        (mirror("\"http://192.0.2.1#f\"", "1"), "mirror.url: expected http or https"),
        (mirror("\"http://192.0.2.1:99999\"", "1"), "mirror.url: expected http or https"),
        (mirror("\"http://\"", "1"), "mirror.url: expected http or https"),
        (mirror("\"http://127.0.0.1:8080\"", "1"), "mirror.url is an address of this server"),
        (mirror("\"http://LOCALHOST:8080\"", "1"), "mirror.url is an address of this server"),
        (mirror("\"http://[::1]:8080\"", "1"), "mirror.url is an address of this server"),
        (mirror("\"http://0.0.0.0:8080\"", "1"), "mirror.url is an address of this server"),
        (
            r#"{"forward":{"url":"http://127.0.0.1:8080","percent":1,"by":"tenant"}}"#.into(),
            "forward.url is an address of this",
        ),
        (r#"{"forward":{"url":"http://192.0.2.1","percent":1}}"#.into(), "missing member `by`"),
        (
            r#"{"forward":{"url":"http://192.0.2.1","percent":1,"by":"address"}}"#.into(),
            "expected `tenant` or `request`",
        ),
        (
            r#"{"features":{"acks":{"percent":1}}}"#.into(),
            "features.acks: unknown member: expected one of `ack_stored`",
        ),
        (r#"{"features":{"receipts":{"percent":1,"tenant":"a"}}}"#.into(), "features.receipts.tenant: unknown member"),
        (
            r#"{"features":{"receipts":{"percent":1,"tenants":["a","b c"]}}}"#.into(),
            "features.receipts.tenants[1]: expected a tenant name",
        ),
        (
            r#"{"features":{"receipts":{"percent":1,"tenants":"secret"}}}"#.into(),
            "features.receipts.tenants: expected an array",
        ),
        (variants(&[("a", 50.0), ("a", 10.0)]), "two have the same name"),
        (variants(&[("a", 50.0), ("b", 50.01)]), "exceed 100 percent"),
        (variants(&many), "more than 16"),
        (variants(&[("A", 1.0)]), "lower case letters"),
        (variants(&[("", 1.0)]), "lower case letters"),
        (variants(&[(&"x".repeat(33), 1.0)]), "lower case letters"),
    ] {
        let error = parse(text.as_bytes(), &own()).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
    parse(mirror("\"http://127.0.0.1:8081\"", "1").as_bytes(), &own()).unwrap();
    parse(mirror("\"http://192.0.2.1:9090\"", "1").as_bytes(), &own()).unwrap();
}

#[test]
fn a_file_larger_than_its_limit_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rollout.json");
    std::fs::write(&path, format!("{{}}{}", " ".repeat(1 << 20))).unwrap();
    let error = RolloutFile::open(path, &own(), &Reload::default()).unwrap_err();
    assert!(matches!(error, FileError::TooLarge), "{error}");
}

#[test]
fn a_feature_is_on_for_the_listed_tenants_and_a_share_of_the_others() {
    let plan = plan(
        r#"{"features": {"receipts": {"percent": 30, "tenants": ["listed", "both"], "except": ["never", "both"]}}}"#,
    );
    let is_on = |feature, name| plan.features.is_on(feature, Some(&ClientKey::Tenant(name)));
    assert!(
        is_on(Feature::Receipts, "listed") && !is_on(Feature::Receipts, "never") && !is_on(Feature::Receipts, "both")
    );
    assert!(
        Feature::ALL.iter().filter(|feature| is_on(**feature, "never")).count() == 2,
        "features that are not listed are on"
    );
    let names: Vec<String> = (0..1000).map(|number| format!("t{number}")).collect();
    let on = names.iter().filter(|name| is_on(Feature::Receipts, name)).count();
    assert!((200..400).contains(&on), "{on}");
    assert!(!plan.features.is_on(Feature::Receipts, None), "a client of which nothing is known");
}

#[test]
fn clients_without_a_tenant_are_selected_by_their_network() {
    let of = |address: &str| ClientKey::new(None, Some(address.parse().unwrap()));
    assert_eq!(of("2001:db8::1"), of("2001:db8::2"));
    assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    assert_eq!(ClientKey::new(Some("acme"), Some([192, 0, 2, 1].into())), Some(ClientKey::Tenant("acme")));
    assert_eq!(ClientKey::new(None, None), None);
}

#[test]
fn each_client_has_one_variant_and_raising_the_last_one_moves_no_other_client() {
    let before = plan(r#"{"variants": [{"name": "a", "percent": 20}, {"name": "b", "percent": 10}]}"#).variants;
    let after = plan(r#"{"variants": [{"name": "a", "percent": 20}, {"name": "b", "percent": 50}]}"#).variants;
    let names: Vec<String> = (0..2000).map(|number| format!("t{number}")).collect();
    let mut counts = [0; 3];
    for name in &names {
        let key = ClientKey::Tenant(name);
        let (old, new) = (before.of(Some(&key)), after.of(Some(&key)));
        assert!(old.is_none() || old == new, "{name}: {old:?} {new:?}");
        counts[["a", "b"].iter().position(|name| new.is_some_and(|new| **new == **name)).unwrap_or(2)] += 1;
    }
    assert!((300..500).contains(&counts[0]) && (850..1150).contains(&counts[1]), "{counts:?}");
    assert_eq!(after.of(None), None);
}

#[test]
fn the_log_of_a_plan_has_no_list_of_tenants() {
    let plan = plan(
        r#"{"features": {"forward": {"percent": 5, "tenants": ["acme"]}}, "variants": [{"name": "a", "percent": 5}]}"#,
    );
    assert_eq!(plan.features.to_string(), "forward for 5% of clients and 1 tenants, except 0");
    assert_eq!(plan.variants.to_string(), "a 5%");
    assert_eq!(Features::default().to_string(), "all on");
}
