//! `millpond spool` on real folders: of killed processes, of running ones, and under `dead/`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millpond::disk::RealDisk;
use millpond::spool::OfflineSpool;
use rustix::process::Signal;

use crate::cli::{millpond, stderr, stdout};
use crate::faulty_disk::{At, FaultyDisk, How};
use crate::in_process::Place;
use crate::recovery::{Segment, payloads, write_dead_folder};
use crate::support::{Server, files, until};

async fn spool(dir: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let env = [("SPOOL_DIR", dir.to_str().unwrap())];
    let (code, output) = millpond(&env, &[&["spool"], arguments].concat()).await;
    (code, stdout(&output), stderr(&output))
}

/// A server on this place.
async fn start(place: &Place) -> Server {
    let (spool, store) = (place.spool(), place.store());
    let env = [("SPOOL_DIR", spool.to_str().unwrap()), ("STORE_DIR", store.to_str().unwrap()), ("RECORD", "payload")];
    Server::start(&env).await
}

/// The ledger of a server: accepted, stored and dead jobs.
async fn ledger(server: &Server) -> [f64; 3] {
    let mut counts = [0.0; 3];
    for (count, name) in counts.iter_mut().zip(["accepted", "stored", "dead"]) {
        *count = server.metric(&format!("millpond_jobs_{name}_total")).await;
    }
    counts
}

/// A segment of which a server has stored three of four jobs, and whose file is under `dead/`.
async fn dead_segment(place: &Place) -> (Vec<String>, Segment, PathBuf) {
    let all = payloads("n", 4);
    let whole = Segment::of(&all);
    let mut damaged = whole.clone();
    damaged.damage(1);
    write_dead_folder(place, &[&damaged]);
    let mut server = start(place).await;
    let dead = place.spool().join("dead").join(whole.name());
    until("the move to dead/", async || dead.exists()).await;
    assert_eq!(server.stop().await, Some(1), "a job is dead");
    assert_eq!(place.stored(), [all[0].clone(), all[2].clone(), all[3].clone()]);
    (all, whole, dead)
}

#[tokio::test]
async fn segments_of_a_killed_process_are_shown_and_those_of_a_running_one_are_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let (dir, store) = (root.path().join("spool"), root.path().join("store"));
    // A file prevents the creation of the store's folder.
    std::fs::write(&store, b"").unwrap();
    let env = [("SPOOL_DIR", dir.to_str().unwrap()), ("STORE_DIR", store.to_str().unwrap()), ("RECORD", "payload")];
    let mut server = Server::start(&env).await;
    let mut job = String::new();
    for n in 0..3 {
        job = server.post_json(&format!("[{{\"n\":{n}}},{{\"secret\":{n}}}]")).await.json()["job"]
            .as_str()
            .unwrap()
            .to_owned();
    }
    server.signal(Signal::KILL);
    server.ended().await;
    let id = job.split('.').next().unwrap();

    let (code, listed, _) = spool(&dir, &["ls", "--json"]).await;
    let listing: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((code, &listing["folders"][0]["state"]), (Some(0), &"exited".into()), "{listed}");
    let segment = &listing["folders"][0]["segments"][0];
    assert_eq!((&segment["segment"], &segment["state"], &segment["jobs"]), (&id.into(), &"open".into(), &().into()));
    let (_, listed, _) = spool(&dir, &["ls"]).await;
    assert!(listed.contains("of an exited process") && listed.contains(id), "{listed}");

    let (code, shown, _) = spool(&dir, &["show", id]).await;
    assert!(code == Some(0) && shown.contains("3 jobs, 6 payloads") && !shown.contains("secret"), "{shown}");
    let (_, shown, _) = spool(&dir, &["show", id, "--json"]).await;
    let report: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let in_frames: u64 = report["frames"].as_array().unwrap().iter().map(|frame| frame["jobs"].as_u64().unwrap()).sum();
    assert_eq!((&report["readable_jobs"], in_frames, &report["is_damaged"]), (&3.into(), 3, &false.into()), "{shown}");

    let lines: String = (0..3).map(|n| format!("{{\"n\":{n}}}\n{{\"secret\":{n}}}\n")).collect();
    let (code, exported, _) = spool(&dir, &["export", id]).await;
    assert_eq!((code, &exported), (Some(0), &lines));
    let out = root.path().join("lines.gz");
    let (code, _, said) = spool(&dir, &["export", id, "--raw", "--out", out.to_str().unwrap()]).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(crate::support::unpacked("lines.ndjson.gz", &std::fs::read(&out).unwrap()), lines);

    let next = Server::start(&env).await;
    until("the adoption", async || next.metric("millpond_segments_adopted_total").await == 1.0).await;
    let (_, listed, _) = spool(&dir, &["ls"]).await;
    assert!(listed.contains("in use by a running process") && !listed.contains("of an exited process"), "{listed}");
    for command in ["show", "export"] {
        let (code, shown, said) = spool(&dir, &[command, id]).await;
        assert!(code == Some(1) && shown.is_empty() && said.contains("in use by a running process"), "{said}");
    }
    drop(next);
}

#[tokio::test]
async fn a_damaged_segment_is_shown_as_damaged_and_its_readable_lines_are_exported() {
    let root = tempfile::tempdir().unwrap();
    let place = Place::new(root.path(), &[]);
    let (all, whole, _) = dead_segment(&place).await;
    let (code, shown, _) = spool(&place.spool(), &["show", &whole.id.to_string()]).await;
    assert!(
        code == Some(1) && shown.contains("readable  3 jobs") && shown.contains("jobs 1 to 1 are damaged"),
        "{shown}"
    );
    let (code, exported, said) = spool(&place.spool(), &["export", &whole.id.to_string()]).await;
    assert_eq!((code, exported), (Some(1), format!("{}\n{}\n{}\n", all[0], all[2], all[3])));
    assert!(said.contains("1 job cannot be read"), "{said}");
}

#[tokio::test]
async fn a_repaired_segment_that_is_requeued_is_stored_whole_and_once() {
    let root = tempfile::tempdir().unwrap();
    let place = Place::new(root.path(), &[]);
    let (all, whole, dead) = dead_segment(&place).await;
    std::fs::write(&dead, &whole.file).unwrap();

    let (code, plan, said) = spool(&place.spool(), &["requeue"]).await;
    assert!(code == Some(64) && said.contains("--yes"), "{said}");
    let bytes = whole.file.len();
    assert!(
        plan.contains(&format!("1 file to requeue with 4 readable jobs, 4 payloads, {bytes} bytes; 0 of them still")),
        "{plan}"
    );
    assert!(dead.exists(), "nothing is moved without a confirmation");

    let (code, done, said) = spool(&place.spool(), &["requeue", "--yes"]).await;
    assert!(code == Some(0) && done.contains("Moved 1 file"), "{done}{said}");
    assert!(!dead.exists() && place.segments().len() == 1);

    let mut server = start(&place).await;
    until("the upload", async || place.segments().is_empty()).await;
    server.metric_is("millpond_jobs_stored_total", |jobs| jobs == 4.0).await;
    assert_eq!(ledger(&server).await, [4.0, 4.0, 0.0]);
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(place.stored(), all);
    assert_eq!(crate::support::objects(&place.store()).len(), 1);
    assert!(files(&place.spool()).is_empty(), "{:?}", files(&place.spool()));
    let (code, plan, _) = spool(&place.spool(), &["requeue", "--yes"]).await;
    assert!(code == Some(0) && plan.contains("0 files to requeue"), "{plan}");
}

#[tokio::test]
async fn a_segment_that_is_still_damaged_changes_no_object_and_goes_back_to_dead() {
    let root = tempfile::tempdir().unwrap();
    let place = Place::new(root.path(), &[]);
    let (_, whole, dead) = dead_segment(&place).await;
    // Less is readable than was stored.
    let mut worse = whole.clone();
    worse.damage(1);
    worse.damage(2);
    std::fs::write(&dead, &worse.file).unwrap();
    let stored = place.stored();
    let (code, plan, _) = spool(&place.spool(), &["requeue", "--yes"]).await;
    assert!(code == Some(0) && plan.contains("2 readable jobs") && plan.contains("1 of them still damaged"), "{plan}");
    let mut server = start(&place).await;
    until("the move back", async || dead.exists()).await;
    server.metric_is("millpond_jobs_waiting", |jobs| jobs == 0.0).await;
    let [accepted, stored_jobs, dead_jobs] = ledger(&server).await;
    assert_eq!((accepted, stored_jobs + dead_jobs), (4.0, 4.0));
    server.stop().await;
    assert_eq!(place.stored(), stored);
    assert_eq!(std::fs::read(&dead).unwrap(), worse.file);
}

#[tokio::test]
async fn a_running_process_adopts_what_is_requeued() {
    let root = tempfile::tempdir().unwrap();
    let place = Place::new(root.path(), &[]);
    let (all, whole, dead) = dead_segment(&place).await;
    std::fs::write(&dead, &whole.file).unwrap();
    let mut server = start(&place).await;
    let (code, _, said) = spool(&place.spool(), &["requeue", "--yes", &whole.id.to_string()]).await;
    assert_eq!(code, Some(0), "{said}");
    server.metric_is("millpond_jobs_stored_total", |jobs| jobs == 4.0).await;
    until("the object", async || place.stored() == all).await;
    assert_eq!(server.stop().await, Some(0));
}

#[tokio::test]
async fn files_without_a_readable_job_stay_and_their_names_are_printable() {
    let root = tempfile::tempdir().unwrap();
    let place = Place::new(root.path(), &[]);
    let dead = place.spool().join("dead");
    std::fs::create_dir_all(&dead).unwrap();
    let mut empty = Segment::of(&payloads("n", 1));
    empty.damage(0);
    std::fs::write(dead.join(empty.name()), &empty.file).unwrap();
    std::fs::write(dead.join("\x1b[2Jevil\n.seg"), b"x").unwrap();
    std::fs::create_dir_all(place.spool().join("v9-01949b1f-5a6c-7cc3-98c4-dc0c0c07398f")).unwrap();
    for arguments in [&["ls"][..], &["ls", "--json"], &["requeue", "--yes"]] {
        let (code, said, _) = spool(&place.spool(), arguments).await;
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("evil") && !said.contains('\x1b') && !said.contains("evil\n"), "{said}");
        assert!(arguments[0] == "requeue" || said.contains("v9-"), "{said}");
    }
    assert_eq!(files(&dead).len(), 2);
    let unknown = Segment::of(&payloads("n", 1)).id.to_string();
    assert_eq!(spool(&place.spool(), &["requeue", "--yes", &unknown]).await.0, Some(64));
    assert_eq!(spool(&root.path().join("missing"), &["ls"]).await.0, Some(64));
}

#[tokio::test]
async fn a_file_that_only_has_the_name_of_a_segment_is_neither_followed_nor_read() {
    let root = tempfile::tempdir().unwrap();
    let place = Place::new(root.path(), &[]);
    let dead = place.spool().join("dead");
    std::fs::create_dir_all(&dead).unwrap();
    let [link, sparse, fifo] = [0; 3].map(|_| Segment::of(&payloads("n", 1)));
    std::os::unix::fs::symlink("/proc/kmsg", dead.join(link.name())).unwrap();
    // Larger than the memory that a read of it would take.
    std::fs::File::create(dead.join(sparse.name())).unwrap().set_len(1 << 40).unwrap();
    let made = std::process::Command::new("mkfifo").arg(dead.join(fifo.name())).status().unwrap();
    assert!(made.success());
    for segment in [link, sparse, fifo] {
        let (code, _, said) = spool(&place.spool(), &["show", &segment.id.to_string()]).await;
        assert!(code == Some(1) && said.contains("no regular file of at most"), "{code:?} {said}");
        let (_, said, errors) = spool(&place.spool(), &["requeue", "--yes", &segment.id.to_string()]).await;
        assert!([said, errors].concat().contains("no regular file of at most"));
    }
    assert!(place.segments().is_empty(), "nothing was requeued");
}

/// Every call fails or crashes in turn, and the next requeue and the next process finish what is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_requeue_that_fails_anywhere_loses_no_file() {
    for how in [How::Io, How::Late, How::Panic] {
        for call in 0.. {
            let root = tempfile::tempdir().unwrap();
            let place = Place::new(root.path(), &[]);
            let dead = place.spool().join("dead");
            std::fs::create_dir_all(&dead).unwrap();
            let all = payloads("n", 3);
            let segments: Vec<_> = all.iter().map(|payload| Segment::of(std::slice::from_ref(payload))).collect();
            let names: Vec<_> = segments.iter().map(Segment::name).collect();
            for segment in &segments {
                std::fs::write(dead.join(segment.name()), &segment.file).unwrap();
            }
            let disk = FaultyDisk::failing(At::Call(call), how);
            let faulty = OfflineSpool::new(place.spool(), Arc::new(disk.clone()));
            // A panic ends the call where a crash would.
            let _: Result<_, _> = catch_unwind(AssertUnwindSafe(|| faulty.requeue(&names)));
            if !disk.has_failed() {
                assert!(call > 5, "{how:?}: some calls are made");
                break;
            }
            let mut found: Vec<_> = files(&place.spool());
            found.retain(|path| path.extension().is_some_and(|end| end == "seg"));
            assert_eq!(found.len(), 3, "{how:?} {call}: each file is in one place: {found:?}");
            let left: Vec<_> = names.iter().filter(|name| dead.join(name).exists()).cloned().collect();
            let again = OfflineSpool::new(place.spool(), Arc::new(RealDisk)).requeue(&left).unwrap();
            assert_eq!(again.moved, left);
            let server = place.start(RealDisk).unwrap();
            until("the upload", async || place.segments().is_empty()).await;
            server.stop().await;
            assert_eq!(place.stored(), all, "{how:?} {call}");
        }
    }
}
