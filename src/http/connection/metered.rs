//! What a connection may ask of the server's time.
//!
//! A task that always finds something to read would keep others from their turn, and HTTP/2 has frames that a sender can
//! send for ever, each of which costs the server something and brings it nothing: pings and settings to be acknowledged,
//! priorities, windows, resets, frames of no bytes. Neither shows in the number of connections or requests. So what is read
//! in one turn is bounded, and such frames are counted against the requests that they come with.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::version::Version;

/// Bytes of HTTP/2 that are read before other connections have their turn: a thousand of the smallest frames, some 0.1 ms.
const H2_TURN_BYTES: usize = 16 * 1024;
/// The same of HTTP/1, whose requests cost far more than their bytes. hyper closes a connection whose refused body it cannot
/// read away at once, so a turn is to be longer than the usual body.
const H1_TURN_BYTES: usize = 256 * 1024;

const FRAME_HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// Frames beside requests that a connection may send at once, and in every second: clients send some ten at their start,
/// and few after that.
const FRAMES_AT_ONCE: u32 = 1000;
const FRAMES_PER_SECOND: u32 = 100;
/// Those that may come with each request: a window or two, a reset, a ping, CONTINUATION, an empty end.
const FRAMES_PER_REQUEST: u32 = 8;

/// The socket with its bounds.
pub(super) struct Metered<IO> {
    io: IO,
    /// Bytes read since there was nothing to read, or since the last turn.
    read: usize,
    frames: Frames,
}

/// Follows the bytes of a connection from frame to frame.
struct Frames {
    version: Version,
    state: State,
    /// Frames beside requests that may still come.
    allowance: u32,
    filled: Instant,
}

enum State {
    /// So much of a frame's head.
    Head([u8; FRAME_HEAD_BYTES], usize),
    /// So much of its payload is still to come.
    Payload(usize),
}

/// A sender that sends what nobody needs.
#[derive(Debug, thiserror::Error)]
#[error("a flood of HTTP/2 frames that belong to no request")]
struct Flood;

impl<IO> Metered<IO> {
    pub(super) fn new(io: IO) -> Self {
        Self { io, read: 0, frames: Frames::new(Instant::now()) }
    }
}

impl Frames {
    fn new(now: Instant) -> Self {
        Self {
            version: Version::NEW,
            state: State::Head([0; FRAME_HEAD_BYTES], 0),
            allowance: FRAMES_AT_ONCE,
            filled: now,
        }
    }

    /// Whether these bytes may follow on those before.
    fn follow(&mut self, bytes: &[u8]) -> Result<(), Flood> {
        let mut bytes = self.version.follow(bytes);
        if self.version != Version::Http2 {
            return Ok(());
        }
        while !bytes.is_empty() {
            match &mut self.state {
                State::Head(head, had) => {
                    for (to, from) in head.iter_mut().skip(*had).zip(bytes) {
                        *to = *from;
                    }
                    let taken = (FRAME_HEAD_BYTES - *had).min(bytes.len());
                    *had += taken;
                    bytes = bytes.get(taken..).unwrap_or_default();
                    if *had == FRAME_HEAD_BYTES {
                        let [x, y, z, kind, ..] = *head;
                        let length = u32::from_be_bytes([0, x, y, z]);
                        self.state = match length {
                            0 => State::Head([0; FRAME_HEAD_BYTES], 0),
                            _ => State::Payload(length as usize),
                        };
                        self.count(kind, length)?;
                    }
                }
                State::Payload(left) => {
                    let taken = (*left).min(bytes.len());
                    *left -= taken;
                    bytes = bytes.get(taken..).unwrap_or_default();
                    if *left == 0 {
                        self.state = State::Head([0; FRAME_HEAD_BYTES], 0);
                    }
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, kind: u8, length: u32) -> Result<(), Flood> {
        match kind {
            DATA if length > 0 => {}
            HEADERS => self.allow(FRAMES_PER_REQUEST),
            _ => {
                if self.allowance == 0 {
                    self.refill(Instant::now());
                }
                self.allowance = self.allowance.checked_sub(1).ok_or(Flood)?;
            }
        }
        Ok(())
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled);
        self.filled = now;
        self.allow((passed.as_secs_f64() * f64::from(FRAMES_PER_SECOND)) as u32);
    }

    fn allow(&mut self, frames: u32) {
        self.allowance = self.allowance.saturating_add(frames).min(FRAMES_AT_ONCE);
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Metered<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let turn = if self.frames.version == Version::Http1 { H1_TURN_BYTES } else { H2_TURN_BYTES };
        if self.read >= turn {
            self.read = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buffer);
        match &polled {
            Poll::Pending => self.read = 0,
            Poll::Ready(_) => {
                let bytes = buffer.filled().get(before..).unwrap_or_default();
                self.read += bytes.len();
                if let Err(flood) = self.frames.follow(bytes) {
                    return Poll::Ready(Err(io::Error::other(flood)));
                }
            }
        }
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Metered<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::version::H2_PREFACE;
    use super::*;

    const PING: u8 = 6;

    fn frame(kind: u8, length: u8) -> Vec<u8> {
        [&[0, 0, length, kind, 0, 0, 0, 0, 1], &vec![0; usize::from(length)][..]].concat()
    }

    fn begun() -> Frames {
        let mut frames = Frames::new(Instant::now());
        frames.follow(H2_PREFACE).unwrap();
        frames
    }

    /// How many pings are taken, up to more than any allowance.
    fn pings(frames: &mut Frames) -> u32 {
        let taken = (0..10 * FRAMES_AT_ONCE).take_while(|_| frames.follow(&frame(PING, 8)).is_ok()).count();
        // The one that was not taken has a payload all the same.
        frames.follow(&[0; 8]).unwrap();
        taken as u32
    }

    #[tokio::test(start_paused = true)]
    async fn frames_beside_requests_are_taken_up_to_their_allowance_however_they_are_cut() {
        assert_eq!(pings(&mut begun()), FRAMES_AT_ONCE);
        let all = [&H2_PREFACE[..], &frame(PING, 8).repeat(FRAMES_AT_ONCE as usize)].concat();
        for size in [1, 7, 16, 25, 1000, all.len()] {
            let mut frames = Frames::new(Instant::now());
            assert!(all.chunks(size).all(|piece| frames.follow(piece).is_ok()), "{size}");
            assert!(frames.follow(&frame(PING, 8)).is_err(), "{size}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_and_time_allow_for_more_frames_and_never_for_more_than_at_once() {
        let mut frames = begun();
        pings(&mut frames);
        for _ in 0..3 {
            frames.follow(&frame(HEADERS, 20)).unwrap();
        }
        assert_eq!(pings(&mut frames), 3 * FRAMES_PER_REQUEST);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(pings(&mut frames), 2 * FRAMES_PER_SECOND);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(pings(&mut frames), FRAMES_AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_and_what_is_no_http_2_are_not_counted() {
        let mut frames = begun();
        for _ in 0..2 * FRAMES_AT_ONCE {
            frames.follow(&frame(DATA, 1)).unwrap();
        }
        let mut frames = Frames::new(Instant::now());
        frames.follow(b"PRI").unwrap();
        for _ in 0..2 * FRAMES_AT_ONCE {
            frames.follow(b"NT / HTTP/1.1\r\n\r\n").unwrap();
        }
    }

    #[tokio::test]
    async fn a_sender_that_always_has_more_leaves_turns_to_others() {
        let endless = tokio::io::repeat(b'x');
        let mut metered = Metered::new(endless);
        let mut buffer = vec![0; H1_TURN_BYTES];
        let mut read = || {
            let mut buffer = ReadBuf::new(&mut buffer);
            let mut cx = Context::from_waker(std::task::Waker::noop());
            Pin::new(&mut metered).poll_read(&mut cx, &mut buffer).is_ready()
        };
        assert_eq!([read(), read(), read(), read()], [true, false, true, false]);
    }
}
