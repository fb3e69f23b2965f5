//! The simpler design against S3 servers of this process: what it accepts is stored, and what it does not limit.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use loadtest::baseline::{Baseline, Bucket, Settings};
use loadtest::load::{self, Control, Plan};
use loadtest::s3::{Fault, FaultPlan, S3Server};
use loadtest::server::Program;
use loadtest::trial::{TestedServer, TestedStore, Trial};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(20);

fn plan(target: SocketAddr, requests: u64) -> Plan {
    Plan { connections: 1, requests: Some(requests), timeout: LIMIT, ..Plan::new(target) }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_payload_is_an_object() {
    for store in [TestedStore::InProcess(FaultPlan::none()), TestedStore::InMemory(FaultPlan::none())] {
        let path = PathBuf::from(env!("CARGO_BIN_EXE_loadtest"));
        let args = vec!["baseline".into(), "put-per-payload".into()];
        let server = TestedServer::Baseline(Program { path, args, env: Vec::new(), log: None });
        let plan = plan(SocketAddr::from(([127, 0, 0, 1], 0)), 5);
        let trial = Trial { settle: LIMIT, ..Trial::new("test", plan, server, store) };
        let report = Box::pin(trial.run(Control::default(), |_| {})).await.unwrap();
        assert!(!report.failed(), "{report}");
        assert_eq!((report.statuses[&200], report.ledger.unwrap().stored), (5, 50), "{report}");
        assert_eq!(report.objects.unwrap().count, 50, "{report}");
    }
}

/// With one worker and a queue of one payload, in this process, and an S3 server with this fault.
#[tokio::test(flavor = "multi_thread")]
async fn the_dispatcher_does_not_limit_what_is_accepted_and_a_stop_loses_it() {
    for (fault, requests, puts) in [(Fault::Hang, 20, 1), (Fault::AccessDenied, 1, 10)] {
        let s3 = S3Server::start_in_memory("objects", 1 << 20).await.unwrap();
        s3.faults().set(FaultPlan::always(fault));
        let one = NonZeroUsize::MIN;
        let bucket = Some(Arc::new(Bucket::new(s3.client(), "objects")));
        let settings = Settings { bucket, workers: one, queue: one };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let plan = plan(listener.local_addr().unwrap(), requests);
        let stop = CancellationToken::new();
        let (stopped, mut serving) = (stop.clone().cancelled_owned(), JoinSet::new());
        serving.spawn(async move { Baseline::PutPerPayload.serve(&settings, listener, stopped).await });

        let done = Box::pin(load::run(plan, Control::default(), |_| {})).await.unwrap();
        assert_eq!((done.tally.statuses[&200], done.ledger.totals().accepted), (requests, 10 * requests));
        let stats = tokio::time::timeout(LIMIT, s3.stats_when(|stats| stats.puts == puts)).await.unwrap();
        assert_eq!((stats.in_flight_peak, stats.stored), (1, 0));
        stop.cancel();
        tokio::time::timeout(LIMIT, serving.join_next()).await.unwrap().unwrap().unwrap().unwrap();
        s3.stop().await;
    }
}
