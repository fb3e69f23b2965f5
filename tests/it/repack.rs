//! Repacking: small frames are joined before the upload, and the lines are unchanged.

use std::path::{Path, PathBuf};

use aws_sdk_s3::primitives::ByteStream;
use loadtest::s3::S3Server;
use memchr::memmem;
use millpond::disk::RealDisk;
use millpond::segment::Compression;
use millpond::segment::salvage::salvage;

use crate::in_process::Place;
use crate::recovery::{Segment, write_dead_folder};
use crate::support::{Server, lines, objects, until};

const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

fn frames(object: &Path) -> usize {
    let magic = if object.extension().is_some_and(|end| end == "gz") { GZIP_MAGIC } else { ZSTD_MAGIC };
    memmem::find_iter(&std::fs::read(object).unwrap(), magic).count()
}

fn payloads(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{{\"device\":\"probe-17\",\"site\":\"north\",\"n\":{n}}}")).collect()
}

/// The only object in the store.
fn object(place: &Place) -> PathBuf {
    let [object] = objects(&place.store()).try_into().unwrap();
    object
}

#[tokio::test]
async fn jobs_of_single_commits_are_stored_in_one_frame_and_in_order() {
    for (ack, codec) in [("disk", "gzip"), ("disk", "zstd"), ("memory", "gzip"), ("memory", "zstd")] {
        let root = tempfile::tempdir().unwrap();
        let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
        let env = [("ACK", ack), ("COMPRESSION", codec), ("RECORD", "payload"), ("OBJECT_MAX_AGE", "1h")];
        let mut server = Server::start_with_s3(&s3, &env).await;
        let all = payloads(50);
        for payload in &all {
            assert_eq!(server.post_json(payload).await.status, 202);
            // Each job has its own commit, even if the response does not wait for it.
            server.metric_is("millpond_queue_jobs", |jobs| jobs == 0.0).await;
        }
        assert_eq!(server.metric("millpond_frame_jobs_count").await, 50.0, "{ack} {codec}");
        assert_eq!(server.stop().await, Some(0));
        let stored = objects(&root.path().join("telemetry"));
        assert_eq!((stored.len(), frames(&stored[0])), (1, 1), "{ack} {codec}");
        assert_eq!(lines(&root.path().join("telemetry")), all, "{ack} {codec}");
    }
}

#[tokio::test]
async fn an_upload_that_is_repeated_after_a_crash_writes_the_same_bytes() {
    let damages: [fn(&mut Segment); 3] = [|_| {}, |segment| segment.damage(3), |segment| segment.file.truncate(900)];
    for damage in damages {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), &[]);
        let mut segment = Segment::of(&payloads(20));
        damage(&mut segment);
        let found = salvage(segment.id, &segment.file);
        assert!(found.data.len() > 2);
        let mut bytes = Vec::new();
        for life in 0..2 {
            // The process died after the upload and before it removed the file.
            write_dead_folder(&place, &[&segment]);
            let server = place.start(RealDisk).unwrap();
            until("the upload", async || place.segments().is_empty()).await;
            assert!(server.metric("millpond_repack_saved_bytes_total").await > 0.0);
            server.stop().await;
            assert_eq!(frames(&object(&place)), 1);
            assert_eq!(place.stored().len() as u64, found.jobs, "every valid job, once");
            let stored = std::fs::read(object(&place)).unwrap();
            if life == 0 {
                bytes = stored;
                std::fs::remove_file(object(&place)).unwrap();
            } else {
                assert_eq!(stored, bytes);
            }
        }
    }
}

/// A build whose codec writes other bytes has stored the segment and died before it removed the file.
#[tokio::test]
async fn an_object_that_an_older_build_has_stored_is_kept_whatever_its_bytes() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (place, all) = (Place::new(folder.path(), &[]), payloads(20));
    let segment = Segment::of(&all);
    write_dead_folder(&place, &[&segment]);
    // The frames without repacking.
    let old: Vec<u8> =
        salvage(segment.id, &segment.file).data.into_iter().flat_map(|data| segment.file[data].to_vec()).collect();
    let key = segment.id.key("", Compression::Gzip);
    let put = s3.client().put_object().bucket("telemetry").key(&key).body(ByteStream::from(old.clone()));
    put.metadata("segment", segment.id.to_string()).metadata("jobs", "20").send().await.unwrap();

    let spool = place.spool();
    let mut server = Server::start_with_s3(&s3, &[("SPOOL_DIR", spool.to_str().unwrap())]).await;
    server.metric_is("millpond_jobs_stored_total", |jobs| jobs == 20.0).await;
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(place.segments(), Vec::<PathBuf>::new());
    assert_eq!(std::fs::read(root.path().join("telemetry").join(&key)).unwrap(), old, "it is not replaced");
    assert_eq!(lines(&root.path().join("telemetry")), all);
}
