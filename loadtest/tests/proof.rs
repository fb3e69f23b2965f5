//! Proofs against a server that stores nothing, which have to fail, and the load that follows its servers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use loadtest::load::{self, Control, Destination, Plan, Rate, Receipts, Shape};
use loadtest::proof::{DaemonSettings, Event, EventDetails, Proof, Setup, Verdict, WorkerTier};
use loadtest::s3::FaultPlan;
use loadtest::server::Program;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;

fn plan() -> Plan {
    Plan {
        rate: Rate::steady(200.0),
        connections: 4,
        shape: Shape::Even(3),
        run: 0xabc,
        token: "t".to_owned(),
        timeout: Duration::from_secs(10),
        ..Plan::new(SocketAddr::from(([127, 0, 0, 1], 0)))
    }
}

/// The floor accepts everything and stores nothing.
fn floor() -> Program {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_loadtest"));
    Program { path, args: vec!["baseline".into(), "floor".into()], env: Vec::new(), log: None }
}

fn proof(event: Event, program: Program, folder: &TempDir) -> Proof {
    Proof {
        event,
        setup: Setup {
            seed: 7,
            rounds: 2,
            life: Duration::from_millis(100)..=Duration::from_millis(150),
            span: Duration::from_millis(100),
            plan: plan(),
            program,
            settle: Duration::from_secs(5),
            exit_limit: Duration::from_secs(10),
            folder: Some(folder.path().to_owned()),
        },
        in_process_s3: false,
        faults: FaultPlan::none(),
        disk_bytes: 1 << 20,
        real_disk: false,
        receipts: 10,
    }
}

async fn against_floor(event: Event, folder: &TempDir) -> Verdict<EventDetails> {
    let proof = proof(event, floor(), folder);
    let verdict = Box::pin(proof.run(Control::default(), |_| {})).await.unwrap();
    let accepted = verdict.ledger.accepted;
    assert!(accepted > 0, "{verdict}");
    assert_eq!((verdict.ledger.lost, verdict.ledger.stored), (accepted, 0), "{verdict}");
    assert!(verdict.failed());
    verdict
}

/// The daemon does not delete a message after a 202.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_responds_with_200_leaves_dead_letters_alone() {
    let folder = TempDir::new().unwrap();
    let daemon = DaemonSettings { error_visibility_timeout: Duration::from_millis(10), ..DaemonSettings::default() };
    let setup = Setup {
        rounds: 1,
        span: Duration::from_millis(200),
        settle: Duration::from_secs(20),
        plan: Plan { rate: Rate::steady(100.0), ..plan() },
        ..proof(Event::Kill, floor(), &folder).setup
    };
    let verdict = Box::pin(WorkerTier { setup, daemon }.run(Control::default(), |_| {})).await.unwrap();
    let counts = verdict.messages;
    assert!(verdict.failed() && counts.sent > 0, "{verdict}");
    assert_eq!((counts.dead_letters, counts.deleted, verdict.kills), (counts.sent, 0, 1), "{verdict}");
    assert_eq!(verdict.receives.keys().collect::<Vec<_>>(), [&10], "{verdict}");
    assert!(!verdict.told.statuses.contains_key(&200) && verdict.kept.is_some(), "{verdict}");
}

/// Started, killed and stopped.
fn servers(verdict: &Verdict<EventDetails>) -> (u32, u32, u32) {
    (verdict.observed.starts, verdict.observed.kills, verdict.observed.stops)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stores_nothing_fails_and_its_files_are_left() {
    let folder = TempDir::new().unwrap();
    let verdict = against_floor(Event::Kill, &folder).await;
    assert_eq!(servers(&verdict), (3, 2, 1), "{verdict}");
    // It has no receipts either.
    assert!(verdict.details.jobs.asked > 0 && verdict.details.jobs.stored == 0, "{verdict}");
    assert!(verdict.kept.unwrap().join("server-3.log").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_with_several_servers_stops_all_of_them() {
    let folder = TempDir::new().unwrap();
    for event in [Event::Stop, Event::Takeover] {
        assert_eq!(servers(&against_floor(event, &folder).await), (3, 0, 3));
    }
}

/// What was reported first, and the lives of the servers.
async fn lives(seed: u64) -> (String, Vec<String>) {
    let folder = TempDir::new().unwrap();
    let said = Mutex::new(Vec::new());
    let mut proof = proof(Event::Kill, floor(), &folder);
    proof.setup.seed = seed;
    let verdict = proof.run(Control::default(), |text| said.lock().unwrap().push(text.to_owned()));
    assert_eq!(Box::pin(verdict).await.unwrap().seed, seed);
    let said = said.into_inner().unwrap();
    let life = |line: &String| Some(line.split_once("killed after ")?.1.split(' ').next()?.to_owned());
    (said[0].clone(), said.iter().filter_map(life).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_is_reported_and_repeats_the_times_at_which_servers_are_killed() {
    let (said, first) = lives(7).await;
    assert_eq!((said.as_str(), first.len()), ("kill: seed 7", 2));
    assert_eq!(lives(7).await.1, first);
    assert_ne!(lives(8).await.1, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_start_is_an_error_and_not_a_finding() {
    let folder = TempDir::new().unwrap();
    let program = Program { path: "/bin/false".into(), args: Vec::new(), env: Vec::new(), log: None };
    let proof = proof(Event::Kill, program, &folder);
    let wrong = Box::pin(proof.run(Control::default(), |_| {})).await.unwrap_err();
    assert!(format!("{wrong:#}").contains("/bin/false"), "{wrong:#}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_the_proof_itself_cannot_be_given() {
    let folder = TempDir::new().unwrap();
    let mut proof = proof(Event::Kill, floor(), &folder);
    proof.setup.program.env.push(("SPOOL_DIR".to_owned(), "/elsewhere".to_owned()));
    let wrong = Box::pin(proof.run(Control::default(), |_| {})).await.unwrap_err();
    assert!(wrong.to_string().contains("SPOOL_DIR"), "{wrong:#}");
}

struct Counter(watch::Sender<u64>);

async fn count(State(counter): State<Arc<Counter>>, _: Bytes) -> (StatusCode, &'static str) {
    counter.0.send_modify(|count| *count += 1);
    (StatusCode::ACCEPTED, "{\"ack\":\"none\"}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_follows_its_destination_and_waits_while_there_is_none() {
    let mut servers = Vec::new();
    let mut serving = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let counter = Arc::new(Counter(watch::Sender::new(0)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        servers.push((listener.local_addr().unwrap(), counter.0.subscribe()));
        let router = Router::new().route("/v1/payloads", post(count)).with_state(counter);
        serving.spawn(async move { axum::serve(listener, router).await });
    }
    let receipts = Arc::new(Receipts::new(5));
    let control = Control { receipts: Some(Arc::clone(&receipts)), ..Control::default() };
    control.destination.send_replace(Destination::Nowhere);
    let load = load::run(Plan { rate: Rate::UNPACED, ..plan() }, control.clone(), |_| {});
    let switch = async {
        for (addr, count) in &mut servers {
            assert_eq!(*count.borrow(), 0, "a request went to another server");
            control.destination.send_replace(Destination::To(*addr));
            count.wait_for(|count| *count >= 50).await.unwrap();
            control.destination.send_replace(Destination::Nowhere);
        }
        control.end.cancel();
    };
    let (done, ()) = tokio::join!(Box::pin(load), switch);
    let done = done.unwrap();
    let counted: u64 = servers.iter().map(|(_, count)| *count.borrow()).sum();
    assert_eq!(done.tally.statuses[&202], counted);
    assert_eq!((done.tally.unanswered, done.ledger.totals().accepted), (0, counted * 3));
    assert_eq!(receipts.take(), vec![b"{\"ack\":\"none\"}"; 5]);
}
