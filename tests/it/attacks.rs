//! Attacks on the server while other clients use it. An attack is bounded in memory, connections and time, and does not
//! affect the other clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use loadtest::attack::{Attack, AttackRun, Monitor, Outcome, Peak};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::{PATIENCE, Server, get, post, until};

/// The number of connections of an attack.
const ATTACKERS: u32 = 20;
/// The number of connections of an attack that is expensive until the server detects it.
const FEW_ATTACKERS: u32 = 1;
/// The number of other clients.
const CLIENTS: usize = 4;
/// The maximum memory for an attack, in KiB: the connections of hyper, and memory that the allocator keeps.
const MEMORY: u64 = 48 << 10;
/// The number of connections of a pipelining flood, more than the server has threads, and the requests of each.
const PIPELINES: usize = 8;
const PIPELINED: usize = 1000;
/// The number of responses that each other client has to get during the flood.
const SERVED: usize = 25;

/// Short timeouts for slow clients. The idle timeout is so long that other clients never reach it.
const SHORT_TIMEOUTS: &[(&str, &str)] =
    &[("RECORD", "payload"), ("HEADER_TIMEOUT", "300ms"), ("BODY_TIMEOUT", "600ms"), ("IDLE_TIMEOUT", "6s")];

/// Attacks the server while other clients send batches. All of these must be accepted and stored. Stops the server.
async fn attack_server(attack: Attack, connections: u32, duration: Duration, env: &[(&str, &str)]) -> Outcome {
    let mut server = Server::start(env).await;
    let monitor = Monitor { pid: server.pid() };
    let Peak { files, .. } = monitor.sample().unwrap();
    server.forget_peak();
    let resident = server.peak();
    let over = CancellationToken::new();
    let mut senders = JoinSet::new();
    for sender in 0..CLIENTS {
        let (over, mut connection) = (over.clone(), server.connect().await);
        senders.spawn(async move {
            let mut sent = Vec::new();
            while !over.is_cancelled() {
                let payload = format!("{{\"sender\":{sender},\"n\":{}}}", sent.len());
                connection.write(&post("", payload.as_bytes())).await;
                assert_eq!(connection.answer().await.expect("an answer").status, 202);
                sent.push(payload);
            }
            sent
        });
    }
    let attack = Some(attack);
    let run = AttackRun { attack, target: server.public, connections, duration, reconnects: false, bandwidth: None };
    let (outcome, peak) = monitor.during(run.run()).await;
    over.cancel();
    let mut sent = senders.join_all().await.concat();
    assert!(sent.len() >= CLIENTS, "{} were served", sent.len());
    assert!(server.peak() < resident + MEMORY, "{resident} KiB of memory grew to {}", server.peak());
    // The connections of the attack and of the clients, and a few files for the store and the spool.
    assert!(peak.files <= files + connections as usize + CLIENTS + 64, "{files} open files grew to {}", peak.files);
    server.metric_is("millpond_connections", |open| open == 0.0).await;
    assert_eq!(get(server.public, "/health").await.status, 200);
    assert_eq!(server.stop().await, Some(0));
    let mut stored = server.lines();
    stored.sort();
    sent.sort();
    assert!(stored == sent, "{} lines of {}", stored.len(), sent.len());
    outcome.unwrap()
}

/// Runs an attack of which the server closes every connection.
async fn all_closed(attack: Attack, env: &[(&str, &str)]) -> Outcome {
    all_of_closed(attack, ATTACKERS, env).await
}

async fn all_of_closed(attack: Attack, connections: u32, env: &[(&str, &str)]) -> Outcome {
    let outcome = attack_server(attack, connections, PATIENCE, env).await;
    let all = u64::from(connections);
    assert_eq!((outcome.connected, outcome.ended, outcome.refused), (all, all, 0), "{attack:?}");
    outcome
}

#[tokio::test]
async fn slow_headers_are_closed() {
    let outcome = all_closed(Attack::Slowloris, SHORT_TIMEOUTS).await;
    assert!(outcome.received > 0, "the response gives the reason");
}

#[tokio::test]
async fn slow_bodies_are_closed() {
    let outcome = all_closed(Attack::SlowBody, SHORT_TIMEOUTS).await;
    assert!(outcome.received > 0, "the response gives the reason");
}

#[tokio::test]
async fn connections_that_do_not_read_responses_are_closed() {
    // The kernel buffers megabytes of responses for each connection first.
    all_of_closed(Attack::Unread, FEW_ATTACKERS, SHORT_TIMEOUTS).await;
}

#[tokio::test]
async fn streams_without_a_window_are_closed() {
    all_closed(Attack::UnreadStreams, SHORT_TIMEOUTS).await;
}

#[tokio::test]
async fn thousands_of_idle_connections_are_closed() {
    let outcome = attack_server(Attack::Idle, 3000, PATIENCE, SHORT_TIMEOUTS).await;
    assert_eq!((outcome.ended, outcome.refused), (3000, 0));
}

/// The flood is endless, so a server that processed it first would never respond to the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipelining_flood_does_not_starve_other_clients() {
    let server = Server::start(&[("RECORD", "payload")]).await;
    let received = Arc::new(AtomicU64::new(0));
    let mut flood = JoinSet::new();
    for _ in 0..PIPELINES {
        let (mut answers, mut requests) = server.connect().await.0.into_split();
        flood.spawn(async move {
            let burst = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n".repeat(PIPELINED);
            while requests.write_all(&burst).await.is_ok() {}
        });
        let received = Arc::clone(&received);
        flood.spawn(async move {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(read @ 1..) = answers.read(&mut buffer).await {
                received.fetch_add(read as u64, Ordering::Relaxed);
            }
        });
    }
    until("the flood is answered", async || received.load(Ordering::Relaxed) > 1 << 20).await;
    server.forget_peak();
    let (resident, began) = (server.peak(), received.load(Ordering::Relaxed));
    let mut senders = JoinSet::new();
    for _ in 0..CLIENTS {
        let mut connection = server.connect().await;
        senders.spawn(async move {
            for n in 0..SERVED {
                connection.write(&post("", format!("{{\"n\":{n}}}").as_bytes())).await;
                assert_eq!(connection.answer().await.expect("an answer").status, 202);
            }
        });
    }
    timeout(PATIENCE, senders.join_all()).await.expect("each ordinary sender is served");
    // The flood was served all the time, and continues.
    let served = received.load(Ordering::Relaxed);
    assert!(served > began, "the flood got no response");
    until("more answers", async || received.load(Ordering::Relaxed) > served + (1 << 20)).await;
    assert!(flood.try_join_next().is_none(), "a connection of the flood was closed");
    assert!(server.peak() < resident + MEMORY, "{resident} KiB of memory grew to {}", server.peak());
    assert_eq!(server.metric("millpond_jobs_accepted_total").await, (CLIENTS * SERVED) as f64);
}

#[tokio::test]
async fn a_pipelining_flood_is_bounded_in_memory_and_loses_nothing() {
    let outcome = attack_server(Attack::Pipeline, 2, Duration::from_secs(1), SHORT_TIMEOUTS).await;
    // The number of responses depends on the buffers of the sockets.
    assert!(outcome.received > 1 << 16, "hundreds of answers: {outcome:?}");
}

#[tokio::test]
async fn rapid_resets_are_closed() {
    all_closed(Attack::RapidReset, &[("RECORD", "payload")]).await;
}

#[tokio::test]
async fn resets_that_the_client_provokes_are_closed() {
    all_closed(Attack::MadeYouReset, &[("RECORD", "payload")]).await;
}

#[tokio::test]
async fn endless_header_blocks_are_closed() {
    all_closed(Attack::Continuation, &[("RECORD", "payload")]).await;
    all_closed(Attack::EmptyContinuation, &[("RECORD", "payload")]).await;
}

#[tokio::test]
async fn large_and_invalid_header_blocks_are_closed() {
    all_closed(Attack::HpackBomb, &[("RECORD", "payload")]).await;
    all_closed(Attack::MalformedHeaders, &[("RECORD", "payload")]).await;
}

#[tokio::test]
async fn floods_of_control_frames_are_closed() {
    // No timeout applies to these.
    let patient = [("RECORD", "payload"), ("BODY_TIMEOUT", "5m"), ("IDLE_TIMEOUT", "5m")];
    let floods = [
        Attack::Ping,
        Attack::UnreadPings,
        Attack::Settings,
        Attack::SettingsAcks,
        Attack::Priority,
        Attack::EmptyData,
        Attack::WindowUpdate,
        Attack::Trailers,
    ];
    for flood in floods {
        all_closed(flood, &patient).await;
    }
}
