//! Decode permits: a tenant with many large bodies delays the large bodies of another tenant only a little.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinSet;

use crate::encode::zstd;
use crate::support::{Server, post, until};
use crate::tokens::TokensFile;

/// Connections of the flooding tenant, each with a large body in flight.
const FLOODERS: usize = 32;
/// The most bodies of the flood that are answered while a body of the other tenant waits. In a queue for all tenants it would
/// be nearly the number of connections.
const ANSWERED_BEFORE_MAX: usize = FLOODERS / 2;
/// Bodies of the other tenant.
const BODIES: usize = 5;

/// A body that is large enough to need a decode permit, and invalid at its end.
fn flood_body() -> Vec<u8> {
    let mut body = vec![b' '; 1 << 20];
    body[0] = b'[';
    zstd(&body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_floods_large_bodies_does_not_delay_another_behind_all_of_them() {
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
    // Now every connection has sent another body.
    until("the flood", async || answered.load(Ordering::Relaxed) > FLOODERS).await;

    // Large enough to need a decode permit.
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
    // The best case: in a queue for all tenants no body would be answered sooner.
    let min = waited_for.iter().min().unwrap();
    assert!(*min < ANSWERED_BEFORE_MAX, "responses to the flood before each: {waited_for:?}");
    assert!(flood.try_join_next().is_none(), "the flood has ended");
}
