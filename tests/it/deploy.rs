//! The Grafana dashboard and the Prometheus rules of deploy/ match the metrics of a running server and the runbook; the time
//! limits of all files are in order; docs/deployment.md says what exercises each file, and workflows run that.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use tokio::net::TcpStream;

use crate::promql::{References, Scrape, Selector};
use crate::support::{Server, get};
use crate::tls::Pair;
use crate::tokens::TokensFile;

const DASHBOARD: &str = "deploy/grafana/millpond.json";
const ALERTS: &str = "deploy/prometheus/alerts.yml";
const TESTS: &str = "deploy/prometheus/alerts_test.yml";
const RUNBOOK: &str = "docs/operations.md";
const DEPLOYMENT: &str = "docs/deployment.md";
const SETTINGS: &str = ".ebextensions/10-settings.config";
const NGINX: &str = ".platform/nginx/conf.d/millpond.conf";
const SCALE_IN: &str = ".platform/scale-in/millpond-scale-in";
/// Prometheus itself adds these.
const NAMES_OF_PROMETHEUS: [&str; 2] = ["up", "ALERTS"];
const LABELS_OF_PROMETHEUS: [&str; 2] = ["job", "instance"];

fn read(document: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).unwrap()
}

fn yaml(document: &str) -> Value {
    serde_saphyr::from_str(&read(document)).unwrap()
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn dashboard() -> Value {
    serde_json::from_str(&read(DASHBOARD)).unwrap()
}

/// The panels without the headings of the rows.
fn panels(dashboard: &Value) -> Vec<&Value> {
    array(&dashboard["panels"]).iter().filter(|panel| panel["type"] != "row").collect()
}

fn queries(panel: &Value) -> impl Iterator<Item = &str> {
    array(&panel["targets"]).iter().map(|target| text(&target["expr"]))
}

fn alerts() -> Vec<Value> {
    array(&yaml(ALERTS)["groups"]).iter().flat_map(|group| array(&group["rules"])).cloned().collect()
}

/// The anchors of the sections of the runbook, as GitHub makes them.
fn sections() -> BTreeSet<String> {
    let runbook = read(RUNBOOK);
    let headings = runbook.lines().filter_map(|line| Some(line.strip_prefix("##")?.trim_start_matches('#').trim()));
    headings.map(|heading| heading.to_lowercase().replace(' ', "-").replace(['`', '/'], "")).collect()
}

/// A server with everything that has metrics of its own: tenants and a certificate.
async fn scrape() -> Scrape {
    let (pair, _) = Pair::new();
    let tokens = TokensFile::new(&[("shop", &["token"], "{}")]);
    let server = tokens.start(&pair.env()).await;
    Scrape::of(&get(server.admin, "/metrics").await.text())
}

fn assert_exists(selector: &Selector, scrape: &Scrape, expr: &str) {
    let name = &selector.name;
    if NAMES_OF_PROMETHEUS.contains(&name.as_str()) {
        return;
    }
    assert!(scrape.has(name), "there is no metric {name}: {expr}");
    let own = selector.matchers.iter().filter(|(label, ..)| !LABELS_OF_PROMETHEUS.contains(&label.as_str()));
    for (label, operator, value) in own {
        let values = scrape.values(name, label).unwrap_or_else(|| panic!("{name} has no label {label}: {expr}"));
        for value in if operator.ends_with('~') { value.split('|').collect() } else { vec![value.as_str()] } {
            assert!(values.contains(value), "{name} has no {label}={value}: {expr}");
        }
    }
}

#[tokio::test]
async fn every_metric_and_label_value_of_the_dashboard_and_of_the_alerts_exists() {
    let (scrape, dashboard, alerts) = (scrape().await, dashboard(), alerts());
    let mut exprs: Vec<&str> = panels(&dashboard).into_iter().flat_map(queries).collect();
    exprs.extend(array(&dashboard["annotations"]["list"]).iter().map(|annotation| text(&annotation["expr"])));
    let variables =
        array(&dashboard["templating"]["list"]).iter().filter_map(|variable| variable["query"]["query"].as_str());
    exprs.extend(variables.filter_map(|query| query.strip_prefix("label_values(")?.split(", ").next()));
    exprs.extend(alerts.iter().map(|alert| text(&alert["expr"])));
    assert!(exprs.len() > 100, "queries are not found: {}", exprs.len());
    for expr in exprs {
        let found = References::of(expr);
        assert!(!found.selectors.is_empty(), "no metric in {expr}");
        found.selectors.iter().for_each(|selector| assert_exists(selector, &scrape, expr));
        for label in found.labels {
            let exists = LABELS_OF_PROMETHEUS.contains(&label.as_str()) || scrape.has_label(&label);
            assert!(exists, "there is no label {label}: {expr}");
        }
    }
}

/// The quantile of a histogram is at most the bound of its last finite bucket.
#[tokio::test]
async fn the_threshold_of_a_quantile_is_below_the_last_bucket() {
    let scrape = scrape().await;
    let mut count = 0;
    for alert in alerts() {
        let expr = text(&alert["expr"]);
        if !expr.starts_with("histogram_quantile") {
            continue;
        }
        let threshold: f64 = expr.rsplit_once("> ").unwrap().1.trim().parse().unwrap();
        let buckets = scrape.values(&References::of(expr).selectors[0].name, "le").unwrap();
        let finite = buckets.iter().map(|bound| bound.parse().unwrap()).filter(|bound: &f64| bound.is_finite());
        assert!(finite.fold(0.0, f64::max) > threshold, "{} never fires: {buckets:?}", alert["alert"]);
        count += 1;
    }
    assert_eq!(count, 2);
}

#[test]
fn every_alert_is_in_the_runbook_and_links_to_its_section() {
    let (runbook, sections) = (read(RUNBOOK), sections());
    for alert in alerts() {
        let (name, severity) = (text(&alert["alert"]), text(&alert["labels"]["severity"]));
        let url = text(&alert["annotations"]["runbook_url"]);
        let section = url.strip_prefix("docs/operations.md#").unwrap_or_else(|| panic!("{name}: {url}"));
        assert!(sections.contains(section), "{name} links to {url}");
        let row = runbook.lines().find(|line| line.starts_with(&format!("| `{name}` | {severity} |")));
        let row = row.unwrap_or_else(|| panic!("{RUNBOOK} does not list {name} with the severity {severity}"));
        assert!(row.contains(&format!("(#{section})")), "{RUNBOOK} and {ALERTS} name different sections for {name}");
        assert!(!text(&alert["annotations"]["summary"]).is_empty() && ["page", "ticket"].contains(&severity), "{name}");
    }
}

/// promtool runs them: see .ci/lint.
#[test]
fn every_alert_has_a_test_in_which_it_fires_for_a_bad_instance_and_is_silent_for_a_good_one() {
    let tests = yaml(TESTS);
    for alert in alerts() {
        let name = text(&alert["alert"]);
        let covers = |group: &Value| {
            let of_alert = array(&group["alert_rule_test"]).iter().filter(|test| test["alertname"] == name);
            let expected: Vec<_> = of_alert.flat_map(|test| array(&test["exp_alerts"])).collect();
            let good = array(&group["input_series"]).iter().any(|series| text(&series["series"]).contains("\"good"));
            let is_good =
                |alert: &&Value| alert["exp_labels"]["instance"].as_str().is_some_and(|it| it.starts_with("good"));
            good && !expected.is_empty() && !expected.iter().any(is_good)
        };
        assert!(array(&tests["tests"]).iter().any(covers), "{TESTS} does not test {name}");
    }
}

#[test]
fn every_panel_has_a_unit_and_a_link_to_the_runbook_and_selects_job_and_instance() {
    let (dashboard, sections) = (dashboard(), sections());
    for panel in panels(&dashboard) {
        let title = text(&panel["title"]);
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title} has no unit");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let links: Vec<_> = text(&panel["description"]).split("(${runbook}#").skip(1).collect();
        assert!(!links.is_empty(), "{title} has no link to the runbook");
        for link in links {
            let section = link.split(')').next().unwrap();
            assert!(sections.contains(section), "{title} links to the section {section}");
        }
        for selector in queries(panel).flat_map(|expr| References::of(expr).selectors) {
            let labels: BTreeSet<_> = selector.matchers.iter().map(|(label, ..)| label.as_str()).collect();
            let is_selected = selector.name == "ALERTS" || LABELS_OF_PROMETHEUS.iter().all(|it| labels.contains(it));
            assert!(is_selected, "{title} does not select job and instance of {}", selector.name);
        }
    }
}

#[test]
fn panels_have_different_ids_and_do_not_overlap() {
    let dashboard = dashboard();
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in array(&dashboard["panels"]) {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels have the id {}", panel["id"]);
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|name| panel["gridPos"][name].as_u64().unwrap());
        assert!(x + w <= 24, "{} is outside of the grid", panel["title"]);
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(cells.insert(cell), "{} overlaps another panel at {cell:?}", panel["title"]);
        }
    }
}

/// The dashboard shows what clients do: the operators' page, its stream and the scrapes of Prometheus are not in it.
#[tokio::test]
async fn requests_to_the_admin_listener_are_not_in_the_metrics_of_clients() {
    let server = Server::start(&[]).await;
    for path in ["/", "/ready", "/live", "/metrics", "/v1/status", "/v1/log-filter", "/no-such-page"] {
        get(server.admin, path).await;
    }
    let _open = TcpStream::connect(server.admin).await.unwrap();
    for (series, value) in server.metrics().await {
        let of_clients = ["millpond_requests", "millpond_request_seconds", "millpond_connections", "millpond_received"];
        if of_clients.iter().any(|name| series.starts_with(name)) {
            assert!(value == 0.0, "{series} is {value}");
        }
    }
    get(server.public, "/health").await;
    server.metric_is("millpond_requests_total{outcome=\"other\",route=\"health\"}", |count| count == 1.0).await;
}

/// Where the values of the table of time limits are: the name, the file, and what precedes the value there.
const TIME_LIMITS: [(&str, &str, &str); 23] = [
    ("ACK_TIMEOUT", "docs/configuration.md", "| `ACK_TIMEOUT` | `"),
    ("?wait=", "src/http/jobs.rs", "const WAIT_MAX: Duration = Duration::from_secs("),
    ("proxy_read_timeout", NGINX, "\nproxy_read_timeout "),
    ("idle_timeout", ".ebextensions/30-traffic.config", " IdleTimeout: \""),
    ("keepalive_timeout", NGINX, "\nkeepalive_timeout "),
    ("IDLE_TIMEOUT", "docs/configuration.md", "| `IDLE_TIMEOUT` | `"),
    ("HealthCheckTimeout", ".ebextensions/30-traffic.config", " HealthCheckTimeout: \""),
    ("HealthCheckInterval", ".ebextensions/30-traffic.config", " HealthCheckInterval: \""),
    ("S3_TIMEOUT", SETTINGS, " S3_TIMEOUT: "),
    ("SHUTDOWN_GRACE", SETTINGS, " SHUTDOWN_GRACE: "),
    ("OBJECT_MAX_AGE", SETTINGS, " OBJECT_MAX_AGE: "),
    ("DeregistrationDelay", ".ebextensions/30-traffic.config", " DeregistrationDelay: \""),
    ("POLL", SCALE_IN, "\"POLL\", \""),
    ("LAST_WORDS", SCALE_IN, "\"LAST_WORDS\", \""),
    ("DOWN_AFTER", SCALE_IN, "\"DOWN_AFTER\", \""),
    ("HEARTBEAT", SCALE_IN, "\"HEARTBEAT\", \""),
    ("ALARM_AFTER", SCALE_IN, "\"ALARM_AFTER\", \""),
    ("HeartbeatTimeout", ".ebextensions/50-scale-in.config", " HeartbeatTimeout: "),
    ("TimeoutStopSec", "deploy/systemd/millpond.service", "\nTimeoutStopSec="),
    ("stop_grace_period", "deploy/compose/compose.yml", " stop_grace_period: "),
    ("terminationGracePeriodSeconds", "deploy/kubernetes/millpond.yml", " terminationGracePeriodSeconds: "),
    ("InactivityTimeout", RUNBOOK, " InactivityTimeout: \""),
    ("VisibilityTimeout", RUNBOOK, " VisibilityTimeout: \""),
];

/// The time after the first occurrence of `prefix`, such as `75s`, `5m` or a number of seconds.
fn seconds_after(document: &str, prefix: &str) -> u64 {
    let text = read(document);
    let (_, value) = text.split_once(prefix).unwrap_or_else(|| panic!("{document} does not have {prefix:?}"));
    let digits = value.chars().take_while(char::is_ascii_digit).count();
    let number: u64 = value.chars().take(digits).collect::<String>().parse().unwrap();
    let seconds = match value.chars().nth(digits) {
        Some('m') => 60,
        Some('h') => 3600,
        _ => 1,
    };
    number * seconds
}

#[test]
fn the_time_limits_of_all_files_are_those_of_the_table_and_in_its_order() {
    let document = read(DEPLOYMENT);
    let (mut table, mut order) = (BTreeMap::new(), Vec::new());
    for row in document.lines().filter(|line| line.starts_with("| ")) {
        let row = row.replace('`', "");
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        // Other tables have no number in the second column.
        let &[limit, seconds, _, below, _] = cells.as_slice() else { continue };
        let Ok(seconds) = seconds.parse::<u64>() else { continue };
        assert_eq!(table.insert(limit.to_owned(), seconds), None, "{limit} is in the table twice");
        let others = below.split(", ").filter(|other| !other.is_empty());
        order.extend(others.map(|other| (limit.to_owned(), other.to_owned())));
    }

    let mut found: BTreeMap<&str, u64> = TIME_LIMITS
        .iter()
        .filter(|(_, document, _)| Path::new(env!("CARGO_MANIFEST_DIR")).join(document).exists())
        .map(|(limit, document, prefix)| (*limit, seconds_after(document, prefix)))
        .collect();
    // Documented by nginx, Docker, EC2 and Auto Scaling.
    found.extend([("keepalive_timeout to the container", 60), ("container stop", 10), ("Spot notice", 120)]);
    found.insert("limit of the hook", (100 * found["HeartbeatTimeout"]).min(48 * 3600));
    let grace = seconds_after("docs/configuration.md", "| `SHUTDOWN_GRACE` | `");
    found.insert("default SHUTDOWN_GRACE + 5", grace + 5);
    let of_sqsd = |name| seconds_after("src/http/sqsd.rs", &format!("const {name}: Duration = Duration::from_secs("));
    found.insert("message of sqsd", of_sqsd("HOLD_MAX") + of_sqsd("HELD_BODY_TIMEOUT") + found["ACK_TIMEOUT"]);
    for (limit, seconds) in found {
        assert_eq!(table.get(limit), Some(&seconds), "{limit} in {DEPLOYMENT}");
    }

    assert_eq!(table.len(), TIME_LIMITS.len() + 6, "{table:?}");
    assert!(order.len() >= 20, "the order is not found: {order:?}");
    assert!(table["SHUTDOWN_GRACE"] + 5 <= table["container stop"], "docs/operations.md, \"Signals\"");
    for (limit, other) in order {
        assert!(table[&limit] < table[&other], "{limit} must be below {other}");
    }
    // Their defaults apply.
    let settings = read(SETTINGS);
    assert!(!settings.contains(" ACK_TIMEOUT: ") && !settings.contains(" IDLE_TIMEOUT: "));
}

/// The paths of all files below a folder, relative to the repository.
fn files_below(folder: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)) else { return Vec::new() };
    let below = entries.map(Result::unwrap).flat_map(|entry| {
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() { files_below(&path) } else { vec![path] }
    });
    below.collect()
}

/// The first two columns of the table of files: names, and what exercises them.
fn exercised() -> Vec<(BTreeSet<String>, BTreeSet<String>)> {
    let document = read(DEPLOYMENT);
    let (_, table) = document.split_once("| file | exercised by | not tried |\n").unwrap();
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    let rows = table.lines().skip(1).map_while(|row| row.strip_prefix("| ")?.split_once(" | "));
    rows.map(|(file, rest)| (names(file), names(rest.split(" | ").next().unwrap()))).collect()
}

/// A folder stands for the files below it.
#[test]
fn docs_deployment_md_says_of_every_file_what_exercises_it() {
    let table: BTreeSet<String> = exercised().into_iter().flat_map(|(files, _)| files).collect();
    assert!(table.len() > 20, "the table is not found: {table:?}");
    for folder in [".ebextensions", ".platform", "deploy", ".github/workflows"] {
        for file in files_below(folder) {
            // Written by deploy/compose/secrets, and no part of the repository.
            if file.ends_with("/.env") {
                continue;
            }
            let is_named = |name: &String| file == *name || (name.ends_with('/') && file.starts_with(name));
            assert!(table.iter().any(is_named), "{DEPLOYMENT} does not say what exercises {file}");
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // The package has no files whose names begin with a dot.
    for name in table.iter().filter(|name| root.join(".ci").exists() || name.starts_with("deploy")) {
        assert!(root.join(name).exists(), "{DEPLOYMENT} names {name}");
    }
}

/// The scripts of .ci that a text names, except in comments.
fn scripts_of(text: &str) -> BTreeSet<String> {
    let lines = text.lines().map(str::trim_start).filter(|line| !line.starts_with('#'));
    let names = lines.flat_map(|line| line.split(".ci/").skip(1)).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '-').unwrap_or(rest.len());
        format!(".ci/{}", &rest[..end])
    });
    names.filter(|name| Path::new(env!("CARGO_MANIFEST_DIR")).join(name).is_file()).collect()
}

#[test]
fn workflows_run_every_script_of_ci() {
    let scripts: BTreeSet<String> = files_below(".ci")
        .into_iter()
        .filter(|file| file.matches('/').count() == 1 && !file.trim_start_matches('.').contains('.'))
        .collect();
    if scripts.is_empty() {
        // The package has no files whose names begin with a dot.
        return;
    }
    let mut run = BTreeSet::new();
    let mut next: Vec<String> = files_below(".github/workflows");
    while let Some(file) = next.pop() {
        next.extend(scripts_of(&read(&file)).into_iter().filter(|script| run.insert(script.clone())));
    }
    let idle: Vec<_> = scripts.difference(&run).collect();
    assert!(idle.is_empty(), "no workflow runs {idle:?}");
    for (_, exercised) in exercised() {
        for script in exercised.iter().filter(|name| name.starts_with(".ci/")) {
            assert!(scripts.contains(script), "{DEPLOYMENT} names {script}");
        }
    }
}

#[test]
fn a_release_is_built_and_published_only_after_ci() {
    let path = ".github/workflows/release.yml";
    if !Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists() {
        return;
    }
    let jobs = &yaml(path)["jobs"];
    assert_eq!(jobs["ci"]["uses"], "./.github/workflows/ci.yml");
    assert_eq!((&jobs["build"]["needs"], &jobs["publish"]["needs"]), (&Value::from("ci"), &Value::from("build")));
}

#[test]
fn the_files_that_name_a_version_name_that_of_the_package() {
    let version = env!("CARGO_PKG_VERSION");
    for (file, before) in [
        ("Dockerrun.aws.json", "SET-ME/millpond:"),
        ("deploy/kubernetes/millpond.yml", "SET-ME/millpond:"),
        ("docs/openapi.yaml", "\n  version: "),
        ("docs/deployment.md", "/millpond:"),
    ] {
        if Path::new(env!("CARGO_MANIFEST_DIR")).join(file).exists() {
            assert!(read(file).contains(&format!("{before}{version}")), "{file} names another version than {version}");
        }
    }
}

/// What the process may do does not depend on how it is upgraded.
#[test]
fn the_units_of_both_ways_to_upgrade_have_the_same_settings_of_the_service() {
    let settings = |unit: &str| -> Vec<String> {
        let text = read(unit);
        let (_, service) = text.split_once("[Service]\n").unwrap();
        let (service, _) = service.split_once("\n[Install]").unwrap();
        service.lines().filter(|line| line.contains('=') && !line.starts_with('#')).map(str::to_owned).collect()
    };
    let (one, mut template) =
        (settings("deploy/systemd/millpond.service"), settings("deploy/systemd/millpond@.service"));
    // What a handover needs.
    let own = ["Environment=HANDOVER_SOCKET=", "RuntimeDirectory", "RestartSec="];
    template.retain(|line| !own.iter().any(|prefix| line.starts_with(prefix)));
    assert!(one.len() > 30, "{one:?}");
    assert_eq!(one, template);
}
