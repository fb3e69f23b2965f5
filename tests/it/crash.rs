//! Crashes before and after each call to the file system: acknowledged jobs are stored once.
//!
//! The process that crashes is this test binary, run as a child with the crash point in a variable. It serves on a disk that
//! aborts at that point, while the test sends. More children crash on the same folders, often during the recovery. In the
//! end a server without a crash point recovers everything.

use std::cell::RefCell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::rc::Rc;
use std::str::FromStr;

use fastrand::Rng;
use millpond::disk::RealDisk;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

use crate::faulty_disk::{At, FaultyDisk, How, Op};
use crate::in_process::Place;
use crate::recovery::{Segment, write_dead_folder};
use crate::support::{Connection, PATIENCE, until};

/// The crash point of a child, as `<kind of call> <number> <before or after>`.
const POINT: &str = "MILLPOND_CRASH_POINT";
/// The folder of a child.
const FOLDER: &str = "MILLPOND_CRASH_FOLDER";
/// Overrides [`ROUNDS`].
const ROUNDS_VAR: &str = "MILLPOND_CRASH_ROUNDS";
/// Crashes at each point.
const ROUNDS: usize = 4;
/// The seed, which is printed when the test fails, so that the failure can be reproduced.
const SEED_VAR: &str = "MILLPOND_CRASH_SEED";
/// The most crashes before one recovery.
const CRASHES_MAX: usize = 5;
const SENDERS: usize = 3;
/// Points that are tested at the same time.
const AT_ONCE: usize = 3;
/// The file to which a child writes its address.
const ADDRESS: &str = "address";

const ENV: [(&str, &str); 4] =
    [("OBJECT_MAX_BYTES", "600"), ("COMPRESSION", "none"), ("OBJECT_MAX_AGE", "20ms"), ("MAX_WORKERS", "4")];

/// The calls at which a process crashes, and how many of each kind it survives at most: many calls per batch, few per
/// adopted folder.
const POINTS: [(Op, usize); 11] = [
    (Op::Create, 25),
    (Op::Append, 60),
    (Op::Sync, 60),
    (Op::SyncDir, 50),
    // The segment is sealed and not uploaded.
    (Op::Read, 25),
    // The segment is uploaded, and its file still exists.
    (Op::Remove, 25),
    // The segment is sealed, and its name does not show it.
    (Op::Rename, 25),
    (Op::RemoveDir, 1),
    (Op::Lock, 2),
    (Op::List, 3),
    (Op::CreateDir, 2),
];

fn op(name: &str) -> Op {
    Op::ALL.into_iter().find(|op| format!("{op:?}") == name).unwrap()
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// The child. Does nothing without a crash point.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let (Some(point), Some(folder)) = (variable(POINT), variable(FOLDER)) else { return };
    let (point, folder) = (point.into_string().unwrap(), PathBuf::from(folder));
    let [name, nth, side] = point.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let how = if side == "before" { How::AbortBefore } else { How::AbortAfter };
    let disk = FaultyDisk::failing(At::Kind(op(name), usize::from_str(nth).unwrap()), how);
    let server = Place::new(&folder, &ENV).start(disk).unwrap();
    // Renamed, so that the test never reads a part of it.
    std::fs::write(folder.join("address.new"), server.public.to_string()).unwrap();
    std::fs::rename(folder.join("address.new"), folder.join(ADDRESS)).unwrap();
    server.forever().await;
}

fn start_child(folder: &Path, point: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child", "--nocapture"])
        .env(POINT, point)
        .env(FOLDER, folder)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Sends until the server crashes. Returns what was acknowledged.
async fn send(address: String, sender: String, random: Rng) -> Vec<String> {
    let Ok(stream) = TcpStream::connect(address).await else { return Vec::new() };
    let random = RefCell::new(random);
    let payload = |n| {
        let pad = "x".repeat(random.borrow_mut().usize(..200));
        format!("{{\"sender\":\"{sender}\",\"n\":{n},\"pad\":\"{pad}\"}}")
    };
    Connection(stream).post_until_the_end(payload).await
}

/// Runs a child until it crashes. Returns what was acknowledged.
async fn crash(folder: &Path, point: &str, name: &str, random: &mut Rng) -> Vec<String> {
    let address = folder.join(ADDRESS);
    let _: std::io::Result<()> = std::fs::remove_file(&address);
    let mut child = start_child(folder, point);
    let mut early = None;
    until("the child to serve or to crash", async || {
        early = child.try_wait().unwrap();
        early.is_some() || address.exists()
    })
    .await;
    let mut senders = JoinSet::new();
    if let Ok(address) = std::fs::read_to_string(&address) {
        for sender in 0..SENDERS {
            senders.spawn_local(send(address.clone(), format!("{name}-{sender}"), random.fork()));
        }
    }
    let ended = timeout(PATIENCE, child.wait()).await.unwrap_or_else(|_| panic!("{point}: never reached")).unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(6), "{point}: {ended:?}");
    senders.join_all().await.concat()
}

/// Crashes at one kind of call, `rounds` times. Returns the number of acknowledged jobs.
async fn crashes_at(kind: Op, lives: usize, side: &str, rounds: usize, mut random: Rng) -> usize {
    let mut jobs = 0;
    let mut done = 0;
    while done < rounds {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), &ENV);
        let (mut acknowledged, mut story, mut dead) = (Vec::new(), Vec::new(), 0);
        for n in 0..CRASHES_MAX.min(rounds - done) {
            // A damaged segment, so that recovery makes every kind of call.
            let all: Vec<String> = (0..3).map(|job| format!("{{\"left\":{n},\"job\":{job}}}")).collect();
            let mut left = Segment::of(&all);
            left.damage(1);
            write_dead_folder(&place, &[&left]);
            acknowledged.extend([all[0].clone(), all[2].clone()]);
            dead += 1;
            let point = format!("{kind:?} {} {side}", random.usize(..lives));
            acknowledged.append(&mut crash(folder.path(), &point, &format!("{done}-{n}"), &mut random).await);
            story.push(point);
        }
        done += story.len();
        jobs += acknowledged.len();
        let server = place.start(RealDisk).unwrap();
        until(&format!("recovery after {story:?}"), async || place.segments().is_empty()).await;
        until(&format!("tidy folders after {story:?}"), async || place.folders().len() == 1).await;
        server.stop().await;
        place.assert_stored_once(&acknowledged, &format!("{story:?}"));
        let aside = crate::support::files(&place.spool().join("dead"));
        assert_eq!(aside.len(), dead, "{story:?}: a crash is no damage: {aside:?}");
    }
    jobs
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_point_loses_no_acknowledged_job_and_stores_none_twice() {
    let rounds = variable(ROUNDS_VAR).map_or(ROUNDS, |rounds| rounds.to_str().unwrap().parse().unwrap());
    let seed =
        variable(SEED_VAR).map_or_else(|| fastrand::u32(..).into(), |seed| seed.to_str().unwrap().parse().unwrap());
    #[expect(clippy::print_stderr, reason = "shown when the test fails")]
    {
        eprintln!("{SEED_VAR}={seed}");
    }
    // One generator for each point, since points run concurrently.
    let mut random = Rng::with_seed(seed);
    let at_once = Rc::new(Semaphore::new(AT_ONCE));
    let mut points = JoinSet::new();
    let everything = async {
        for (kind, lives) in POINTS {
            for side in ["before", "after"] {
                let (at_once, random) = (Rc::clone(&at_once), random.fork());
                points.spawn_local(async move {
                    let _permit = at_once.acquire().await.unwrap();
                    (format!("{side} {kind:?}"), crashes_at(kind, lives, side, rounds, random).await)
                });
            }
        }
        points.join_all().await
    };
    let counts = LocalSet::new().run_until(everything).await;
    assert_eq!(counts.len(), 2 * POINTS.len());
    let jobs: usize = counts.iter().map(|(_, jobs)| jobs).sum();
    #[expect(clippy::print_stderr, reason = "a summary for long runs")]
    {
        eprintln!("{rounds} crashes at each of {} points, {jobs} jobs acknowledged: {counts:?}", counts.len());
    }
}
