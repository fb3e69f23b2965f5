//! A server that forwards requests: its `ROLLOUT_FILE`, and what it has counted.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use super::testbed::Testbed;
use crate::client::{self, Target};
use crate::server::Server;

const ASK_EVERY: Duration = Duration::from_millis(100);

/// How far the number of forwarded requests may be from its mean, in standard deviations. By chance it is farther in one of two
/// million steps.
const SIGMAS: f64 = 5.0;

/// The fewest forwarded requests to expect. With fewer of them, a server that forwards nothing might pass.
const EXPECTED_MIN: f64 = 10.0;

/// The `ROLLOUT_FILE` of a server that forwards to another one.
#[derive(Debug)]
pub(super) struct Forwarding {
    file: PathBuf,
    url: String,
}

/// Forwarded requests by result, from `/v1/status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Counts {
    pub passed: u64,
    pub taken_here: u64,
    pub unknown: u64,
    /// Why the guard has stopped it, as the server says.
    pub tripped: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Status {
    timestamp: f64,
    rollout: Option<RolloutStatus>,
}

#[derive(Debug, Deserialize)]
struct RolloutStatus {
    forward: Option<ForwardStatus>,
}

#[derive(Debug, Deserialize)]
struct ForwardStatus {
    percent: f64,
    passed_total: u64,
    taken_here_total: u64,
    unknown_total: u64,
    tripped: Option<serde_json::Value>,
}

impl Forwarding {
    /// A server with this file forwards `percent` of its requests to `other`.
    pub(super) fn new(testbed: &Testbed<'_>, other: SocketAddr, percent: u8) -> anyhow::Result<Self> {
        let this = Self { file: testbed.path("rollout.json"), url: format!("http://{other}") };
        this.write(percent)?;
        Ok(this)
    }

    /// For `ROLLOUT_FILE`.
    pub(super) fn file(&self) -> String {
        self.file.to_string_lossy().into_owned()
    }

    fn write(&self, percent: u8) -> anyhow::Result<()> {
        let plan = serde_json::json!({"forward": {"url": self.url, "percent": percent, "by": "request"}});
        let new = self.file.with_extension("new");
        std::fs::write(&new, plan.to_string())?;
        std::fs::rename(new, &self.file).context("replacing ROLLOUT_FILE")
    }

    /// Rewrites the file, and waits until the server forwards as it says. If the guard has stopped it, the share is 0 before:
    /// an unchanged one would not start it again.
    pub(super) async fn put_in_force(&self, server: &Server, percent: u8, limit: Duration) -> anyhow::Result<()> {
        let forward = status(server, limit).await?.rollout.and_then(|rollout| rollout.forward);
        if forward.is_some_and(|forward| forward.tripped.is_some()) {
            self.change(server, 0, limit).await?;
        }
        self.change(server, percent, limit).await
    }

    async fn change(&self, server: &Server, percent: u8, limit: Duration) -> anyhow::Result<()> {
        self.write(percent)?;
        let start = Instant::now();
        loop {
            let forward = status(server, limit).await?.rollout.and_then(|rollout| rollout.forward);
            if forward.is_some_and(|forward| forward.percent == f64::from(percent) && forward.tripped.is_none()) {
                return Ok(());
            }
            ensure!(start.elapsed() < limit, "the new ROLLOUT_FILE is not in force after {limit:?}");
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
}

/// What a server says of itself.
async fn status(server: &Server, limit: Duration) -> anyhow::Result<Status> {
    let admin = server.admin(limit).await?;
    let (status, body) = client::get(&Target::from(admin), "/v1/status", None).await.context("GET /v1/status")?;
    ensure!(status == 200, "GET /v1/status: {status}");
    serde_json::from_str(&body).context("the status cannot be read")
}

impl Counts {
    /// What a server has counted until now.
    pub(super) async fn of(server: &Server, limit: Duration) -> anyhow::Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        let start = Instant::now();
        loop {
            let status = status(server, limit).await?;
            // The status is that of the last whole second.
            if status.timestamp > now {
                let forward = status.rollout.and_then(|rollout| rollout.forward).context("nothing is in force")?;
                return Ok(Self {
                    passed: forward.passed_total,
                    taken_here: forward.taken_here_total,
                    unknown: forward.unknown_total,
                    tripped: forward.tripped.map(|why| why.to_string()),
                });
            }
            ensure!(start.elapsed() < limit, "/v1/status is not renewed");
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    pub(super) fn since(self, before: &Self) -> Self {
        Self {
            passed: self.passed.saturating_sub(before.passed),
            taken_here: self.taken_here.saturating_sub(before.taken_here),
            unknown: self.unknown.saturating_sub(before.unknown),
            tripped: self.tripped,
        }
    }

    /// What is wrong with them while the other server may be killed.
    pub(super) fn wrong_with_kills(&self) -> Option<String> {
        (self.passed == 0).then(|| "nothing was forwarded".to_owned())
    }

    /// What is wrong with them after this number of requests, with the other server well.
    pub(super) fn wrong(&self, percent: u8, requests: u64) -> Vec<String> {
        let Self { passed, taken_here, unknown, tripped } = self;
        let mut wrong = Vec::new();
        if let Some(why) = tripped {
            wrong.push(format!("the guard has stopped forwarding, although the other server works: {why}"));
        }
        let share = f64::from(percent) / 100.0;
        let expected = requests as f64 * share;
        let farthest = SIGMAS * (expected * (1.0 - share)).sqrt();
        let off = (*passed as f64 - expected).abs();
        match percent {
            0 if passed + taken_here + unknown > 0 => {
                wrong.push(format!("{} requests were selected for forwarding", passed + taken_here + unknown));
            }
            0 => {}
            _ if expected < EXPECTED_MIN => {
                wrong.push(format!("{requests} requests are too few to judge: raise --rate or --span"));
            }
            100 if passed + taken_here != requests || *passed == 0 => {
                wrong.push(format!("of {requests} requests {passed} were forwarded, and {taken_here} taken here"));
            }
            100 => {}
            _ if off > farthest => {
                wrong.push(format!(
                    "{passed} of {requests} requests were forwarded, expected {expected:.0} and {farthest:.0} more or less"
                ));
            }
            _ => {}
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(percent: u8, requests: u64, passed: u64, taken_here: u64) -> Option<String> {
        let counts = Counts { passed, taken_here, ..Counts::default() };
        let mut wrong = counts.wrong(percent, requests);
        assert!(wrong.len() <= 1, "{wrong:?}");
        wrong.pop()
    }

    #[test]
    fn at_0_percent_a_forwarded_request_is_a_finding() {
        assert_eq!(wrong(0, 1000, 0, 0), None);
        for (passed, taken_here) in [(1, 0), (0, 1)] {
            assert!(wrong(0, 1000, passed, taken_here).unwrap().starts_with("1 requests were selected"));
        }
        assert_eq!(Counts { unknown: 1, ..Counts::default() }.wrong(0, 1000).len(), 1);
    }

    #[test]
    fn a_share_far_from_the_percentage_is_a_finding() {
        // 50% of 10,000 have a standard deviation of 50, and 1% of it one of 9.9.
        for (percent, passed) in [(50, 5000), (50, 4750), (50, 5250), (1, 100), (1, 51), (1, 149)] {
            assert_eq!(wrong(percent, 10_000, passed, 0), None, "{percent}%: {passed}");
        }
        for (percent, passed) in [(50, 1), (50, 4749), (50, 5251), (50, 10_000), (1, 0), (1, 50), (1, 150)] {
            let wrong = wrong(percent, 10_000, passed, 0).unwrap();
            assert!(wrong.starts_with(&format!("{passed} of 10000 requests were forwarded")), "{wrong}");
        }
        assert!(wrong(50, 10_000, 1, 4999).is_some(), "what is taken here is not forwarded");
    }

    #[test]
    fn at_100_percent_a_request_that_was_neither_forwarded_nor_taken_here_instead_is_a_finding() {
        assert_eq!(wrong(100, 1000, 1000, 0), None);
        assert_eq!(wrong(100, 1000, 990, 10), None);
        for (passed, taken_here) in [(999, 0), (990, 9), (1001, 0), (0, 1000)] {
            assert!(wrong(100, 1000, passed, taken_here).is_some(), "{passed}, {taken_here}");
        }
    }

    #[test]
    fn too_few_requests_to_judge_are_a_finding() {
        assert_eq!(wrong(1, 1000, 10, 0), None);
        for (percent, requests) in [(1, 999), (100, 9), (50, 0)] {
            assert!(wrong(percent, requests, requests, 0).unwrap().contains("too few"));
        }
    }

    #[test]
    fn a_guard_that_stops_forwarding_to_a_server_that_works_is_a_finding() {
        let counts = Counts { passed: 1000, tripped: Some("slower".to_owned()), ..Counts::default() };
        assert_eq!(
            counts.wrong(100, 1000),
            ["the guard has stopped forwarding, although the other server works: slower"]
        );
    }

    #[test]
    fn with_kills_only_a_server_that_forwards_nothing_is_a_finding() {
        let counts = Counts { passed: 1, taken_here: 9, unknown: 9, tripped: Some("away".to_owned()) };
        assert_eq!(counts.wrong_with_kills(), None);
        assert!(Counts { passed: 0, ..counts }.wrong_with_kills().is_some());
    }
}
