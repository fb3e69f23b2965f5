//! The requests of one thread, made ahead of their time so that making them is no latency of the server's. No two are
//! alike: each payload has a number of its own, which is booked when its request has been answered.

use std::collections::VecDeque;

use anyhow::Context;

use super::Plan;
use super::shape::Shape;
use crate::batch::Batch;
use crate::ledger::{Outcome, Sent};
use crate::payload::{Number, Payloads};

/// Space before the body for the request's head, which can only be written once the body's length is known.
const HEADROOM: usize = 512;

/// At most so many requests lie ready, and no further one is made while they have so many bytes.
const MOST: usize = 64;
const MOST_BYTES: usize = 8 << 20;

pub(super) struct Stock {
    batch: Batch,
    head: Vec<u8>,
    shape: Shape,
    /// The endpoints take turns.
    endpoints: Vec<(u32, Sent)>,
    made: u64,
    ready: VecDeque<Request>,
    ready_bytes: usize,
    most: usize,
    /// Buffers for the next ones, so that what is idle holds none.
    spare: Vec<Vec<u8>>,
}

/// The bytes of a request, and whose payloads are in it.
pub(super) struct Request {
    /// The place in [`Stock::endpoints`].
    endpoint: usize,
    first: u64,
    count: usize,
    start: usize,
    buffer: Vec<u8>,
}

impl Request {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }
}

impl Stock {
    /// Filled, for so many connections.
    pub(super) fn new(plan: &Plan, endpoints: Vec<u32>, connections: usize) -> anyhow::Result<Self> {
        let payloads = Payloads::new(plan.run, plan.payload_size);
        let mut stock = Self {
            batch: Batch::new(payloads, plan.form, plan.encoding, &plan.token),
            head: plan.head(),
            shape: plan.shape,
            endpoints: endpoints.into_iter().map(|endpoint| (endpoint, Sent::default())).collect(),
            made: 0,
            ready: VecDeque::new(),
            ready_bytes: 0,
            most: connections.min(MOST),
            spare: Vec::new(),
        };
        stock.refill(MOST)?;
        Ok(stock)
    }

    /// The next request, made now if none is ready.
    pub(super) fn take(&mut self) -> anyhow::Result<Request> {
        match self.ready.pop_front() {
            Some(request) => {
                self.ready_bytes -= request.buffer.len();
                Ok(request)
            }
            None => self.make(),
        }
    }

    /// Makes up to `count` requests for those that were taken.
    pub(super) fn refill(&mut self, count: usize) -> anyhow::Result<()> {
        for _ in 0..count {
            if self.ready.len() >= self.most || self.ready_bytes >= MOST_BYTES {
                break;
            }
            let request = self.make()?;
            self.ready_bytes += request.buffer.len();
            self.ready.push_back(request);
        }
        Ok(())
    }

    /// Books what came of a request.
    pub(super) fn book(&mut self, request: Request, outcome: Outcome) {
        if let Some((_, sent)) = self.endpoints.get_mut(request.endpoint) {
            sent.book(request.first, request.count, outcome);
        }
        if self.spare.len() < self.most {
            self.spare.push(request.buffer);
        }
    }

    /// What each endpoint has sent. What still lies ready was not.
    pub(super) fn sent(&mut self) -> Vec<(u32, Sent)> {
        std::mem::take(&mut self.endpoints)
    }

    fn make(&mut self) -> anyhow::Result<Request> {
        let count = self.shape.payloads(self.made);
        let place = (self.made % self.endpoints.len().max(1) as u64) as usize;
        let (endpoint, sent) = self.endpoints.get_mut(place).context("a load without endpoints")?;
        let first = Number { endpoint: *endpoint, sequence: sent.take(count) };
        self.made += 1;

        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.resize(HEADROOM, 0);
        self.batch.write(first, count, &mut buffer)?;
        let length = (buffer.len() - HEADROOM).to_string();
        let start = HEADROOM
            .checked_sub(self.head.len() + length.len() + 4)
            .context("the request's head is too long: shorten the URL or the token")?;
        for (at, byte) in (start..).zip(self.head.iter().chain(length.as_bytes()).chain(b"\r\n\r\n")) {
            buffer[at] = *byte;
        }
        Ok(Request { endpoint: place, first: first.sequence, count, start, buffer })
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::ledger::{Ledger, Totals};

    fn stock(shape: Shape, endpoints: Vec<u32>) -> Stock {
        let plan = Plan { shape, ..Plan::new(SocketAddr::from(([127, 0, 0, 1], 1))) };
        Stock::new(&plan, endpoints, 8).unwrap()
    }

    #[test]
    fn no_two_requests_are_alike_and_the_endpoints_take_turns() {
        let mut stock = stock(Shape::Even(2), vec![0, 1, 2]);
        let mut seen = std::collections::HashSet::new();
        for turn in 0..100 {
            let request = stock.take().unwrap();
            assert_eq!(request.endpoint, turn % 3);
            assert!(request.bytes().starts_with(b"POST /v1/payloads HTTP/1.1\r\n"));
            assert!(seen.insert(request.bytes().to_vec()));
            stock.book(request, Outcome::Accepted);
            stock.refill(usize::from(turn % 2 == 0)).unwrap();
        }
    }

    #[test]
    fn of_a_mix_each_request_is_booked_with_its_own_number_of_payloads() {
        let mut stock = stock(Shape::Mixed, vec![0, 1]);
        let taken: Vec<_> = (0..20).map(|_| stock.take().unwrap()).collect();
        stock.refill(MOST).unwrap();
        // Answers come in any order.
        for request in taken.into_iter().rev() {
            let outcome = if request.count == 100 { Outcome::Refused } else { Outcome::Accepted };
            stock.book(request, outcome);
        }
        let totals = Ledger::new(stock.sent().into_iter().map(|(_, sent)| sent)).totals();
        assert_eq!(totals, Totals { sent: 164, accepted: 64, lost: 64, refused: 100, ..Totals::default() });
    }

    #[test]
    fn large_requests_are_not_made_ahead_without_bound() {
        let mut stock = stock(Shape::Even(10_000), vec![0]);
        stock.refill(MOST).unwrap();
        assert!(stock.ready.len() < 8 && stock.ready_bytes < MOST_BYTES + (4 << 20), "{}", stock.ready_bytes);
    }
}
