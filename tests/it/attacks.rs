//! Hostile senders beside ordinary ones: what they do is bounded in memory, connections and time, and nobody else is
//! refused or loses anything by it.

use std::time::Duration;

use loadtest::attack::{Assault, Attack, Outcome, Peak, Watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::{PATIENCE, Server, get, post};

/// Connections of each attack.
const ATTACKERS: u32 = 20;
/// Ordinary senders beside it.
const SENDERS: usize = 4;
/// Memory that an attack may cost, in bytes: what hyper holds for so many connections, and what allocators keep.
const MEMORY: u64 = 48 << 20;

/// Whoever is slow is to be found out soon here.
const IMPATIENT: &[(&str, &str)] =
    &[("RECORD", "payload"), ("HEADER_TIMEOUT", "300ms"), ("BODY_TIMEOUT", "600ms"), ("IDLE_TIMEOUT", "600ms")];

/// Attacks the server, with ordinary senders beside the attack who all have to be served, and whose payloads all have to be
/// in the store at the end; then stops the server.
async fn besieged(attack: Attack, connections: u32, duration: Duration, env: &[(&str, &str)]) -> Outcome {
    let mut server = Server::start(env).await;
    let watch = Watch { pid: server.pid() };
    let Peak { resident, files } = watch.look().unwrap();
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
    let assault = Assault { attack, target: server.public, connections, duration, persists: false, bandwidth: None };
    let (outcome, peak) = watch.during(assault.run()).await;
    over.cancel();
    let mut sent = senders.join_all().await.concat();
    assert!(sent.len() >= SENDERS, "{} were served", sent.len());
    assert!(peak.resident < resident + MEMORY, "{resident} bytes of memory grew to {}", peak.resident);
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
    let outcome = besieged(attack, ATTACKERS, PATIENCE, env).await;
    let all = u64::from(ATTACKERS);
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
    ended(Attack::Unread, IMPATIENT).await;
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

#[tokio::test]
async fn a_pipelining_flood_is_answered_as_far_as_it_reads_and_holds_nobody_up() {
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
