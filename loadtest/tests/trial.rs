//! Whole runs against a toy server with known flaws, which have to be found, and against a child process.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use loadtest::load::{Control, Plan, Rate, Shape};
use loadtest::readback::Store;
use loadtest::report::Report;
use loadtest::server::Program;
use loadtest::trial::{TestedServer, TestedStore, Trial};
use serde::Deserialize;
use serde_json::value::RawValue;
use tempfile::TempDir;
use tokio::net::TcpListener;

/// The toy's flaw at its 20th request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Flaw {
    None,
    Loses,
    StoresTwice,
    Reprints,
    RejectsButStores,
    Rejects,
}

struct Toy {
    folder: PathBuf,
    flaw: Flaw,
    requests: AtomicU64,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
}

async fn take(State(toy): State<Arc<Toy>>, body: Bytes) -> StatusCode {
    let number = toy.requests.fetch_add(1, Ordering::Relaxed);
    let flaw = if number == 20 { toy.flaw } else { Flaw::None };
    let batch: Envelope<'_> = serde_json::from_slice(&body).unwrap();
    let mut lines = String::new();
    for payload in batch.data {
        let payload = match flaw {
            Flaw::Reprints => serde_json::from_str::<serde_json::Value>(payload.get()).unwrap().to_string(),
            _ => payload.get().to_owned(),
        };
        lines += &format!("{{\"request_id\":\"{number}\",\"payload\":{payload}}}\n");
    }
    if flaw == Flaw::StoresTwice {
        lines = lines.repeat(2);
    }
    if ![Flaw::Loses, Flaw::Rejects].contains(&flaw) {
        tokio::fs::write(toy.folder.join(format!("{number}.ndjson")), lines).await.unwrap();
    }
    let rejects = [Flaw::RejectsButStores, Flaw::Rejects].contains(&flaw);
    if rejects { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::ACCEPTED }
}

fn plan(target: SocketAddr) -> Plan {
    Plan {
        connections: 4,
        threads: 2,
        requests: Some(50),
        run: 0xabc,
        token: "t".to_owned(),
        timeout: Duration::from_secs(10),
        ..Plan::new(target)
    }
}

async fn against_toy(flaw: Flaw, change: impl FnOnce(&mut Plan)) -> Report {
    let folder = TempDir::new().unwrap();
    let toy = Arc::new(Toy { folder: folder.path().to_owned(), flaw, requests: AtomicU64::new(0) });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut plan = plan(listener.local_addr().unwrap());
    change(&mut plan);
    let router = Router::new().route("/v1/payloads", post(take)).with_state(toy);
    let store = TestedStore::Given(Store::Dir(folder.path().to_owned()));
    let run = Trial::new("test", plan, TestedServer::Running, store).run(Control::default(), |_| {});
    tokio::select! {
        report = Box::pin(run) => report.unwrap(),
        wrong = async { axum::serve(listener, router).await } => panic!("the toy stopped: {wrong:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_flaws_passes() {
    let report = against_toy(Flaw::None, |_| {}).await;
    assert!(!report.failed(), "{report}");
    let totals = report.ledger.unwrap();
    assert_eq!((totals.sent, totals.accepted, totals.stored), (500, 500, 500));
    assert_eq!(report.statuses[&202], 50);
    assert_eq!(report.connects, (4, 0));
    assert_eq!(report.objects.unwrap().count, 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_flaw_is_found() {
    let report = against_toy(Flaw::Loses, |_| {}).await;
    assert_eq!(report.ledger.unwrap().lost, 10, "{report}");
    assert!(report.failed());
    let report = against_toy(Flaw::StoresTwice, |_| {}).await;
    assert_eq!(report.ledger.unwrap().duplicated, 10, "{report}");
    assert!(report.failed());
    let report = against_toy(Flaw::Reprints, |_| {}).await;
    assert_eq!((report.ledger.unwrap().corrupt, report.ledger.unwrap().lost), (10, 10), "{report}");
    assert!(report.failed());
    let report = against_toy(Flaw::RejectsButStores, |_| {}).await;
    assert_eq!(report.ledger.unwrap().stored_though_rejected, 10, "{report}");
    assert!(report.failed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_is_not_a_failure() {
    let report = against_toy(Flaw::Rejects, |_| {}).await;
    assert!(!report.failed(), "{report}");
    let totals = report.ledger.unwrap();
    assert_eq!((totals.rejected, totals.stored), (10, 490));
    assert_eq!(report.statuses[&503], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paced_load_keeps_its_rate() {
    let report = against_toy(Flaw::None, |plan| plan.rate = Rate::steady(250.0)).await;
    assert!(!report.failed(), "{report}");
    // Fifty at 250 a second take a fifth of a second, however slow the machine is.
    assert!(report.seconds >= 0.19, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mix_over_new_connections_is_recorded_payload_by_payload() {
    let report = against_toy(Flaw::None, |plan| {
        plan.requests = Some(40);
        plan.threads = 1;
        plan.shape = Shape::Mixed;
        plan.new_connections = 0.25;
    })
    .await;
    assert!(!report.failed(), "{report}");
    let totals = report.ledger.unwrap();
    assert_eq!((totals.sent, totals.stored), (2 * 164, 2 * 164));
    assert_eq!(report.connects, (4 + 10, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_is_started_measured_and_stopped() {
    let log = TempDir::new().unwrap();
    let floor = Program {
        path: PathBuf::from(env!("CARGO_BIN_EXE_loadtest")),
        args: vec!["baseline".into(), "floor".into()],
        env: Vec::new(),
        log: Some(log.path().join("log")),
    };
    let plan = plan(SocketAddr::from(([127, 0, 0, 1], 0)));
    let trial = Trial::new("test", plan, TestedServer::Baseline(floor), TestedStore::None);
    let report = Box::pin(trial.run(Control::default(), |_| {})).await.unwrap();
    assert!(!report.failed(), "{report}");
    assert_eq!(report.statuses[&202], 50);
    let server = report.server.unwrap();
    assert_eq!((server.exit.code, server.exit.killed), (Some(0), false));
    assert!(server.peak_memory > 1 << 20);
    // The floor does its work on the runtime's threads.
    assert!(server.threads.iter().any(|thread| thread.name == "tokio-rt-worker"), "{:?}", server.threads);
    assert_eq!(server.serial_cpu_micros_per_request, None);
    assert_eq!(report.settings["server version"], concat!("loadtest ", env!("CARGO_PKG_VERSION")));
    let in_samples: u64 = report.timeline.iter().map(|sample| sample.accepted).sum();
    assert_eq!(in_samples, 50, "the samples have to add up to the whole");
    assert!(std::fs::read_to_string(log.path().join("log")).unwrap().contains("listening addr=127.0.0.1:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_start_is_an_error() {
    let program = Program { path: "/bin/false".into(), args: Vec::new(), env: Vec::new(), log: None };
    let plan = plan(SocketAddr::from(([127, 0, 0, 1], 0)));
    let trial = Trial::new("test", plan, TestedServer::Spawn(program), TestedStore::Fresh);
    let wrong = Box::pin(trial.run(Control::default(), |_| {})).await.unwrap_err();
    assert!(format!("{wrong:#}").contains("/bin/false"), "{wrong:#}");
}
