//! `GET /v1/jobs` for jobs that this machine does not know: the calls to the store, the log lines, and other tenants.

use tokio::task::JoinSet;

use crate::scripted_s3::{ScriptedS3, empty_listing, response};
use crate::support::{Connection, Server, get, until};

const UNKNOWN: &str = "01a1fb03-e91a-7614-9cd8-d700964ce482";
const OTHER: &str = "01a1fb03-e91a-7614-9cd8-d700964ce483";

fn no_object(head: &str) -> Option<String> {
    if head.contains("list-type=2") { empty_listing() } else { response(head, "404 Not Found", "", "NotFound") }
}

async fn status(server: &Server, job: &str, query: &str) -> u16 {
    get(server.public, &format!("/v1/jobs/{job}.0{query}")).await.status
}

#[tokio::test]
async fn a_lookup_of_an_unknown_job_takes_two_calls_and_waiting_takes_one_more_at_growing_intervals() {
    let s3 = ScriptedS3::start(no_object).await;
    let server = s3.server(&[]).await;
    assert_eq!(status(&server, UNKNOWN, "").await, 404);
    assert_eq!(s3.requests(UNKNOWN).len(), 2, "{:?}", s3.requests(UNKNOWN));
    assert_eq!(status(&server, OTHER, "?wait=3").await, 404);
    let calls = s3.requests(OTHER);
    assert!((3..=5).contains(&calls.len()), "{calls:?}");
    assert_eq!(calls.iter().filter(|line| line.starts_with("HEAD")).count(), 1, "{calls:?}");
}

#[tokio::test]
async fn where_listing_is_denied_each_key_is_looked_up() {
    let found = |head: &str| match head {
        head if head.contains("list-type=2") => response(head, "403 Forbidden", "", "AccessDenied"),
        head if head.contains(".ndjson.zst") => response(head, "200 OK", "", ""),
        head => response(head, "404 Not Found", "", "NotFound"),
    };
    let s3 = ScriptedS3::start(found).await;
    let server = s3.server(&[]).await;
    for id in [UNKNOWN, OTHER] {
        assert_eq!(status(&server, id, "").await, 200);
    }
    assert_eq!(s3.requests("list-type=2").len(), 1, "a denied listing is not tried again");
}

#[tokio::test]
async fn many_lookups_that_the_store_denies_are_logged_once() {
    let s3 = ScriptedS3::start(|head| response(head, "403 Forbidden", "", "AccessDenied")).await;
    let mut server = s3.server(&[]).await;
    for _ in 0..100 {
        assert_eq!(status(&server, UNKNOWN, "").await, 503);
    }
    server.logged("lookup of a job in the store failed").await;
    assert_eq!(server.log().matches("lookup of a job in the store failed").count(), 1, "{}", server.log());
    assert!(server.log().contains("HeadObject on s3://telemetry/fleet"), "{}", server.log());
}

#[tokio::test]
async fn the_lookups_of_one_tenant_do_not_block_those_of_another() {
    let s3 = ScriptedS3::start(|head| if head.contains(UNKNOWN) { None } else { no_object(head) }).await;
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
    // One tenant may have 8 lookups at the same time; the others are rejected.
    for _ in 0..32 {
        let refusal = asking.join_next().await.unwrap().unwrap();
        assert!(refusal.contains("too many lookups"), "{refusal}");
    }
    until("the lookups that hang", async || s3.requests(UNKNOWN).len() == 8).await;
    let mut other = ask(server.connect().await, OTHER, "two").await;
    assert_eq!(other.answer().await.unwrap().status, 404);
}
