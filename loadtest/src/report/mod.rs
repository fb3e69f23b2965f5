//! The result of a run: as text, as JSON that can be read back, and as a page for a browser.

mod figure;
mod file;
mod text;
mod threads;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::figure::{Direction, FIGURES, Figure};
pub use self::file::read;
pub(crate) use self::text::{quantiles, row};
pub use self::threads::ThreadReport;
pub(crate) use self::threads::{by_name, serial};
use crate::attack::AttackReport;
use crate::ledger::{Counts, Totals};
use crate::load::Quantiles;
use crate::readback::Objects;
use crate::s3::Stats;
use crate::server::Exit;
use crate::timeline::Sample;

/// The format of the JSON. It counts up when the meaning of a member changes, and not when one is added.
pub const FORMAT: u32 = 2;

/// Draws a report in a browser: nothing is fetched.
const PAGE: &str = include_str!("page.html");

/// The result of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Report {
    pub format: u32,
    pub name: String,
    /// When it began, as `2026-11-20T13:00:00Z`.
    pub began: String,
    pub run: String,
    /// Machine, load, server and store, as `load rate`.
    pub settings: BTreeMap<String, String>,
    /// From the first request to the last response, in seconds.
    pub seconds: f64,
    pub requests_per_second: f64,
    pub accepted: Quantiles,
    pub rejected: Quantiles,
    /// Both as curves: shares and the microseconds that they did not exceed.
    pub latency: [Vec<(f64, u64)>; 2],
    /// How late requests were sent, of a load with a rate: what the generator itself, or a wait for a free connection,
    /// added.
    pub late: Option<Quantiles>,
    pub statuses: BTreeMap<u16, u64>,
    pub unanswered: u64,
    pub unsent: u64,
    /// Connections made, and those that could not be made.
    pub connects: (u64, u64),
    pub connect_error: Option<String>,
    pub request_error: Option<String>,
    /// CPU of this program for each response, the S3 server in it included, in microseconds.
    pub own_cpu_micros_per_request: f64,
    /// What the server used, if this program started it.
    pub server: Option<ServerReport>,
    pub objects: Option<Objects>,
    pub s3: Option<Stats>,
    /// Payloads by what their clients were told.
    pub payloads: Counts,
    /// The outcome of every payload, if the store was checked.
    pub ledger: Option<Totals>,
    /// Why the store was not checked.
    pub not_checked: Option<String>,
    pub timeline: Vec<Sample>,
    /// Why there are no metrics of the server in it.
    pub no_metrics: Option<String>,
    pub attack: Option<AttackReport>,
    pub conclusion: Option<Conclusion>,
}

/// What the server used, and how it exited.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ServerReport {
    pub cpu_micros_per_request: f64,
    pub cpu_micros_per_payload: f64,
    /// The CPU a request of the busiest thread that is no worker of the runtime: it limits the rate, whatever the number of
    /// cores. `None` if the server has no such thread beside its main thread.
    pub serial_cpu_micros_per_request: Option<f64>,
    /// Those that ran when the load ended.
    pub threads: Vec<ThreadReport>,
    /// CPU seconds from its start to its exit.
    pub cpu_seconds: f64,
    pub peak_memory: u64,
    pub exit: Exit,
}

/// The question of a scenario, and the answer. A load whose ledger is right may still be too slow, or take too much memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Conclusion {
    pub question: String,
    pub holds: bool,
    pub answer: String,
}

impl fmt::Display for Conclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}: {}", self.question, if self.holds { "yes" } else { "NO" }, self.answer)
    }
}

impl Report {
    /// The report as one HTML file.
    /// Errors: it cannot be written as JSON.
    pub fn html(&self) -> serde_json::Result<String> {
        // Within a script element, `<` could end it.
        Ok(PAGE.replace("{{REPORT}}", &serde_json::to_string(self)?.replace('<', "\\u003c")))
    }

    /// Whether a promise was broken: by the ledger or the server's exit code, or because nothing got a response.
    pub fn failed(&self) -> bool {
        self.ledger.is_some_and(|totals| totals.failed())
            || self.is_without_responses()
            || self.server.as_ref().is_some_and(|server| server.exit.code != Some(0))
    }

    /// Whether requests were due and none of them got a response.
    pub fn is_without_responses(&self) -> bool {
        self.answered_requests() == 0 && self.unanswered + self.unsent > 0
    }

    /// Requests with a response.
    pub fn answered_requests(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// Requests with a 2xx response.
    pub fn accepted_requests(&self) -> u64 {
        self.statuses.range(200..300).map(|(_, count)| count).sum()
    }

    /// The same a second.
    pub fn accepted_per_second(&self) -> f64 {
        self.accepted_requests() as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// The server's CPU during the load, in cores.
    pub fn cores(&self) -> Option<f64> {
        let micros = self.server.as_ref()?.cpu_micros_per_request * self.answered_requests() as f64;
        Some(micros / 1e6 / self.seconds.max(f64::MIN_POSITIVE))
    }
}

/// A report for tests: ten seconds of 500 requests a second with 10 payloads, one request rejected.
#[cfg(test)]
pub(crate) fn sample() -> Report {
    let quantiles = Quantiles { p50: 300, p90: 600, p99: 1_200, p99_9: 4_000, max: 9_000 };
    let settings = [("load connections", "64"), ("load rate", "500/s"), ("server ACK", "memory")];
    let exit = Exit { code: Some(0), status: "exit status: 0".to_owned(), ..Exit::default() };
    let ledger = Totals { sent: 50_000, accepted: 49_990, rejected: 10, stored: 49_990, ..Totals::default() };
    Report {
        format: FORMAT,
        name: "loadtest".to_owned(),
        settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        seconds: 10.0,
        requests_per_second: 500.0,
        accepted: quantiles,
        statuses: BTreeMap::from([(202, 4_999), (503, 1)]),
        server: Some(ServerReport {
            cpu_micros_per_request: 40.0,
            cpu_micros_per_payload: 4.0,
            serial_cpu_micros_per_request: Some(9.0),
            threads: vec![
                ThreadReport {
                    name: "runtime".to_owned(),
                    count: 2,
                    cpu_micros_per_request: 30.0,
                    busiest_micros_per_request: 16.0,
                },
                ThreadReport {
                    name: "dispatcher".to_owned(),
                    count: 1,
                    cpu_micros_per_request: 9.0,
                    busiest_micros_per_request: 9.0,
                },
            ],
            cpu_seconds: 2.0,
            peak_memory: 40 << 20,
            exit,
        }),
        objects: Some(Objects { count: 3, lines: 49_990, bytes: 1 << 20, min: 100, median: 200, max: 300 }),
        payloads: ledger.counts(),
        ledger: Some(ledger),
        timeline: vec![Sample { at: 1.0, span: 1.0, accepted: 500, p99: 1_200, ..Sample::default() }],
        ..Report::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_any_response_has_failed() {
        assert!(!sample().failed());
        let nothing = Report { statuses: BTreeMap::new(), unsent: 5_000, ..sample() };
        assert!(nothing.failed());
        // Of a load without requests, nothing is missing.
        assert!(!Report { unsent: 0, ..nothing }.failed());
    }

    #[test]
    fn the_page_fetches_nothing_and_text_in_a_report_stays_text() {
        let nasty = "</script><script>alert(1)</script>".to_owned();
        let page = Report { name: nasty, ..sample() }.html().unwrap();
        assert!(!page.contains("alert(1)</script>") && page.contains("\\u003c/script>"));
        assert!(page.contains("default-src 'none'"));
        for wrong in ["http://", "https://", "src=\"", "href=", "url(", "@import", "<link", "innerHTML", "{{"] {
            assert!(!page.replace("http://www.w3.org/2000/svg", "").contains(wrong), "{wrong}");
        }
    }

    #[test]
    fn rates_and_cores_are_of_the_whole_load() {
        let report = sample();
        assert_eq!((report.answered_requests(), report.accepted_requests()), (5_000, 4_999));
        assert!((report.accepted_per_second() - 499.9).abs() < 1e-9);
        assert!((report.cores().unwrap() - 0.02).abs() < 1e-9);
    }
}
