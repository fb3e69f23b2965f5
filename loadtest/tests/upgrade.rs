//! What clients send again, and proofs of upgrades and of a ramp-up against a server that can do neither, which have to fail.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::time::Duration;

use loadtest::load::{self, Control, Done, Plan, Rate, Shape};
use loadtest::proof::{Mirrors, Ramp, Setup, Tolerance, Upgrade, UpgradeDetails, Verdict};
use loadtest::server::Program;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const REQUESTS: u64 = 40;

/// The load of clients that pipeline four requests, on a server that sends this and closes when the client does, or at once.
async fn pipelined(response: &'static [u8], waits: bool) -> Done {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let plan =
        Plan { connections: 2, pipelined: 4, requests: Some(REQUESTS), shape: Shape::Even(2), ..Plan::new(addr) };
    let serve = async {
        let mut serving = tokio::task::JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            serving.spawn(async move {
                // A client sends its requests in one write.
                let mut requests = vec![0; 64 << 10];
                if stream.read(&mut requests).await.unwrap() == 0 {
                    return;
                }
                stream.write_all(response).await.unwrap();
                if waits {
                    while stream.read(&mut requests).await.is_ok_and(|read| read > 0) {}
                }
            });
        }
    };
    tokio::select! {
        done = load::run(plan, Control::default(), |_| {}) => done.unwrap(),
        () = serve => unreachable!("it serves for ever"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_after_a_response_that_closes_are_sent_again() {
    let done = pipelined(b"HTTP/1.1 202 A\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", true).await;
    assert_eq!((done.tally.statuses[&202], done.tally.unanswered), (REQUESTS, 0));
    // Of each four, three, two and one.
    assert_eq!(done.tally.sent_again, REQUESTS / 4 * 6);
    assert_eq!(done.ledger.totals().accepted, REQUESTS * 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_on_a_connection_that_closes_without_a_word_have_failed() {
    let done = pipelined(b"HTTP/1.1 202 A\r\nContent-Length: 0\r\n\r\n", false).await;
    assert_eq!((done.tally.statuses[&202], done.tally.unanswered), (REQUESTS / 4, REQUESTS / 4 * 3));
    assert_eq!(done.tally.sent_again, 0);
}

/// The floor accepts everything, stores nothing, and hands nothing over.
fn floor() -> Program {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_loadtest"));
    Program { path, args: vec!["baseline".into(), "floor".into()], env: Vec::new(), log: None }
}

fn plan(rate: f64) -> Plan {
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    Plan { rate: Rate::steady(rate), connections: 16, shape: Shape::Even(1), ..Plan::new(any) }
}

fn setup(rounds: u32, rate: f64, span_millis: u64, folder: &TempDir) -> Setup {
    Setup {
        seed: 7,
        rounds,
        life: Duration::from_millis(50)..=Duration::from_millis(100),
        span: Duration::from_millis(span_millis),
        plan: plan(rate),
        program: floor(),
        settle: Duration::from_millis(500),
        exit_limit: Duration::from_millis(500),
        folder: Some(folder.path().to_owned()),
    }
}

async fn upgrade(restart: bool, folder: &TempDir) -> Verdict<UpgradeDetails> {
    let proof = Upgrade { setup: setup(2, 500.0, 500, folder), kill_rounds: 1, restart };
    let verdict = Box::pin(proof.run(Control::default(), |_| {})).await.unwrap();
    assert!(verdict.failed(), "{verdict}");
    assert_eq!((verdict.ledger.lost, verdict.ledger.stored), (verdict.ledger.accepted, 0), "{verdict}");
    assert!(verdict.ledger.accepted > 0 && verdict.kept.is_some(), "{verdict}");
    verdict
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_without_a_handover_fails_requests_which_the_verdict_counts() {
    let folder = TempDir::new().unwrap();
    let verdict = upgrade(true, &folder).await;
    let [quiet, restarts] = &*verdict.details.phases else { panic!("{verdict}") };
    // The floor has no TLS, so only the others can tell the difference.
    let failed = |clients: &[loadtest::proof::ClientPhase]| -> u64 {
        clients
            .iter()
            .filter(|client| client.name != "TLS")
            .map(|client| client.unanswered + client.not_connected)
            .sum()
    };
    assert_eq!(failed(&quiet.clients), 0, "{verdict}");
    assert!(failed(&restarts.clients) > 0 && restarts.findings >= failed(&restarts.clients), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_does_not_take_over_is_a_finding() {
    let folder = TempDir::new().unwrap();
    let verdict = upgrade(false, &folder).await;
    assert_eq!((verdict.details.phases.len(), verdict.details.handovers.upgrades), (5, 0), "{verdict}");
    for wrong in ["plain: upgrade 1 of 2", "forwards: upgrade 1 of 2", "upgrades that forward: "] {
        assert!(verdict.observed.broken.iter().any(|broken| broken.starts_with(wrong)), "{wrong}{verdict}");
    }
    let kills = &verdict.details.phases[3];
    assert_eq!((kills.tolerance, kills.findings), (Tolerance::Everything, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_forward_fails_at_the_first_step() {
    let folder = TempDir::new().unwrap();
    let proof = Ramp { setup: setup(1, 200.0, 50, &folder) };
    let verdict = Box::pin(proof.run(Control::default(), |_| {})).await.unwrap();
    assert!(verdict.failed() && verdict.details.steps.is_empty(), "{verdict}");
    assert!(verdict.observed.broken.iter().any(|wrong| wrong.starts_with("0%: ")), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_of_mirrors_with_a_server_that_stores_nothing_and_copies_nothing_fails() {
    let folder = TempDir::new().unwrap();
    let proof = Mirrors { setup: setup(2, 200.0, 300, &folder) };
    let verdict = Box::pin(proof.run(Control::default(), |_| {})).await.unwrap();
    assert_eq!((verdict.ledger.lost, verdict.ledger.stored), (verdict.ledger.accepted, 0), "{verdict}");
    assert!(verdict.observed.broken.iter().any(|wrong| wrong.contains("no copy was sent")), "{verdict}");
    // Each has had its turn in each round.
    assert_eq!(verdict.details.mirrors.len(), 5);
    assert!(
        verdict.details.mirrors.iter().all(|mirrored| mirrored.p99.len() == 2 && mirrored.accepted > 0),
        "{verdict}"
    );
    assert!(verdict.failed() && verdict.kept.is_some());
}
