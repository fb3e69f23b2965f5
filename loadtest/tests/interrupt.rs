//! Ctrl-C during a run: the program itself, against a server of the test's.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::{Command, Stdio};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// How long the program may take to send a few requests.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_still_reports_what_it_has_seen() {
    let requests = watch::Sender::new(0_u64);
    let mut seen = requests.subscribe();
    let take = move || {
        requests.send_modify(|count| *count += 1);
        std::future::ready(StatusCode::ACCEPTED)
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async move { axum::serve(listener, Router::new().route("/v1/payloads", post(take))).await });

    let program = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["run", "--url", &url, "--rate", "500", "--shape", "s", "--duration", "600s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let sent = tokio::time::timeout(LIMIT, seen.wait_for(|count| *count >= 20)).await.map(|seen| seen.is_ok());
    kill_process(Pid::from_raw(program.id().cast_signed()).unwrap(), Signal::INT).unwrap();
    let output = tokio::task::spawn_blocking(move || program.wait_with_output()).await.unwrap().unwrap();

    assert_eq!(sent, Ok(true), "nothing was sent");
    let report = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}\n{report}", output.status);
    let accepted = report.lines().find_map(|line| line.trim().strip_prefix("accepted")).unwrap();
    let accepted: u64 = accepted.trim().parse().unwrap();
    assert!(accepted >= 20 && accepted <= *seen.borrow(), "{report}");
}
