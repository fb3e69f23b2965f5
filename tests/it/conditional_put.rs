//! `S3_IF_NONE_MATCH`: off for stores without conditional writes.

use loadtest::s3::{Fault, FaultPlan, S3Server};

use crate::in_process::Place;
use crate::recovery::{Segment, write_dead_folder};
use crate::scripted_s3::{ScriptedS3, response};
use crate::support::{Server, lines, until};

/// A store without conditional writes: it rejects a PUT with a condition with 501. Its role may only put objects.
async fn unconditional() -> ScriptedS3 {
    ScriptedS3::start(|head| {
        let status = match (head.starts_with("PUT "), is_conditional(head)) {
            (true, true) => "501 Not Implemented",
            (true, false) => "200 OK",
            (false, _) => "403 Forbidden",
        };
        response(head, status, "ETag: \"e\"\r\n", "")
    })
    .await
}

fn is_conditional(head: &str) -> bool {
    head.to_ascii_lowercase().contains("\r\nif-none-match: *\r\n")
}

#[tokio::test]
async fn off_sends_no_condition_so_that_a_store_without_conditional_writes_takes_the_object() {
    let store = unconditional().await;
    let mut server = store.server(&[("S3_IF_NONE_MATCH", "off"), ("OBJECT_MAX_AGE", "20ms")]).await;
    assert_eq!(server.post_json("{\"n\":1}").await.status, 202);
    server.metric_is("millpond_jobs_stored_total", |jobs| jobs == 1.0).await;
    assert_eq!(server.stop().await, Some(0));
    let puts = store.requests("PUT /");
    assert!(puts.len() == 1 && !puts[0].to_ascii_lowercase().contains("if-none-match"), "{puts:?}");
}

#[tokio::test]
async fn on_sends_the_condition_and_the_log_names_the_setting_when_the_store_rejects_it() {
    let store = unconditional().await;
    let mut server = store.server(&[("S3_IF_NONE_MATCH", "on"), ("OBJECT_MAX_AGE", "20ms")]).await;
    assert_eq!(server.post_json("{\"n\":1}").await.status, 202);
    server.logged("S3_IF_NONE_MATCH=off").await;
    let puts = store.requests("PUT /");
    assert!(puts.iter().all(|put| is_conditional(put)), "{puts:?}");
    assert_eq!(server.metric("millpond_jobs_stored_total").await, 0.0);
}

#[tokio::test]
async fn a_put_that_is_repeated_without_a_condition_stores_nothing_twice() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    // Half of the PUTs are carried out and get no response.
    s3.faults().set(FaultPlan::share(0.5, [Fault::DropAfter]).unwrap());
    let env = [("S3_IF_NONE_MATCH", "off"), ("RECORD", "payload"), ("OBJECT_MAX_BYTES", "1")];
    let mut server = Server::start_with_s3(&s3, &env).await;
    let mut all: Vec<String> = (0..10).map(|n| format!("{{\"n\":{n}}}")).collect();
    for payload in &all {
        assert_eq!(server.post_json(payload).await.status, 202);
    }
    server.metric_is("millpond_jobs_stored_total", |jobs| jobs == 10.0).await;
    assert!(s3.stats().faults["drop-after"] > 0);
    assert_eq!(server.stop().await, Some(0));
    let mut stored = lines(&root.path().join("telemetry"));
    stored.sort();
    all.sort();
    assert_eq!(stored, all);
}

/// The role may only put objects. A process that has exited stored what it could read, and the segment was requeued after a
/// repair: a 412 does not show that the object holds all jobs.
#[tokio::test]
async fn an_adopted_segment_replaces_an_object_that_may_not_be_read_if_all_of_it_is_readable() {
    for is_whole in [true, false] {
        let store = ScriptedS3::start(|head| {
            let (status, code) = match (head.starts_with("PUT "), is_conditional(head)) {
                (true, true) => ("412 Precondition Failed", "PreconditionFailed"),
                (true, false) => ("200 OK", ""),
                (false, _) => ("403 Forbidden", ""),
            };
            response(head, status, "ETag: \"e\"\r\n", code)
        })
        .await;
        let root = tempfile::tempdir().unwrap();
        let place = Place::new(root.path(), &[]);
        let mut segment = Segment::of(&["{\"n\":1}".to_owned(), "{\"n\":2}".to_owned()]);
        if !is_whole {
            segment.damage(0);
        }
        write_dead_folder(&place, &[&segment]);
        let spool = place.spool();
        let mut server = store.server(&[("SPOOL_DIR", spool.to_str().unwrap())]).await;
        until("the segment is settled", async || place.segments().is_empty()).await;
        let puts = store.requests("PUT /");
        let unconditional = puts.iter().filter(|put| !is_conditional(put)).count();
        assert_eq!((puts.len(), unconditional), if is_whole { (2, 1) } else { (1, 0) }, "{puts:?}");
        assert_eq!(spool.join("dead").join(segment.name()).exists(), !is_whole);
        server.stop().await;
    }
}
