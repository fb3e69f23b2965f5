//! Damage on disk: lost jobs are counted exactly, possibly lost jobs are reported as such, and an append that a process did
//! not finish is neither.

use std::path::Path;

use rustix::process::Signal;

use crate::in_process::Place;
use crate::recovery::{Segment, write_dead_folder};
use crate::support::{Server, files, get, until};

const ALL_STORED: &str = "all accepted jobs are stored";

fn flip_all(path: &Path) {
    let flipped: Vec<u8> = std::fs::read(path).unwrap().into_iter().map(|byte| !byte).collect();
    std::fs::write(path, flipped).unwrap();
}

async fn state(server: &Server, job: &str) -> String {
    get(server.public, &format!("/v1/jobs/{job}")).await.text()
}

fn segments(spool: &Path) -> Vec<std::path::PathBuf> {
    let mut found = files(spool);
    found.retain(|path| path.extension().is_some_and(|end| end == "seg"));
    found
}

#[tokio::test]
async fn every_lost_job_of_a_sealed_segment_is_counted_even_if_no_byte_is_left() {
    let root = tempfile::tempdir().unwrap();
    let (spool, store) = (root.path().join("spool"), root.path().join("store"));
    // A file prevents the creation of the store's folder.
    std::fs::write(&store, b"").unwrap();
    let env = [
        ("SPOOL_DIR", spool.to_str().unwrap()),
        ("STORE_DIR", store.to_str().unwrap()),
        ("COMPRESSION", "none"),
        ("OBJECT_MAX_BYTES", "100"),
        ("OBJECT_MAX_AGE", "1h"),
    ];
    let mut server = Server::start(&env).await;
    let mut receipts = Vec::new();
    for n in 0..4 {
        let answer = server.post_json(&format!("[{{\"n\":{n}}},{{}},{{}},{{}},{{}},{{}},{{}}]")).await;
        assert_eq!(answer.status, 202);
        receipts.push(answer.json()["job"].as_str().unwrap().to_owned());
    }
    server.metric_is("millpond_segments_sealed_total{reason=\"size\"}", |sealed| sealed == 4.0).await;
    server.signal(Signal::KILL);
    server.ended().await;

    let left = segments(&spool);
    assert_eq!(left.len(), 4);
    assert!(left.iter().all(|path| path.to_str().unwrap().contains(".ndjson.1-7-")), "{left:?}");
    // All bytes, the length, and the last byte; the fourth file is not damaged.
    flip_all(&left[0]);
    std::fs::write(&left[1], b"").unwrap();
    let mut bytes = std::fs::read(&left[2]).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&left[2], bytes).unwrap();
    std::fs::remove_file(&store).unwrap();

    let mut next = Server::start(&env).await;
    next.metric_is("millpond_jobs_accepted_total", |jobs| jobs == 4.0).await;
    next.metric_is("millpond_jobs_waiting", |jobs| jobs == 0.0).await;
    for (name, count) in [
        ("millpond_jobs_dead_total", 3.0),
        ("millpond_payloads_dead_total", 21.0),
        ("millpond_payloads_stored_total", 7.0),
        ("millpond_segments_damaged_total", 3.0),
        ("millpond_segments_possibly_lost_total", 0.0),
        ("millpond_torn_bytes_total", 0.0),
    ] {
        assert_eq!(next.metric(name).await, count, "{name}");
    }
    for (n, job) in receipts.iter().enumerate() {
        let expected = if n < 3 { "\"dead\"" } else { "\"stored\"" };
        until("its state", async || state(&next, job).await.contains(expected)).await;
    }
    assert_eq!(next.stop().await, Some(1));
    assert!(
        !next.log().contains(ALL_STORED) && next.log().contains("accepted jobs were damaged on disk and are lost"),
        "{}",
        next.log()
    );
    assert_eq!(segments(&spool.join("dead")).len(), 3);
}

/// The last frame of a file that was not sealed is damaged.
#[tokio::test]
async fn jobs_at_the_unreadable_end_of_an_open_segment_are_possibly_lost() {
    let payloads: Vec<String> = (0..3).map(|n| format!("{{\"n\":{n}}}")).collect();
    // Whether the number of jobs is known, and the damage.
    type Damage = fn(&mut Segment);
    let damages: [(bool, Damage); 3] = [
        (true, |segment| segment.damage(2)),
        (false, |segment| segment.damage_header(2)),
        (false, |segment| segment.file.extend_from_slice(&[0; 4096])),
    ];
    for (n, (is_known, damage)) in damages.into_iter().enumerate() {
        let root = tempfile::tempdir().unwrap();
        let place = Place::new(root.path(), &[]);
        let mut segment = Segment::of(&payloads);
        damage(&mut segment);
        write_dead_folder(&place, &[&segment]);
        let good = if n == 2 { 3 } else { 2 };
        let (spool, store) = (place.spool(), place.store());
        let env = [("SPOOL_DIR", spool.to_str().unwrap()), ("STORE_DIR", store.to_str().unwrap())];
        let mut server = Server::start(&env).await;
        server.metric_is("millpond_jobs_stored_total", |jobs| jobs == good as f64).await;
        server.metric_is("millpond_busy_workers", |busy| busy == 0.0).await;
        for (name, count) in [
            ("millpond_segments_possibly_lost_total", 1.0),
            ("millpond_jobs_possibly_lost_total", f64::from(is_known)),
            ("millpond_payloads_possibly_lost_total", f64::from(is_known)),
            ("millpond_jobs_accepted_total", good as f64),
            ("millpond_jobs_waiting", 0.0),
            ("millpond_jobs_dead_total", 0.0),
            ("millpond_torn_bytes_total", 0.0),
        ] {
            assert_eq!(server.metric(name).await, count, "{n}: {name}");
        }
        assert!(state(&server, &segment.job(good - 1)).await.contains("\"stored\""));
        let response = state(&server, &segment.job(good)).await;
        assert!(
            response.contains("\"dead\"") && response.contains("if the job was acknowledged, it is lost"),
            "{n}: {response}"
        );
        let beyond = get(server.public, &format!("/v1/jobs/{}", segment.job(good + 1))).await;
        assert_eq!(beyond.status, if is_known { 404 } else { 200 }, "{n}");
        assert_eq!(server.stop().await, Some(1), "{n}");
        assert!(!server.log().contains(ALL_STORED) && !server.log().contains("never acknowledged"), "{}", server.log());
        assert!(server.log().contains("possibly lost"), "{}", server.log());
        assert!(place.spool().join("dead").join(segment.name()).exists(), "{n}");
    }
}

#[tokio::test]
async fn a_process_that_dies_during_an_append_loses_nothing_and_nothing_is_reported() {
    let root = tempfile::tempdir().unwrap();
    let place = Place::new(root.path(), &[]);
    let payloads: Vec<String> = (0..3).map(|n| format!("{{\"n\":{n}}}")).collect();
    let whole = Segment::of(&payloads);
    for cut in [1, 40, 60] {
        let mut segment = Segment::of(&payloads);
        segment.file.truncate(whole.file.len() - cut);
        write_dead_folder(&place, &[&segment]);
    }
    let (spool, store) = (place.spool(), place.store());
    let env = [("SPOOL_DIR", spool.to_str().unwrap()), ("STORE_DIR", store.to_str().unwrap())];
    let mut server = Server::start(&env).await;
    server.metric_is("millpond_jobs_stored_total", |jobs| jobs == 6.0).await;
    assert_eq!(server.stop().await, Some(0));
    assert!(server.log().contains(ALL_STORED) && !server.log().contains("ERROR"), "{}", server.log());
}

/// Damage that loses no job is reported too.
#[tokio::test]
async fn a_damaged_header_loses_no_job_and_is_reported() {
    let root = tempfile::tempdir().unwrap();
    let place = Place::new(root.path(), &[]);
    let mut segment = Segment::of(&["{}".to_owned()]);
    segment.file[..32].fill(0);
    write_dead_folder(&place, &[&segment]);
    let (spool, store) = (place.spool(), place.store());
    let env = [("SPOOL_DIR", spool.to_str().unwrap()), ("STORE_DIR", store.to_str().unwrap())];
    let mut server = Server::start(&env).await;
    server.metric_is("millpond_jobs_stored_total", |jobs| jobs == 1.0).await;
    assert_eq!(server.stop().await, Some(0));
    assert!(!server.log().contains(ALL_STORED) && server.log().contains("no job in them was lost"), "{}", server.log());
    assert!(place.spool().join("dead").join(segment.name()).exists());
}

/// The rename at the seal fails, or is carried out and reported as failed: the segment is found and stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_seal_that_fails_loses_no_job() {
    use crate::faulty_disk::{At, FaultyDisk, How, Op};
    for how in [How::Io, How::Late] {
        let root = tempfile::tempdir().unwrap();
        let place = Place::new(root.path(), &[("COMPRESSION", "none"), ("OBJECT_MAX_BYTES", "5")]);
        let disk = FaultyDisk::failing(At::Every(Op::Rename), how);
        let server = place.start(disk.clone()).unwrap();
        assert_eq!(server.post("{\"n\":1}").await.status, 202);
        until("the upload", async || place.segments().is_empty() && place.stored().len() == 1).await;
        assert!(disk.has_failed(), "{how:?}");
        let ended = server.stop().await;
        assert_eq!((ended.balance.dead.jobs, ended.spool), (0, millpond::app::SpoolEnd::default()), "{how:?}");
    }
}
