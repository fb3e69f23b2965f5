//! The simpler designs against S3 servers of this process: what they accept is stored, and what they do not limit.

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
    for baseline in Baseline::DESIGNS {
        for store in [TestedStore::InProcess(FaultPlan::none()), TestedStore::InMemory(FaultPlan::none())] {
            let path = PathBuf::from(env!("CARGO_BIN_EXE_loadtest"));
            let args = vec!["baseline".into(), baseline.name().into()];
            let server = TestedServer::Baseline(Program { path, args, env: Vec::new(), log: None });
            let plan = plan(SocketAddr::from(([127, 0, 0, 1], 0)), 5);
            let trial = Trial { settle: LIMIT, ..Trial::new(baseline.name(), plan, server, store) };
            let report = Box::pin(trial.run(Control::default(), |_| {})).await.unwrap();
            assert!(!report.failed(), "{report}");
            assert_eq!((report.statuses[&200], report.ledger.unwrap().stored), (5, 50), "{report}");
            assert_eq!(report.objects.unwrap().count, 50, "{report}");
        }
    }
}

/// A design with one worker and a queue of one payload, in this process.
struct Serving {
    addr: SocketAddr,
    s3: S3Server,
    stop: CancellationToken,
    task: JoinSet<anyhow::Result<()>>,
}

async fn serve(baseline: Baseline) -> Serving {
    let s3 = S3Server::start_in_memory("objects", 1 << 20).await.unwrap();
    let one = NonZeroUsize::MIN;
    let bucket = Some(Arc::new(Bucket::new(s3.client(), "objects")));
    let settings = Settings { bucket, workers: one, queue: one };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let mut task = JoinSet::new();
    let stopped = stop.clone().cancelled_owned();
    task.spawn(async move { baseline.serve(&settings, listener, stopped).await });
    Serving { addr, s3, stop, task }
}

impl Serving {
    async fn load(&self, requests: u64) -> load::Done {
        Box::pin(load::run(plan(self.addr, requests), Control::default(), |_| {})).await.unwrap()
    }

    async fn stop(mut self) {
        self.stop.cancel();
        tokio::time::timeout(LIMIT, self.task.join_next()).await.unwrap().unwrap().unwrap().unwrap();
        self.s3.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_tasks_nor_the_dispatcher_limit_what_is_accepted_and_a_stop_loses_it() {
    for (baseline, at_once) in [(Baseline::TaskPerPayload, 200), (Baseline::PutPerPayload, 1)] {
        let serving = serve(baseline).await;
        serving.s3.faults().set(FaultPlan::always(Fault::Hang));
        let done = serving.load(20).await;
        assert_eq!((done.tally.statuses[&200], done.ledger.totals().accepted), (20, 200), "{baseline:?}");
        let hung = serving.s3.stats_when(|stats| stats.in_flight == at_once);
        let stats = tokio::time::timeout(LIMIT, hung).await.unwrap();
        assert_eq!((stats.in_flight_peak, stats.stored), (at_once, 0), "{baseline:?}");
        serving.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_uploader_puts_one_at_a_time_and_requests_wait_for_it() {
    let serving = serve(Baseline::OneUploader).await;
    assert_eq!(serving.load(20).await.tally.statuses[&200], 20);
    // Payloads with a response are stored, but for the one in the channel and the one being put.
    assert!(serving.s3.stats().stored >= 198);
    let stats = tokio::time::timeout(LIMIT, serving.s3.stats_when(|stats| stats.stored == 200)).await.unwrap();
    assert_eq!(stats.in_flight_peak, 1);
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_s3_rejects_is_lost() {
    for baseline in Baseline::DESIGNS {
        let serving = serve(baseline).await;
        serving.s3.faults().set(FaultPlan::always(Fault::AccessDenied));
        assert_eq!(serving.load(1).await.tally.statuses[&200], 1, "{baseline:?}");
        let idle = serving.s3.stats_when(|stats| stats.puts == 10 && stats.in_flight == 0);
        tokio::time::timeout(LIMIT, idle).await.unwrap();
        assert_eq!(serving.s3.stats().stored, 0, "{baseline:?}");
        serving.stop().await;
    }
}
