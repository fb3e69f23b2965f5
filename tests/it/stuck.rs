//! Segments that cannot be read or that the store rejects: others are uploaded meanwhile, and their valid part is stored.

use loadtest::s3::{Fault, FaultPlan, S3Server};
use millpond::segment::salvage::salvage;

use crate::faulty_disk::FaultyDisk;
use crate::in_process::Place;
use crate::recovery::{Segment, damage, payloads, recover, wait_until_recovered, write_dead_folder};
use crate::support::{Server, get, lines, until};

fn sorted(mut payloads: Vec<String>) -> Vec<String> {
    payloads.sort();
    payloads
}

#[tokio::test]
async fn an_unreadable_sector_costs_its_frames_and_all_other_frames_are_stored() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), &[]);
    let all = payloads("sector", 300);
    let segment = Segment::of(&all);
    // The sector is read as zeros.
    let mut zeroed = segment.file.clone();
    zeroed[8192..12288].fill(0);
    let [dead] = salvage(segment.id, &zeroed).dead.try_into().unwrap();
    let dead = dead.start as usize..dead.end as usize;
    assert!(dead.len() > 10 && dead.end < 290, "{dead:?}");
    write_dead_folder(&place, &[&segment]);
    let disk = FaultyDisk::default();
    disk.make_unreadable(&segment.id.to_string(), 9000..9001);
    let server = place.start(disk).unwrap();
    wait_until_recovered(&place, &server).await;
    let good = all.iter().enumerate().filter(|(n, _)| !dead.contains(n)).map(|(_, line)| line.clone()).collect();
    assert_eq!(place.stored(), sorted(good));
    let (lost, stored) = (dead.len() as f64, (300 - dead.len()) as f64);
    assert_eq!(damage(&server).await, [1.0, lost, lost, stored, 300.0]);
    assert_eq!(server.fate(&segment.job(dead.start)).await, "dead");
    assert_eq!(server.fate(&segment.job(dead.end)).await, "stored");
    until("ready", async || server.ready().await.0 == 200).await;
    server.stop().await;
}

#[tokio::test]
async fn segments_that_cannot_be_read_do_not_block_others_and_ready_reports_the_spool() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), &[("MAX_WORKERS", "2"), ("OBJECT_MAX_AGE", "30ms")]);
    let disk = FaultyDisk::default();
    let mut all = Vec::new();
    for n in 0..4 {
        let some = payloads(&format!("away-{n}"), 2);
        let segment = Segment::of(&some);
        // All of it: the device is away.
        disk.make_unreadable(&segment.id.to_string(), 0..usize::MAX);
        write_dead_folder(&place, &[&segment]);
        all.extend(some);
    }
    let server = place.start(disk.clone()).unwrap();
    until("unready", async || server.ready().await.0 == 503).await;
    for n in 0..10 {
        let payload = format!("{{\"new\":{n}}}");
        assert_eq!(server.post(&payload).await.status, 202);
        until("the upload", async || place.stored().contains(&payload)).await;
        all.push(payload);
    }
    let (status, ready) = server.ready().await;
    assert!(status == 503 && ready.contains("\"spool\"") && !ready.contains("\"store\""), "{ready}");
    assert!(ready.contains("reading the spool"), "{ready}");
    assert_eq!(server.metric("millpond_jobs_dead_total").await, 0.0, "the device may come back");
    disk.make_readable();
    wait_until_recovered(&place, &server).await;
    until("ready again", async || server.ready().await.0 == 200).await;
    server.stop().await;
    assert_eq!(place.stored(), sorted(all));
}

#[tokio::test]
async fn a_put_that_was_carried_out_and_answered_503_counts_as_stored_if_the_role_may_only_put() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    s3.faults().allow_put_alone();
    s3.faults().set(FaultPlan::always(Fault::UnavailableAfter));
    let mut server = Server::start_with_s3(&s3, &[("OBJECT_MAX_AGE", "30ms")]).await;
    assert_eq!(server.post_json("{\"n\":1}").await.status, 202);
    s3.stats_when(|stats| stats.faults.get("503-after") >= Some(&1)).await;
    s3.faults().set(FaultPlan::none());
    server.metric_is("millpond_jobs_stored_total", |jobs| jobs == 1.0).await;
    server.metric_is("millpond_upload_retries_total{class=\"throttled\"}", |retries| retries > 0.0).await;
    assert_eq!(s3.stats().stored, 1);
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(lines(&root.path().join("telemetry")).len(), 1);
}

#[tokio::test]
async fn the_metadata_of_hundreds_of_damaged_ranges_fits_and_no_lost_job_is_reported_as_stored() {
    const JOBS: usize = 900;
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), &[]);
    let all = payloads("n", JOBS);
    let mut segment = Segment::of(&all);
    let is_dead = |n: usize| n % 3 == 1;
    (0..JOBS).filter(|n| is_dead(*n)).for_each(|n| segment.damage(n));
    write_dead_folder(&place, &[&segment]);
    let spool = place.spool();
    let server = Server::start_with_s3(&s3, &[("SPOOL_DIR", spool.to_str().unwrap()), ("RECORD", "payload")]).await;
    server.metric_is("millpond_jobs_stored_total", |jobs| jobs == 600.0).await;
    let good = all.iter().enumerate().filter(|(n, _)| !is_dead(*n)).map(|(_, line)| line.clone()).collect();
    assert_eq!(sorted(lines(&root.path().join("telemetry"))), sorted(good));
    // One server knows each job; the other reads the metadata of the object.
    let other = Server::start_with_s3(&s3, &[]).await;
    for n in (0..JOBS).step_by(71).chain([1, JOBS - 2]) {
        let fate = async |server: &Server| {
            let answer = get(server.public, &format!("/v1/jobs/{}", segment.job(n))).await;
            answer.json()["state"].as_str().unwrap().to_owned()
        };
        let exact = if is_dead(n) { "dead" } else { "stored" };
        assert_eq!(fate(&server).await, exact, "job {n}");
        let said = fate(&other).await;
        assert!(said == exact || said == "unknown", "job {n}, {exact}: {said}");
    }
    assert_eq!(get(other.public, &format!("/v1/jobs/{}", segment.job(JOBS))).await.status, 404);
}

/// A process stores a segment and dies before it removes the file, which is damaged later.
#[tokio::test]
async fn an_object_is_never_replaced_by_one_with_fewer_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), &[]);
    let all = payloads("good", 5);
    let mut segment = Segment::of(&all);
    let server = recover(&place, &segment).await;
    server.stop().await;
    assert_eq!(place.stored(), all);

    segment.damage(1);
    segment.damage(3);
    let server = recover(&place, &segment).await;
    assert_eq!(place.stored(), all, "unchanged");
    let [_, dead, dead_payloads, stored, accepted] = damage(&server).await;
    assert_eq!([dead, dead_payloads, stored, accepted], [0.0, 0.0, 5.0, 5.0], "the ledger counts what is stored");
    for n in 0..5 {
        assert_eq!(server.fate(&segment.job(n)).await, "stored", "job {n}");
    }
    server.stop().await;
}

#[tokio::test]
async fn an_object_in_s3_is_never_replaced_by_one_with_fewer_jobs_with_or_without_conditional_puts() {
    for if_none_match in ["on", "off"] {
        let root = tempfile::tempdir().unwrap();
        let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), &[]);
        let spool = place.spool();
        let env = [("SPOOL_DIR", spool.to_str().unwrap()), ("RECORD", "payload"), ("S3_IF_NONE_MATCH", if_none_match)];
        let all = payloads("good", 5);
        let whole = Segment::of(&all);
        let mut less = whole.clone();
        less.damage(1);
        // The undamaged segment, the damaged one, and the undamaged one again.
        for (segment, life) in [(&whole, "first"), (&less, "second"), (&whole, "third")] {
            write_dead_folder(&place, &[segment]);
            let mut server = Server::start_with_s3(&s3, &env).await;
            server.metric_is("millpond_jobs_stored_total", |jobs| jobs == 5.0).await;
            assert_eq!(server.metric("millpond_jobs_dead_total").await, 0.0, "{if_none_match} {life}");
            assert_eq!(server.stop().await, Some(0), "{if_none_match} {life}");
            assert_eq!(lines(&root.path().join("telemetry")), all, "{if_none_match} {life}");
        }
        // An object of a damaged segment is replaced when more of the segment can be read.
        let more = Segment::of(&all);
        let mut less = more.clone();
        less.damage(2);
        write_dead_folder(&place, &[&less]);
        let mut server = Server::start_with_s3(&s3, &env).await;
        server.metric_is("millpond_jobs_stored_total", |jobs| jobs == 4.0).await;
        assert_eq!(server.stop().await, Some(1), "one job is lost");
        write_dead_folder(&place, &[&more]);
        let mut server = Server::start_with_s3(&s3, &env).await;
        server.metric_is("millpond_jobs_stored_total", |jobs| jobs == 5.0).await;
        assert_eq!(server.stop().await, Some(0));
        assert_eq!(lines(&root.path().join("telemetry")).len(), 10, "{if_none_match}");
    }
}
