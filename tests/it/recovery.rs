//! Recovery of the folders of dead processes, which the tests write byte by byte.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use millpond::disk::RealDisk;
use millpond::segment::file::{FILE_HEADER_LEN, FRAME_HEADER_LEN, FrameCounts, file_header, frame_header};
use millpond::segment::{Compression, FrameEncoder, SegmentId};
use tokio::task::JoinSet;

use crate::faulty_disk::{At, FaultyDisk, How, Op};
use crate::in_process::{InProcess, Place};
use crate::support::{Server, files, until};

/// The file of a segment with one job in each frame.
#[derive(Clone)]
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    pub(crate) file: Vec<u8>,
    /// The offset of each frame.
    frames: Vec<usize>,
}

impl Segment {
    pub(crate) fn of(payloads: &[String]) -> Self {
        let id = SegmentId::new(SystemTime::now());
        let mut encoder = FrameEncoder::new(Compression::Gzip).unwrap();
        let (mut file, mut frames) = (file_header(id).to_vec(), Vec::new());
        for (index, payload) in (0..).zip(payloads) {
            let mut data = Vec::new();
            encoder.pack([payload.as_bytes(), b"\n"].into_iter(), &mut data).unwrap();
            let counts = FrameCounts { first_job: index, jobs: 1, first_payload: index, payloads: 1 };
            frames.push(file.len());
            file.extend_from_slice(&frame_header(id, counts, &data));
            file.extend_from_slice(&data);
        }
        Self { id, file, frames }
    }

    /// Flips a bit in the data of a frame.
    pub(crate) fn damage(&mut self, frame: usize) {
        self.file[self.frames[frame] + FRAME_HEADER_LEN + 12] ^= 0x10;
    }

    /// Flips a bit in the header of a frame.
    pub(crate) fn damage_header(&mut self, frame: usize) {
        self.file[self.frames[frame] + 9] ^= 0x10;
    }

    pub(crate) fn name(&self) -> String {
        format!("{}.ndjson.gz.seg", self.id)
    }

    pub(crate) fn job(&self, index: usize) -> String {
        format!("{}.{index}", self.id)
    }
}

/// Writes a folder of a dead process with these segments.
pub(crate) fn write_dead_folder(place: &Place, segments: &[&Segment]) -> PathBuf {
    let folder = place.spool().join(format!("v1-{}", SegmentId::new(SystemTime::now())));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("lock"), b"").unwrap();
    for segment in segments {
        std::fs::write(folder.join(segment.name()), &segment.file).unwrap();
    }
    folder
}

pub(crate) fn payloads(what: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{{\"{what}\":{n}}}")).collect()
}

pub(crate) async fn wait_until_recovered(place: &Place, server: &InProcess) {
    until("recovery", async || place.segments().is_empty() && place.folders().len() == 1).await;
    until("idle workers", async || server.metric("millpond_busy_workers").await == 0.0).await;
}

/// Starts a server on the folder of a dead process with this segment, and waits until it is stored.
pub(crate) async fn recover(place: &Place, segment: &Segment) -> InProcess {
    write_dead_folder(place, &[segment]);
    let server = place.start(RealDisk).unwrap();
    wait_until_recovered(place, &server).await;
    server
}

/// Damaged segments, dead jobs and payloads, stored and accepted jobs.
pub(crate) async fn damage(server: &InProcess) -> [f64; 5] {
    let mut counts = [0.0; 5];
    for (count, name) in counts.iter_mut().zip([
        "millpond_segments_damaged_total",
        "millpond_jobs_dead_total",
        "millpond_payloads_dead_total",
        "millpond_jobs_stored_total",
        "millpond_jobs_accepted_total",
    ]) {
        *count = server.metric(name).await;
    }
    counts
}

#[tokio::test]
async fn an_incomplete_append_is_dropped_and_the_frames_before_it_are_stored() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), &[]);
    let (mut kept, mut torn) = (Vec::new(), 0);
    // The bytes of the last frame: none, a part of its magic, of its header, its header, all but one.
    for (n, more) in [Some(0), Some(2), Some(7), Some(FRAME_HEADER_LEN), None].into_iter().enumerate() {
        let all = payloads(&format!("torn-{n}"), 4);
        let mut segment = Segment::of(&all);
        let more = more.unwrap_or(segment.file.len() - segment.frames[3] - 1);
        segment.file.truncate(segment.frames[3] + more);
        write_dead_folder(&place, &[&segment]);
        kept.extend_from_slice(&all[..3]);
        torn += more;
    }
    let server = place.start(RealDisk).unwrap();
    wait_until_recovered(&place, &server).await;
    kept.sort();
    assert_eq!(place.stored(), kept);
    assert_eq!(damage(&server).await, [0.0, 0.0, 0.0, 15.0, 15.0]);
    assert_eq!(server.metric("millpond_torn_bytes_total").await, torn as f64);
    assert_eq!(server.metric("millpond_segments_adopted_total").await, 5.0);
    assert_eq!(server.metric("millpond_spool_bytes").await, 0.0);
    server.stop().await;
    assert_eq!(files(&place.spool()), Vec::<PathBuf>::new(), "the spool is empty");
}

#[tokio::test]
async fn a_damaged_frame_is_dead_and_all_other_frames_are_stored() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), &[]);
    let all = payloads("flipped", 4);
    let mut segment = Segment::of(&all);
    segment.damage(1);
    let server = recover(&place, &segment).await;
    assert_eq!(place.stored(), [all[0].clone(), all[2].clone(), all[3].clone()]);
    assert_eq!(damage(&server).await, [1.0, 1.0, 1.0, 3.0, 4.0]);
    assert_eq!(server.metric("millpond_jobs_waiting").await, 0.0);
    for (at, fate) in ["stored", "dead", "stored", "stored", "404"].into_iter().enumerate() {
        assert_eq!(server.fate(&segment.job(at)).await, fate, "job {at}");
    }
    let aside = place.spool().join("dead").join(segment.name());
    assert_eq!(std::fs::read(&aside).unwrap(), segment.file, "unchanged");
    assert_eq!(server.metric("millpond_spool_bytes").await, 4096.0, "it takes space");
    server.stop().await;

    let again = place.start(RealDisk).unwrap();
    assert_eq!(again.metric("millpond_spool_bytes").await, 4096.0);
    assert_eq!(damage(&again).await, [0.0; 5], "it is not read again");
    again.stop().await;
    assert_eq!(files(&place.spool()), [aside]);
    assert_eq!(place.stored().len(), 3);
}

#[tokio::test]
async fn the_valid_frames_of_a_file_with_a_damaged_header_are_stored() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), &[]);
    let all = payloads("headless", 2);
    let mut segment = Segment::of(&all);
    segment.file[3] ^= 1;
    let server = recover(&place, &segment).await;
    assert_eq!(place.stored(), all);
    assert_eq!(damage(&server).await, [1.0, 0.0, 0.0, 2.0, 2.0]);
    assert!(place.spool().join("dead").join(segment.name()).exists());
    server.stop().await;
}

#[tokio::test]
async fn a_file_of_garbage_is_moved_to_dead_and_makes_no_object() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), &[]);
    let mut segment = Segment::of(&[]);
    segment.file = std::iter::repeat_with(|| fastrand::u8(..)).take(10_000).collect();
    let server = recover(&place, &segment).await;
    assert_eq!(files(&place.store()), Vec::<PathBuf>::new());
    assert_eq!(damage(&server).await, [1.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(server.metric("millpond_segments_possibly_lost_total").await, 1.0);
    assert!(place.spool().join("dead").join(segment.name()).exists());
    assert_eq!(server.fate(&segment.job(0)).await, "dead");
    assert_eq!(server.fate(&segment.job(70_000)).await, "dead", "the number of jobs is unknown");
    server.stop().await;
}

/// A process that dies during the first commit of a segment leaves such files.
#[tokio::test]
async fn a_file_without_a_commit_is_removed_and_is_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), &[]);
    for len in [0, 1, FILE_HEADER_LEN - 1, FILE_HEADER_LEN, FILE_HEADER_LEN + FRAME_HEADER_LEN + 1] {
        let mut segment = Segment::of(&payloads("never", 1));
        segment.file.truncate(len);
        write_dead_folder(&place, &[&segment]);
    }
    let server = place.start(RealDisk).unwrap();
    wait_until_recovered(&place, &server).await;
    assert_eq!(damage(&server).await, [0.0; 5]);
    server.stop().await;
    assert_eq!(files(folder.path()), Vec::<PathBuf>::new(), "no object and no file under dead/");
}

#[tokio::test]
async fn an_empty_folder_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), &[]);
    let probed = write_dead_folder(&place, &[]);
    std::fs::write(probed.join("probe"), b"probe").unwrap();
    let empty = write_dead_folder(&place, &[]);
    let server = place.start(RealDisk).unwrap();
    assert!(!probed.exists() && !empty.exists());
    // The process dies while this one runs.
    let later = write_dead_folder(&place, &[&Segment::of(&payloads("later", 3))]);
    until("adoption", async || !later.exists()).await;
    assert_eq!(place.stored().len(), 3);
    server.stop().await;
}

#[tokio::test]
async fn a_folder_of_a_newer_version_is_left_unchanged_and_logged() {
    let id = SegmentId::new(SystemTime::now());
    let mut server = Server::start(&[]).await;
    let spool = server.folder.path().join("millpond-data/spool");
    let segment = Segment::of(&payloads("newer", 3));
    for name in [format!("v3-{id}"), "notes".to_owned()] {
        let newer = spool.join(&name);
        std::fs::create_dir_all(newer.join("deeper")).unwrap();
        for file in ["lock", &segment.name(), "deeper/file"] {
            std::fs::write(newer.join(file), &segment.file).unwrap();
        }
        server.logged(&name).await;
    }
    let line = server.log().lines().find(|line| line.contains(&format!("v3-{id}"))).unwrap().to_owned();
    assert!(line.contains("WARN") && line.contains("left alone"), "{line}");
    assert_eq!(server.metric("millpond_segments_adopted_total").await, 0.0);
    assert_eq!(server.stop().await, Some(0));
    for file in ["lock", &segment.name(), "deeper/file"] {
        assert_eq!(std::fs::read(spool.join(format!("v3-{id}")).join(file)).unwrap(), segment.file);
    }
    assert!(server.lines().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_start_together_adopt_each_folder_once() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), &[]);
    let mut all = Vec::new();
    for n in 0..30 {
        let some = payloads(&format!("shared-{n}"), 3);
        write_dead_folder(&place, &[&Segment::of(&some), &Segment::of(&[])]);
        all.extend(some);
    }
    all.sort();
    let mut starting = JoinSet::new();
    for _ in 0..4 {
        let place = Place::new(folder.path(), &[]);
        starting.spawn_blocking(move || place.open());
    }
    let mut adopted = 0;
    let mut spools = Vec::new();
    while let Some(spool) = starting.join_next().await {
        let (spool, left) = spool.unwrap();
        adopted += left.len();
        spools.push((spool, left));
    }
    assert_eq!(adopted, 60, "each once");
    drop(spools);
    let server = place.start(RealDisk).unwrap();
    wait_until_recovered(&place, &server).await;
    assert_eq!(place.stored(), all);
    server.stop().await;
}

#[tokio::test]
async fn two_servers_on_one_spool_do_not_adopt_each_others_segments() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), &[("OBJECT_MAX_AGE", "1h")]);
    let one = place.start(RealDisk).unwrap();
    assert_eq!(one.post("{\"one\":1}").await.status, 202);
    let other = place.start(RealDisk).unwrap();
    assert_eq!(other.metric("millpond_segments_adopted_total").await, 0.0);
    assert_eq!(other.post("{\"other\":1}").await.status, 202);
    other.stop().await;
    assert_eq!(place.stored(), ["{\"other\":1}"]);
    one.stop().await;
    assert_eq!(place.stored().len(), 2);
    assert_eq!(files(&place.spool()), Vec::<PathBuf>::new());
}

/// Starts an outage of the store: a file prevents the creation of its folder.
fn begin_store_outage(place: &Place) {
    std::fs::write(place.store(), b"").unwrap();
}

fn end_store_outage(place: &Place) {
    std::fs::remove_file(place.store()).unwrap();
}

#[tokio::test]
async fn a_spool_that_is_full_at_the_start_rejects_batches_until_the_store_has_recovered() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(
        folder.path(),
        &[("SPOOL_MAX_BYTES", "64KiB"), ("OBJECT_MAX_BYTES", "4KiB"), ("OBJECT_MAX_AGE", "30ms")],
    );
    begin_store_outage(&place);
    let mut all = Vec::new();
    for n in 0..16 {
        let some = payloads(&format!("full-{n}"), 2);
        write_dead_folder(&place, &[&Segment::of(&some)]);
        all.extend(some);
    }
    let server = place.start(RealDisk).unwrap();
    assert_eq!(server.metric("millpond_spool_bytes").await, 65536.0);
    let said = server.post("{\"new\":1}").await;
    assert!(said.refusal(503).contains("full") && !said.header("retry-after").is_empty());
    until("the outage of the store", async || server.ready().await.1.contains("store")).await;
    assert!(server.ready().await.1.contains("spool full"), "{}", server.ready().await.1);
    end_store_outage(&place);
    wait_until_recovered(&place, &server).await;
    until("ready", async || server.ready().await.0 == 200).await;
    assert_eq!(server.post("{\"new\":2}").await.status, 202);
    server.stop().await;
    all.push("{\"new\":2}".to_owned());
    all.sort();
    assert_eq!(place.stored(), all);
}

/// The bytes of the files under a folder, in whole blocks.
fn blocks(root: &Path) -> u64 {
    files(root)
        .iter()
        .filter_map(|path| std::fs::metadata(path).ok())
        .map(|file| file.len().div_ceil(4096) * 4096)
        .sum()
}

#[tokio::test]
async fn the_spool_never_exceeds_its_bound_during_an_outage_of_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(
        folder.path(),
        &[
            ("SPOOL_MAX_BYTES", "256KiB"),
            ("OBJECT_MAX_BYTES", "16KiB"),
            ("OBJECT_MAX_AGE", "30ms"),
            ("COMPRESSION", "none"),
        ],
    );
    begin_store_outage(&place);
    let server = place.start(RealDisk).unwrap();
    let mut acknowledged = Vec::new();
    for n in 0.. {
        let payload = format!("{{\"n\":{n},\"pad\":\"{}\"}}", "x".repeat(fastrand::usize(..9000)));
        match server.post(&payload).await.status {
            202 => acknowledged.push(payload),
            status => {
                assert_eq!(status, 503);
                break;
            }
        }
        assert!(blocks(&place.spool()) <= 256 << 10);
    }
    assert!(acknowledged.len() > 10);
    end_store_outage(&place);
    until("space", async || server.ready().await.0 == 200).await;
    assert_eq!(server.post("{\"after\":1}").await.status, 202);
    server.stop().await;
    acknowledged.push("{\"after\":1}".to_owned());
    acknowledged.sort();
    assert_eq!(place.stored(), acknowledged);
}

#[tokio::test]
async fn the_exit_code_is_1_when_acknowledged_jobs_are_damaged_on_disk() {
    for (damaged, code) in [(None, 0), (Some(1), 1)] {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), &[]);
        let mut segment = Segment::of(&payloads("left", 3));
        if let Some(frame) = damaged {
            segment.damage(frame);
        }
        write_dead_folder(&place, &[&segment]);
        let (spool, store) = (place.spool(), place.store());
        let env = [("SPOOL_DIR", spool.to_str().unwrap()), ("STORE_DIR", store.to_str().unwrap())];
        let mut server = Server::start(&env).await;
        until("the upload", async || place.segments().is_empty()).await;
        assert_eq!(server.stop().await, Some(code), "{}", server.log());
        assert_eq!(server.log().contains("all accepted jobs are stored"), code == 0, "{}", server.log());
        assert_eq!(place.stored().len(), if code == 0 { 3 } else { 2 });
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_adopted_does_not_block_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), &[]);
    let disk = FaultyDisk::default();
    let server = place.start(disk.clone()).unwrap();
    // An adoption begins with the lock, so every second one of these folders fails each time.
    for n in 0..4 {
        let folder = write_dead_folder(&place, &[&Segment::of(&payloads(&format!("other-{n}"), 1))]);
        if n % 2 == 0 {
            std::fs::remove_file(folder.join("lock")).unwrap();
            std::fs::create_dir(folder.join("lock")).unwrap();
        }
    }
    until("the adoption of the others", async || place.stored().len() == 2).await;
    until("a metric", async || server.metric("millpond_spool_folders_not_adopted").await == 2.0).await;
    let (status, ready) = server.ready().await;
    assert!(
        status == 503 && ready.contains("spool folders not adopted") && ready.contains("cannot be adopted"),
        "{ready}"
    );
    assert_eq!(server.post("{\"new\":1}").await.status, 202, "new batches are accepted");
    server.stop().await;
}

#[tokio::test]
async fn a_segment_that_cannot_be_read_is_retried() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), &[("OBJECT_MAX_AGE", "30ms")]);
    write_dead_folder(&place, &[&Segment::of(&payloads("unreadable", 3))]);
    let disk = FaultyDisk::failing(At::Every(Op::Read), How::Io);
    let server = place.start(disk.clone()).unwrap();
    until("a second try", async || disk.count(Op::Read) >= 2).await;
    until("unready", async || server.ready().await.1.contains("reading the spool")).await;
    assert_eq!(server.post("{\"new\":1}").await.status, 202, "new batches are accepted");
    disk.heal();
    wait_until_recovered(&place, &server).await;
    server.stop().await;
    assert_eq!(place.stored().len(), 4);
}
