//! Memory of the requests in flight, counted in bytes for the process and for each client address.
//!
//! A request is charged when its headers are read, and the charge is given back when its answer has been written to the
//! connection, or dropped with it: an answer that a client does not make room for (HTTP/2 flow control) or does not read
//! is memory, too. Bodies are not part of it: they count against `MAX_QUEUE_BYTES`.
//!
//! What an address may have falls as the total rises: a quarter of what it has and of what is free. So the last part is
//! there for addresses that have little, however many others take all that they may.
//!
//! A health check has a reserve of its own: a load balancer that is over its share is not to take the server for a dead one.
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
use crate::log_throttle::LogThrottle;
use crate::metrics::Metrics;

/// What a request takes beside its headers and its body: its task, its stream in h2, its timers and its answer.
const REQUEST_BYTES: usize = 4 * 1024;
/// What a header line takes beside its name and its value: an entry of the map, twice, as the map doubles when it grows.
const HEADER_LINE_BYTES: usize = 240;
/// What the answer to a refused request takes while it waits to be written.
const REFUSAL_BYTES: usize = 2 * 1024;
/// What all requests in flight may be charged together, and the last part of it, which is for addresses that have little.
const ADMITTED: Limits = Limits { most: 64 << 20, newcomers: 16 << 20, address_least: 128 << 10 };
/// What refusals may take beside that.
const REFUSED: Limits = Limits { most: 8 << 20, newcomers: 2 << 20, address_least: 16 << 10 };
/// What health checks may take that are over the limits of the others.
const HEALTH: Limits = Limits { most: 4 << 20, newcomers: 2 << 20, address_least: 128 << 10 };
/// The part that one address may have of what it has and of what is free.
const ADDRESS_PART: usize = 4;
/// What a refused client is told to wait, in seconds, before jitter doubles it at most.
const AGAIN_SECS: u64 = 1;

static ADDRESS_OVER_SHARE: LogThrottle = LogThrottle::for_clients();
static PROCESS_FULL: LogThrottle = LogThrottle::for_clients();

/// Limits of one kind of charges, in bytes.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// For the process.
    most: usize,
    /// The part of it for addresses that have no more than `address_least`.
    newcomers: usize,
    /// What an address may have whatever the others have, as long as the process may: a few requests, of which one may have
    /// the longest headers.
    address_least: usize,
}

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
    health: usize,
}

/// What a charge is for. Each kind has limits of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Admitted,
    Refused,
    Health,
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

    /// Charges a request with these headers. `client` is its address, if the requests of one address are limited.
    pub(super) fn admit(&self, client: Option<IpAddr>, headers: &HeaderMap, is_health_check: bool) -> Admission {
        let address = client.map(network);
        let header_bytes = size(headers);
        let mut used = self.lock();
        let charge = |kind, bytes, headers: usize| {
            self.metrics.requests_in_flight.inc();
            self.metrics.requests_in_flight_bytes.add(signed(bytes + headers));
            Charge { of: self.clone(), address, kind, bytes, headers: AtomicUsize::new(headers) }
        };
        let kinds = if is_health_check { &[Kind::Admitted, Kind::Health][..] } else { &[Kind::Admitted] };
        for kind in kinds {
            if used.take(address, *kind, REQUEST_BYTES + header_bytes) {
                return Admission::Admitted(charge(*kind, REQUEST_BYTES, header_bytes));
            }
        }
        let is_full = used.total.admitted + REQUEST_BYTES + header_bytes > ADMITTED.most;
        let has_room = used.take(address, Kind::Refused, REFUSAL_BYTES);
        drop(used);
        log_refusal(client.filter(|_| !is_full));
        if !has_room {
            return Admission::Exhausted;
        }
        let retry_after = AGAIN_SECS + fastrand::u64(..=AGAIN_SECS);
        let problem = match is_full {
            true => Problem::TooManyRequests { retry_after },
            false => Problem::TooManyRequestsFromAddress { retry_after },
        };
        Admission::Refused(charge(Kind::Refused, REFUSAL_BYTES, 0), problem)
    }

    fn give_back(&self, address: Option<IpAddr>, kind: Kind, bytes: usize) {
        self.lock().give_back(address, kind, bytes);
        self.metrics.requests_in_flight_bytes.sub(signed(bytes));
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes why requests are refused: for the share of `address`, or else for the limit of the process.
fn log_refusal(address: Option<IpAddr>) {
    match address {
        Some(address) => {
            if let Some(suppressed) = ADDRESS_OVER_SHARE.permit() {
                tracing::warn!(
                    %address,
                    suppressed,
                    "an address is over its share of the requests in flight, and more are refused; if it is a proxy, name it \
                     in TRUSTED_PROXIES"
                );
            }
        }
        None => {
            if let Some(suppressed) = PROCESS_FULL.permit() {
                tracing::warn!(
                    suppressed,
                    "the requests in flight have all the memory that they may have; more are refused until some are answered"
                );
            }
        }
    }
}

impl Kind {
    fn limits(self) -> Limits {
        match self {
            Self::Admitted => ADMITTED,
            Self::Refused => REFUSED,
            Self::Health => HEALTH,
        }
    }
}

impl Limits {
    /// What an address that has `held` may have at the most when `total` is taken. Beyond `address_least`, addresses never
    /// reach the part for newcomers, however many they are: each leaves three quarters of what is free before it.
    fn of_address(self, held: usize, total: usize) -> usize {
        let free = self.most.saturating_sub(self.newcomers).saturating_sub(total);
        self.address_least.max((held + free) / ADDRESS_PART)
    }
}

impl Bytes {
    fn of(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Admitted => &mut self.admitted,
            Kind::Refused => &mut self.refused,
            Kind::Health => &mut self.health,
        }
    }
}

impl Used {
    /// Takes so many bytes, if they are within the limits.
    fn take(&mut self, address: Option<IpAddr>, kind: Kind, bytes: usize) -> bool {
        let limits = kind.limits();
        let mut of_address = address.and_then(|address| self.by_address.get(&address)).copied().unwrap_or_default();
        let (held, total) = (*of_address.of(kind), *self.total.of(kind));
        let address_fits = address.is_none() || held + bytes <= limits.of_address(held, total);
        if !address_fits || total + bytes > limits.most {
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

    fn admit(budget: &InFlight, address: &str) -> Admission {
        budget.admit(Some(address.parse().unwrap()), &HeaderMap::new(), false)
    }

    /// The charges of an address until a request is not admitted, those of its refusals, and whether all refusals were
    /// for the address.
    fn exhaust(budget: &InFlight, address: &str) -> (Vec<Charge>, Vec<Charge>, bool) {
        let (mut admitted, mut refused, mut is_address) = (Vec::new(), Vec::new(), true);
        loop {
            match admit(budget, address) {
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
        assert_eq!(admitted.len(), (ADMITTED.most - ADMITTED.newcomers) / 4 / REQUEST_BYTES);
        assert_eq!(refused.len(), (REFUSED.most - REFUSED.newcomers) / 4 / REFUSAL_BYTES);
        assert!(is_address);
        let other = admit(&budget, "192.0.2.2");
        assert!(matches!(other, Admission::Admitted(_)));
        drop((admitted, refused, other));
        assert_eq!(budget.lock().total, Bytes::default());
        assert!(budget.lock().by_address.is_empty(), "an address at rest is forgotten");
        assert_eq!(budget.metrics.requests_in_flight_bytes.get(), 0);
        assert_eq!(budget.metrics.requests_in_flight.get(), 0);
    }

    #[test]
    fn many_greedy_addresses_leave_a_new_one_a_few_requests_and_their_refusals() {
        let budget = budget();
        let held: Vec<_> = (0..100).map(|n| exhaust(&budget, &format!("192.0.2.{n}"))).collect();
        assert!(held.iter().all(|(admitted, refused, is_address)| {
            admitted.len() * REQUEST_BYTES >= ADMITTED.address_least
                && refused.len() * REFUSAL_BYTES >= REFUSED.address_least
                && *is_address
        }));
        let (admitted, refused, _) = exhaust(&budget, "198.51.100.1");
        assert_eq!(admitted.len() * REQUEST_BYTES, ADMITTED.address_least);
        assert_eq!(refused.len() * REFUSAL_BYTES, REFUSED.address_least);
    }

    #[test]
    fn all_addresses_together_stay_within_the_limit_of_the_process() {
        let budget = budget();
        let addresses = (0..1000).map(|n| format!("10.0.{}.{}", n / 250, n % 250));
        let held: Vec<_> = addresses.map(|address| exhaust(&budget, &address)).collect();
        assert!(budget.lock().total.admitted <= ADMITTED.most);
        assert!(budget.lock().total.refused <= REFUSED.most);
        assert!(held[0].2, "the first one is told that it has too many");
        assert!(matches!(admit(&budget, "10.0.0.0"), Admission::Exhausted));
    }

    #[test]
    fn a_health_check_is_admitted_from_an_address_over_its_share_and_when_the_process_is_full() {
        let budget = budget();
        let address = Some("192.0.2.1".parse().unwrap());
        let _held = exhaust(&budget, "192.0.2.1");
        let checks: Vec<_> = std::iter::from_fn(|| match budget.admit(address, &HeaderMap::new(), true) {
            Admission::Admitted(charge) => Some(charge),
            Admission::Refused(..) | Admission::Exhausted => None,
        })
        .collect();
        assert_eq!(checks.len(), (HEALTH.most - HEALTH.newcomers) / 4 / REQUEST_BYTES, "they are bounded, too");
        let others: Vec<_> = std::iter::from_fn(|| match budget.admit(None, &HeaderMap::new(), false) {
            Admission::Admitted(charge) => Some(charge),
            Admission::Refused(_, problem) => {
                assert!(matches!(problem, Problem::TooManyRequests { .. }), "the server is full");
                None
            }
            Admission::Exhausted => None,
        })
        .collect();
        assert!(!others.is_empty());
        let new = budget.admit(Some("192.0.2.2".parse().unwrap()), &HeaderMap::new(), true);
        assert!(matches!(new, Admission::Admitted(_)));
    }

    #[test]
    fn headers_are_charged_until_they_are_dropped() {
        let budget = budget();
        let headers = HeaderMap::from_iter([(axum::http::header::HOST, "x".repeat(1000).parse().unwrap())]);
        let Admission::Admitted(charge) = budget.admit(None, &headers, false) else { panic!("it is admitted") };
        assert_eq!(budget.lock().total.admitted, REQUEST_BYTES + HEADER_LINE_BYTES + 1004);
        charge.headers_dropped();
        charge.headers_dropped();
        assert_eq!(budget.lock().total.admitted, REQUEST_BYTES);
        drop(charge);
        assert_eq!(budget.lock().total.admitted, 0);
    }
}
