//! Memory of the requests in flight, counted in bytes for the process and for each client address.
//!
//! A request is charged when its headers are read, and the charge is given back when its answer has been written to the
//! connection, or dropped with it: an answer that a client does not make room for (HTTP/2 flow control) or does not read
//! is memory, too. Bodies are not part of it: they count against `MAX_QUEUE_BYTES`.
//!
//! A request over the budget is refused. The answer to it takes memory as well, from a reserve. When the reserve is used
//! up, the clients do not read their refusals, and a connection that sends one more request is ended.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::HeaderMap;

use super::Problem;
use super::addresses::network;
use crate::metrics::Metrics;

/// What a request takes beside its headers and its body: its task, its stream in h2, its timers and its answer.
const REQUEST_BYTES: usize = 4 * 1024;
/// What a header line takes beside its name and its value: an entry of the map, twice, as the map doubles when it grows.
const HEADER_LINE_BYTES: usize = 240;
/// What the answer to a refused request takes while it waits to be written.
const REFUSAL_BYTES: usize = 2 * 1024;
/// What all requests in flight may be charged together.
const MAX_BYTES: usize = 64 << 20;
/// What those of one address may be charged, so that one address leaves room for others.
const ADDRESS_MAX_BYTES: usize = 16 << 20;
/// What refusals may take beside that, together and for one address.
const RESERVE_BYTES: usize = 8 << 20;
const ADDRESS_RESERVE_BYTES: usize = 1 << 20;
/// What a refused client is told to wait, in seconds, before jitter doubles it at most.
const AGAIN_SECS: u64 = 1;

/// The budget of a listener.
#[derive(Clone)]
pub(super) struct InFlight {
    metrics: Arc<Metrics>,
    used: Arc<Mutex<Used>>,
}

#[derive(Debug, Default)]
struct Used {
    total: Bytes,
    by_address: HashMap<IpAddr, Bytes>,
}

/// What is charged, by [`Kind`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Bytes {
    admitted: usize,
    refused: usize,
}

/// What a charge is for. Each kind has limits of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Admitted,
    Refused,
}

/// What comes of a request.
pub(super) enum Admission {
    Admitted(Charge),
    /// It is answered with the problem.
    Refused(Charge, Problem),
    /// There is no memory even for a refusal: its connection is to be ended.
    Exhausted,
}

/// What one request is charged, until this is dropped.
pub(super) struct Charge {
    of: InFlight,
    address: Option<IpAddr>,
    kind: Kind,
    bytes: usize,
    /// The part of it that is for the headers, on top of `bytes`.
    headers: AtomicUsize,
}

impl InFlight {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, used: Arc::default() }
    }

    /// Charges a request with these headers. `address` is the client's, if the requests of one address are limited.
    pub(super) fn admit(&self, address: Option<IpAddr>, headers: &HeaderMap) -> Admission {
        let address = address.map(network);
        let header_bytes = size(headers);
        let mut used = self.lock();
        let charge = |kind, bytes, headers: usize| {
            self.metrics.requests_in_flight.inc();
            self.metrics.requests_in_flight_bytes.add(signed(bytes + headers));
            Charge { of: self.clone(), address, kind, bytes, headers: AtomicUsize::new(headers) }
        };
        if used.take(address, Kind::Admitted, REQUEST_BYTES + header_bytes) {
            return Admission::Admitted(charge(Kind::Admitted, REQUEST_BYTES, header_bytes));
        }
        let retry_after = AGAIN_SECS + fastrand::u64(..=AGAIN_SECS);
        let problem = match used.total.admitted + REQUEST_BYTES + header_bytes > MAX_BYTES {
            true => Problem::TooManyRequests { retry_after },
            false => Problem::TooManyRequestsFromAddress { retry_after },
        };
        if used.take(address, Kind::Refused, REFUSAL_BYTES) {
            return Admission::Refused(charge(Kind::Refused, REFUSAL_BYTES, 0), problem);
        }
        Admission::Exhausted
    }

    fn give_back(&self, address: Option<IpAddr>, kind: Kind, bytes: usize) {
        self.lock().give_back(address, kind, bytes);
        self.metrics.requests_in_flight_bytes.sub(signed(bytes));
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kind {
    /// The most bytes of the process, and those of an address.
    fn limits(self) -> (usize, usize) {
        match self {
            Self::Admitted => (MAX_BYTES, ADDRESS_MAX_BYTES),
            Self::Refused => (RESERVE_BYTES, ADDRESS_RESERVE_BYTES),
        }
    }
}

impl Bytes {
    fn of(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Admitted => &mut self.admitted,
            Kind::Refused => &mut self.refused,
        }
    }
}

impl Used {
    /// Takes so many bytes, if they are within the limits.
    fn take(&mut self, address: Option<IpAddr>, kind: Kind, bytes: usize) -> bool {
        let (most, address_most) = kind.limits();
        let mut of_address = address.and_then(|address| self.by_address.get(&address)).copied().unwrap_or_default();
        let address_fits = address.is_none() || *of_address.of(kind) + bytes <= address_most;
        if !address_fits || *self.total.of(kind) + bytes > most {
            return false;
        }
        *self.total.of(kind) += bytes;
        if let Some(address) = address {
            *self.by_address.entry(address).or_default().of(kind) += bytes;
        }
        true
    }

    fn give_back(&mut self, address: Option<IpAddr>, kind: Kind, bytes: usize) {
        let less = |used: &mut Bytes| {
            let used = used.of(kind);
            *used = used.saturating_sub(bytes);
        };
        less(&mut self.total);
        if let Some(address) = address
            && let Some(of_address) = self.by_address.get_mut(&address)
        {
            less(of_address);
            if *of_address == Bytes::default() {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Charge {
    /// Gives back what was charged for the headers: they are dropped.
    pub(super) fn headers_dropped(&self) {
        // It guards no other memory.
        let headers = self.headers.swap(0, Ordering::Relaxed);
        if headers > 0 {
            self.of.give_back(self.address, self.kind, headers);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.of.give_back(self.address, self.kind, self.bytes + *self.headers.get_mut());
        self.of.metrics.requests_in_flight.dec();
    }
}

/// What a map of headers takes.
fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| HEADER_LINE_BYTES + name.as_str().len() + value.len()).sum()
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    fn budget() -> InFlight {
        InFlight::new(Arc::new(Metrics::new(Registry::new()).unwrap()))
    }

    /// The charges of an address until a request is not admitted, those of its refusals, and whether all refusals were
    /// for the address.
    fn exhaust(budget: &InFlight, address: &str) -> (Vec<Charge>, Vec<Charge>, bool) {
        let address = Some(address.parse().unwrap());
        let (mut admitted, mut refused, mut is_address) = (Vec::new(), Vec::new(), true);
        loop {
            match budget.admit(address, &HeaderMap::new()) {
                Admission::Admitted(charge) => admitted.push(charge),
                Admission::Refused(charge, problem) => {
                    refused.push(charge);
                    is_address &= matches!(problem, Problem::TooManyRequestsFromAddress { .. });
                }
                Admission::Exhausted => return (admitted, refused, is_address),
            }
        }
    }

    #[test]
    fn an_address_that_uses_up_its_share_is_refused_and_leaves_room_for_others() {
        let budget = budget();
        let (admitted, refused, is_address) = exhaust(&budget, "192.0.2.1");
        assert_eq!(admitted.len(), ADDRESS_MAX_BYTES / REQUEST_BYTES);
        assert_eq!(refused.len(), ADDRESS_RESERVE_BYTES / REFUSAL_BYTES);
        assert!(is_address);
        let other = budget.admit(Some("192.0.2.2".parse().unwrap()), &HeaderMap::new());
        assert!(matches!(other, Admission::Admitted(_)));
        drop((admitted, refused, other));
        assert_eq!(budget.lock().total, Bytes::default());
        assert!(budget.lock().by_address.is_empty(), "an address at rest is forgotten");
        assert_eq!(budget.metrics.requests_in_flight_bytes.get(), 0);
        assert_eq!(budget.metrics.requests_in_flight.get(), 0);
    }

    #[test]
    fn all_addresses_together_stay_within_the_limit_of_the_process() {
        let budget = budget();
        let held: Vec<_> = (0..6).map(|n| exhaust(&budget, &format!("192.0.2.{n}"))).collect();
        assert!(budget.lock().total.admitted <= MAX_BYTES);
        assert_eq!(budget.lock().total.refused, 6 * ADDRESS_RESERVE_BYTES, "each has a reserve of its own");
        assert!(held[0].2 && !held[5].2, "the last one is told that the server is full");
    }

    #[test]
    fn headers_are_charged_until_they_are_dropped() {
        let budget = budget();
        let headers = HeaderMap::from_iter([(axum::http::header::HOST, "x".repeat(1000).parse().unwrap())]);
        let Admission::Admitted(charge) = budget.admit(None, &headers) else { panic!("it is admitted") };
        assert_eq!(budget.lock().total.admitted, REQUEST_BYTES + HEADER_LINE_BYTES + 1004);
        charge.headers_dropped();
        charge.headers_dropped();
        assert_eq!(budget.lock().total.admitted, REQUEST_BYTES);
        drop(charge);
        assert_eq!(budget.lock().total.admitted, 0);
    }
}
