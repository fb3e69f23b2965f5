//! A service manager starts the server: it passes listeners, and is told when the server is ready.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;

use rustix::process::Signal;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UnixDatagram};
use tokio::process::Command;

use crate::handover::{SOCKET, start};
use crate::support::{PROGRAM, Server, get, prepare};
use crate::two_versions::{RolloutFile, mirror};

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
