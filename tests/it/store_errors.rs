//! The messages for operators when the store fails: the call, the cause, what to do; and one log line for each outage.

use loadtest::s3::{Fault, FaultPlan, S3Server};

use crate::scripted_s3::{ScriptedS3, response};
use crate::support::{Server, run, until};

/// The standard error of `--check` with a store that fails.
async fn checked(env: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), env, &["--check"]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    for rust in ["Custom {", "kind:", "DispatchFailure", "Error {", "Some(", "os error"] {
        assert!(!said.contains(rust), "{rust}: {said}");
    }
    said
}

/// A name and a value.
type Variable<'a> = (&'a str, &'a str);

const REGION: (&str, &str) = ("AWS_REGION", "us-east-1");
const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")];
const BUCKET: [(&str, &str); 3] =
    [("S3_BUCKET", "telemetry"), ("S3_PREFIX", "fleet"), ("AWS_EC2_METADATA_DISABLED", "true")];

#[tokio::test]
async fn a_call_without_a_response_names_the_operation_the_bucket_the_cause_and_the_remedy() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = format!("http://{closed}");
    let refused = refused.as_str();
    let unknown = "http://store.invalid:9000";
    let endpoint = |url| ("AWS_ENDPOINT_URL_S3", url);
    let at_refused = format!("write: PutObject on s3://telemetry/fleet at {refused}: connection refused");
    let cases: [(Vec<Variable<'_>>, &[&str]); 4] = [
        ([&KEYS[..], &[REGION, endpoint(refused)]].concat(), &[&at_refused, "AWS_ENDPOINT_URL_S3 is its address"]),
        ([&KEYS[..], &[REGION, endpoint(unknown)]].concat(), &[unknown, "cannot be resolved"]),
        (vec![REGION, endpoint(refused)], &["no credentials were found", "AWS_ACCESS_KEY_ID"]),
        (KEYS.to_vec(), &["no region", "set AWS_REGION"]),
    ];
    for (env, expected) in cases {
        let said = checked(&[&BUCKET[..], &env].concat()).await;
        for text in expected {
            assert!(said.contains(text), "{text}: {said}");
        }
    }
}

#[tokio::test]
async fn an_error_response_is_logged_with_a_remedy() {
    let region = "x-amz-bucket-region: eu-west-1\r\n";
    let cases = [
        (
            "403 Forbidden",
            "",
            "AccessDenied",
            ["403 AccessDenied: said so", "grant the server's user or role this call"],
        ),
        (
            "403 Forbidden",
            "",
            "SignatureDoesNotMatch",
            ["said so", "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"],
        ),
        ("404 Not Found", "", "NoSuchBucket", ["404 NoSuchBucket", "create it, or correct S3_BUCKET"]),
        ("301 Moved Permanently", region, "PermanentRedirect", ["301", "set AWS_REGION=eu-west-1"]),
    ];
    for (status, headers, code, expected) in cases {
        let s3 = ScriptedS3::start(move |head| response(head, status, headers, code)).await;
        let env = s3.env();
        let env: Vec<_> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let said = checked(&env).await;
        assert!(said.contains(&format!("PutObject on s3://telemetry/fleet at http://{}", s3.addr)), "{said}");
        assert!(expected.iter().all(|text| said.contains(text)), "{expected:?}: {said}");
    }
}

#[tokio::test]
async fn an_outage_is_logged_once_when_it_begins_and_once_when_it_ends() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    s3.faults().set(FaultPlan::always(Fault::AccessDenied));
    let mut server = Server::start_with_s3(&s3, &[("OBJECT_MAX_AGE", "20ms")]).await;
    let retries = "millpond_upload_retries_total{class=\"permanent\"}";
    until("many failed attempts", async || {
        assert_eq!(server.post_json("{\"a\":1}").await.status, 202);
        server.metric(retries).await >= 60.0
    })
    .await;
    let complaints = |log: &str| log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).count();
    // The other one says that TOKENS_FILE is not set.
    assert_eq!(complaints(&server.log()), 2, "{}", server.log());
    let said = server.log();
    let line = said.lines().find(|line| line.contains("the store is failing")).unwrap();
    assert!(line.contains("PutObject on s3://telemetry at http://") && line.contains("403 AccessDenied"), "{line}");
    assert!(line.contains("attempts=") && line.contains("waiting="), "{line}");

    let ready = server.ready().await.1;
    let reasons: serde_json::Value = serde_json::from_str(&ready).unwrap();
    let since = reasons["reasons"][0]["since_time"].as_str().unwrap();
    assert!(since.len() == 20 && since.contains('T') && since.ends_with('Z'), "{ready}");

    s3.faults().set(FaultPlan::none());
    server.metric_is("millpond_jobs_waiting", |jobs| jobs == 0.0).await;
    server.logged("the store has recovered").await;
    assert_eq!(server.stop().await, Some(0));
    assert_eq!((complaints(&server.log()), server.log().matches("the store has recovered").count()), (2, 1));
}
