//! Hostile senders beside ordinary ones: what they do is bounded in memory, connections and time, and nobody else is
//! refused or loses anything by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use loadtest::attack::{Attack, AttackRun, Monitor, Outcome, Peak};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::{PATIENCE, Server, get, post, until};

/// Connections of each attack.
const ATTACKERS: u32 = 20;
/// Connections of an attack that costs the server much before it can be ended.
const FEW_ATTACKERS: u32 = 1;
/// Ordinary senders beside it.
const SENDERS: usize = 4;
/// Memory that an attack may cost, in KiB: what hyper holds for so many connections, and what allocators keep.
const MEMORY: u64 = 48 << 10;
/// Connections of a pipelining flood, more than the server has threads, and what each sends at once.
const PIPELINES: usize = 8;
const PIPELINED: usize = 1000;
/// Answers that each ordinary sender has to get while the flood goes on.
const SERVED: usize = 25;

/// Slow clients are ended soon here. The time to idle is so long that ordinary senders never idle, however busy the machine is.
const IMPATIENT: &[(&str, &str)] =
    &[("RECORD", "payload"), ("HEADER_TIMEOUT", "300ms"), ("BODY_TIMEOUT", "600ms"), ("IDLE_TIMEOUT", "6s")];

/// Attacks the server, with ordinary senders beside the attack who all have to be served, and whose payloads all have to be
/// in the store at the end; then stops the server.
async fn besieged(attack: Attack, connections: u32, duration: Duration, env: &[(&str, &str)]) -> Outcome {
    let mut server = Server::start(env).await;
    let monitor = Monitor { pid: server.pid() };
    let Peak { files, .. } = monitor.sample().unwrap();
    server.forget_peak();
    let resident = server.peak();
    let over = CancellationToken::new();
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
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
    assert!(sent.len() >= SENDERS, "{} were served", sent.len());
    assert!(server.peak() < resident + MEMORY, "{resident} KiB of memory grew to {}", server.peak());
    // Theirs, the other senders', a few for the store and the spool, and nothing else.
    assert!(peak.files <= files + connections as usize + SENDERS + 64, "{files} open files grew to {}", peak.files);
    server.metric_is("millpond_connections", |open| open == 0.0).await;
    assert_eq!(get(server.public, "/health").await.status, 200);
    assert_eq!(server.stop().await, Some(0));
    let mut stored = server.lines();
    stored.sort();
    sent.sort();
    assert!(stored == sent, "{} lines of {}", stored.len(), sent.len());
    outcome.unwrap()
}

/// An attack whose every connection the server ends.
async fn ended(attack: Attack, env: &[(&str, &str)]) -> Outcome {
    ended_all(attack, ATTACKERS, env).await
}

async fn ended_all(attack: Attack, connections: u32, env: &[(&str, &str)]) -> Outcome {
    let outcome = besieged(attack, connections, PATIENCE, env).await;
    let all = u64::from(connections);
    assert_eq!((outcome.connected, outcome.ended, outcome.refused), (all, all, 0), "{attack:?}");
    outcome
}

#[tokio::test]
async fn headers_a_byte_at_a_time_are_ended() {
    let outcome = ended(Attack::Slowloris, IMPATIENT).await;
    assert!(outcome.received > 0, "they are told why");
}

#[tokio::test]
async fn a_body_a_byte_at_a_time_is_ended() {
    let outcome = ended(Attack::SlowBody, IMPATIENT).await;
    assert!(outcome.received > 0, "they are told why");
}

#[tokio::test]
async fn answers_that_are_never_read_are_ended() {
    // Each has the kernel hold megabytes of answers first, which the server has to make.
    ended_all(Attack::Unread, FEW_ATTACKERS, IMPATIENT).await;
}

#[tokio::test]
async fn answers_without_a_window_are_ended() {
    ended(Attack::UnreadStreams, IMPATIENT).await;
}

#[tokio::test]
async fn thousands_of_silent_connections_are_ended() {
    let outcome = besieged(Attack::Idle, 3000, PATIENCE, IMPATIENT).await;
    assert_eq!((outcome.ended, outcome.refused), (3000, 0));
}

/// The flood has no end: a server that had to finish it first would never answer the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_are_served_while_a_pipelining_flood_goes_on() {
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
    for _ in 0..SENDERS {
        let mut connection = server.connect().await;
        senders.spawn(async move {
            for n in 0..SERVED {
                connection.write(&post("", format!("{{\"n\":{n}}}").as_bytes())).await;
                assert_eq!(connection.answer().await.expect("an answer").status, 202);
            }
        });
    }
    timeout(PATIENCE, senders.join_all()).await.expect("each ordinary sender is served");
    // It went on all the while, and still does.
    let served = received.load(Ordering::Relaxed);
    assert!(served > began, "the flood got no answer");
    until("more answers", async || received.load(Ordering::Relaxed) > served + (1 << 20)).await;
    assert!(flood.try_join_next().is_none(), "a connection of the flood has ended");
    assert!(server.peak() < resident + MEMORY, "{resident} KiB of memory grew to {}", server.peak());
    assert_eq!(server.metric("millpond_jobs_accepted_total").await, (SENDERS * SERVED) as f64);
}

#[tokio::test]
async fn a_pipelining_flood_costs_no_memory_and_loses_nothing() {
    let outcome = besieged(Attack::Pipeline, 2, Duration::from_secs(1), IMPATIENT).await;
    // How far the answers have come when the attack ends, sockets' buffers decide.
    assert!(outcome.received > 1 << 16, "hundreds of answers: {outcome:?}");
}

#[tokio::test]
async fn rapid_resets_are_ended() {
    ended(Attack::RapidReset, &[("RECORD", "payload")]).await;
}

#[tokio::test]
async fn resets_that_we_are_made_to_send_are_ended() {
    ended(Attack::MadeYouReset, &[("RECORD", "payload")]).await;
}

#[tokio::test]
async fn header_blocks_without_end_are_ended() {
    ended(Attack::Continuation, &[("RECORD", "payload")]).await;
    ended(Attack::EmptyContinuation, &[("RECORD", "payload")]).await;
}

#[tokio::test]
async fn header_blocks_that_decode_to_megabytes_or_to_nonsense_are_ended() {
    ended(Attack::HpackBomb, &[("RECORD", "payload")]).await;
    ended(Attack::MalformedHeaders, &[("RECORD", "payload")]).await;
}

#[tokio::test]
async fn floods_of_frames_that_belong_to_no_request_are_ended() {
    // No time limit of a connection helps here.
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
        ended(flood, &patient).await;
    }
}
