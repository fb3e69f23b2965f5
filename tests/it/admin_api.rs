//! The snapshot, the stream, the log filter and the drain of the admin listener.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{Answer, Connection, PATIENCE, Server, get, post, until};
use crate::tls::Pair;
use crate::tokens::TokensFile;

/// The limits of the stream: of the process, and of one address.
const STREAMS_MAX: usize = 32;
const STREAMS_PER_ADDRESS: usize = 8;

async fn status(server: &Server) -> Value {
    serde_json::from_str(&get(server.admin, "/v1/status").await.text()).unwrap()
}

/// Waits for a snapshot with this property.
async fn status_with(server: &Server, what: &str, good: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    until(what, async || {
        last = status(server).await;
        good(&last)
    })
    .await;
    last
}

async fn request(server: &Server, head: &str, body: &str) -> Answer {
    let mut connection = Connection(TcpStream::connect(server.admin).await.unwrap());
    let (line, headers) = head.split_once('\n').unwrap_or((head, ""));
    let length = body.len();
    let headers = headers.replace('\n', "\r\n");
    let text = format!("{line} HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\n{headers}\r\n{body}", server.admin);
    connection.write(text.as_bytes()).await;
    connection.answer().await.expect("an answer")
}

/// An open stream.
struct Stream(TcpStream, String);

impl Stream {
    /// Opens a stream from 127.0.0.`client`; the head of the response.
    async fn open(server: &Server, client: u8) -> (Self, String) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, client], 0))).unwrap();
        let stream = socket.connect((Ipv4Addr::LOCALHOST, server.admin.port()).into()).await.unwrap();
        let mut connection = Connection(stream);
        connection.write(format!("GET /v1/stream HTTP/1.1\r\nHost: {}\r\n\r\n", server.admin).as_bytes()).await;
        let mut opened = Self(connection.0, String::new());
        let head = opened.until("\r\n\r\n").await;
        (opened, head)
    }

    /// Reads up to and including `end`.
    async fn until(&mut self, end: &str) -> String {
        let mut buffer = vec![0; 65_536];
        loop {
            if let Some(at) = self.1.find(end) {
                return self.1.drain(..at + end.len()).collect();
            }
            let read = timeout(PATIENCE, self.0.read(&mut buffer)).await.expect("an event or the end").unwrap();
            assert!(read > 0, "the stream ended without {end:?}: {}", self.1);
            self.1.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        }
    }

    /// The data of the next event with this name.
    async fn event(&mut self, name: &str) -> Value {
        self.until(&format!("event: {name}\ndata: ")).await;
        // The chunks of HTTP may lie within an event.
        let text = self.until("\n\n").await.replace("\r\n", "\n");
        let json = text.lines().filter(|line| usize::from_str_radix(line, 16).is_err()).collect::<String>();
        serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"))
    }
}

#[tokio::test]
async fn a_snapshot_has_the_traffic_the_ledger_and_the_limits_of_the_last_second() {
    let server = Server::start(&[("OBJECT_MAX_AGE", "1s")]).await;
    for _ in 0..3 {
        assert_eq!(server.post_json(r#"[{"a":1},{"a":2}]"#).await.status, 202);
    }
    let seen = status_with(&server, "the jobs are stored", |seen| seen["ledger"]["stored"]["jobs"] == 3).await;
    assert_eq!(seen["state"], "ready");
    assert_eq!(seen["ledger"]["accepted"], serde_json::json!({"jobs": 3, "payloads": 6}));
    assert_eq!(seen["ledger"]["waiting"]["payloads"], 0);
    assert_eq!(seen["traffic"]["outcomes"][0]["total"], 3);
    assert_eq!(seen["settings"]["ack"], "disk");
    let limit = |name: &str| {
        let limits = seen["limits"].as_array().unwrap().iter();
        limits.clone().find(|limit| limit["name"] == name).unwrap()["max"].as_u64().unwrap()
    };
    assert_eq!([limit("queue_jobs"), limit("spool_bytes"), limit("workers")], [10_000, 10 << 30, 16]);
    let object = &seen["recent_objects"][0];
    assert_eq!((&object["jobs"], &object["payloads"]), (&3.into(), &6.into()));
    assert!(object["key"].as_str().unwrap().starts_with("dt="));
    for (path, count) in [("accepted", 3), ("queue_wait", 1), ("commit", 1), ("upload", 1), ("stored", 1)] {
        assert!(seen["latency"][path]["count"].as_u64().unwrap() >= count, "{path}: {}", seen["latency"]);
        assert!(seen["latency"][path]["p50"].as_f64().unwrap() > 0.0, "{path}");
    }
    assert!(seen["process"]["memory_bytes"].as_u64().unwrap() > 1 << 20);
    assert!(seen["disk"]["total_bytes"].as_u64().unwrap() > seen["disk"]["free_bytes"].as_u64().unwrap());
    // The same values are metrics.
    let metrics = server.metrics().await;
    for (name, value) in [
        (concat!("millpond_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1.0),
        ("millpond_limit{limit=\"queue_jobs\"}", 10_000.0),
        ("millpond_store_up", 1.0),
        ("millpond_spool_up", 1.0),
        ("millpond_draining", 0.0),
        ("millpond_oldest_unstored_seconds", 0.0),
        ("millpond_dead_files", 0.0),
    ] {
        assert_eq!(metrics[name], value, "{name}");
    }
    assert!(metrics["process_cpu_seconds_total"] > 0.0 && metrics["millpond_disk_free_bytes"] > 0.0);
}

#[tokio::test]
async fn recent_rejections_name_the_reason_and_the_tenant_but_never_a_token() {
    let file = TokensFile::new(&[("acme", &["secret-token-1"], r#"{"requests_per_second":1,"burst_seconds":1}"#)]);
    let server = file.start(&[("ADMIN_ADDR", "127.0.0.1:0")]).await;
    let send = async |token: &str, body: &str| {
        let headers = format!("Content-Type: application/json\r\nX-Api-Key: {token}\r\n");
        server.post(&headers, body.as_bytes()).await.status
    };
    assert_eq!(send("secret-token-1", "{}").await, 202);
    assert_eq!(send("unknown-token-2", "{}").await, 403);
    until("the tenant is throttled", async || send("secret-token-1", "{}").await == 429).await;
    let throttled = |seen: &Value| seen["tenants"][0]["is_throttled"] == true;
    let seen = status_with(&server, "the page shows it", throttled).await;
    let rejections = seen["recent_rejections"].as_array().unwrap();
    let of = |outcome: &str| rejections.iter().find(|rejection| rejection["outcome"] == outcome).unwrap();
    assert_eq!((&of("over_rate")["tenant"], &of("over_rate")["status"]), (&"acme".into(), &429.into()));
    assert_eq!((&of("unknown_token")["tenant"], &of("unknown_token")["address"]), (&Value::Null, &"127.0.0.1".into()));
    assert!(of("over_rate")["detail"].as_str().unwrap().contains("requests_per_second"));
    assert_eq!(seen["tenants"][0]["tenant"], "acme");
    assert!(!seen.to_string().contains("-token-"), "{seen}");
    let metrics = server.metrics().await;
    assert!(metrics["millpond_tenant_requests_total{result=\"accepted\",tenant=\"acme\"}"] >= 1.0);
    assert!(metrics["millpond_tenant_requests_total{result=\"rejected\",tenant=\"acme\"}"] >= 1.0);
}

#[tokio::test]
async fn a_tenant_that_the_envelope_names_is_known_for_accepted_and_rejected_batches() {
    let file = TokensFile::new(&[("acme", &["a"], r#"{"payloads_per_second":1,"burst_seconds":1}"#)]);
    let server = file.start(&[]).await;
    let body = format!(r#"{{"version":"1","token":"a","data":[{}{{}}]}}"#, "{},".repeat(9_999));
    assert_eq!(server.post_json(&body).await.status, 202);
    assert_eq!(server.post_json(&body).await.status, 429);
    let seen = status_with(&server, "both are counted", |seen| seen["tenants"][0]["rejected_total"] == 1).await;
    assert_eq!(seen["tenants"][0]["accepted_total"], 1);
    assert_eq!(seen["recent_rejections"][0]["tenant"], "acme");
}

#[tokio::test]
async fn the_stream_begins_with_the_history_and_ends_with_an_event_at_the_shutdown() {
    let mut server = Server::start(&[]).await;
    let (mut stream, head) = Stream::open(&server, 1).await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/event-stream"), "{head}");
    let history = stream.event("history").await;
    let columns = history["columns"].as_array().unwrap().len();
    let first = stream.event("status").await;
    assert_eq!(first["sample"].as_array().unwrap().len(), columns);
    let second = stream.event("status").await;
    assert!(second["timestamp"].as_f64() > first["timestamp"].as_f64());
    // What was a snapshot is history for the next stream.
    let (mut later, _) = Stream::open(&server, 1).await;
    let history = later.event("history").await;
    assert!(history["rows"].as_array().unwrap().contains(&first["sample"]), "{history}");
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(stream.event("end").await["reason"], "shutdown");
}

#[tokio::test]
async fn streams_are_limited_for_an_address_and_for_the_process_and_scrapes_go_on() {
    let server = Server::start(&[]).await;
    let mut open = Vec::new();
    for client in 1..=u8::try_from(STREAMS_MAX / STREAMS_PER_ADDRESS).unwrap() {
        for _ in 0..STREAMS_PER_ADDRESS {
            let (stream, head) = Stream::open(&server, client).await;
            assert!(head.starts_with("HTTP/1.1 200"), "{client}: {head}");
            open.push(stream);
        }
        if client == 1 {
            let (_, head) = Stream::open(&server, client).await;
            assert!(head.starts_with("HTTP/1.1 429") && head.contains("retry-after: 5"), "{head}");
        }
    }
    assert!(Stream::open(&server, 100).await.1.starts_with("HTTP/1.1 503"));
    assert_eq!(get(server.admin, "/metrics").await.status, 200);
    assert_eq!(get(server.admin, "/v1/status").await.status, 200);
    // A closed page makes room for another.
    open.pop();
    until("a stream is free again", async || Stream::open(&server, 100).await.1.starts_with("HTTP/1.1 200")).await;
}

#[tokio::test]
async fn streams_that_are_not_read_take_no_memory_and_delay_nothing() {
    let server = Server::start(&[]).await;
    let mut dead = Vec::new();
    for client in 1..=4 {
        for _ in 0..STREAMS_PER_ADDRESS {
            dead.push(Stream::open(&server, client).await.0);
        }
    }
    let mut fill = JoinSet::new();
    // Rejections make snapshots large.
    for client in 1..=200 {
        let address = server.public;
        fill.spawn(async move {
            // Of one address only a few are listed in a second.
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::from(([127, 0, 0, client], 0))).unwrap();
            let mut connection = Connection(socket.connect(address).await.unwrap());
            connection.write(&post("Content-Type: application/json\r\n", b"[{")).await;
            connection.answer().await.unwrap().status
        });
    }
    assert!(fill.join_all().await.into_iter().all(|status| status == 400));
    status_with(&server, "the list is full", |seen| seen["recent_rejections"].as_array().unwrap().len() == 100).await;
    server.forget_peak();
    let before = server.peak();
    // Snapshots that nobody reads would add up.
    let last = status(&server).await["timestamp"].as_f64().unwrap();
    status_with(&server, "ten more snapshots", |seen| seen["timestamp"].as_f64().unwrap() > last + 10.0).await;
    let grown = server.peak().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB for {} streams", dead.len());
}

#[tokio::test]
async fn a_drain_stores_everything_rejects_batches_and_leaves_the_process_up() {
    let mut server = Server::start(&[("OBJECT_MAX_AGE", "1h")]).await;
    assert_eq!(server.post_json(r#"{"a":1}"#).await.status, 202);
    // This body arrives after the drain.
    let mut slow = server.connect().await;
    slow.write(b"POST /v1/payloads HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n")
        .await;
    server.metric_is("millpond_requests_in_flight", |count| count == 1.0).await;
    for _ in 0..2 {
        let answer = request(&server, "POST /v1/drain", "").await;
        assert_eq!((answer.status, answer.text().trim()), (202, r#"{"state":"draining"}"#));
    }
    assert_eq!(get(server.public, "/health").await.status, 503);
    assert!(server.post_json("{}").await.refusal(503).contains("draining"));
    let seen = status_with(&server, "it is drained", |seen| seen["state"] == "drained").await;
    assert_eq!(seen["ledger"]["stored"]["jobs"], 1);
    assert_eq!(server.lines().len(), 1);
    slow.write(br#"{"a":2}"#).await;
    assert_eq!(slow.answer().await.unwrap().status, 503, "an operator has seen that nothing waits");
    let (code, ready) = server.ready().await;
    assert!(code == 503 && ready.contains("draining"), "{ready}");
    assert_eq!(server.metric("millpond_draining").await, 1.0);
    assert!(server.log().contains("draining: new batches are rejected"), "{}", server.log());
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(server.lines().len(), 1);
}

#[tokio::test]
async fn a_server_with_a_folder_that_it_cannot_adopt_is_not_drained() {
    let server = Server::start(&[]).await;
    let folder = server.folder.path().join("millpond-data/spool/v2-01900000-0000-7000-8000-000000000001");
    // Its lock cannot be taken, so the jobs in it are unknown.
    std::fs::create_dir_all(folder.join("lock")).unwrap();
    until("the folder is found", async || server.ready().await.1.contains("not adopted")).await;
    assert_eq!(request(&server, "POST /v1/drain", "").await.status, 202);
    let last = status(&server).await["timestamp"].as_f64().unwrap();
    let later = |seen: &Value| seen["timestamp"].as_f64().unwrap() > last + 3.0;
    assert_eq!(status_with(&server, "three more snapshots", later).await["state"], "draining");
    std::fs::remove_dir_all(&folder).unwrap();
    status_with(&server, "the folder is gone", |seen| seen["state"] == "drained").await;
}

#[tokio::test]
async fn the_log_filter_of_the_running_server_can_be_changed() {
    let mut server = Server::start(&[]).await;
    assert!(request(&server, "GET /v1/log-filter", "").await.text().contains("info"));
    server.post_json("[").await;
    let changed = request(&server, "PUT /v1/log-filter", "info,millpond=debug").await;
    assert!(changed.status == 200 && changed.text().contains("millpond=debug"), "{}", changed.text());
    assert!(!server.log().contains("request rejected"));
    server.post_json("[").await;
    server.logged("request rejected").await;
    let unknown = request(&server, "PUT /v1/log-filter", "info,milpond=debug").await;
    assert!(unknown.text().contains("did you mean millpond?"), "{}", unknown.text());
    let invalid = request(&server, "PUT /v1/log-filter", "millpond=loud").await;
    assert!(invalid.status == 400 && invalid.text().contains("expected"), "{}", invalid.text());
    for empty in ["", "=", "info,=debug"] {
        assert_eq!(request(&server, "PUT /v1/log-filter", empty).await.status, 400, "{empty:?}");
    }
    assert_eq!(request(&server, "PUT /v1/log-filter", &"x".repeat(4097)).await.status, 413);
    assert_eq!(
        request(&server, "GET /v1/log-filter", "").await.text(),
        unknown.text().lines().next().unwrap().to_owned() + "\n"
    );
}

#[tokio::test]
async fn a_filter_that_turns_the_audit_log_off_is_audited_and_named() {
    let mut server = Server::start(&[]).await;
    let silenced = request(&server, "PUT /v1/log-filter", "error").await;
    assert!(silenced.status == 200 && silenced.text().contains("millpond::audit=info"), "{}", silenced.text());
    server.logged("changing the log filter").await;
    let line = server.log().lines().rfind(|line| line.contains("changing the log filter")).unwrap().to_owned();
    assert!(line.contains("address=127.0.0.1") && line.contains("error"), "{line}");
    // The line about a change back is written after it, because the old filter suppresses it.
    request(&server, "PUT /v1/log-filter", "warn").await;
    until("the change back is logged", async || server.log().matches("changing the log filter").count() == 2).await;
}

#[tokio::test]
async fn unknown_paths_and_methods_say_what_to_do() {
    let server = Server::start(&[]).await;
    let unknown = request(&server, "GET /v1/nope", "").await;
    assert!(unknown.status == 404 && unknown.text().contains("docs/api.md"), "{}", unknown.text());
    for (line, allowed) in [("GET /v1/drain", "POST"), ("POST /v1/log-filter", "GET,HEAD,PUT"), ("POST /", "GET,HEAD")]
    {
        let answer = request(&server, line, "").await;
        assert!(answer.status == 405 && answer.text().contains("Allow"), "{line}: {} {}", answer.status, answer.text());
        assert_eq!(answer.header("allow"), allowed, "{line}");
    }
}

#[tokio::test]
async fn each_reason_has_a_beginning() {
    let server = Server::start(&[]).await;
    assert_eq!(request(&server, "POST /v1/drain", "").await.status, 202);
    let seen = status_with(&server, "the reason", |seen| seen["reasons"][0]["what"] == "draining").await;
    let since = |seen: &Value| seen["reasons"][0]["since"].as_u64().unwrap();
    assert!(since(&seen) > 0 && seen["reasons"][0]["since_time"].is_string(), "{seen}");
    let last = seen["timestamp"].as_f64().unwrap();
    let later = |seen: &Value| seen["timestamp"].as_f64().unwrap() > last + 2.0;
    assert_eq!(since(&status_with(&server, "a later snapshot", later).await), since(&seen));
}

#[tokio::test]
async fn a_web_page_of_another_origin_can_neither_drain_the_server_nor_read_it() {
    let server = Server::start(&[]).await;
    for headers in ["Origin: https://evil.example\n", "Sec-Fetch-Site: cross-site\n", "Sec-Fetch-Site: same-site\n"] {
        for line in ["POST /v1/drain", "PUT /v1/log-filter", "GET /v1/status", "GET /metrics"] {
            let answer = request(&server, &format!("{line}\n{headers}"), "").await;
            assert!(answer.status == 403 && answer.text().contains("ADMIN_TOKEN"), "{line} {headers}");
        }
    }
    let form = "POST /v1/drain\nOrigin: null\nSec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\n";
    assert_eq!(request(&server, form, "").await.status, 403);
    let navigation = "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest:";
    for path in ["/v1/status", "/v1/stream", "/debug/pprof/flamegraph?seconds=1", "/debug/pprof/profile?seconds=1"] {
        for destination in ["document", "iframe"] {
            let link = format!("GET {path}\n{navigation} {destination}\n");
            assert_eq!(request(&server, &link, "").await.status, 403, "{path} as a {destination}");
        }
    }
    assert_eq!(request(&server, &format!("GET /\n{navigation} document\n"), "").await.status, 200);
    assert_eq!(request(&server, &format!("GET /\n{navigation} iframe\n"), "").await.status, 403);
    let own = format!("GET /v1/status\nOrigin: http://{}\nSec-Fetch-Site: same-origin\n", server.admin);
    assert_eq!(request(&server, &own, "").await.status, 200);
    assert_eq!(status(&server).await["state"], "ready");
}

#[tokio::test]
async fn the_certificates_end_failed_reloads_and_damaged_files_are_shown() {
    let (pair, _) = Pair::new();
    let server = Server::start(&pair.env()).await;
    let dead = server.folder.path().join("millpond-data/spool/dead");
    std::fs::create_dir_all(&dead).unwrap();
    std::fs::write(dead.join("x.seg"), "damaged").unwrap();
    assert!(server.metric("millpond_certificate_expires_timestamp_seconds").await > 1.7e9);
    assert!(status(&server).await["files"]["certificate_days"].as_f64().unwrap() > 1.0);
    std::fs::write(pair.env()[0].1, "no certificate").unwrap();
    server.signal(rustix::process::Signal::HUP);
    server.metric_is("millpond_reload_failures_total{file=\"TLS_CERT\"}", |failures| failures >= 1.0).await;
    let seen = status_with(&server, "damaged files", |seen| seen["dead"]["files"] == 1).await;
    assert_eq!(seen["dead"]["bytes"], 7);
    assert!(seen["files"]["reload_failures"]["TLS_CERT"].as_u64().unwrap() >= 1);
    assert_eq!(seen["files"]["reload_failing"], serde_json::json!(["TLS_CERT"]));
    let (other, _) = Pair::new();
    for ((_, file), (_, new)) in pair.env().iter().zip(other.env()) {
        std::fs::copy(new, file).unwrap();
    }
    status_with(&server, "the pair is valid again", |seen| seen["files"]["reload_failing"] == serde_json::json!([]))
        .await;
    assert_eq!(server.metric("millpond_reload_failing{file=\"TLS_CERT\"}").await, 0.0);
}
