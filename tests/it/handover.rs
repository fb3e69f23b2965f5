//! Live upgrade: a new process has received the listeners of the running one, and no request fails.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Signal, geteuid};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixDatagram, UnixListener, UnixStream};
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::support::{Connection, PROGRAM, Server, command, get, post, prepare, run, signal, until};
use crate::two_versions::{RolloutFile, mirror};

const SOCKET: (&str, &str) = ("HANDOVER_SOCKET", "handover.sock");
const ENV: &[(&str, &str)] = &[SOCKET, ("RECORD", "payload")];

/// Starts a process that accepts handovers.
async fn start() -> Server {
    let mut server = Server::start(ENV).await;
    server.logged("listening for handovers").await;
    server
}

/// Starts a process that replaces `old`, and waits until both have finished.
async fn upgrade(mut old: Server) -> Server {
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

/// A new process that has received the listeners, and does what the test says.
struct Puppet {
    lines: tokio::io::Lines<BufReader<tokio::net::unix::OwnedReadHalf>>,
    write: tokio::net::unix::OwnedWriteHalf,
}

impl Puppet {
    async fn connect(server: &Server) -> Self {
        let stream = UnixStream::connect(server.folder.path().join(SOCKET.1)).await.unwrap();
        let (read, write) = stream.into_split();
        Self { lines: BufReader::new(read).lines(), write }
    }

    async fn say(&mut self, message: &str) {
        self.write.write_all(format!("{message}\n").as_bytes()).await.unwrap();
    }

    async fn heard(&mut self) -> Option<String> {
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
    let mut new = upgrade(old).await;
    assert_eq!(new.stop().await, Some(0));
    assert_eq!(new.lines().len(), 4);
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
    assert_eq!(new.post_json("{}").await.status, 401, "it serves, with tokens");
    new.logged("this process serves beside it").await;
    assert_eq!(new.post_json("{}").await.status, 401);
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
async fn a_new_process_that_is_late_drains_and_exits_because_the_old_one_serves_on() {
    let folder = tempfile::tempdir().unwrap();
    let old = UnixListener::bind(folder.path().join(SOCKET.1)).unwrap();
    let [public, admin] = ["127.0.0.1:0"; 2].map(|address| TcpListener::bind(address).unwrap());
    let command = command(folder.path(), ENV);
    let (mut new, mut puppet) =
        tokio::join!(Server::spawn_in(command, Arc::new(folder)), old_process(&old, [&public, &admin]));
    assert_eq!(puppet.heard().await.unwrap(), r#"{"type":"ready"}"#);
    assert_eq!(new.post_json("{}").await.status, 202, "it accepts before the handover is complete");
    puppet.say(r#"{"type":"error","text":"too late"}"#).await;
    assert_eq!(new.ended().await, Some(1));
    assert!(new.log().contains("the running process ended the handover: too late"), "{}", new.log());
    assert_eq!(new.lines().len(), 1);
}

#[tokio::test]
async fn a_new_process_whose_old_one_is_killed_at_any_step_serves() {
    for step in 0..4 {
        let folder = tempfile::tempdir().unwrap();
        let old = UnixListener::bind(folder.path().join(SOCKET.1)).unwrap();
        let [public, admin] = ["127.0.0.1:0"; 2].map(|address| TcpListener::bind(address).unwrap());
        let killed = async {
            if step == 0 {
                let (stream, _) = old.accept().await.unwrap();
                // As the kernel closes the sockets of a process that is killed.
                return drop((old, stream));
            }
            let mut puppet = old_process(&old, [&public, &admin]).await;
            if step > 1 {
                assert_eq!(puppet.heard().await.unwrap(), r#"{"type":"ready"}"#);
            }
            if step > 2 {
                puppet.say(r#"{"type":"release"}"#).await;
                assert_eq!(puppet.heard().await.unwrap(), r#"{"type":"taken"}"#);
            }
            drop((old, puppet));
        };
        let command = command(folder.path(), ENV);
        let (mut new, ()) = tokio::join!(Server::spawn_in(command, Arc::new(folder)), killed);
        new.logged("listening for handovers").await;
        assert_eq!(new.public == public.local_addr().unwrap(), step > 0);
        drop((public, admin));
        assert_eq!(new.post_json("{}").await.status, 202, "step {step}");
        let mut next = upgrade(new).await;
        assert_eq!(next.stop().await, Some(0));
    }
}

/// Plays the old process until it has sent the listeners.
async fn old_process(socket: &UnixListener, listeners: [&TcpListener; 2]) -> Puppet {
    use std::os::fd::AsFd;
    let (stream, _) = socket.accept().await.unwrap();
    let (read, write) = stream.into_split();
    let mut puppet = Puppet { lines: BufReader::new(read).lines(), write };
    assert!(puppet.heard().await.unwrap().contains("\"hello\""));
    let line = b"{\"type\":\"listeners\",\"version\":\"0.0.0\",\"pid\":1,\"sockets\":[\"public\",\"admin\"]}\n";
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    let sockets = listeners.map(AsFd::as_fd);
    assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&sockets)));
    let stream: &UnixStream = puppet.write.as_ref();
    let sent =
        rustix::net::sendmsg(stream, &[std::io::IoSlice::new(line)], &mut control, rustix::net::SendFlags::empty());
    assert_eq!(sent.unwrap(), line.len());
    puppet
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

/// A process with sockets of a service manager as file descriptors 3 and 4.
fn activated(folder: &std::path::Path, sockets: [&TcpListener; 2], exports: &str) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &format!("{exports} exec \"$0\" 3<&0 4<&1 </dev/null >/dev/null"), PROGRAM]);
    let mut shell = prepare(shell, folder, &[]);
    let [public, admin] = sockets.map(|socket| Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
    shell.stdin(public).stdout(admin);
    shell
}

#[tokio::test]
async fn listeners_of_a_service_manager_are_used_by_name() {
    let sockets = ["127.0.0.1:0"; 2].map(|address| TcpListener::bind(address).unwrap());
    let [public, admin] = [&sockets[0], &sockets[1]];
    let at = |socket: &TcpListener| socket.local_addr().unwrap();
    for (names, expected) in [("public:admin", [at(public), at(admin)]), ("admin:public", [at(admin), at(public)])] {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let exports = format!("LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES={names}");
        let command = activated(folder.path(), [public, admin], &exports);
        let mut server = Server::spawn_in(command, folder).await;
        assert_eq!([server.public, server.admin], expected);
        assert_eq!(server.post_json("{}").await.status, 202);
        assert_eq!(get(server.admin, "/live").await.status, 200);
        assert!(!server.log().contains("LISTEN_"), "no warning: {}", server.log());
        assert_eq!(server.stop().await, Some(0));
        // The service manager keeps them, and clients wait in their queues.
        TcpStream::connect(at(public)).await.unwrap();
    }
}

#[tokio::test]
async fn listeners_for_another_process_are_ignored_and_unknown_ones_are_errors() {
    let sockets = ["127.0.0.1:0"; 2].map(|address| TcpListener::bind(address).unwrap());
    let sockets = [&sockets[0], &sockets[1]];
    for exports in ["LISTEN_PID=1 LISTEN_FDS=2", "LISTEN_FDS=2"] {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let command = activated(folder.path(), sockets, exports);
        let server = Server::spawn_in(command, folder).await;
        assert_ne!(server.public, sockets[0].local_addr().unwrap(), "{exports}");
    }
    for (exports, text) in [
        ("LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=public:other", "socket 1 is named \"other\""),
        ("LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=public:public", "one socket each"),
        ("LISTEN_PID=$$ LISTEN_FDS=3 LISTEN_FDNAMES=public:admin:x", "socket 2"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut child = activated(folder.path(), sockets, exports).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = String::new();
        child.stderr.take().unwrap().read_to_string(&mut log).await.unwrap();
        assert_eq!(child.wait().await.unwrap().code(), Some(64), "{log}");
        assert!(log.contains(text), "{log}");
    }
}

#[tokio::test]
async fn systemd_is_told_when_the_server_is_ready_and_when_it_stops() {
    let old = start().await;
    let manager = UnixDatagram::bind(old.folder.path().join("notify")).unwrap();
    let heard = async || {
        let mut text = [0; 64];
        let bytes = manager.recv(&mut text).await.unwrap();
        String::from_utf8_lossy(&text[..bytes]).trim().to_owned()
    };
    let path = old.folder.path().join("notify");
    let mut new = old.start_beside(&[SOCKET, ("NOTIFY_SOCKET", path.to_str().unwrap())]).await;
    assert_eq!(heard().await, "READY=1");
    new.logged("took over the listeners").await;
    new.signal(Signal::TERM);
    assert_eq!(heard().await, "STOPPING=1");
    assert_eq!(new.ended().await, Some(0));
}

#[tokio::test]
async fn an_admin_listener_of_a_service_manager_needs_a_token_beyond_loopback() {
    let sockets = ["127.0.0.1:0", "0.0.0.0:0"].map(|address| TcpListener::bind(address).unwrap());
    let exports = "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=public:admin";
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let mut child =
        activated(folder.path(), [&sockets[0], &sockets[1]], exports).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).await.unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(64), "{log}");
    assert!(log.contains("set ADMIN_TOKEN"), "{log}");
    let exports = format!("{exports} ADMIN_TOKEN=0123456789abcdef");
    Server::spawn_in(activated(folder.path(), [&sockets[0], &sockets[1]], &exports), folder).await;
}

#[tokio::test]
async fn a_rollout_to_a_listener_of_a_service_manager_is_a_loop() {
    let sockets = ["127.0.0.1:0"; 2].map(|address| TcpListener::bind(address).unwrap());
    for socket in &sockets {
        let folder = tempfile::tempdir().unwrap();
        let rollout = RolloutFile::new(&mirror(socket.local_addr().unwrap()));
        let path = rollout.path();
        let exports = format!("LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=public:admin ROLLOUT_FILE={}", path.display());
        let command = activated(folder.path(), [&sockets[0], &sockets[1]], &exports).stderr(Stdio::piped()).spawn();
        let (mut child, mut log) = (command.unwrap(), String::new());
        child.stderr.take().unwrap().read_to_string(&mut log).await.unwrap();
        assert_eq!(child.wait().await.unwrap().code(), Some(64), "{log}");
        assert!(log.contains("mirror.url is an address of this server"), "{log}");
    }
}
