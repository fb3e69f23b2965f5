//! A process that dies at a call of the spool's, before it or after it: what it acknowledged is stored, once.
//!
//! The process that dies is this test binary, run again as its own child with the place of its death in a variable. It
//! serves on a disk that aborts there, while the test sends; then another is started on the same folders, and dies too, in
//! the middle of what the first has left as often as not. In the end a server that lives is given all of it.

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

/// Where a child is to die, as `<kind of call> <which of them> <before or after>`; unset in any process but a child.
const POINT: &str = "MILLPOND_CRASH_POINT";
/// Where a child has its folders.
const FOLDER: &str = "MILLPOND_CRASH_FOLDER";
/// How often to crash at each point, if it is not [`ROUNDS`].
const ROUNDS_VAR: &str = "MILLPOND_CRASH_ROUNDS";
const ROUNDS: usize = 4;
/// The seed of the points that are tried, which a failure tells, so that they can be tried again.
const SEED_VAR: &str = "MILLPOND_CRASH_SEED";
/// So many crashes are left to one recovery.
const CRASHES_MAX: usize = 5;
const SENDERS: usize = 3;
/// Points that are tried at once.
const AT_ONCE: usize = 3;
/// Where a child says that it serves.
const ADDRESS: &str = "address";

const ENV: [(&str, &str); 4] =
    [("OBJECT_MAX_BYTES", "600"), ("COMPRESSION", "none"), ("OBJECT_MAX_AGE", "20ms"), ("MAX_WORKERS", "4")];

/// Calls around which a process dies, and how many of each kind it may live through. What comes in a steady stream is
/// survived for a while; what is done to the folders of the dead comes a few times in a life.
const POINTS: [(Op, usize); 11] = [
    (Op::Create, 25),
    (Op::Append, 60),
    (Op::Sync, 60),
    (Op::SyncDir, 50),
    // Sealed and about to be uploaded.
    (Op::Read, 25),
    // The store has said yes; before this call the object is there and so is the segment.
    (Op::Remove, 25),
    // Sealed, and its file's name does not say so yet.
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

/// The child, which does nothing when it is run as a test among others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let (Some(point), Some(folder)) = (variable(POINT), variable(FOLDER)) else { return };
    let (point, folder) = (point.into_string().unwrap(), PathBuf::from(folder));
    let [name, nth, side] = point.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let how = if side == "before" { How::AbortBefore } else { How::AbortAfter };
    let disk = FaultyDisk::failing(At::Kind(op(name), usize::from_str(nth).unwrap()), how);
    let server = Place::new(&folder, &ENV).start(disk).unwrap();
    // Whole or not at all.
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

/// Sends until the server is gone; what it has acknowledged.
async fn send(address: String, sender: String, random: Rng) -> Vec<String> {
    let Ok(stream) = TcpStream::connect(address).await else { return Vec::new() };
    let random = RefCell::new(random);
    let payload = |n| {
        let pad = "x".repeat(random.borrow_mut().usize(..200));
        format!("{{\"sender\":\"{sender}\",\"n\":{n},\"pad\":\"{pad}\"}}")
    };
    Connection(stream).post_until_the_end(payload).await
}

/// One life and death; what was acknowledged in between.
async fn crash(folder: &Path, point: &str, name: &str, random: &mut Rng) -> Vec<String> {
    let address = folder.join(ADDRESS);
    let _: std::io::Result<()> = std::fs::remove_file(&address);
    let mut child = start_child(folder, point);
    let mut early = None;
    until("the child to serve, or to die", async || {
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

/// Crashes around one kind of call, `rounds` times; how many jobs were acknowledged.
async fn crashes_at(kind: Op, lives: usize, side: &str, rounds: usize, mut random: Rng) -> usize {
    let mut jobs = 0;
    let mut done = 0;
    while done < rounds {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), &ENV);
        let (mut acknowledged, mut story, mut dead) = (Vec::new(), Vec::new(), 0);
        for n in 0..CRASHES_MAX.min(rounds - done) {
            // A damaged segment, so that whatever can be done to a dead process's folder is done.
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
async fn a_crash_at_any_point_loses_nothing_that_was_acknowledged_and_stores_nothing_twice() {
    let rounds = variable(ROUNDS_VAR).map_or(ROUNDS, |rounds| rounds.to_str().unwrap().parse().unwrap());
    let seed =
        variable(SEED_VAR).map_or_else(|| fastrand::u32(..).into(), |seed| seed.to_str().unwrap().parse().unwrap());
    #[expect(clippy::print_stderr, reason = "shown when the test fails, whatever fails in it")]
    {
        eprintln!("{SEED_VAR}={seed}");
    }
    // One generator for each point: the points are tried at the same time.
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
    #[expect(clippy::print_stderr, reason = "how often, for who asked for more rounds")]
    {
        eprintln!("{rounds} crashes at each of {} points, {jobs} jobs acknowledged: {counts:?}", counts.len());
    }
}
