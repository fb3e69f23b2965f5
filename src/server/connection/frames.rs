//! A budget for HTTP/2 frames that belong to no request.
//!
//! HTTP/2 has frames that a client can send without end, each of which costs the server work: PING and SETTINGS, which are
//! acknowledged, PRIORITY, WINDOW_UPDATE, RST_STREAM, and frames without content. They show neither in the number of
//! connections nor in that of requests, so they are counted against the requests that they come with.

use tokio::time::Instant;

const FRAME_HEADER_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// The budget of a connection: this many frames at once, and this many more in every second. Clients send some ten at their
/// start, and few after that.
const FRAMES_MAX: u32 = 1000;
const FRAMES_PER_SECOND: u32 = 100;
/// Each request adds this many: a window update or two, a reset, a ping, CONTINUATION, an empty frame at the end.
const FRAMES_PER_REQUEST: u32 = 8;

/// Follows a connection from frame to frame.
pub(super) struct FrameBudget {
    state: State,
    /// Frames without a request that may still arrive.
    remaining: u32,
    refilled: Instant,
}

enum State {
    /// This many bytes of a frame's header have arrived.
    Header([u8; FRAME_HEADER_BYTES], usize),
    /// This many bytes of its payload are missing.
    Payload(usize),
}

/// The budget is used up.
#[derive(Debug, thiserror::Error)]
#[error("flood of HTTP/2 frames that belong to no request")]
pub(super) struct FrameFlood;

impl FrameBudget {
    pub(super) fn new(now: Instant) -> Self {
        Self { state: State::Header([0; FRAME_HEADER_BYTES], 0), remaining: FRAMES_MAX, refilled: now }
    }

    /// Counts the frames in the next bytes after the preface, however they are split.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), FrameFlood> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Header(header, have) => {
                    for (to, from) in header.iter_mut().skip(*have).zip(bytes) {
                        *to = *from;
                    }
                    let taken = (FRAME_HEADER_BYTES - *have).min(bytes.len());
                    *have += taken;
                    bytes = bytes.get(taken..).unwrap_or_default();
                    if *have == FRAME_HEADER_BYTES {
                        let [x, y, z, kind, ..] = *header;
                        let length = u32::from_be_bytes([0, x, y, z]);
                        self.state = match length {
                            0 => State::Header([0; FRAME_HEADER_BYTES], 0),
                            _ => State::Payload(length as usize),
                        };
                        self.count(kind, length)?;
                    }
                }
                State::Payload(missing) => {
                    let taken = (*missing).min(bytes.len());
                    *missing -= taken;
                    bytes = bytes.get(taken..).unwrap_or_default();
                    if *missing == 0 {
                        self.state = State::Header([0; FRAME_HEADER_BYTES], 0);
                    }
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, kind: u8, length: u32) -> Result<(), FrameFlood> {
        match kind {
            DATA if length > 0 => {}
            HEADERS => self.add(FRAMES_PER_REQUEST),
            _ => {
                if self.remaining == 0 {
                    self.refill(Instant::now());
                }
                self.remaining = self.remaining.checked_sub(1).ok_or(FrameFlood)?;
            }
        }
        Ok(())
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.refilled);
        self.refilled = now;
        self.add((passed.as_secs_f64() * f64::from(FRAMES_PER_SECOND)) as u32);
    }

    fn add(&mut self, frames: u32) {
        self.remaining = self.remaining.saturating_add(frames).min(FRAMES_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PING: u8 = 6;

    fn frame(kind: u8, length: u8) -> Vec<u8> {
        [&[0, 0, length, kind, 0, 0, 0, 0, 1], &vec![0; usize::from(length)][..]].concat()
    }

    fn budget() -> FrameBudget {
        FrameBudget::new(Instant::now())
    }

    /// How many pings are within the budget.
    fn pings(budget: &mut FrameBudget) -> u32 {
        let taken = (0..10 * FRAMES_MAX).take_while(|_| budget.read(&frame(PING, 8)).is_ok()).count();
        // The payload of the one that was over the budget.
        budget.read(&[0; 8]).unwrap();
        taken as u32
    }

    #[tokio::test(start_paused = true)]
    async fn frames_without_a_request_are_within_the_budget_however_they_are_split() {
        assert_eq!(pings(&mut budget()), FRAMES_MAX);
        let all = frame(PING, 8).repeat(FRAMES_MAX as usize);
        for size in [1, 7, 16, 25, 1000, all.len()] {
            let mut budget = budget();
            assert!(all.chunks(size).all(|piece| budget.read(piece).is_ok()), "{size}");
            assert!(budget.read(&frame(PING, 8)).is_err(), "{size}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_and_time_refill_the_budget_up_to_its_maximum() {
        let mut budget = budget();
        pings(&mut budget);
        for _ in 0..3 {
            budget.read(&frame(HEADERS, 20)).unwrap();
        }
        assert_eq!(pings(&mut budget), 3 * FRAMES_PER_REQUEST);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(pings(&mut budget), 2 * FRAMES_PER_SECOND);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(pings(&mut budget), FRAMES_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn frames_of_bodies_are_not_counted() {
        let mut budget = budget();
        for _ in 0..2 * FRAMES_MAX {
            budget.read(&frame(DATA, 1)).unwrap();
        }
    }
}
