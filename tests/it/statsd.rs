//! Metrics over UDP: what a daemon receives, and what happens without one. `.ci/statsd` does the same with a real daemon.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use millpond::config::Settings;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{PATIENCE, Server, post, run, until};

const DATAGRAM_LIMIT: usize = 1_432;
const FAILURES: &str = "millpond_statsd_failures_total";

/// A socket, and what has arrived there, by name and tags: the sum of each counter and the last value of each gauge.
struct Daemon {
    socket: UdpSocket,
    counters: BTreeMap<String, f64>,
    gauges: BTreeMap<String, f64>,
}

impl Daemon {
    async fn bind(address: &str) -> Self {
        let socket = UdpSocket::bind(address).await.unwrap();
        Self { socket, counters: BTreeMap::new(), gauges: BTreeMap::new() }
    }

    fn addr(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    fn add(&mut self, datagram: &[u8]) {
        assert!(datagram.len() < DATAGRAM_LIMIT, "{} bytes", datagram.len());
        for line in std::str::from_utf8(datagram).unwrap().split('\n') {
            let (line, tags) = line.split_once("|#").unwrap_or((line, ""));
            let (name, rest) = line.split_once(':').unwrap();
            let (value, kind) = rest.split_once('|').unwrap();
            let (name, value) = (format!("{name};{tags}").trim_end_matches(';').to_owned(), value.parse().unwrap());
            match kind {
                "c" => *self.counters.entry(name).or_default() += value,
                "g" => drop(self.gauges.insert(name, value)),
                _ => panic!("an unknown type: {line}"),
            }
        }
    }

    async fn receive(&mut self) {
        let mut buffer = vec![0; 65_536];
        let length = timeout(PATIENCE, self.socket.recv(&mut buffer)).await.expect("a datagram").unwrap();
        self.add(&buffer[..length]);
    }

    /// Receives until a counter has a sum.
    async fn counted(&mut self, name: &str, sum: f64) {
        while self.counters.get(name).is_none_or(|counted| *counted < sum) {
            self.receive().await;
        }
        assert_eq!(self.counters.get(name), Some(&sum), "{name}");
    }

    /// Receives what is in the buffer of the socket.
    fn receive_rest(&mut self) {
        let mut buffer = vec![0; 65_536];
        while let Ok(length) = self.socket.try_recv(&mut buffer) {
            self.add(&buffer[..length]);
        }
    }

    /// The gauges whose names begin with `start` and end with `end`.
    fn gauges(&self, start: &str, end: &str) -> Vec<f64> {
        let found = self.gauges.iter().filter(|(name, _)| name.starts_with(start) && name.contains(end));
        found.map(|(_, value)| *value).collect()
    }
}

async fn load(server: &Server, connections: usize, requests: usize) {
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let mut connection = server.connect().await;
        clients.spawn(async move {
            for n in 0..requests {
                connection.write(&post("", format!("{{\"n\":{n}}}").as_bytes())).await;
                assert_eq!(connection.answer().await.expect("a response").status, 202);
            }
        });
    }
    clients.join_all().await;
}

#[tokio::test]
async fn counters_gauges_and_percentiles_arrive_with_names_or_tags_and_nothing_is_missing_after_a_stop() {
    for (tags, accepted) in
        [("off", "pond.requests.payloads.accepted"), ("dogstatsd", "pond.requests;route:payloads,outcome:accepted")]
    {
        let mut daemon = Daemon::bind("127.0.0.1:0").await;
        let addr = daemon.addr().to_string();
        let env =
            [("STATSD_ADDR", &*addr), ("STATSD_TAGS", tags), ("STATSD_PREFIX", "pond"), ("STATSD_INTERVAL", "1s")];
        let mut server = Server::start(&env).await;
        load(&server, 4, 100).await;
        daemon.counted(accepted, 400.0).await;
        load(&server, 4, 50).await;
        assert_eq!(server.metric(FAILURES).await, 0.0);
        assert_eq!(server.stop().await, Some(0));
        daemon.receive_rest();
        assert_eq!(daemon.counters.get(accepted), Some(&600.0), "{tags}");
        for name in ["pond.jobs_accepted", "pond.payloads_accepted", "pond.jobs_stored", "pond.payloads_stored"] {
            assert_eq!(daemon.counters.get(name), Some(&600.0), "{tags}: {name}");
        }
        assert_eq!(daemon.gauges.get("pond.jobs_waiting"), Some(&0.0), "{tags}");
        for percentile in [".p50", ".p90", ".p99"] {
            for histogram in ["pond.request_ms", "pond.commit_ms", "pond.frame_jobs"] {
                let values = daemon.gauges(histogram, percentile);
                assert!(!values.is_empty() && values.iter().all(|value| *value > 0.0), "{histogram} {percentile}");
            }
        }
        let counts = daemon.counters.iter().filter(|(name, _)| name.starts_with("pond.request_ms"));
        let counts: Vec<_> = counts.filter(|(name, _)| name.contains(".count")).collect();
        assert!(counts.iter().any(|(name, count)| name.contains("payloads") && **count == 600.0), "{tags}: {counts:?}");
    }
}

#[tokio::test]
async fn names_and_ipv6_addresses_work() {
    for (bind, host) in [("[::1]:0", "[::1]"), ("127.0.0.1:0", "localhost")] {
        let mut daemon = Daemon::bind(bind).await;
        let addr = format!("{host}:{}", daemon.addr().port());
        let mut server = Server::start(&[("STATSD_ADDR", &addr), ("STATSD_INTERVAL", "1s")]).await;
        load(&server, 1, 10).await;
        daemon.counted("millpond.requests.payloads.accepted", 10.0).await;
        assert_eq!(server.stop().await, Some(0));
    }
}

#[tokio::test]
async fn a_name_that_does_not_resolve_costs_a_counter_and_one_log_line() {
    let mut server = Server::start(&[("STATSD_ADDR", "statsd.invalid:8125"), ("STATSD_INTERVAL", "1s")]).await;
    load(&server, 2, 20).await;
    server.metric_is(FAILURES, |failures| failures >= 2.0).await;
    load(&server, 2, 20).await;
    assert_eq!(server.ready().await.0, 200);
    assert_eq!(server.stop().await, Some(0));
    let log = server.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("STATSD_ADDR")).collect();
    assert!(matches!(lines[..], [line] if line.contains("statsd.invalid:8125")), "{log}");
    assert_eq!(server.lines().len(), 80);
}

#[tokio::test]
async fn counts_from_the_time_without_a_daemon_are_sent_when_it_is_back() {
    let mut daemon = Daemon::bind("127.0.0.1:0").await;
    let address = daemon.addr();
    let addr = address.to_string();
    let mut server = Server::start(&[("STATSD_ADDR", &addr), ("STATSD_INTERVAL", "1s")]).await;
    load(&server, 1, 10).await;
    daemon.counted("millpond.requests.payloads.accepted", 10.0).await;
    daemon.receive_rest();
    let before = daemon.counters.clone();
    drop(daemon);
    load(&server, 1, 20).await;
    server.metric_is(FAILURES, |failures| failures > 0.0).await;
    load(&server, 1, 30).await;

    let mut daemon = Daemon::bind(&addr).await;
    daemon.counters = before;
    daemon.counted("millpond.requests.payloads.accepted", 60.0).await;
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(server.log().matches("cannot send metrics").count(), 1, "{}", server.log());
}

#[tokio::test]
async fn a_daemon_that_reads_nothing_delays_no_request() {
    let daemon = Daemon::bind("127.0.0.1:0").await;
    let addr = daemon.addr().to_string();
    let mut server = Server::start(&[("STATSD_ADDR", &addr), ("STATSD_INTERVAL", "1s")]).await;
    load(&server, 2, 50).await;
    until("datagrams that are not read", async || daemon.socket.readable().await.is_ok()).await;
    load(&server, 2, 50).await;
    assert_eq!(server.stop().await, Some(0));
}

#[tokio::test]
async fn an_address_without_a_port_is_an_error_at_startup() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &[("STATSD_ADDR", "statsd.example.net")], &[]).await;
    assert_eq!(output.status.code(), Some(64));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("STATSD_ADDR=statsd.example.net: expected a host and a port, such as 127.0.0.1:8125"),
        "{error}"
    );
}

#[test]
fn the_syntax_of_the_settings_is_checked_and_no_name_is_resolved() {
    let read =
        |vars: &[(&str, &str)]| Settings::from_vars(vars.iter().map(|(name, value)| (name.into(), value.into())));
    for addr in ["127.0.0.1:8125", "[::1]:8125", "localhost:1", "statsd.invalid.:65535", "datadog-agent:8125"] {
        assert_eq!(read(&[("STATSD_ADDR", addr)]).unwrap().statsd.unwrap().addr, addr);
    }
    assert!(read(&[("STATSD_ADDR", "")]).unwrap().statsd.is_none());
    let ignored = read(&[("STATSD_TAGS", "dogstatsd")]).unwrap().warnings;
    assert!(ignored.iter().any(|warning| warning.starts_with("STATSD_TAGS is ignored: STATSD_ADDR")), "{ignored:?}");
    let long_host = format!("{}:8125", "a".repeat(254));
    let long_prefix = "p".repeat(129);
    for (name, value) in [
        ("STATSD_ADDR", "localhost"),
        ("STATSD_ADDR", ":8125"),
        ("STATSD_ADDR", "localhost:0"),
        ("STATSD_ADDR", "localhost:65536"),
        ("STATSD_ADDR", "localhost:http"),
        ("STATSD_ADDR", "::1:8125"),
        ("STATSD_ADDR", "[localhost]:8125"),
        ("STATSD_ADDR", "udp://localhost:8125"),
        ("STATSD_ADDR", "a..b:8125"),
        ("STATSD_ADDR", &long_host),
        ("STATSD_PREFIX", "a..b"),
        ("STATSD_PREFIX", "a.b."),
        ("STATSD_PREFIX", "a:b"),
        ("STATSD_PREFIX", &long_prefix),
        ("STATSD_TAGS", "influx"),
        ("STATSD_INTERVAL", "999ms"),
    ] {
        let error = read(&[(name, value)]).unwrap_err().to_string();
        assert!(error.contains(&format!("{name}={value}: expected ")), "{error}");
    }
    assert!(read(&[("STATSD_PREFIX", &long_prefix[1..])]).is_ok());
}
