//! The requests of one thread, made in advance so that making them adds no latency. No two are alike: each payload has a
//! number of its own, whose outcome is recorded with the response.

use std::collections::VecDeque;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::Full;

use super::{Plan, Shape};
use crate::batch::Batch;
use crate::ledger::{Outcome, Sent};
use crate::payload::{Number, Payloads};

/// Space before the body for the request's head, which needs the body's length.
const HEADROOM: usize = 2048;

/// The most requests that are ready, and the bytes after which no further one is made.
const MAX_READY: usize = 64;
const MAX_READY_BYTES: usize = 8 << 20;

pub(super) struct Requests {
    batch: Batch,
    http1_head: Bytes,
    http2_head: hyper::Request<()>,
    shape: Shape,
    /// The simulated clients take turns.
    clients: Vec<(u32, Sent)>,
    made: u64,
    ready: VecDeque<Request>,
    ready_bytes: usize,
    /// Buffers for the next ones, so that idle connections hold none.
    spare: Vec<Vec<u8>>,
}

/// The bytes of a request, and the numbers of its payloads.
pub(super) struct Request {
    /// The index in [`Requests::clients`].
    client: usize,
    first: u64,
    count: usize,
    start: usize,
    buffer: Vec<u8>,
}

impl Request {
    /// Head and body.
    pub(super) fn http1(&self) -> &[u8] {
        &self.buffer[self.start..]
    }
}

impl Requests {
    /// Filled, for these clients.
    pub(super) fn new(plan: &Plan, clients: Vec<u32>) -> anyhow::Result<Self> {
        let payloads = Payloads::new(plan.run, plan.payload_size);
        let mut requests = Self {
            batch: Batch::new(payloads, plan.form, plan.encoding, &plan.token)?,
            http1_head: plan.http1_head()?,
            http2_head: plan.head()?,
            shape: plan.shape,
            clients: clients.into_iter().map(|client| (client, Sent::default())).collect(),
            made: 0,
            ready: VecDeque::new(),
            ready_bytes: 0,
            spare: Vec::new(),
        };
        requests.refill(MAX_READY)?;
        Ok(requests)
    }

    /// The next request, made now if none is ready.
    pub(super) fn take(&mut self) -> anyhow::Result<Request> {
        let Some(request) = self.ready.pop_front() else { return self.make() };
        self.ready_bytes -= request.buffer.len();
        Ok(request)
    }

    /// The same request for HTTP/2.
    pub(super) fn http2(&self, request: &Request) -> hyper::Request<Full<Bytes>> {
        self.http2_head.clone().map(|()| Full::new(Bytes::copy_from_slice(&request.buffer[HEADROOM..])))
    }

    /// Makes up to `count` requests in the place of those that were taken.
    pub(super) fn refill(&mut self, count: usize) -> anyhow::Result<()> {
        for _ in 0..count {
            if self.ready.len() >= self.clients.len().min(MAX_READY) || self.ready_bytes >= MAX_READY_BYTES {
                break;
            }
            let request = self.make()?;
            self.ready_bytes += request.buffer.len();
            self.ready.push_back(request);
        }
        Ok(())
    }

    /// Records the outcome of a request.
    pub(super) fn record(&mut self, request: Request, outcome: Outcome) {
        if let Some((_, sent)) = self.clients.get_mut(request.client) {
            sent.record(request.first, request.count, outcome);
        }
        if self.spare.len() < MAX_READY {
            self.spare.push(request.buffer);
        }
    }

    /// What each client has sent, without the requests that are still ready.
    pub(super) fn sent(&mut self) -> Vec<(u32, Sent)> {
        std::mem::take(&mut self.clients)
    }

    fn make(&mut self) -> anyhow::Result<Request> {
        let count = self.shape.payloads(self.made);
        let index = (self.made % self.clients.len().max(1) as u64) as usize;
        let (client, sent) = self.clients.get_mut(index).context("a load without clients")?;
        let first = Number { client: *client, sequence: sent.take(count) };
        self.made += 1;

        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.resize(HEADROOM, 0);
        self.batch.write(first, count, &mut buffer)?;
        let length = (buffer.len() - HEADROOM).to_string();
        let head = [&self.http1_head, length.as_bytes(), b"\r\n\r\n"].concat();
        let start =
            HEADROOM.checked_sub(head.len()).context("the request's head is too long: shorten the URL or the token")?;
        buffer[start..HEADROOM].copy_from_slice(&head);
        Ok(Request { client: index, first: first.sequence, count, start, buffer })
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::ledger::{Ledger, Totals};

    fn requests(shape: Shape, clients: Vec<u32>) -> Requests {
        let plan = Plan { shape, ..Plan::new(SocketAddr::from(([127, 0, 0, 1], 1))) };
        Requests::new(&plan, clients).unwrap()
    }

    #[test]
    fn no_two_requests_are_alike_and_the_clients_take_turns() {
        let mut requests = requests(Shape::Even(2), vec![0, 1, 2]);
        let mut seen = std::collections::HashSet::new();
        for turn in 0..100 {
            let request = requests.take().unwrap();
            assert_eq!(request.client, turn % 3);
            assert!(request.http1().starts_with(b"POST /v1/payloads HTTP/1.1\r\n"));
            assert!(seen.insert(request.http1().to_vec()));
            requests.record(request, Outcome::Accepted);
            requests.refill(usize::from(turn % 2 == 0)).unwrap();
        }
    }

    #[test]
    fn each_request_of_a_mix_is_recorded_with_its_own_number_of_payloads() {
        let mut requests = requests(Shape::Mixed, vec![0, 1]);
        let taken: Vec<_> = (0..20).map(|_| requests.take().unwrap()).collect();
        requests.refill(MAX_READY).unwrap();
        // Responses arrive in any order.
        for request in taken.into_iter().rev() {
            let outcome = if request.count == 100 { Outcome::Rejected } else { Outcome::Accepted };
            requests.record(request, outcome);
        }
        let totals = Ledger::new(requests.sent().into_iter().map(|(_, sent)| sent)).totals();
        assert_eq!(totals, Totals { sent: 164, accepted: 64, lost: 64, rejected: 100, ..Totals::default() });
    }

    #[test]
    fn large_requests_in_advance_are_bounded_in_bytes() {
        let mut requests = requests(Shape::Even(10_000), (0..8).collect());
        requests.refill(MAX_READY).unwrap();
        assert!(requests.ready.len() < 8 && requests.ready_bytes < MAX_READY_BYTES + (4 << 20));
    }
}
