//! `S3_EXPECTED_BUCKET_OWNER`.

use crate::scripted_s3::{ScriptedS3, response};
use crate::support::{get, run, until};

const OWNER: &str = "111122223333";

#[tokio::test]
async fn every_call_names_the_account_that_the_bucket_must_belong_to() {
    let s3 = ScriptedS3::start(|head| response(head, "200 OK", "", "")).await;
    let owner = ("S3_EXPECTED_BUCKET_OWNER", OWNER);
    let folder = tempfile::tempdir().unwrap();
    let own = s3.env();
    let env: Vec<_> = own.iter().map(|(k, v)| (k.as_str(), v.as_str())).chain([owner]).collect();
    // It puts an object, reads it back and deletes it. The script returns no body, so it fails.
    run(folder.path(), &env, &["--check"]).await;
    // The server sends the HEAD of the bucket and, for a receipt, of its object.
    let server = s3.server(&[owner]).await;
    assert_eq!(get(server.public, "/v1/jobs/01a1fb03-e91a-7614-9cd8-d700964ce482.0").await.status, 200);
    let calls = ["PUT /telemetry/", "GET /telemetry/", "DELETE /telemetry/", "HEAD /telemetry/fleet/dt"];
    until("all calls", async || {
        // The HEADs of the bucket are those that name no object.
        let (heads, objects) = (s3.requests("HEAD /telemetry").len(), s3.requests("HEAD /telemetry/fleet").len());
        heads > objects && calls.iter().all(|call| !s3.requests(call).is_empty())
    })
    .await;
    for head in s3.requests("") {
        assert!(head.to_ascii_lowercase().contains(&format!("x-amz-expected-bucket-owner: {OWNER}")), "{head}");
    }
}

#[tokio::test]
async fn an_owner_that_is_no_account_id_or_has_no_bucket_is_rejected_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ([("S3_BUCKET", "telemetry"), ("S3_EXPECTED_BUCKET_OWNER", "arn:aws:iam::111122223333:root")], "12 digits"),
        ([("ACK", "disk"), ("S3_EXPECTED_BUCKET_OWNER", OWNER)], "S3_BUCKET is not"),
    ];
    for (env, what) in cases {
        let output = run(folder.path(), &env, &[]).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(said.contains(what), "{said}");
    }
}
