//! A batch goes in over HTTP and comes out of the store.

use loadtest::s3::{Fault, FaultPlan, S3Server};

use crate::support::{Server, get, lines, unpacked, until};

const ENVELOPE: &str = r#"{"version":"1","token":"t","data":[{"a": 1.50,"s":"\u00e9"},{"b":["é"]}]}"#;
const PAYLOADS: [&str; 2] = [r#"{"a": 1.50,"s":"\u00e9"}"#, r#"{"b":["é"]}"#];

#[tokio::test]
async fn a_batch_is_in_the_directory_store_after_a_stop_byte_for_byte() {
    for (compression, extension) in [("gzip", ".ndjson.gz"), ("zstd", ".ndjson.zst"), ("none", ".ndjson")] {
        let mut server = Server::start(&[("COMPRESSION", compression)]).await;
        let answer = server.post_json(ENVELOPE).await;
        assert_eq!(answer.status, 202);
        let body = answer.json();
        assert_eq!((&body["payloads"], &body["ack"]), (&2.into(), &"disk".into()));
        assert_eq!(body["request_id"], answer.header("x-request-id"));
        assert_eq!(server.stop().await, Some(0));
        let objects = server.objects();
        assert!(objects.len() == 1 && objects[0].to_str().unwrap().ends_with(extension), "{objects:?}");
        let lines = server.lines();
        let id = answer.header("x-request-id");
        for (line, payload) in lines.iter().zip(PAYLOADS) {
            let rest = format!(r#"Z","request_id":"{id}","token":"t","version":"1","payload":{payload}}}"#);
            assert!(line.starts_with(r#"{"received_at":"2"#) && line.ends_with(&rest), "{line}");
        }
        assert_eq!(lines.len(), 2);
    }
}

#[tokio::test]
async fn a_bare_record_is_the_payload_alone() {
    let mut server = Server::start(&[("RECORD", "payload")]).await;
    assert_eq!(server.post_json(ENVELOPE).await.status, 202);
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(server.lines(), PAYLOADS);
}

#[tokio::test]
async fn a_segment_is_sealed_at_its_age_and_the_ledger_balances() {
    let server = Server::start(&[("OBJECT_MAX_AGE", "100ms"), ("S3_PREFIX", "/fleet/eu/")]).await;
    assert_eq!(server.post_json(ENVELOPE).await.status, 202);
    until("the object", async || !server.lines().is_empty()).await;
    let path = server.objects()[0].display().to_string();
    assert!(path.contains("/objects/fleet/eu/dt=2") && path.contains("/hr="), "{path}");
    server.metric_is("millpond_payloads_stored_total", |stored| stored == 2.0).await;
    let metrics = server.metrics().await;
    for (name, value) in [
        ("millpond_jobs_accepted_total", 1.0),
        ("millpond_payloads_accepted_total", 2.0),
        ("millpond_jobs_stored_total", 1.0),
        ("millpond_jobs_waiting", 0.0),
        ("millpond_payloads_waiting", 0.0),
        ("millpond_queue_jobs", 0.0),
        ("millpond_queue_bytes", 0.0),
        ("millpond_segments_sealed_total{reason=\"age\"}", 1.0),
        ("millpond_requests_total{outcome=\"accepted\",route=\"payloads\"}", 1.0),
        ("millpond_received_bytes_total", ENVELOPE.len() as f64),
        ("millpond_stored_bytes_total", std::fs::metadata(&path).unwrap().len() as f64),
        ("millpond_request_seconds_count{result=\"accepted\",route=\"payloads\"}", 1.0),
        ("millpond_upload_seconds_count", 1.0),
    ] {
        assert_eq!(metrics.get(name), Some(&value), "{name}");
    }
    assert!(
        metrics.contains_key("millpond_request_seconds_bucket{result=\"accepted\",route=\"payloads\",le=\"0.0001\"}")
    );
    assert!(metrics.contains_key("millpond_request_seconds_bucket{result=\"accepted\",route=\"payloads\",le=\"10\"}"));
    assert_eq!(get(server.admin, "/live").await.status, 200);
    assert_eq!(server.ready().await.0, 200);
    assert_eq!(get(server.public, "/health").await.status, 200);
    assert_eq!(get(server.public, "/metrics").await.status, 404, "not on the public side");
}

#[tokio::test]
async fn a_segment_is_sealed_at_its_size() {
    let mut server =
        Server::start(&[("OBJECT_MAX_BYTES", "2KiB"), ("COMPRESSION", "none"), ("RECORD", "payload")]).await;
    let body = format!("[{{\"a\":\"{}\"}}]", "x".repeat(1000));
    for _ in 0..9 {
        assert_eq!(server.post_json(&body).await.status, 202);
        // One job a frame, so that the sizes are known.
        server.metric_is("millpond_queue_jobs", |jobs| jobs == 0.0).await;
    }
    server.metric_is("millpond_objects_stored_total", |objects| objects == 3.0).await;
    assert_eq!(server.stop().await, Some(0));
    let sizes: Vec<u64> = server.objects().iter().map(|object| std::fs::metadata(object).unwrap().len()).collect();
    assert_eq!(sizes, [3 * 1009; 3]);
    assert_eq!(server.lines().len(), 9);
}

#[tokio::test]
async fn a_batch_is_in_s3_under_its_key_with_its_metadata() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    let mut server = Server::start_with_s3(&s3, &[("S3_PREFIX", "fleet"), ("OBJECT_MAX_AGE", "1h")]).await;
    for _ in 0..3 {
        assert_eq!(server.post_json(ENVELOPE).await.status, 202);
    }
    assert_eq!(server.ready().await.0, 200);
    assert_eq!(server.stop().await, Some(0));
    assert!(lines(&server.folder.path().join("millpond-data")).is_empty(), "nothing stays on the machine");

    let client = s3.client();
    let listed = client.list_objects_v2().bucket("telemetry").send().await.unwrap();
    let keys: Vec<&str> = listed.contents().iter().map(|object| object.key().unwrap()).collect();
    assert!(keys.len() == 1 && keys[0].starts_with("fleet/dt=2"), "{keys:?}");
    let object = client.get_object().bucket("telemetry").key(keys[0]).send().await.unwrap();
    let metadata = object.metadata().unwrap().clone();
    assert_eq!((metadata["jobs"].as_str(), metadata["payloads"].as_str()), ("3", "6"));
    assert!(keys[0].ends_with(&format!("/{}.ndjson.gz", metadata["segment"])), "{keys:?} {metadata:?}");
    let bytes = object.body.collect().await.unwrap().into_bytes();
    assert_eq!(unpacked(keys[0], &bytes).lines().count(), 6);
    assert_eq!(s3.stats().puts, 1, "three jobs, one object, one attempt, and no probe beside it");
}

#[tokio::test]
async fn a_missing_bucket_is_shown_and_does_not_stop_the_start() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    // The test server would make the bucket with its first object.
    s3.faults().set(FaultPlan::always(Fault::NoSuchBucket));
    let mut server = Server::start_with_s3(&s3, &[("S3_BUCKET", "missing"), ("OBJECT_MAX_AGE", "50ms")]).await;
    until("trouble", async || server.ready().await.0 == 503).await;
    assert!(server.ready().await.1.contains("missing"), "{}", server.ready().await.1);
    assert_eq!(server.post_json(ENVELOPE).await.status, 202);
    server.metric_is("millpond_upload_retries_total{class=\"permanent\"}", |retries| retries > 0.0).await;
    tokio::fs::create_dir(root.path().join("missing")).await.unwrap();
    s3.faults().set(FaultPlan::none());
    until("the bucket", async || server.ready().await.0 == 200).await;
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(lines(&root.path().join("missing")).len(), 2);
}
