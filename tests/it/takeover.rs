//! The new process of a live upgrade, with an old one that does what the test says.

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::process::Signal;
use tokio::net::{TcpStream, UnixListener, UnixStream};

use crate::handover::{ENV, Puppet, SOCKET, upgrade};
use crate::support::{Connection, Server, command, post, run};

/// A new process whose old one is played by a puppet, and the public listener. A client has sent a request, and waits in the
/// queue of the listener. The new process has sent `taken`.
async fn taken() -> (Server, Puppet, TcpListener, Connection) {
    let folder = tempfile::tempdir().unwrap();
    let old = UnixListener::bind(folder.path().join(SOCKET.1)).unwrap();
    let [public, admin] = ["127.0.0.1:0"; 2].map(|address| TcpListener::bind(address).unwrap());
    public.set_nonblocking(true).unwrap();
    let mut client = Connection(TcpStream::connect(public.local_addr().unwrap()).await.unwrap());
    client.write(&post("", b"{}")).await;
    let command = command(folder.path(), ENV);
    let (new, mut puppet) =
        tokio::join!(Server::spawn_in(command, Arc::new(folder)), old_process(&old, vec![&public, &admin]));
    assert_eq!(puppet.heard().await.unwrap(), r#"{"type":"ready"}"#);
    puppet.say(r#"{"type":"release"}"#).await;
    assert_eq!(puppet.heard().await.unwrap(), r#"{"type":"taken"}"#);
    (new, puppet, public, client)
}

#[tokio::test]
async fn a_new_process_that_ends_before_the_old_one_stops_has_accepted_no_connection() {
    for (end, code) in [(Some(Signal::KILL), None), (Some(Signal::TERM), Some(0)), (None, Some(1))] {
        let (mut new, mut puppet, public, _client) = taken().await;
        match end {
            Some(signal) => new.signal(signal),
            None => puppet.say(r#"{"type":"error","text":"too late"}"#).await,
        }
        assert_eq!(new.ended().await, code, "{}", new.log());
        public.accept().unwrap_or_else(|error| panic!("{end:?}: the connection is not in the queue: {error}"));
    }
}

#[tokio::test]
async fn a_new_process_accepts_when_the_old_one_stops() {
    let (new, mut puppet, _public, mut client) = taken().await;
    puppet.say(r#"{"type":"done"}"#).await;
    assert_eq!(client.answer().await.expect("a response").status, 202);
    assert_eq!(puppet.heard().await, None, "it listens for handovers");
    upgrade(new).await;
}

#[tokio::test]
async fn a_new_process_that_cannot_receive_the_listeners_exits_and_opens_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let old = UnixListener::bind(folder.path().join(SOCKET.1)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let started = run(folder.path(), ENV, &[]);
    let (output, _) = tokio::join!(started, old_process(&old, vec![&listener; 5]));
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("sockets were not received; check the limit on open files"), "{log}");
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
            let mut puppet = old_process(&old, vec![&public, &admin]).await;
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
async fn old_process(socket: &UnixListener, listeners: Vec<&TcpListener>) -> Puppet {
    let (stream, _) = socket.accept().await.unwrap();
    let mut puppet = Puppet::new(stream);
    assert!(puppet.heard().await.unwrap().contains("\"hello\""));
    let line = b"{\"type\":\"listeners\",\"version\":\"0.0.0\",\"pid\":1,\"sockets\":[\"public\",\"admin\"]}\n";
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(5))];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    let sockets: Vec<_> = listeners.iter().map(|listener| listener.as_fd()).collect();
    assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&sockets)));
    let stream: &UnixStream = puppet.write.as_ref();
    let sent =
        rustix::net::sendmsg(stream, &[std::io::IoSlice::new(line)], &mut control, rustix::net::SendFlags::empty());
    assert_eq!(sent.unwrap(), line.len());
    puppet
}
