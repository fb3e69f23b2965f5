//! Arbitrary bytes, in pieces, to the public listener in memory: the responses are HTTP, only accepted batches get a 2xx, and
//! no reservation remains when the connection has ended.

#![no_main]

mod world;

use std::pin::pin;

use libfuzzer_sys::fuzz_target;
use millpond::http::render_rejection;
use millpond::server::serve_connection;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};
use tokio::runtime;
use tokio_util::sync::CancellationToken;

use world::{World, settled};

const H2_START: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The buffer of the connection; smaller than some responses.
const PIPE_BYTES: usize = 512;

// The first byte selects the kind of input, the second how it is sent.
fuzz_target!(|input: &[u8]| {
    let Some(([what, how], rest)) = input.split_first_chunk() else { return };
    let sent = match what & 3 {
        0 => rest.to_vec(),
        1 => batch(what >> 2, rest),
        2 => [H2_START, rest].concat(),
        _ => frames(rest),
    };
    let (piece, goes_away) = (1 + usize::from(how & 63) * usize::from(how & 63), how & 64 != 0);
    // Paused time: it advances only while every task waits.
    let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(converse(&sent, piece, goes_away, how & 128 != 0));
});

async fn converse(sent: &[u8], piece: usize, goes_away: bool, has_tenants: bool) {
    let World { public, timeouts, dispatcher, metrics, depth } = World::new(has_tenants).await;
    let (ours, theirs) = duplex(PIPE_BYTES);
    let (mut answers, mut requests) = split(ours);
    let send = async move {
        for piece in sent.chunks(piece) {
            if requests.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        if goes_away {
            // An error means that the server has closed the connection.
            let _: Result<_, _> = requests.shutdown().await;
        } else {
            // The server has to end the connection.
            std::future::pending::<()>().await;
        }
    };
    let receive = async {
        let mut received = Vec::new();
        answers.read_to_end(&mut received).await.expect("a pipe");
        received
    };
    let talk = async {
        let (mut send, mut receive) = (pin!(send), pin!(receive));
        tokio::select! {
            received = &mut receive => received,
            () = &mut send => receive.await,
        }
    };
    let serve = serve_connection(theirs, public, timeouts, render_rejection, CancellationToken::new());
    let (received, (), ()) = tokio::join!(talk, serve, dispatcher.run());
    settled(&depth, &metrics, &received);
}

/// A batch with valid headers and this body.
fn batch(choice: u8, body: &[u8]) -> Vec<u8> {
    let encoding = ["", "Content-Encoding: gzip\r\n", "Content-Encoding: deflate\r\n", "Content-Encoding: zstd\r\n"];
    let form = ["application/json", "application/x-ndjson"];
    let who = ["", "Authorization: Bearer t\r\n", "X-Api-Key: u\r\n", "Authorization: Bearer x\r\n"];
    let path = ["/", "/v1/payloads?ack=stored"];
    let pick = |shift: u8, of: usize| usize::from(choice >> shift) % of;
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: x\r\nContent-Type: {}\r\n{}{}Content-Length: {}\r\n\r\n",
        path[pick(4, 2)],
        form[pick(2, 2)],
        encoding[pick(0, 4)],
        who[pick(3, 4)],
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Frames with correct lengths. `plan` has the length, kind, flags, stream and payload of each.
fn frames(mut plan: &[u8]) -> Vec<u8> {
    let mut sent = H2_START.to_vec();
    while let Some(([length, kind, flags, stream], rest)) = plan.split_first_chunk() {
        let (payload, behind) = rest.split_at(usize::from(*length).min(rest.len()));
        sent.extend_from_slice(&[0, 0, payload.len() as u8, kind % 11, *flags, 0, 0, 0, *stream]);
        sent.extend_from_slice(payload);
        plan = behind;
    }
    sent
}
