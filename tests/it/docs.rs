//! docs/configuration.md and docs/metrics.md match the code, and the metrics, sections and tests that documents name exist.
//!
//! `UPDATE_DOCS=1 cargo test --test it docs` writes the generated parts. The text around them is written by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use millpond::config::SETTINGS;
use millpond::metrics::{Metrics, RequestResult};
use prometheus::Registry;
use prometheus::proto::MetricFamily;

const COMMAND: &str = "UPDATE_DOCS=1 cargo test --test it docs";
const SETTINGS_BEGIN: &str =
    "<!-- Generated from src/config/table.rs by: UPDATE_DOCS=1 cargo test --test it docs -->\n";
const SETTINGS_END: &str = "<!-- End of the generated part -->\n";
/// The unit of a metric is the first of these words that its name contains.
const UNITS: [&str; 16] = [
    "seconds",
    "bytes",
    "payloads",
    "batches",
    "jobs",
    "segments",
    "requests",
    "connections",
    "objects",
    "workers",
    "retries",
    "failures",
    "folders",
    "files",
    "spans",
    "handovers",
];

/// Metrics without a unit: 0 or 1.
const NUMBERS: [&str; 6] = [
    "millpond_build_info",
    "millpond_draining",
    "millpond_forward_tripped",
    "millpond_reload_failing",
    "millpond_spool_up",
    "millpond_store_up",
];
/// Labels whose values are not known here.
const OPEN_LABELS: [(&str, &str); 3] = [
    ("tenant", "the name of a tenant, or `(other)`"),
    ("variant", "the name of a variant in ROLLOUT_FILE"),
    ("version", "the version"),
];

#[test]
fn configuration_md_lists_every_setting_with_its_default() {
    let text = read("docs/configuration.md");
    let (before, rest) = text.split_once(SETTINGS_BEGIN).expect("the generated part begins");
    let (_, after) = rest.split_once(SETTINGS_END).expect("the generated part ends");
    check("docs/configuration.md", &text, &[before, SETTINGS_BEGIN, &settings(), SETTINGS_END, after].concat());
}

fn settings() -> String {
    let mut text = String::new();
    let mut group = None;
    for setting in SETTINGS {
        if group.replace(setting.group) != Some(setting.group) {
            text += &format!("\n### {}\n\n", setting.group.0);
            text += "| name | default | unit or values | meaning |\n| --- | --- | --- | --- |\n";
        }
        let default = setting.default.filter(|default| !default.is_empty());
        let default = default.map_or_else(|| " ".to_owned(), |default| format!(" `{default}` "));
        text += &format!("| `{}` |{default}| {} | {} |\n", setting.name, setting.unit, setting.help);
    }
    text + "\n"
}

#[test]
fn metrics_md_describes_every_metric_and_says_what_to_do() {
    let text = read("docs/metrics.md");
    let mut descriptions: BTreeMap<String, String> =
        families().iter().map(|family| (family.name().to_owned(), describe(family))).collect();
    let mut parts = text.split("### `");
    let mut expected = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("`\n\n").expect("a heading and an empty line");
        let description = descriptions.remove(name).unwrap_or_else(|| panic!("there is no metric {name}"));
        let (_, advice) = rest.split_once("\n\n").unwrap_or_default();
        assert!(!advice.trim().is_empty() && !advice.starts_with('#'), "docs/metrics.md: what to do about {name}?");
        expected += &format!("### `{name}`\n\n{description}\n\n{advice}");
    }
    for (name, description) in descriptions {
        expected += &format!("\n### `{name}`\n\n{description}\n");
    }
    check("docs/metrics.md", &text, &expected);
}

fn describe(family: &MetricFamily) -> String {
    let name = family.name();
    let kind = format!("{:?}", family.get_field_type()).to_lowercase();
    let unit = match UNITS.into_iter().find(|unit| name.contains(unit)) {
        Some(unit) => unit,
        None if name == "millpond_upload_limit" => "uploads",
        None if name == "millpond_limit" => "the unit of what is limited",
        None if name == "millpond_mirror_total" => "copies",
        None if name == "millpond_forward_total" => "requests",
        None if name.ends_with("_responses_total") => "responses",
        None if name.ends_with("_fds") => "file descriptors",
        None if NUMBERS.contains(&name) => "none",
        None => panic!("{name} has no unit: add it to UNITS"),
    };
    let mut text = format!("- Meaning: {}.\n- Type: {kind}. Unit: {unit}.", family.help());
    let mut labels: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for pair in family.get_metric().iter().flat_map(|metric| metric.get_label()) {
        labels.entry(pair.name()).or_default().insert(format!("`{}`", pair.value()));
    }
    for (label, values) in labels {
        let values = match OPEN_LABELS.into_iter().find(|(open, _)| *open == label) {
            Some((_, values)) => values.to_owned(),
            None => values.into_iter().collect::<Vec<_>>().join(", "),
        };
        text += &format!("\n- Label `{label}`: {values}.");
    }
    text
}

fn families() -> Vec<MetricFamily> {
    let registry = Registry::new();
    let metrics = Metrics::new(registry.clone()).unwrap();
    // Without a tenant these metrics have no series.
    metrics.tenants.of(&["shop"]);
    metrics.variants.replace(["b"].into_iter());
    for result in [RequestResult::Accepted, RequestResult::Rejected, RequestResult::Failed] {
        metrics.variants.observe("b", result, Duration::ZERO);
    }
    registry.gather()
}

#[test]
fn every_metric_that_a_document_names_exists() {
    let families = families();
    let names: BTreeSet<&str> = families.iter().map(MetricFamily::name).collect();
    for document in ["README.md", "docs/operations.md", "deploy/prometheus/alerts.yml", "docs/metrics.md"] {
        let text = read(document);
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        // The prefix alone names no metric.
        for word in words.filter(|word| word.starts_with("millpond_") && *word != "millpond_") {
            let series = ["_bucket", "_count", "_sum"].into_iter().find_map(|suffix| word.strip_suffix(suffix));
            let exists = names.contains(word) || series.is_some_and(|name| names.contains(name));
            assert!(exists, "{document} names {word}, which does not exist");
        }
    }
}

/// A row of SECURITY.md ends with its tests: `file`: `test`, `test`; `file`: all; *fuzz* `target`.
#[test]
fn every_test_that_security_md_names_exists() {
    let security = read("SECURITY.md");
    let rows = security.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    let mut count = 0;
    for cell in rows.skip(1).filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next()) {
        for part in cell.split("; ") {
            let names: Vec<_> = part.split('`').skip(1).step_by(2).collect();
            for name in &names {
                let exists = match (part.starts_with("*fuzz*"), part.contains("`: ")) {
                    (true, _) => path(&format!("fuzz/fuzz_targets/{name}.rs")).exists(),
                    (false, true) if *name == names[0] => path(&format!("tests/it/{name}.rs")).exists(),
                    (false, true) => read(&format!("tests/it/{}.rs", names[0])).contains(&format!("fn {name}()")),
                    (false, false) => path(name).exists() || path(&format!("tests/it/{name}.rs")).exists(),
                };
                assert!(exists, "SECURITY.md names {name}, which does not exist: {part}");
                count += 1;
            }
        }
    }
    assert!(count > 100, "the tables of SECURITY.md are not found: {count}");
}

fn path(document: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(document)
}

fn read(document: &str) -> String {
    std::fs::read_to_string(path(document)).unwrap()
}

/// Compares a document with what it should be, or writes it if `UPDATE_DOCS` is set.
fn check(document: &str, text: &str, expected: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path(document), expected).unwrap();
        return;
    }
    let difference = text.lines().zip(expected.lines()).find(|(is, should)| is != should);
    assert!(text == expected, "{document} is out of date: run {COMMAND}. First difference: {difference:?}");
}
