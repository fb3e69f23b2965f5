//! Shutdown with a file system that hangs, and after a panic.

use millpond::disk::RealDisk;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;

use crate::faulty_disk::{At, FaultyDisk, How, Op};
use crate::in_process::Place;
use crate::support::{Server, post, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_file_system_that_hangs_does_not_delay_the_exit_beyond_the_grace() {
    let folder = tempfile::tempdir().unwrap();
    let place =
        Place::new(folder.path(), &[("SHUTDOWN_GRACE", "200ms"), ("OBJECT_MAX_AGE", "1h"), ("ACK_TIMEOUT", "5m")]);
    let disk = FaultyDisk::default();
    let mut server = place.start(disk.clone()).unwrap();
    assert_eq!(server.post("{\"kept\":1}").await.status, 202);
    let hanging = disk.hang();
    let mut sender = server.connect().await;
    sender.write(&post("", b"{\"hung\":1}")).await;
    until("the hung commit", async || disk.log().last().is_some_and(|call| call.op == Op::Append)).await;
    server.shutdown().drain();
    // The server exits while the disk still hangs.
    let ended = server.ended().await;
    assert_eq!(ended.balance.waiting.jobs, 1, "kept in the spool");
    drop(hanging);
    drop(server);
    let next = place.start(RealDisk).unwrap();
    until("what was kept", async || place.stored().contains(&"{\"kept\":1}".to_owned())).await;
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_second_signal_ends_the_process_while_the_file_system_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), &[("SHUTDOWN_GRACE", "1h")]);
    let disk = FaultyDisk::default();
    let mut server = place.start(disk.clone()).unwrap();
    let _hanging = disk.hang();
    let mut sender = server.connect().await;
    sender.write(&post("", b"{\"hung\":1}")).await;
    until("the hung call", async || disk.log().last().is_some_and(|call| call.succeeded.is_none())).await;
    server.shutdown().drain();
    server.shutdown().abort();
    server.ended().await;
}

/// The file of tenants is a pipe without a writer, so opening it hangs like a mount that is away.
#[tokio::test]
async fn a_second_signal_ends_a_process_that_hangs_at_its_start() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("tenants");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let env = [("TOKENS_FILE", pipe.to_str().unwrap()), ("SHUTDOWN_GRACE", "1h")];
    let (mut child, _folder) = Server::start_only(&env);
    // Before the process handles signals, the first one would end it.
    let status = format!("/proc/{}/status", child.id().unwrap());
    until("signals are caught", async || {
        let status = std::fs::read_to_string(&status).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() & (1 << (Signal::TERM.as_raw() - 1)) != 0
    })
    .await;
    let mut code = None;
    until("the exit", async || {
        crate::support::signal(&child, Signal::TERM);
        code = child.try_wait().unwrap().map(|status| status.code());
        code.is_some()
    })
    .await;
    assert_eq!(code, Some(Some(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_the_dispatcher_ends_the_process_before_the_grace() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(
        folder.path(),
        &[("SHUTDOWN_GRACE", "1h"), ("ACK_TIMEOUT", "5m"), ("COMPRESSION", "none"), ("OBJECT_MAX_BYTES", "10")],
    );
    let disk = FaultyDisk::default();
    let mut server = place.start(disk.clone()).unwrap();
    assert_eq!(server.post("{\"before\":1}").await.status, 202);
    disk.fail(At::Every(Op::Append), How::Panic);
    let mut sender = server.connect().await;
    sender.write(&post("", b"{\"lost\":1}")).await;
    let refused = sender.answer().await;
    assert!(refused.is_none_or(|answer| answer.status >= 500), "it is not acknowledged");
    let ended = server.ended().await;
    let failure = format!("{:#}", ended.failure.expect("a failure"));
    assert!(failure.contains("dispatcher") && failure.contains("panic"), "{failure}");
    assert_eq!(place.stored(), ["{\"before\":1}"], "sealed segments are stored first");
}
