//! What an operator runs, as README.md has it: the program `loadtest` against the program `millpond`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Output;

use aws_sdk_s3::primitives::ByteStream;
use loadtest::client::SelfSigned;
use loadtest::s3::S3Server;
use loadtest::server::{Program, Server};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::process::Command;

const LOADTEST: &str = env!("CARGO_BIN_EXE_loadtest");

const TOKEN: &str = "a-token-of-this-test";
const ADMIN_TOKEN: &str = "an-admin-token-of-this-test";

/// Small: 10 requests with 100 payloads in total.
const SMALL: &str = "--requests 10 --connections 2";

/// The server, which `cargo test --workspace` builds beside this program.
fn millpond() -> PathBuf {
    let path = Path::new(LOADTEST).with_file_name("millpond");
    assert!(path.exists(), "there is no {}: run cargo build --workspace first", path.display());
    path
}

async fn loadtest(arguments: &str, env: &[(String, String)]) -> Output {
    let mut command = Command::new(LOADTEST);
    command.args(arguments.split_whitespace()).envs(env.iter().map(|(name, value)| (name, value)));
    command.kill_on_drop(true).output().await.unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A deployment: TLS, tokens, and a bucket with a prefix.
struct Deployment {
    server: Server,
    s3: S3Server,
    folder: TempDir,
    url: String,
    admin: String,
}

impl Deployment {
    async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        let s3 = S3Server::start(&path("s3"), "objects").await.unwrap();
        let pair = SelfSigned::generate(folder.path()).unwrap();
        let digest: String = Sha256::digest(TOKEN).iter().map(|byte| format!("{byte:02x}")).collect();
        let tenant = format!(r#"{{"tenants":[{{"name":"loadtest","tokens_sha256":["{digest}"],"limits":{{}}}}]}}"#);
        for (name, text) in [("tokens.json", &*tenant), ("token", TOKEN), ("admin-token", ADMIN_TOKEN)] {
            std::fs::write(path(name), format!("{text}\n")).unwrap();
        }
        let mut env = s3.env();
        env.extend(pair.env());
        let file = |name: &str| path(name).to_string_lossy().into_owned();
        env.extend(
            [
                ("TOKENS_FILE", file("tokens.json")),
                ("ADMIN_TOKEN_FILE", file("admin-token")),
                ("SPOOL_DIR", file("spool")),
                ("S3_PREFIX", "mine".to_owned()),
                ("OBJECT_MAX_AGE", "1s".to_owned()),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        let program = Program { path: millpond(), args: Vec::new(), env, log: Some(path("log")) };
        let server = Box::pin(Server::start(&program)).await.unwrap();
        let url = format!("https://localhost:{}", server.addr().unwrap().port());
        let admin = server.admin_addr();
        while admin().is_none() {
            tokio::task::yield_now().await;
        }
        let admin = format!("http://{}", admin().unwrap());
        Self { server, s3, folder, url, admin }
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// The arguments of `run` for it.
    fn arguments(&self) -> String {
        let Self { url, admin, .. } = self;
        let (ca, token, admin_token) = (self.file("cert.pem"), self.file("token"), self.file("admin-token"));
        format!(
            "run --url {url} --ca {ca} --token-file {token} --admin-url {admin} --admin-token-file {admin_token} {SMALL}"
        )
    }

    async fn run(&self, more: &str) -> Output {
        loadtest(&format!("{} {more}", self.arguments()), &self.s3.env()).await
    }

    async fn stop(self) {
        self.server.terminate().unwrap();
        assert_eq!(self.server.wait(std::time::Duration::from_secs(60)).await.unwrap().code, Some(0));
        self.s3.stop().await;
    }
}

fn report(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_with_tls_and_tokens_is_measured_and_lines_of_other_clients_are_foreign() {
    let deployment = Deployment::start().await;
    let others = "{\"received_at\":\"x\",\"payload\":{\"level\":\"info\"}}\nplain text\n";
    let put = deployment.s3.client().put_object().bucket("objects").key("mine/dt=2026-11-27/other.ndjson");
    put.body(ByteStream::from_static(others.as_bytes())).send().await.unwrap();
    let json = deployment.file("report.json");
    let output = deployment.run(&format!("--store s3://objects/mine --json {json} --rate 8")).await;
    let text = text(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    let report = report(&json);
    let ledger = |name: &str| report["ledger"][name].as_u64();
    assert_eq!(["accepted", "stored"].map(ledger), [Some(100), Some(100)], "{text}");
    assert_eq!(["foreign", "corrupt", "lost"].map(ledger), [Some(2), Some(0), Some(0)], "{text}");
    assert_eq!(report["no_metrics"], Value::Null, "{text}");
    let timeline = report["timeline"].as_array().unwrap();
    assert!(timeline.iter().any(|sample| sample["gauges"]["spool_bytes"].is_u64()), "{text}");
    assert_eq!(report["settings"]["load protocol"], "HTTP/1.1 over TLS");
    deployment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_and_encoded_bodies_are_measured_on_a_deployment() {
    let deployment = Deployment::start().await;
    for encoding in ["zstd", "gzip"] {
        let more = format!("--store s3://objects/mine/ --http2 --streams 3 --encoding {encoding}");
        let output = deployment.run(&more).await;
        let text = text(&output);
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(
            text.contains("HTTP/2, 3 streams over TLS") && text.contains("lost                                   0")
        );
    }
    deployment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_or_with_a_wrong_prefix_nothing_is_said_to_be_lost_or_kept() {
    let deployment = Deployment::start().await;
    for (more, code, why) in [
        ("", 0, "not checked: no --store was given"),
        ("--store s3://objects/yours --settle 2s", 2, "no line of this run is in s3://objects/yours/ (0 objects"),
        ("--store s3://elsewhere/mine", 2, "not checked: listing s3://elsewhere/mine/"),
    ] {
        let output = deployment.run(more).await;
        let text = text(&output);
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(why) && text.contains("accepted                             100"), "{text}");
        assert!(text.contains("lost, duplicated, corrupt not checked"), "{text}");
    }
    deployment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_is_lost_only_if_the_server_had_the_time_to_store_it_or_says_that_nothing_waits() {
    let deployment = Deployment::start().await;
    let arguments = deployment.arguments().replace(SMALL, "--connections 2 --rate 20 --duration 3s");
    let arguments = format!("{arguments} --store s3://objects/mine");
    let env = deployment.s3.env();
    let open = loadtest(&format!("{arguments} --settle 0s"), &env).await;
    assert_eq!(open.status.code(), Some(2), "{}", text(&open));
    let has_row = |output: &Output, name: &str| text(output).lines().any(|line| line.trim().starts_with(name));
    assert!(has_row(&open, "not stored yet, or lost") && has_row(&open, "not checked: objects may still be open"));
    let settled = loadtest(&arguments, &env).await;
    assert_eq!(settled.status.code(), Some(0), "{}", text(&settled));
    assert!(!has_row(&settled, "not stored yet") && !has_row(&settled, "not checked"));
    deployment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_reported_with_their_reason() {
    let deployment = Deployment::start().await;
    let with = |option: &str, value: &str| {
        let arguments = deployment.arguments();
        let (before, after) = arguments.split_once(&format!("{option} ")).unwrap();
        let (_, after) = after.split_once(' ').unwrap();
        format!("{before}{value} {after} --duration 2s --requests 5")
    };
    for (arguments, code, why) in [
        // Without --ca, the system's authorities do not know the certificate.
        (with("--ca", "").replace(SMALL, "--connections 2"), 1, "first connection error    invalid peer certificate"),
        (with("--token-file", "--token another").replace(SMALL, ""), 2, "403: 5"),
        (with("--admin-token-file", "").replace(SMALL, "--rate 4"), 0, "give it with --admin-token-file"),
    ] {
        let output = loadtest(&arguments, &[]).await;
        assert_eq!(output.status.code(), Some(code), "{arguments}\n{}", text(&output));
        assert!(text(&output).contains(why), "{}", text(&output));
    }
    deployment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_started_server_is_loaded_over_tls_and_http_2_with_compressed_bodies() {
    let spawn = millpond();
    for more in ["--tls", "--http2 --encoding zstd", "--tls --http2 --encoding zstd", "--encoding gzip --in-memory-s3"]
    {
        let arguments = format!("run --spawn {} --requests 40 --connections 4 {more}", spawn.display());
        // The variables of an S3 store, as for a deployment in the same shell, do not reach it.
        let env =
            ["S3_BUCKET", "S3_PREFIX", "AWS_ENDPOINT_URL_S3"].map(|name| (name.to_owned(), "elsewhere".to_owned()));
        let output = loadtest(&arguments, &env).await;
        let text = text(&output);
        assert_eq!(output.status.code(), Some(0), "{more}: {text}");
        assert!(text.contains("stored                               400\n"), "{more}: {text}");
    }
    let folder = TempDir::new().unwrap();
    let found = folder.path().display();
    let output = loadtest(&format!("scenario secure --duration 1s --json {found}"), &[]).await;
    assert!(folder.path().join("secure-1.html").exists(), "{}", text(&output));
    let report = &report(&format!("{found}/secure.json"))["reports"][0];
    assert!(!report["server"]["threads"].as_array().unwrap().is_empty());
    assert_eq!((&report["ledger"]["lost"], &report["settings"]["load encoding"]), (&0.into(), &"zstd".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scenario_that_asks_for_ratios_runs_the_floor_and_the_server_in_turns() {
    let folder = TempDir::new().unwrap();
    let scenario = folder.path().join("ratios.toml");
    let asks = "question = \"Is it close to the floor?\"\nstore = \"memory-s3\"\nrounds = 2\n[load]\nconnections = 2\n\
                [[floor]]\nrate = 200\ncpu = 1e9\np99 = 1e9\n";
    std::fs::write(&scenario, asks).unwrap();
    let found = folder.path().display();
    let output = loadtest(&format!("scenario {} --duration 500ms --json {found}", scenario.display()), &[]).await;
    let text = text(&output);
    assert!(text.contains("floor at 200/s  ->  server: 2 and 2 runs"), "{text}");
    let finding = report(&format!("{found}/ratios.json"));
    let answer = finding["conclusion"]["answer"].as_str().unwrap();
    assert!(answer.contains("CPU a request ") && answer.contains("(at most 1000000000), p99.9 "), "{text}");
    let reports = finding["reports"].as_array().unwrap();
    let names: Vec<_> = reports.iter().map(|report| report["name"].as_str().unwrap()).collect();
    let (floor, server) = ("ratios, floor at 200/s", "ratios, server at 200/s");
    assert_eq!(names, [floor, server, floor, server], "{text}");
    for pair in reports.chunks(2) {
        assert_eq!((&pair[0]["ledger"], &pair[1]["ledger"]["lost"]), (&Value::Null, &0.into()), "{text}");
        assert_eq!(pair[1]["settings"]["store"], "an S3 server in loadtest, in memory");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_prints_an_interval_for_each_variant_and_its_reference() {
    let spawn = millpond().display().to_string();
    let small = "--rounds 2 --duration 300ms --rate 200 --connections 2";
    let variants = "--variant memory:ACK=memory --variant disk:ACK=disk";
    let floor = loadtest(&format!("compare --spawn {spawn} {small} {variants}"), &[]).await;
    let builds = loadtest(&format!("compare --spawn {spawn} --against {spawn} --tls --http2 {small}"), &[]).await;
    for (output, names) in [
        (&floor, &["floor  ->  memory", "floor  ->  disk"][..]),
        (&builds, &["server (--against)  ->  server (--spawn)"][..]),
    ] {
        let text = text(output);
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(names.iter().all(|name| text.contains(&format!("{name}: 2 and 2 runs"))), "{text}");
        let line = text.lines().find(|line| line.trim().starts_with("CPU a request")).unwrap();
        assert!(line.contains("  x") && line.contains('['), "{text}");
    }
}
