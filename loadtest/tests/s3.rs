//! The S3 server as the real SDK sees it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::operation::put_object::{PutObjectError, PutObjectOutput};
use aws_sdk_s3::primitives::ByteStream;
use loadtest::s3::{Fault, FaultPlan, S3Server};
use tempfile::TempDir;

type Put = Result<PutObjectOutput, aws_sdk_s3::error::SdkError<PutObjectError>>;

const LIMIT: Duration = Duration::from_secs(20);

async fn start() -> (TempDir, S3Server, Client) {
    let folder = TempDir::new().unwrap();
    let server = S3Server::start(folder.path(), "objects").await.unwrap();
    let client = server.client();
    (folder, server, client)
}

async fn put(client: &Client, key: &str) -> Put {
    let body = ByteStream::from_static(b"the body");
    client.put_object().bucket("objects").key(key).body(body).metadata("payloads", "12").send().await
}

async fn get(client: &Client, key: &str) -> Option<Vec<u8>> {
    let object = client.get_object().bucket("objects").key(key).send().await.ok()?;
    Some(object.body.collect().await.unwrap().to_vec())
}

fn rejection(put: Put) -> (u16, String) {
    let wrong = put.unwrap_err();
    let status = wrong.raw_response().map_or(0, |response| response.status().as_u16());
    (status, wrong.code().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn an_object_is_stored_once_with_its_metadata_and_listed() {
    let (_folder, server, client) = start().await;
    let key = "dt=2026-11-20/hr=13/a.ndjson.gz";
    put(&client, key).await.unwrap();
    assert_eq!(get(&client, key).await.unwrap(), b"the body");
    let head = client.head_object().bucket("objects").key(key).send().await.unwrap();
    assert_eq!((head.metadata().unwrap()["payloads"].as_str(), head.content_length()), ("12", Some(8)));
    let list = client.list_objects_v2().bucket("objects").prefix("dt=").send().await.unwrap();
    assert_eq!(list.contents().len(), 1);
    let stats = server.stats();
    assert_eq!((stats.puts, stats.stored, stats.in_flight, stats.in_flight_peak), (1, 1, 0, 1));
    let conditional = client.put_object().bucket("objects").key(key).if_none_match("*").send().await;
    assert_eq!(rejection(conditional), (412, "PreconditionFailed".to_owned()));
    let keys = aws_sdk_s3::config::Credentials::new(&server.credentials().access_key, "guess", None, None, "test");
    let config = client.config().to_builder().credentials_provider(keys).build();
    let wrong_signature = rejection(put(&Client::from_conf(config), "k").await);
    assert_eq!(wrong_signature, (403, "SignatureDoesNotMatch".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn of_many_conditional_puts_at_once_one_succeeds() {
    let (_folder, server, client) = start().await;
    let mut puts = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let body = ByteStream::from_static(b"x");
        puts.spawn(client.put_object().bucket("objects").key("k").body(body).if_none_match("*").send());
    }
    let results = puts.join_all().await;
    assert_eq!(results.iter().filter(|put| put.is_ok()).count(), 1);
    for put in results.into_iter().filter(Result::is_err) {
        assert!([409, 412].contains(&rejection(put).0));
    }
    server.stop().await;
}

#[tokio::test]
async fn errors_look_like_those_of_s3_and_nothing_is_stored() {
    let (_folder, server, client) = start().await;
    for (fault, status, code) in [
        (Fault::SlowDown, 503, "SlowDown"),
        (Fault::InternalError, 500, "InternalError"),
        (Fault::AccessDenied, 403, "AccessDenied"),
        (Fault::NoSuchBucket, 404, "NoSuchBucket"),
    ] {
        server.faults().set(FaultPlan::always(fault));
        assert_eq!(rejection(put(&client, "k").await), (status, code.to_owned()));
        assert_eq!(server.stats().faults[fault.name()], 1);
        assert_eq!(get(&client, "k").await, None, "{fault}");
    }
    assert_eq!(server.stats().stored, 0);
    let (start, delay) = (std::time::Instant::now(), Duration::from_millis(50));
    server.faults().set(FaultPlan::always(Fault::Delay(delay)));
    put(&client, "k").await.unwrap();
    assert!(start.elapsed() >= delay);
    server.stop().await;
}

#[tokio::test]
async fn a_drop_before_stores_nothing_and_a_drop_after_stores_all() {
    let (_folder, server, client) = start().await;
    server.faults().set(FaultPlan::always(Fault::DropBefore));
    assert_eq!(rejection(put(&client, "k").await), (0, String::new()));
    assert_eq!(get(&client, "k").await, None);
    server.faults().set(FaultPlan::always(Fault::DropAfter));
    assert_eq!(rejection(put(&client, "k").await), (0, String::new()));
    assert_eq!(get(&client, "k").await.unwrap(), b"the body");
    assert_eq!(server.stats().stored, 1);
    server.stop().await;
}

#[tokio::test]
async fn hung_calls_are_counted_and_proceed_when_the_plan_changes() {
    let (_folder, server, client) = start().await;
    server.faults().set(FaultPlan::always(Fault::Hang));
    let mut puts = tokio::task::JoinSet::new();
    for key in ["a", "b", "c"] {
        let client = client.clone();
        puts.spawn(async move { put(&client, key).await });
    }
    let stats = tokio::time::timeout(LIMIT, server.stats_when(|stats| stats.faults.get("hang") == Some(&3))).await;
    let stats = stats.unwrap();
    assert_eq!((stats.in_flight, stats.in_flight_peak, stats.stored), (3, 3, 0));
    server.faults().set(FaultPlan::none());
    assert!(puts.join_all().await.iter().all(Result::is_ok));
    let stats = server.stats_when(|stats| stats.in_flight == 0).await;
    assert_eq!((stats.stored, stats.in_flight_peak), (3, 3));
    server.stop().await;
}

#[tokio::test]
async fn a_hung_client_that_disconnects_stores_nothing() {
    let (_folder, server, client) = start().await;
    server.faults().set(FaultPlan::always(Fault::Hang));
    {
        let hung = put(&client, "k");
        tokio::pin!(hung);
        tokio::select! {
            _ = &mut hung => panic!("it got a response"),
            _ = server.stats_when(|stats| stats.in_flight == 1) => {}
        }
    }
    tokio::time::timeout(LIMIT, server.stats_when(|stats| stats.in_flight == 0)).await.unwrap();
    server.faults().set(FaultPlan::none());
    assert_eq!(get(&client, "k").await, None);
    server.stop().await;
}

#[tokio::test]
async fn a_share_of_the_puts_fails_and_reads_do_not_unless_asked() {
    let (_folder, server, client) = start().await;
    server.faults().set(FaultPlan::share(0.2, [Fault::SlowDown, Fault::InternalError]).unwrap());
    let mut statuses = Vec::new();
    for n in 0..10 {
        statuses.push(put(&client, &format!("k{n}")).await.map_or_else(|wrong| rejection(Err(wrong)).0, |_| 200));
    }
    assert_eq!(statuses, [200, 200, 200, 200, 503, 200, 200, 200, 200, 500]);
    server.faults().set(FaultPlan::always(Fault::SlowDown));
    assert!(get(&client, "k0").await.is_some());
    server.faults().set(FaultPlan::always(Fault::SlowDown).on_every_call());
    assert!(get(&client, "k0").await.is_none());
    server.stop().await;
}

#[tokio::test]
async fn a_stopped_server_refuses_connections_and_starts_again_on_the_same_address() {
    let (folder, server, client) = start().await;
    put(&client, "k").await.unwrap();
    server.faults().set(FaultPlan::always(Fault::Hang));
    let addr = server.addr();
    let mut hung = tokio::task::JoinSet::new();
    hung.spawn({
        let client = client.clone();
        async move { put(&client, "hung").await }
    });
    server.stats_when(|stats| stats.in_flight == 1).await;
    tokio::time::timeout(LIMIT, server.stop()).await.unwrap();
    assert_eq!(rejection(hung.join_next().await.unwrap().unwrap()).0, 0);
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());

    let server = S3Server::start_on(addr, folder.path(), "objects").await.unwrap();
    assert_eq!(get(&client, "k").await.unwrap(), b"the body");
    assert_eq!(get(&client, "hung").await, None);
    server.stop().await;
}

#[tokio::test]
async fn in_memory_it_responds_as_over_a_directory_and_its_objects_can_be_read() {
    let server = S3Server::start_in_memory("objects", 1 << 20).await.unwrap();
    let (client, memory) = (server.client(), server.memory().unwrap());
    client.head_bucket().bucket("objects").send().await.unwrap();
    put(&client, "dt=2026-11-20/hr=13/a.ndjson").await.unwrap();
    put(&client, "b.ndjson").await.unwrap();
    assert_eq!(get(&client, "b.ndjson").await.unwrap(), b"the body");
    let head = client.head_object().bucket("objects").key("dt=2026-11-20/hr=13/a.ndjson").send().await.unwrap();
    assert_eq!((head.metadata().unwrap()["payloads"].as_str(), head.content_length()), ("12", Some(8)));
    let keys = memory.keys().unwrap();
    assert_eq!(keys.len(), 2);
    assert!(keys.iter().all(|key| memory.get(key).unwrap() == "the body"));

    let conditional = client.put_object().bucket("objects").key("b.ndjson").if_none_match("*").send().await;
    assert_eq!(rejection(conditional), (412, "PreconditionFailed".to_owned()));
    let missing = client.head_object().bucket("objects").key("none").send().await.unwrap_err();
    assert_eq!(missing.raw_response().unwrap().status().as_u16(), 404);
    let elsewhere = client.put_object().bucket("other").key("b.ndjson").send().await;
    assert_eq!(rejection(elsewhere), (404, "NoSuchBucket".to_owned()));
    assert_eq!(get(&client, "b.ndjson").await.unwrap(), b"the body");
    server.faults().set(FaultPlan::share(0.5, [Fault::SlowDown]).unwrap());
    assert!(put(&client, "c").await.is_ok());
    assert_eq!(rejection(put(&client, "d").await), (503, "SlowDown".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn memory_that_is_full_rejects_objects_and_cannot_be_read() {
    // Enough for two objects of 8 bytes: an object costs more than its body.
    let server = S3Server::start_in_memory("objects", 2_100).await.unwrap();
    let (client, memory) = (server.client(), server.memory().unwrap());
    // The same key again costs nothing.
    for key in ["a", "b", "b"] {
        put(&client, key).await.unwrap();
    }
    assert_eq!(memory.keys().unwrap().len(), 2);
    assert_eq!(rejection(put(&client, "c").await), (503, "SlowDown".to_owned()));
    assert!(memory.keys().is_err());
    server.stop().await;
}
