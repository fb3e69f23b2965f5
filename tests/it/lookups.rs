//! `GET /v1/jobs` for jobs that this machine does not know: what a lookup costs the store, the log and other senders.

use tokio::task::JoinSet;

use crate::scripted_s3::{ScriptedS3, answer, empty_listing};
use crate::support::{Connection, Server, get, until};

const UNKNOWN: &str = "01a1fb03-e91a-7614-9cd8-d700964ce482";
const OTHER: &str = "01a1fb03-e91a-7614-9cd8-d700964ce483";

fn nothing_there(line: &str) -> Option<String> {
    if line.contains("list-type=2") { empty_listing() } else { answer(line, "404 Not Found", "", "NotFound") }
}

async fn status(server: &Server, job: &str, query: &str) -> u16 {
    get(server.public, &format!("/v1/jobs/{job}.0{query}")).await.status
}

#[tokio::test]
async fn a_lookup_of_an_unknown_job_costs_two_calls_and_a_wait_one_more_at_growing_intervals() {
    let s3 = ScriptedS3::start(nothing_there).await;
    let server = s3.server(&[]).await;
    assert_eq!(status(&server, UNKNOWN, "").await, 404);
    assert_eq!(s3.calls(UNKNOWN).len(), 2, "{:?}", s3.calls(UNKNOWN));
    assert_eq!(status(&server, OTHER, "?wait=3").await, 404);
    let calls = s3.calls(OTHER);
    assert!((3..=5).contains(&calls.len()), "{calls:?}");
    assert_eq!(calls.iter().filter(|line| line.starts_with("HEAD")).count(), 1, "{calls:?}");
}

#[tokio::test]
async fn where_the_store_cannot_be_listed_each_name_is_asked_for() {
    let found = |line: &str| match line {
        line if line.contains("list-type=2") => answer(line, "403 Forbidden", "", "AccessDenied"),
        line if line.contains(".ndjson.zst") => answer(line, "200 OK", "", ""),
        line => answer(line, "404 Not Found", "", "NotFound"),
    };
    let s3 = ScriptedS3::start(found).await;
    let server = s3.server(&[]).await;
    for id in [UNKNOWN, OTHER] {
        assert_eq!(status(&server, id, "").await, 200);
    }
    assert_eq!(s3.calls("list-type=2").len(), 1, "a denied listing is not tried again");
}

#[tokio::test]
async fn a_flood_of_lookups_that_the_store_denies_is_one_line_of_the_log() {
    let s3 = ScriptedS3::start(|line| answer(line, "403 Forbidden", "", "AccessDenied")).await;
    let mut server = s3.server(&[]).await;
    for _ in 0..100 {
        assert_eq!(status(&server, UNKNOWN, "").await, 503);
    }
    server.logged("lookup of a job in the store failed").await;
    assert_eq!(server.log().matches("lookup of a job in the store failed").count(), 1, "{}", server.log());
    assert!(server.log().contains("HeadObject on s3://telemetry/fleet"), "{}", server.log());
}

#[tokio::test]
async fn one_tenant_s_lookups_do_not_keep_another_s_from_the_store() {
    let s3 = ScriptedS3::start(|line| if line.contains(UNKNOWN) { None } else { nothing_there(line) }).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.json");
    // The digests of "one" and of "two".
    let digests = [
        "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed",
        "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3",
    ];
    let tenants = ["a", "b"].iter().zip(digests);
    let tenants: Vec<_> =
        tenants.map(|(name, digest)| format!(r#"{{"name":"{name}","tokens_sha256":["{digest}"]}}"#)).collect();
    std::fs::write(&file, format!(r#"{{"tenants":[{}]}}"#, tenants.join(","))).unwrap();
    let server = s3.server(&[("TOKENS_FILE", file.to_str().unwrap()), ("S3_TIMEOUT", "1h")]).await;
    let ask = async |mut connection: Connection, job: &str, token: &str| {
        let head = format!("GET /v1/jobs/{job}.0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
        connection.write(head.as_bytes()).await;
        connection
    };
    let mut asking = JoinSet::new();
    for _ in 0..40 {
        let mut connection = ask(server.connect().await, UNKNOWN, "one").await;
        asking.spawn(async move { connection.answer().await.unwrap().refusal(503) });
    }
    // Those that hang are as many as one tenant may have; the others are refused.
    for _ in 0..32 {
        let refusal = asking.join_next().await.unwrap().unwrap();
        assert!(refusal.contains("too many lookups"), "{refusal}");
    }
    until("the lookups that hang", async || s3.calls(UNKNOWN).len() == 8).await;
    let mut other = ask(server.connect().await, OTHER, "two").await;
    assert_eq!(other.answer().await.unwrap().status, 404);
}
