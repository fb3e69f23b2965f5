//! A report such as a run makes, for tests.

use std::collections::BTreeMap;

use super::{Curve, FORMAT, Latency, LoadReport, Machine, ProgramReport, Report, S3Report, ServerReport};
use crate::ledger::Totals;
use crate::load::Quantiles;
use crate::readback::Objects;
use crate::server::{Exit, Usage};
use crate::timeline::{Gauges, Sample};

/// Ten seconds of 5,000 payloads a second, one request of them refused.
pub(crate) fn report() -> Report {
    let quantiles = Quantiles { p50: 300, p90: 600, p99: 1_200, p99_9: 4_000, max: 9_000 };
    let usage = Usage { cpu_micros: 2_000_000, resident: 30 << 20, peak: 40 << 20 };
    let counts = |pairs: &[(&str, u64)]| pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    Report {
        format: FORMAT,
        name: "loadtest".to_owned(),
        began: "2026-11-20T13:00:00Z".to_owned(),
        machine: Machine { cores: 2, cpu: "A CPU".to_owned(), kernel: "6.1".to_owned(), memory: "8.00 GiB".to_owned() },
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
        accepted: quantiles,
        refused: Quantiles { p50: 90, p90: 90, p99: 90, p99_9: 90, max: 90 },
        latency: Latency {
            accepted: Curve(vec![(0.0, 100), (50.0, 300), (90.0, 600), (99.0, 1_200), (99.9, 4_000)]),
            refused: Curve(vec![(0.0, 90)]),
        },
        late: quantiles,
        statuses: BTreeMap::from([(202, 4_999), (503, 1)]),
        unanswered: 0,
        unsent: 0,
        connects: (64, 0),
        own_cpu_micros_per_request: 12.5,
        program: Some(ProgramReport {
            path: "target/release/millpond".to_owned(),
            args: Vec::new(),
            version: Some("millpond 0.1.0".to_owned()),
            env: BTreeMap::from([("ACK".to_owned(), "memory".to_owned())]),
        }),
        place: "a fresh folder".to_owned(),
        server: Some(ServerReport {
            cpu_micros_per_request: 40.0,
            cpu_micros_per_payload: 4.0,
            cpu_seconds: 2.0,
            peak_memory: 40 << 20,
            exit: Exit { code: Some(0), status: "exit status: 0".to_owned(), seconds: 0.5, killed: false, usage },
        }),
        objects: Some(Objects { count: 3, lines: 49_990, bytes: 1 << 20, min: 100, median: 200, max: 300 }),
        s3: Some(S3Report { puts: 4, stored: 3, in_flight_peak: 2, faults: counts(&[("slowdown", 1)]) }),
        ledger: Totals { sent: 50_000, accepted: 49_990, refused: 10, stored: 49_990, ..Totals::default() },
        checked: true,
        timeline: (1..=10).map(sample).collect(),
        conclusion: None,
    }
}

fn sample(second: u32) -> Sample {
    let jobs = Some(u64::from(second) * 3);
    Sample {
        at: f64::from(second),
        span: 1.0,
        accepted: 500 - u64::from(second == 5),
        refused: u64::from(second == 5),
        p50: 300,
        p99: 1_200,
        late_p99: 200,
        // At one second the server did not answer.
        gauges: (second != 7).then_some(Gauges {
            queue_jobs: jobs,
            queue_bytes: jobs.map(|jobs| jobs * 3_000),
            busy_workers: Some(1),
            segments_waiting: Some(0),
            spool_bytes: Some(1 << 20),
            ..Gauges::default()
        }),
        cpu_cores: Some(0.2),
        resident: Some(30 << 20),
        ..Sample::default()
    }
}
