//! Profiles of a running server.

use std::collections::HashSet;
use std::io::Read;
use std::net::SocketAddr;

use flate2::read::MultiGzDecoder;
use prost::Message;
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::{Answer, Connection, Server, get, post, until};

/// pprof's `profile.proto`, as far as it is checked here.
#[derive(Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    r#type: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    str: i64,
}

#[derive(Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
}

#[derive(Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
}

impl Profile {
    fn of(answer: &Answer) -> Self {
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), "application/octet-stream");
        assert!(answer.header("content-disposition").starts_with("attachment; filename=\"millpond-"));
        let mut bytes = Vec::new();
        MultiGzDecoder::new(answer.body()).read_to_end(&mut bytes).unwrap();
        Self::decode(bytes.as_slice()).unwrap()
    }

    fn string(&self, index: i64) -> &str {
        &self.string_table[usize::try_from(index).unwrap()]
    }

    fn sample_types(&self) -> Vec<(&str, &str)> {
        self.sample_type.iter().map(|each| (self.string(each.r#type), self.string(each.unit))).collect()
    }

    /// The functions of a sample.
    fn stack(&self, sample: &Sample) -> Vec<&str> {
        let location = |id| self.location.iter().find(|location| location.id == id).expect("a known location");
        let function = |line: &Line| self.function.iter().find(|each| each.id == line.function_id).expect("known");
        let lines = sample.location_id.iter().flat_map(|id| &location(*id).line);
        lines.map(|line| self.string(function(line).name)).collect()
    }
}

/// Clients that send batches until they are dropped.
fn load(public: SocketAddr) -> JoinSet<()> {
    let payloads: Vec<_> = (0..100).map(|n| format!("{{\"n\":{n},\"text\":\"{:0100}\"}}", n * n)).collect();
    let request = post("Content-Type: application/json\r\n", format!("[{}]", payloads.join(",")).as_bytes());
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        let request = request.clone();
        clients.spawn(async move {
            let mut connection = Connection(TcpStream::connect(public).await.unwrap());
            loop {
                connection.write(&request).await;
                let status = connection.answer().await.unwrap().status;
                assert!([202, 503].contains(&status), "{status}");
            }
        });
    }
    clients
}

/// A connection on which a profile of a minute has begun.
async fn begin(server: &Server, route: &str) -> Connection {
    loop {
        let mut connection = Connection(TcpStream::connect(server.admin).await.unwrap());
        let request = format!("GET {route}?seconds=60 HTTP/1.1\r\nHost: {}\r\n\r\n", server.admin);
        connection.write(request.as_bytes()).await;
        // If this one was faster, the other one was rejected.
        if get(server.admin, "/debug/pprof/profile?seconds=1").await.status == 409 {
            return connection;
        }
    }
}

#[tokio::test]
async fn a_cpu_profile_of_a_loaded_server_names_its_functions() {
    let server = Server::start(&[]).await;
    let _clients = load(server.public);
    let answer = get(server.admin, "/debug/pprof/profile?seconds=2&hz=100").await;
    let profile = Profile::of(&answer);
    assert_eq!(profile.string_table[0], "");
    assert_eq!(profile.sample_types(), [("samples", "count"), ("cpu", "nanoseconds")]);
    let period_type = profile.period_type.as_ref().unwrap();
    assert_eq!((profile.string(period_type.r#type), profile.string(period_type.unit)), ("cpu", "nanoseconds"));
    assert_eq!(profile.period, 10_000_000);
    assert!(profile.time_nanos > 0 && profile.duration_nanos >= 2_000_000_000, "{}", profile.duration_nanos);
    let mut threads = HashSet::new();
    let mut functions = HashSet::new();
    for sample in &profile.sample {
        assert_eq!(sample.value[1], sample.value[0] * profile.period);
        let label = &sample.label[0];
        assert_eq!(profile.string(label.key), "thread");
        threads.insert(profile.string(label.str));
        functions.extend(profile.stack(sample));
    }
    assert!(threads.contains("runtime") && threads.contains("dispatcher"), "{threads:?}");
    let contains = |part: &str| functions.iter().any(|name| name.contains(part));
    for part in ["millpond::decode", "millpond::dispatcher", "tokio::runtime"] {
        assert!(contains(part), "{part} is not in {functions:?}");
    }
    // The stacks reach from the function that executes to the start of the thread.
    let deepest = profile.sample.iter().map(|sample| sample.location_id.len()).max();
    assert!(deepest > Some(20), "{deepest:?}");
}

#[tokio::test]
async fn one_profile_is_taken_at_a_time_and_a_client_that_leaves_ends_it() {
    let server = Server::start(&[]).await;
    for route in ["/debug/pprof/profile", "/debug/pprof/flamegraph"] {
        let connection = begin(&server, route).await;
        for second in ["/debug/pprof/profile", "/debug/pprof/flamegraph?seconds=1"] {
            let busy = get(server.admin, second).await;
            assert_eq!(busy.status, 409);
            let seconds: u64 = busy.header("retry-after").parse().unwrap();
            assert!((1..=60).contains(&seconds), "{seconds}");
            assert_eq!(
                busy.text(),
                format!("another profile is in progress, or its client has just left: retry in {seconds} s\n")
            );
        }
        drop(connection);
        until("the slot is free", async || get(server.admin, "/debug/pprof/profile?seconds=1").await.status == 200)
            .await;
    }
}

#[tokio::test]
async fn a_shutdown_ends_a_profile_and_the_client_gets_what_there_is() {
    let mut server = Server::start(&[("SHUTDOWN_GRACE", "60s")]).await;
    // A request in flight keeps the server from exiting.
    let mut unfinished = server.connect().await;
    unfinished.write(b"POST /v1/payloads HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{").await;
    let mut connection = begin(&server, "/debug/pprof/profile").await;
    server.signal(Signal::TERM);
    let profile = Profile::of(&connection.answer().await.expect("a response"));
    assert!(profile.duration_nanos < 60_000_000_000, "{}", profile.duration_nanos);
    let late = get(server.admin, "/debug/pprof/profile?seconds=1").await;
    assert_eq!(
        (late.status, late.text().as_str()),
        (503, "the server is draining: take profiles of a running server\n")
    );
    unfinished.write(b"}").await;
    assert_eq!(server.ended().await, Some(0), "{}", server.log());
}

#[tokio::test]
async fn wrong_parameters_get_a_400_that_says_what_is_right() {
    let server = Server::start(&[]).await;
    for (query, text) in [
        ("seconds=0", "seconds: expected 1 to 60"),
        ("seconds=9999", "seconds: expected 1 to 60"),
        ("seconds=ten", "seconds: expected 1 to 60"),
        ("seconds=1&seconds=1", "seconds is given twice"),
        ("hz=100000", "hz: expected 1 to 250"),
        ("second=1", "unknown parameter \"second\": a CPU profile has seconds and hz"),
    ] {
        for route in ["profile", "flamegraph"] {
            let answer = get(server.admin, &format!("/debug/pprof/{route}?{query}")).await;
            assert_eq!((answer.status, answer.text()), (400, format!("{text}\n")), "{route} {query}");
        }
    }
    let heap = get(server.admin, "/debug/pprof/heap?seconds=1").await;
    assert_eq!(heap.status, 400);
    let mut connection = Connection(TcpStream::connect(server.admin).await.unwrap());
    connection.write(b"HEAD /debug/pprof/profile HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let mut status = [0; 12];
    tokio::io::AsyncReadExt::read_exact(&mut connection.0, &mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 405", "a HEAD request takes no profile");
}

#[tokio::test]
async fn profiles_require_the_token() {
    let server = Server::start(&[("ADMIN_TOKEN", "correct-horse-battery")]).await;
    for route in ["profile", "flamegraph", "heap"] {
        assert_eq!(get(server.admin, &format!("/debug/pprof/{route}")).await.status, 401, "{route}");
    }
}

#[tokio::test]
async fn the_flame_graph_is_one_page_that_loads_nothing() {
    let server = Server::start(&[]).await;
    let _clients = load(server.public);
    let answer = get(server.admin, "/debug/pprof/flamegraph?seconds=1").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    let policy = answer.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    let page = answer.text();
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("millpond::decode"), "{page}");
    for reference in ["src=", "href=", "url(", "@import"] {
        assert!(!page.contains(reference), "{reference}");
    }
}

#[tokio::test]
async fn the_heap_profile_is_there_in_builds_with_the_feature() {
    let server = Server::start(&[]).await;
    let clients = load(server.public);
    server.metric_is("millpond_jobs_accepted_total", |jobs| jobs > 100.0).await;
    let answer = get(server.admin, "/debug/pprof/heap").await;
    drop(clients);
    if cfg!(feature = "heap-profile") {
        let profile = Profile::of(&answer);
        assert!(profile.sample_types().contains(&("inuse_space", "bytes")), "{:?}", profile.sample_types());
        let functions: HashSet<_> = profile.sample.iter().flat_map(|sample| profile.stack(sample)).collect();
        assert!(functions.iter().any(|name| name.contains("millpond::")), "{functions:?}");
    } else {
        assert_eq!(answer.status, 501);
        assert!(answer.text().contains("--features heap-profile"), "{}", answer.text());
    }
}
