//! Large bodies take turns by sender: one that sends many keeps another waiting for a few of them at most.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinSet;

use crate::encode::zstd;
use crate::support::{Server, post, until};
use crate::tokens::TokensFile;

/// Connections of the sender that floods, each with a large body under way at any time.
const FLOODERS: usize = 32;
/// Bodies of the flood that may be answered while one of another sender's waits. In one queue for all senders it would be
/// nearly as many as there are connections.
const BEFORE_ANOTHER: usize = FLOODERS / 2;
/// Bodies of the other sender.
const BODIES: usize = 5;

/// Large enough to be decoded in its sender's turn, and refused only at its end.
fn flood_body() -> Vec<u8> {
    let mut body = vec![b' '; 1 << 20];
    body[0] = b'[';
    zstd(&body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_floods_large_bodies_does_not_keep_another_s_waiting_behind_all_of_them() {
    let file = TokensFile::new(&[("flood", &["f"], "{}"), ("quiet", &["q"], "{}")]);
    let server: Server = file.start(&[]).await;
    let answered = Arc::new(AtomicUsize::new(0));
    let request = post("X-Api-Key: f\r\nContent-Encoding: zstd\r\n", &flood_body());
    let mut flood = JoinSet::new();
    for _ in 0..FLOODERS {
        let (mut connection, request, answered) = (server.connect().await, request.clone(), Arc::clone(&answered));
        flood.spawn(async move {
            loop {
                connection.write(&request).await;
                assert_eq!(connection.answer().await.expect("an answer").status, 400);
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    // From here on each of them has another body waiting.
    until("the flood", async || answered.load(Ordering::Relaxed) > FLOODERS).await;

    // Too large to be decoded where it is read.
    let body = format!("[{{\"a\":\"{}\"}}]", "x".repeat(120 << 10));
    let large = post("X-Api-Key: q\r\nContent-Type: application/json\r\n", body.as_bytes());
    let mut connection = server.connect().await;
    let mut waited_for = Vec::new();
    for _ in 0..BODIES {
        let before = answered.load(Ordering::Relaxed);
        connection.write(&large).await;
        assert_eq!(connection.answer().await.expect("an answer").status, 202);
        waited_for.push(answered.load(Ordering::Relaxed) - before);
    }
    // The best of them: in one queue for all senders, none would come sooner.
    let least = waited_for.iter().min().unwrap();
    assert!(*least < BEFORE_ANOTHER, "answers to the flood before each: {waited_for:?}");
    assert!(flood.try_join_next().is_none(), "the flood has ended");
}
