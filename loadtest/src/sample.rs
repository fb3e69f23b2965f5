//! A report such as a run makes, for tests.

use std::collections::BTreeMap;

use loadtest::ledger::Totals;
use loadtest::load::Quantiles;
use loadtest::report::{FORMAT, Latency, LoadReport, Machine, Report, ServerReport};
use loadtest::server::{Exit, Usage};

/// Ten seconds of 5,000 requests, none of them refused.
pub(crate) fn report() -> Report {
    let accepted = Quantiles { p50: 300, p90: 600, p99: 1_200, p99_9: 4_000, max: 9_000 };
    let status = "exit status: 0".to_owned();
    let exit = Exit { code: Some(0), status, seconds: 0.5, killed: false, usage: Usage::default() };
    Report {
        format: FORMAT,
        name: "server".to_owned(),
        began: "2026-11-20T13:00:00Z".to_owned(),
        machine: Machine::default(),
        run: "00000abc".to_owned(),
        load: LoadReport {
            rate: "500/s".to_owned(),
            connections: 64,
            endpoints: 64,
            new_connections: 0.0,
            payloads_per_request: "10".to_owned(),
            payload_size: 290,
            form: "envelope".to_owned(),
            encoding: "identity".to_owned(),
            path: "/v1/payloads".to_owned(),
            threads: Some(1),
            duration: Some(10.0),
            requests: None,
            faults: String::new(),
        },
        seconds: 10.0,
        requests_per_second: 500.0,
        accepted,
        refused: Quantiles::default(),
        latency: Latency::default(),
        late: accepted,
        statuses: BTreeMap::from([(202, 5_000)]),
        unanswered: 0,
        unsent: 0,
        connects: (64, 0),
        own_cpu_micros_per_request: 12.5,
        program: None,
        place: "a fresh folder".to_owned(),
        server: Some(ServerReport {
            cpu_micros_per_request: 40.0,
            cpu_micros_per_payload: 4.0,
            cpu_seconds: 0.2,
            peak_memory: 40 << 20,
            exit,
        }),
        objects: None,
        s3: None,
        ledger: Totals { sent: 50_000, accepted: 50_000, stored: 50_000, ..Totals::default() },
        checked: true,
        timeline: Vec::new(),
        conclusion: None,
    }
}
