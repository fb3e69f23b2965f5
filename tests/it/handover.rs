//! Live upgrade: a new process has received the listeners of the running one, and no request fails.

use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Signal, geteuid};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::support::{Connection, Server, command, post, run, signal, until};

pub(crate) const SOCKET: (&str, &str) = ("HANDOVER_SOCKET", "handover.sock");
pub(crate) const ENV: &[(&str, &str)] = &[SOCKET, ("RECORD", "payload")];

/// Starts a process that accepts handovers.
pub(crate) async fn start() -> Server {
    let mut server = Server::start(ENV).await;
    server.logged("listening for handovers").await;
    server
}

/// Starts a process that replaces `old`, and waits until both have finished.
pub(crate) async fn upgrade(mut old: Server) -> Server {
    let mut new = old.start_beside(ENV).await;
    new.logged("took over the listeners").await;
    new.logged("listening for handovers").await;
    assert_eq!((new.public, new.admin), (old.public, old.admin));
    assert_eq!(old.ended().await, Some(0));
    assert!(old.log().contains("handed over the listeners"), "{}", old.log());
    new
}

/// Clients that send until they are stopped, half of them with a connection for each request. A failed request is a panic.
struct Clients {
    stop: Arc<AtomicBool>,
    running: JoinSet<usize>,
}

impl Clients {
    fn start(server: &Server) -> Self {
        let (stop, mut running) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for client in 0..16 {
            let (stop, address, keeps) = (Arc::clone(&stop), server.public, client % 2 == 0);
            running.spawn(async move {
                let mut connection = None;
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut open = match connection.take() {
                        Some(open) => open,
                        None => Connection(TcpStream::connect(address).await.expect("a listener")),
                    };
                    open.0.write_all(&post("", b"{}")).await.expect("no reset");
                    let answer = open.answer().await.expect("a response to every request");
                    assert_eq!(answer.status, 202, "{}", answer.text());
                    sent += 1;
                    if keeps && answer.header("connection") != "close" {
                        connection = Some(open);
                    }
                }
                sent
            });
        }
        Self { stop, running }
    }

    /// The number of accepted requests.
    async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.running.join_all().await.iter().sum()
    }
}

#[tokio::test]
async fn ten_upgrades_under_load_fail_no_request_and_lose_nothing() {
    let mut server = start().await;
    let clients = Clients::start(&server);
    for _ in 0..10 {
        server = upgrade(server).await;
        server.metric_is("millpond_jobs_accepted_total", |jobs| jobs > 100.0).await;
        assert_eq!(server.metric("millpond_handovers_total{result=\"completed\"}").await, 1.0);
    }
    let sent = clients.stop().await;
    // Orphaned segments are adopted before the exit.
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(server.lines().len(), sent);
}

#[tokio::test]
async fn a_new_process_that_exits_before_it_is_ready_leaves_the_old_one_serving() {
    let mut old = start().await;
    let clients = Clients::start(&old);
    for failed in 1..=3 {
        // It fails after it has received the listeners.
        let env = [SOCKET, ("TOKENS_FILE", "missing.json")];
        let output = run(old.folder.path(), &env, &[]).await;
        assert_eq!(output.status.code(), Some(64));
        let counter = "millpond_handovers_total{result=\"failed\"}";
        old.metric_is(counter, |count| count == f64::from(failed)).await;
    }
    old.logged("the handover failed; this process serves on").await;
    let mut new = upgrade(old).await;
    let sent = clients.stop().await;
    assert_eq!(new.stop().await, Some(0));
    assert_eq!(new.lines().len(), sent);
}

/// The other process of a handover, which does what the test says.
pub(crate) struct Puppet {
    lines: tokio::io::Lines<BufReader<tokio::net::unix::OwnedReadHalf>>,
    pub(crate) write: tokio::net::unix::OwnedWriteHalf,
}

impl Puppet {
    pub(crate) fn new(stream: UnixStream) -> Self {
        let (read, write) = stream.into_split();
        Self { lines: BufReader::new(read).lines(), write }
    }

    /// The new process of a server.
    async fn connect(server: &Server) -> Self {
        Self::new(UnixStream::connect(server.folder.path().join(SOCKET.1)).await.unwrap())
    }

    pub(crate) async fn say(&mut self, message: &str) {
        self.write.write_all(format!("{message}\n").as_bytes()).await.unwrap();
    }

    pub(crate) async fn heard(&mut self) -> Option<String> {
        self.lines.next_line().await.unwrap_or_default()
    }

    async fn say_hello(&mut self) {
        self.say(r#"{"type":"hello","protocol":1,"version":"0.0.0","pid":1}"#).await;
        assert!(self.heard().await.expect("listeners").contains("\"listeners\""));
    }
}

#[tokio::test]
async fn a_new_process_that_is_killed_at_any_step_leaves_the_old_one_serving() {
    let old = start().await;
    for step in 0..4 {
        let mut puppet = Puppet::connect(&old).await;
        if step > 0 {
            puppet.say_hello().await;
        }
        if step > 1 {
            puppet.say(r#"{"type":"ready"}"#).await;
        }
        if step > 2 {
            assert!(puppet.heard().await.expect("release").contains("release"));
        }
        drop(puppet);
        let counter = "millpond_handovers_total{result=\"failed\"}";
        old.metric_is(counter, |count| count == f64::from(step + 1)).await;
        assert_eq!(old.post_json("{}").await.status, 202);
    }
    assert!(old.log().contains("read the log of the new process"), "{}", old.log());
    assert!(old.log().contains("pid=1 version=\"0.0.0\""), "{}", old.log());
    let mut new = upgrade(old).await;
    assert_eq!(new.stop().await, Some(0));
    assert_eq!(new.lines().len(), 4);
}

/// A process that has handed over, and has a request whose body has not arrived.
async fn handed_over() -> (Server, Server, Connection) {
    // A busy machine takes longer than the requests' share of the default.
    let mut old = Server::start(&[ENV, &[("SHUTDOWN_GRACE", "120s")]].concat()).await;
    old.logged("listening for handovers").await;
    let mut busy = old.connect().await;
    let request = post("", b"{}");
    busy.write(&request[..request.len() - 1]).await;
    old.metric_is("millpond_queue_bytes", |bytes| bytes > 0.0).await;
    let mut new = old.start_beside(ENV).await;
    new.logged("took over the listeners").await;
    old.logged("shutting down: ").await;
    old.signal(Signal::TERM);
    old.logged("already shutting down; another signal aborts").await;
    (old, new, busy)
}

#[tokio::test]
async fn a_signal_after_a_handover_does_not_cut_the_requests_in_flight() {
    let (mut old, mut new, mut busy) = handed_over().await;
    busy.write(b"}").await;
    let answer = busy.answer().await.expect("a response");
    assert_eq!((answer.status, answer.header("connection")), (202, "close"));
    assert_eq!(old.ended().await, Some(0));
    assert_eq!(new.stop().await, Some(0));
    assert_eq!(new.lines().len(), 1);
}

#[tokio::test]
async fn a_second_signal_after_a_handover_aborts() {
    let (mut old, _new, mut busy) = handed_over().await;
    old.signal(Signal::TERM);
    assert!(busy.closed().await);
    assert_eq!(old.ended().await, Some(0));
    assert!(old.log().contains("aborting on a second signal"), "{}", old.log());
}

#[tokio::test]
async fn a_process_is_rejected_until_the_new_one_listens_for_handovers() {
    let mut old = start().await;
    let mut new = Puppet::connect(&old).await;
    new.say_hello().await;
    new.say(r#"{"type":"ready"}"#).await;
    assert!(new.heard().await.expect("release").contains("release"));
    new.say(r#"{"type":"taken"}"#).await;
    assert!(new.heard().await.expect("done").contains("done"));
    old.logged("handed over the listeners").await;
    let mut third = Puppet::connect(&old).await;
    assert!(third.heard().await.expect("an error").contains("another process is taking over"));
    drop(new);
    assert_eq!(old.ended().await, Some(0));
}

#[tokio::test]
async fn a_running_process_without_handover_socket_is_named_in_the_error() {
    let old = Server::start(&[]).await;
    let address = old.public.to_string();
    let output = run(old.folder.path(), &[SOCKET, ("LISTEN_ADDR", &address)], &[]).await;
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("does not listen on HANDOVER_SOCKET: stop it first"), "{log}");
    assert_eq!(old.post_json("{}").await.status, 202);
}

#[tokio::test]
async fn a_third_process_is_rejected_while_a_handover_is_in_progress() {
    let old = start().await;
    let mut puppet = Puppet::connect(&old).await;
    puppet.say_hello().await;
    let output = run(old.folder.path(), ENV, &[]).await;
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("another process is taking over: wait until it has finished"), "{log}");
    drop(puppet);
    old.metric_is("millpond_handovers_total{result=\"failed\"}", |count| count == 1.0).await;
    upgrade(old).await;
}

#[tokio::test]
async fn a_process_with_another_protocol_is_told_what_to_do() {
    let old = start().await;
    let mut puppet = Puppet::connect(&old).await;
    puppet.say(r#"{"type":"hello","protocol":2,"version":"9.0.0","pid":1}"#).await;
    let heard = puppet.heard().await.unwrap();
    assert!(heard.contains("\"error\"") && heard.contains("stop this process"), "{heard}");
    assert_eq!(puppet.heard().await, None);
    upgrade(old).await;
}

#[tokio::test]
async fn a_new_process_that_hangs_leaves_the_old_one_serving() {
    let mut old = start().await;
    let folder = Arc::clone(&old.folder);
    // It has the listeners, and waits for the file.
    let pipe = make_pipe(&old);
    let mut new = command(folder.path(), &[SOCKET, ("TOKENS_FILE", "tokens")]).stderr(Stdio::piped()).spawn().unwrap();
    old.logged("a new process has received the listeners").await;
    signal(&new, Signal::STOP);
    old.logged("the handover failed; this process serves on").await;
    assert!(old.log().contains("no ready message within 30s"), "{}", old.log());
    assert_eq!(old.post_json("{}").await.status, 202);
    signal(&new, Signal::CONT);
    std::fs::write(&pipe, TOKENS).unwrap();
    assert_eq!(new.wait().await.unwrap().code(), Some(1), "it finds the error, drains and exits");
    upgrade(old).await;
}

const TOKENS: &str = concat!(
    r#"{"tenants": [{"name": "a", "tokens_sha256": ["#,
    r#""0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"]}]}"#
);

/// A pipe in place of TOKENS_FILE, so that a new process waits for its content after it has received the listeners.
fn make_pipe(server: &Server) -> std::path::PathBuf {
    let path = server.folder.path().join("tokens");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    path
}

/// An old process hangs while the new one starts, and then continues or is killed.
async fn hang(end: Signal) {
    let mut old = start().await;
    let pipe = make_pipe(&old);
    let stopped = async {
        old.has_logged("a new process has received the listeners").await;
        old.signal(Signal::STOP);
        std::fs::write(&pipe, TOKENS).unwrap();
    };
    let (mut new, ()) = tokio::join!(old.start_beside(&[SOCKET, ("TOKENS_FILE", "tokens")]), stopped);
    new.logged("this process serves beside it; end the process with this pid").await;
    assert!(new.log().contains(&format!("pid={}", old.pid())), "{}", new.log());
    assert_eq!(new.post_json("{}").await.status, 401, "it serves, with tokens");
    old.signal(end);
    new.logged("listening for handovers").await;
    assert!(new.log().contains("took over the listeners"), "{}", new.log());
    assert_eq!(old.ended().await, (end == Signal::CONT).then_some(0));
    assert_eq!(new.stop().await, Some(0));
}

#[tokio::test]
async fn an_old_process_that_hangs_is_served_beside_until_it_continues_or_is_killed() {
    tokio::join!(hang(Signal::CONT), hang(Signal::KILL));
}

#[tokio::test]
async fn a_changed_address_is_bound_and_the_old_one_closes() {
    let mut old = start().await;
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut new = old.start_beside(&[SOCKET, ("LISTEN_ADDR", &free)]).await;
    new.logged("took over the listeners").await;
    assert_eq!((new.public.to_string(), new.admin), (free, old.admin));
    assert!(new.log().contains("LISTEN_ADDR differs"), "{}", new.log());
    assert_eq!(old.ended().await, Some(0));
    assert!(TcpStream::connect(old.public).await.is_err());
    assert_eq!(new.post_json("{}").await.status, 202);
}

#[tokio::test]
async fn a_shutdown_leaves_no_listener_open() {
    let mut server = start().await;
    let mut busy = server.connect().await;
    busy.write(&post("", b"{}")[..20]).await;
    server.metric_is("millpond_connections", |open| open == 1.0).await;
    server.signal(Signal::TERM);
    until("no more connections", async || TcpStream::connect(server.public).await.is_err()).await;
    drop(busy);
    assert_eq!(server.ended().await, Some(0));
    let mut next = server.start_beside(ENV).await;
    next.logged("listening for handovers").await;
    assert!(!next.log().contains("taking over"), "the socket of the exited process is stale");
}

#[tokio::test]
async fn a_path_that_cannot_be_a_socket_of_this_user_is_a_settings_error() {
    let folder = tempfile::tempdir().unwrap();
    let fails = async |path: &str, text: &str| {
        let output = run(folder.path(), &[("HANDOVER_SOCKET", path)], &[]).await;
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{log}");
        assert!(log.contains("HANDOVER_SOCKET") && log.contains(text), "{log}");
    };
    fails(&"x".repeat(108), "at most 107 bytes").await;
    std::fs::write(folder.path().join("file"), "").unwrap();
    fails("file", "not a socket").await;
    fails("missing/socket", "create the folder").await;
    if geteuid().is_root() {
        let path = folder.path().join("foreign");
        let _listener = UnixListener::bind(&path).unwrap();
        chown(&path, Some(1234), None).unwrap();
        fails("foreign", "belongs to user id 1234").await;
    }
}

#[tokio::test]
async fn only_the_user_of_the_server_may_connect_to_the_socket() {
    let server = start().await;
    let mode = std::fs::metadata(server.folder.path().join(SOCKET.1)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
