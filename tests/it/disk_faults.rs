//! Faults of the disk while the server runs: acknowledged jobs are stored once, all others are rejected, and batches are
//! accepted again after the fault.

use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use millpond::disk::RealDisk;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

use crate::faulty_disk::{At, Call, FaultyDisk, How, Op};
use crate::in_process::{InProcess, Place};
use crate::recovery::{Segment, write_dead_folder};
use crate::support::{Server, files, get, post, run, until};

/// A few commits fill a segment, so that every call is made many times. A job without a response fails the test, since
/// `ACK_TIMEOUT` exceeds its timeout.
const SMALL: [(&str, &str); 4] =
    [("COMPRESSION", "none"), ("OBJECT_MAX_BYTES", "600"), ("OBJECT_MAX_AGE", "30ms"), ("ACK_TIMEOUT", "5m")];
const POSTS: usize = 20;
/// Servers that run at the same time.
const AT_ONCE: usize = 6;

fn payload(n: usize) -> String {
    format!("{{\"n\":{n},\"pad\":\"{}\"}}", "x".repeat(150))
}

/// Sends `POSTS` payloads in turn. Returns those that were acknowledged.
async fn send(server: &InProcess, what: &str) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let mut connection = server.connect().await;
    for payload in (0..POSTS).map(payload) {
        connection.write(&post("", payload.as_bytes())).await;
        match connection.answer().await.expect("an answer").status {
            202 => acknowledged.push(payload),
            status => assert_eq!(status, 503, "{what}"),
        }
    }
    acknowledged
}

/// Waits until a batch is accepted and the server is ready.
async fn recovers(server: &InProcess, what: &str) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let mut next = POSTS;
    until(&format!("{what}: a batch is accepted"), async || {
        let payload = payload(next);
        next += 1;
        let is_accepted = server.post(&payload).await.status == 202;
        if is_accepted {
            acknowledged.push(payload);
        }
        is_accepted
    })
    .await;
    until(&format!("{what}: ready"), async || server.ready().await.0 == 200).await;
    acknowledged
}

/// Starts a server without faults, which stores all segments that are left and removes their folders.
async fn recover(place: &Place, what: &str) {
    let server = place.start(RealDisk).unwrap();
    until(&format!("{what}: recovery"), async || place.segments().is_empty()).await;
    until(&format!("{what}: the folders of the dead are gone"), async || place.folders().len() == 1).await;
    server.stop().await;
    assert_eq!(place.folders().len(), 0, "{what}");
}

/// After a failed write or sync, a file is neither written nor synced again.
fn assert_never_again(log: &[Call], what: &str) {
    let mut failed = HashSet::new();
    for call in log.iter().filter(|call| matches!(call.op, Op::Append | Op::Sync)) {
        assert!(!failed.contains(&call.path) || call.path.ends_with("probe"), "{what}: again {call:?}");
        if call.succeeded == Some(false) {
            failed.insert(call.path.clone());
        }
    }
}

/// Writes the folder of a dead process with an undamaged and a damaged segment. Returns the valid payloads.
fn write_segments(place: &Place) -> Vec<String> {
    let left: Vec<String> = (1000..1006).map(payload).collect();
    let (good, mut damaged) = (Segment::of(&left[..3]), Segment::of(&left[3..]));
    damaged.damage(1);
    write_dead_folder(place, &[&good, &damaged]);
    left.into_iter().enumerate().filter(|(n, _)| *n != 4).map(|(_, payload)| payload).collect()
}

/// Runs a server with one fault. Returns whether the fault occurred.
async fn one_fault(at: At, how: How) -> bool {
    let what = format!("{how:?} at {at:?}");
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), &SMALL);
    let disk = FaultyDisk::failing(at, how);
    let mut acknowledged = write_segments(&place);
    match place.start(disk.clone()) {
        Ok(server) => {
            acknowledged.append(&mut send(&server, &what).await);
            acknowledged.append(&mut recovers(&server, &what).await);
            server.stop().await;
        }
        // It failed before any batch was accepted.
        Err(error) => assert!(format!("{error:#}").contains("SPOOL_DIR="), "{what}: {error:#}"),
    }
    assert_never_again(&disk.log(), &what);
    recover(&place, &what).await;
    place.assert_stored_once(&acknowledged, &what);
    assert_eq!(files(&place.spool().join("dead")).len(), 1, "{what}: only the damaged one");
    disk.has_failed()
}

/// The calls of a run without faults.
async fn calls_of_a_clean_run() -> Vec<Call> {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), &SMALL);
    let left = write_segments(&place).len();
    let disk = FaultyDisk::default();
    let server = place.start(disk.clone()).unwrap();
    let acknowledged = send(&server, "no fault").await;
    assert_eq!(acknowledged.len(), POSTS);
    until("uploads", async || place.stored().len() == POSTS + left && place.segments().is_empty()).await;
    server.stop().await;
    let log = disk.log();
    let segments = log.iter().filter(|call| call.path.extension().is_some_and(|end| end == "seg"));
    assert!(segments.into_iter().all(|call| call.succeeded == Some(true)));
    log
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_fault_at_any_call_loses_no_acknowledged_job_and_the_server_recovers() {
    let calls = calls_of_a_clean_run().await;
    for op in Op::ALL {
        let reached = calls.iter().filter(|call| call.op == op).count();
        let least = match op {
            // After a fault only.
            Op::Truncate => 0,
            Op::Create | Op::Append | Op::Sync | Op::SyncDir | Op::Read | Op::Remove => 5,
            Op::CreateDir | Op::List | Op::Lock | Op::Rename | Op::RemoveDir => 1,
        };
        assert!(reached >= least, "{op:?} is reached {reached} times");
    }
    // Each call by its number; the first and some later ones of each kind, since the order of calls varies; and some
    // faults that last.
    let hows = [How::Io, How::NoSpace, How::Short, How::Late];
    let by_number = (0..calls.len()).map(At::Call);
    let by_kind = Op::ALL.into_iter().flat_map(|kind| [0, 1, 2, 5].map(|n| At::Kind(kind, n)));
    let lasting = (0..calls.len()).step_by(5).map(|n| At::Calls(n, 7));
    let faults: Vec<_> = by_number.chain(by_kind).chain(lasting).flat_map(|at| hows.map(|how| (at, how))).collect();
    let tried = faults.len();
    let at_once = Rc::new(Semaphore::new(AT_ONCE));
    let mut runs = JoinSet::new();
    let everything = async {
        for (at, how) in faults {
            let at_once = Rc::clone(&at_once);
            runs.spawn_local(async move {
                let _permit = at_once.acquire().await.unwrap();
                one_fault(at, how).await
            });
        }
        runs.join_all().await.into_iter().filter(|has_failed| *has_failed).count()
    };
    let occurred = LocalSet::new().run_until(everything).await;
    assert!(occurred > tried * 3 / 4, "{occurred} of {tried} faults occurred");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_answered_503_until_there_is_space() {
    for op in [Op::Append, Op::Create, Op::Sync] {
        let folder = tempfile::tempdir().unwrap();
        // Every commit fills a segment.
        let place = Place::new(folder.path(), &[("COMPRESSION", "none"), ("OBJECT_MAX_BYTES", "100")]);
        let disk = FaultyDisk::default();
        let server = place.start(disk.clone()).unwrap();
        assert_eq!(server.post(&payload(0)).await.status, 202);
        disk.fail(At::Every(op), How::NoSpace);
        let rejected = server.post(&payload(1)).await;
        let said = rejected.refusal(503);
        assert!(said.contains("full") && !rejected.header("retry-after").is_empty(), "{op:?}: {said}");
        until("unready", async || server.ready().await.0 == 503).await;
        assert!(server.ready().await.1.contains("full"), "{op:?}: {}", server.ready().await.1);
        assert!(server.metric("millpond_commit_failures_total").await >= 1.0);
        assert_eq!(get(server.public, "/health").await.status, 503);
        disk.heal();
        // Without any request the server becomes ready again.
        until("ready", async || server.ready().await.0 == 200).await;
        assert_eq!(server.post(&payload(2)).await.status, 202);
        server.stop().await;
        assert_eq!(place.stored(), [payload(0), payload(2)], "{op:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_response_is_sent_before_the_frame_and_the_name_of_its_file_are_durable() {
    let folder = tempfile::tempdir().unwrap();
    // All jobs go into one segment.
    let place = Place::new(folder.path(), &[("OBJECT_MAX_AGE", "1h"), ("ACK_TIMEOUT", "5m")]);
    let disk = FaultyDisk::default();
    let server = place.start(disk.clone()).unwrap();
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    // The first commit of a segment makes three calls, the others two.
    for (n, op) in [Op::Append, Op::Sync, Op::SyncDir, Op::Append, Op::Sync].into_iter().enumerate() {
        disk.block(op);
        if n == 0 || n == 3 {
            first.write(&post("", payload(n).as_bytes())).await;
        }
        until("the call", async || disk.log().last().is_some_and(|call| call.op == op && call.succeeded.is_none()))
            .await;
        // An early response would arrive before this response on another connection.
        assert_eq!(get(server.admin, "/live").await.status, 200);
        let mut byte = [0; 1];
        let early = first.0.try_read(&mut byte);
        assert!(matches!(&early, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock), "{op:?}: {early:?}");
        let next = match n {
            0 => Some(Op::Sync),
            1 => Some(Op::SyncDir),
            3 => Some(Op::Sync),
            _ => None,
        };
        next.into_iter().for_each(|next| disk.block(next));
        disk.release(op);
        if next.is_none() {
            assert_eq!(first.answer().await.unwrap().status, 202);
        }
    }
    second.write(&post("", payload(9).as_bytes())).await;
    assert_eq!(second.answer().await.unwrap().status, 202);
    let calls: Vec<Op> = disk
        .log()
        .into_iter()
        .filter(|call| !matches!(call.op, Op::List | Op::Lock))
        .skip_while(|call| call.path.extension().is_none_or(|end| end != "seg"))
        .map(|call| call.op)
        .collect();
    assert_eq!(
        calls,
        [Op::Create, Op::Append, Op::Sync, Op::SyncDir, Op::Append, Op::Sync, Op::Append, Op::Sync],
        "one sync of the folder, and one of the file for each commit"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_sync_acknowledges_all_jobs_that_were_queued_during_the_previous_one() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), &[("OBJECT_MAX_AGE", "1h"), ("ACK_TIMEOUT", "5m")]);
    let disk = FaultyDisk::default();
    let server = place.start(disk.clone()).unwrap();
    disk.block(Op::Sync);
    let before = disk.count(Op::Sync);
    let mut senders = Vec::new();
    for n in 0..50 {
        let mut sender = server.connect().await;
        sender.write(&post("", payload(n).as_bytes())).await;
        senders.push(sender);
        if n == 0 {
            until("the first sync", async || disk.count(Op::Sync) == before + 1).await;
        }
    }
    // The first job is being committed, and counts as queued until then.
    until("all are queued", async || server.metric("millpond_queue_jobs").await == 50.0).await;
    disk.release(Op::Sync);
    for mut sender in senders {
        assert_eq!(sender.answer().await.unwrap().status, 202);
    }
    assert_eq!(disk.count(Op::Sync), before + 2);
    server.stop().await;
    assert_eq!(place.stored().len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_is_not_repeated_and_fails_only_its_own_commit() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), &[("OBJECT_MAX_AGE", "1h")]);
    let disk = FaultyDisk::default();
    let server = place.start(disk.clone()).unwrap();
    assert_eq!(server.post(&payload(0)).await.status, 202);
    disk.fail(At::Every(Op::Sync), How::Late);
    let said = server.post(&payload(1)).await.refusal(503);
    assert!(!said.contains("/spool"), "paths are for the log: {said}");
    let (status, ready) = server.ready().await;
    assert!(status == 503 && ready.contains("spool"), "{ready}");
    disk.heal();
    assert_eq!(server.post(&payload(2)).await.status, 202);
    assert_never_again(&disk.log(), "sync");
    let synced: HashSet<_> = disk.log().into_iter().filter(|call| call.op == Op::Sync).map(|call| call.path).collect();
    assert_eq!(synced.iter().filter(|path| !path.ends_with("probe")).count(), 2, "{synced:?}");
    server.stop().await;
    assert_eq!(place.stored(), [payload(0), payload(2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_spool_folder_is_answered_503_until_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    // Every commit fills a segment, so every commit needs the folder.
    let place = Place::new(folder.path(), &[("COMPRESSION", "none"), ("OBJECT_MAX_BYTES", "100")]);
    let server = place.start(RealDisk).unwrap();
    assert_eq!(server.post(&payload(0)).await.status, 202);
    until("the upload", async || place.stored().len() == 1 && place.segments().is_empty()).await;
    let away = folder.path().join("away");
    std::fs::rename(place.spool(), &away).unwrap();
    for n in 1..10 {
        assert_eq!(server.post(&payload(n)).await.status, 503);
    }
    assert_eq!(get(server.admin, "/live").await.status, 200);
    assert!(server.ready().await.1.contains("spool"));
    std::fs::rename(&away, place.spool()).unwrap();
    until("ready", async || server.ready().await.0 == 200).await;
    assert_eq!(server.post(&payload(10)).await.status, 202);
    std::fs::remove_dir_all(place.spool()).unwrap();
    assert_eq!(server.post(&payload(11)).await.status, 503);
    assert_eq!(get(server.admin, "/live").await.status, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_space_of_a_segment_that_cannot_be_removed_is_not_released() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), &[("COMPRESSION", "none"), ("OBJECT_MAX_BYTES", "100")]);
    let disk = FaultyDisk::default();
    let server = place.start(disk.clone()).unwrap();
    disk.fail(At::Every(Op::Remove), How::Io);
    for n in 0..5 {
        assert_eq!(server.post(&payload(n)).await.status, 202);
    }
    until("uploads", async || place.stored().len() == 5).await;
    until("removals", async || disk.count(Op::Remove) >= 6).await;
    until("idle workers", async || server.metric("millpond_busy_workers").await == 0.0).await;
    assert_eq!(place.segments().len(), 5);
    assert_eq!(server.metric("millpond_spool_bytes").await, 5.0 * 4096.0);
    disk.heal();
    server.stop().await;
    recover(&place, "removal").await;
    place.assert_stored_once(&(0..5).map(payload).collect::<Vec<_>>(), "removal");
}

#[tokio::test]
async fn a_start_with_an_unusable_spool_dir_fails_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), b"no folder").unwrap();
    for dir in ["file", "file/spool"] {
        let ended = run(folder.path(), &[("SPOOL_DIR", dir)], &[]).await;
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(64), "{said}");
        assert!(said.contains(&format!("SPOOL_DIR={dir}")), "{said}");
    }
    assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), b"no folder");
}

#[tokio::test]
async fn a_server_survives_the_removal_of_its_spool_folder() {
    let mut server = Server::start(&[("OBJECT_MAX_BYTES", "100"), ("COMPRESSION", "none")]).await;
    std::fs::remove_dir_all(server.folder.path().join("millpond-data/spool")).unwrap();
    for n in 0..3 {
        assert_eq!(server.post_json(&payload(n)).await.status, 503);
    }
    assert!(!server.log().contains("panicked"));
    let (status, text) = server.ready().await;
    assert!(status == 503 && text.contains("spool"), "{text}");
    assert_eq!(timeout(Duration::from_secs(60), server.stop()).await.unwrap(), Some(0));
}
