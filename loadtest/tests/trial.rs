//! Whole runs: against a toy server whose flaws are known, which have to be found, and against a real child process.

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
use loadtest::trial::{Place, Target, Trial};
use serde::Deserialize;
use serde_json::value::RawValue;
use tempfile::TempDir;
use tokio::net::TcpListener;

/// What the toy does to its 20th request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Flaw {
    None,
    Loses,
    StoresTwice,
    Reprints,
    RefusesButStores,
    Refuses,
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
    if ![Flaw::Loses, Flaw::Refuses].contains(&flaw) {
        tokio::fs::write(toy.folder.join(format!("{number}.ndjson")), lines).await.unwrap();
    }
    let refuses = [Flaw::RefusesButStores, Flaw::Refuses].contains(&flaw);
    if refuses { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::ACCEPTED }
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

fn trial(plan: Plan, target: Target, place: Place) -> Trial {
    let settle = Duration::ZERO;
    let exit_limit = Duration::from_secs(10);
    Trial { name: "test".to_owned(), plan, target, place, admin: None, stop_after: None, settle, exit_limit }
}

async fn against_toy(flaw: Flaw, change: impl FnOnce(&mut Plan)) -> Report {
    let folder = TempDir::new().unwrap();
    let toy = Arc::new(Toy { folder: folder.path().to_owned(), flaw, requests: AtomicU64::new(0) });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut plan = plan(listener.local_addr().unwrap());
    change(&mut plan);
    let router = Router::new().route("/v1/payloads", post(take)).with_state(toy);
    let place = Place::Given(Store::Dir(folder.path().to_owned()));
    let run = trial(plan, Target::Running, place).run(Control::default(), |_| {});
    tokio::select! {
        report = Box::pin(run) => report.unwrap(),
        wrong = async { axum::serve(listener, router).await } => panic!("the toy stopped: {wrong:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_flaws_passes() {
    let report = against_toy(Flaw::None, |_| {}).await;
    assert!(!report.failed(), "{report}");
    assert_eq!((report.ledger.sent, report.ledger.accepted, report.ledger.stored), (500, 500, 500));
    assert_eq!(report.statuses[&202], 50);
    assert_eq!(report.connects, (4, 0));
    assert_eq!(report.objects.unwrap().count, 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_flaw_is_found() {
    let report = against_toy(Flaw::Loses, |_| {}).await;
    assert_eq!(report.ledger.lost, 10, "{report}");
    assert!(report.failed());
    let report = against_toy(Flaw::StoresTwice, |_| {}).await;
    assert_eq!(report.ledger.duplicated, 10, "{report}");
    assert!(report.failed());
    let report = against_toy(Flaw::Reprints, |_| {}).await;
    assert_eq!((report.ledger.corrupt, report.ledger.lost), (10, 10), "{report}");
    assert!(report.failed());
    let report = against_toy(Flaw::RefusesButStores, |_| {}).await;
    assert_eq!(report.ledger.stored_though_refused, 10, "{report}");
    assert!(report.failed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_no_failure() {
    let report = against_toy(Flaw::Refuses, |_| {}).await;
    assert!(!report.failed(), "{report}");
    assert_eq!((report.ledger.refused, report.ledger.stored), (10, 490));
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
async fn a_mix_over_new_connections_and_other_endpoints_is_booked_payload_by_payload() {
    let report = against_toy(Flaw::None, |plan| {
        plan.requests = Some(40);
        plan.threads = 1;
        plan.shape = Shape::Mixed;
        plan.endpoints = 7;
        plan.new_connections = 0.25;
    })
    .await;
    assert!(!report.failed(), "{report}");
    assert_eq!((report.ledger.sent, report.ledger.stored), (2 * 164, 2 * 164));
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
    let trial = trial(plan, Target::Baseline(floor), Place::Nowhere);
    let report = Box::pin(trial.run(Control::default(), |_| {})).await.unwrap();
    assert!(!report.failed(), "{report}");
    assert_eq!(report.statuses[&202], 50);
    let server = report.server.unwrap();
    assert_eq!((server.exit.code, server.exit.killed), (Some(0), false));
    assert!(server.peak_memory > 1 << 20);
    assert_eq!(report.program.unwrap().version.as_deref(), Some(concat!("loadtest ", env!("CARGO_PKG_VERSION"))));
    let in_samples: u64 = report.timeline.iter().map(|sample| sample.accepted).sum();
    assert_eq!(in_samples, 50, "the samples have to add up to the whole");
    assert!(std::fs::read_to_string(log.path().join("log")).unwrap().contains("listening addr=127.0.0.1:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_start_is_an_error_and_not_a_wait() {
    let program = Program { path: "/bin/false".into(), args: Vec::new(), env: Vec::new(), log: None };
    let trial = trial(plan(SocketAddr::from(([127, 0, 0, 1], 0))), Target::Spawn(program), Place::Fresh);
    let wrong = Box::pin(trial.run(Control::default(), |_| {})).await.unwrap_err();
    assert!(format!("{wrong:#}").contains("/bin/false"), "{wrong:#}");
}
