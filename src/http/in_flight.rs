//! Memory of the requests in flight, counted in bytes for the process and for each client address.
//!
//! A request is charged when its headers are read, and the charge is released when its response has been written to the
//! connection, or dropped with it: a response for which a client has no window (HTTP/2 flow control), or which it does not
//! read, also uses memory. Bodies are not part of the charge; they count against `MAX_QUEUE_BYTES`.
//!
//! The limit of an address falls as the total rises: it is a quarter of what the address uses plus what is free. So the last
//! part remains for new addresses, however many others use all that they may.
//!
//! A health check has a reserve of its own, so that a load balancer over its limit still sees that the server works.
//!
//! A request over the budget is rejected. The response uses memory as well, from a second reserve. When that is used up, the
//! clients do not read their responses, and a connection that sends one more request is ended.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::HeaderMap;
use parking_lot::Mutex;

use super::problem::Problem;
use crate::log_throttle::LogThrottle;
use crate::metrics::Metrics;
use crate::server::network;

/// Memory of a request besides its headers and its body: its task, its stream in h2, its timers and its response.
const REQUEST_BYTES: usize = 4 * 1024;
/// Memory of a header line besides its name and its value: an entry of the map, twice, because the map doubles when it grows.
const HEADER_LINE_BYTES: usize = 240;
/// Memory of the response to a rejected request until it is written.
const REJECTION_BYTES: usize = 2 * 1024;
/// The budget of requests in flight.
const ADMITTED: ChargeLimits = ChargeLimits { max: 64 << 20, reserved: 16 << 20, address_min: 128 << 10 };
/// The budget of requests in flight, in bytes.
pub const REQUESTS_IN_FLIGHT_MAX_BYTES: usize = ADMITTED.max;
/// The reserve for rejections.
const REJECTED: ChargeLimits = ChargeLimits { max: 8 << 20, reserved: 2 << 20, address_min: 16 << 10 };
/// The reserve for health checks that exceed the budget.
const HEALTH: ChargeLimits = ChargeLimits { max: 4 << 20, reserved: 2 << 20, address_min: 128 << 10 };
/// An address may use one part in this many of what it uses plus what is free.
const ADDRESS_PART: usize = 4;

static ADDRESS_LIMIT_LOG: LogThrottle = LogThrottle::for_clients();
static PROCESS_LIMIT_LOG: LogThrottle = LogThrottle::for_clients();

/// Limits of one kind of charge, in bytes.
#[derive(Debug, Clone, Copy)]
struct ChargeLimits {
    /// For the process.
    max: usize,
    /// The part of it for addresses that use no more than `address_min`.
    reserved: usize,
    /// What an address may always use within `max`: a few requests, one of them with the longest headers.
    address_min: usize,
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

/// Charged bytes by [`Kind`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Bytes {
    admitted: usize,
    rejected: usize,
    health: usize,
}

/// The kind of a charge. Each has its own limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Admitted,
    Rejected,
    Health,
}

/// The decision on a request.
pub(super) enum Admission {
    Admitted(Charge),
    /// The response is the problem.
    Rejected(Charge, Problem),
    /// No memory is left for a rejection: the connection must end.
    Exhausted,
}

/// The charge of one request, released when it is dropped.
pub(super) struct Charge {
    of: InFlight,
    address: Option<IpAddr>,
    kind: Kind,
    bytes: usize,
    /// For the headers, in addition to `bytes`.
    headers: AtomicUsize,
}

impl InFlight {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, used: Arc::default() }
    }

    /// Charges a request with these headers. `client` is its address, if requests are limited by address.
    pub(super) fn admit(&self, client: Option<IpAddr>, headers: &HeaderMap, is_health_check: bool) -> Admission {
        let address = client.map(network);
        let header_bytes = size(headers);
        let mut used = self.used.lock();
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
        let is_full = used.total.admitted + REQUEST_BYTES + header_bytes > ADMITTED.max;
        let fits = used.take(address, Kind::Rejected, REJECTION_BYTES);
        drop(used);
        log_rejection(client.filter(|_| !is_full));
        if !fits {
            return Admission::Exhausted;
        }
        let problem = if is_full { Problem::TooManyRequests } else { Problem::TooManyRequestsFromAddress };
        Admission::Rejected(charge(Kind::Rejected, REJECTION_BYTES, 0), problem)
    }

    fn release(&self, address: Option<IpAddr>, kind: Kind, bytes: usize) {
        self.used.lock().release(address, kind, bytes);
        self.metrics.requests_in_flight_bytes.sub(signed(bytes));
    }
}

/// Logs why requests are rejected: the limit of `address`, or that of the process.
fn log_rejection(address: Option<IpAddr>) {
    match address {
        Some(address) => {
            if let Some(suppressed) = ADDRESS_LIMIT_LOG.permit() {
                tracing::warn!(
                    %address,
                    suppressed,
                    "an address exceeds its limit of requests in flight; if it is a proxy, add it to TRUSTED_PROXIES"
                );
            }
        }
        None => {
            if let Some(suppressed) = PROCESS_LIMIT_LOG.permit() {
                tracing::warn!(
                    suppressed,
                    "requests in flight use all of their memory budget; more are rejected until some are finished"
                );
            }
        }
    }
}

impl Kind {
    fn limits(self) -> ChargeLimits {
        match self {
            Self::Admitted => ADMITTED,
            Self::Rejected => REJECTED,
            Self::Health => HEALTH,
        }
    }
}

impl ChargeLimits {
    /// What an address that uses `held` may use when `total` is used. Above `address_min`, addresses never reach the reserved
    /// part, however many they are: each leaves three quarters of what is free before it.
    fn of_address(self, held: usize, total: usize) -> usize {
        let free = self.max.saturating_sub(self.reserved).saturating_sub(total);
        self.address_min.max((held + free) / ADDRESS_PART)
    }
}

impl Bytes {
    fn of(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Admitted => &mut self.admitted,
            Kind::Rejected => &mut self.rejected,
            Kind::Health => &mut self.health,
        }
    }
}

impl Used {
    /// Charges `bytes`, if they are within the limits.
    fn take(&mut self, address: Option<IpAddr>, kind: Kind, bytes: usize) -> bool {
        let limits = kind.limits();
        let mut of_address = address.and_then(|address| self.by_address.get(&address)).copied().unwrap_or_default();
        let (held, total) = (*of_address.of(kind), *self.total.of(kind));
        let address_fits = address.is_none() || held + bytes <= limits.of_address(held, total);
        if !address_fits || total + bytes > limits.max {
            return false;
        }
        *self.total.of(kind) += bytes;
        if let Some(address) = address {
            *self.by_address.entry(address).or_default().of(kind) += bytes;
        }
        true
    }

    fn release(&mut self, address: Option<IpAddr>, kind: Kind, bytes: usize) {
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
    /// Releases the charge for the headers, which the handler has dropped.
    pub(super) fn release_headers(&self) {
        // It guards no other memory.
        let headers = self.headers.swap(0, Ordering::Relaxed);
        if headers > 0 {
            self.of.release(self.address, self.kind, headers);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.of.release(self.address, self.kind, self.bytes + *self.headers.get_mut());
        self.of.metrics.requests_in_flight.dec();
    }
}

/// Memory of a map of headers.
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

    /// The charges of an address until a request is rejected, those of its rejections, and whether all rejections were for
    /// the limit of the address.
    fn exhaust(budget: &InFlight, address: &str) -> (Vec<Charge>, Vec<Charge>, bool) {
        let (mut admitted, mut rejected, mut is_address) = (Vec::new(), Vec::new(), true);
        loop {
            match admit(budget, address) {
                Admission::Admitted(charge) => admitted.push(charge),
                Admission::Rejected(charge, problem) => {
                    rejected.push(charge);
                    is_address &= matches!(problem, Problem::TooManyRequestsFromAddress);
                }
                Admission::Exhausted => return (admitted, rejected, is_address),
            }
        }
    }

    #[test]
    fn an_address_over_its_limit_is_rejected_and_others_are_not() {
        let budget = budget();
        let (admitted, rejected, is_address) = exhaust(&budget, "192.0.2.1");
        assert_eq!(admitted.len(), (ADMITTED.max - ADMITTED.reserved) / 4 / REQUEST_BYTES);
        assert_eq!(rejected.len(), (REJECTED.max - REJECTED.reserved) / 4 / REJECTION_BYTES);
        assert!(is_address);
        let other = admit(&budget, "192.0.2.2");
        assert!(matches!(other, Admission::Admitted(_)));
        drop((admitted, rejected, other));
        assert_eq!(budget.used.lock().total, Bytes::default());
        assert!(budget.used.lock().by_address.is_empty(), "an address without requests is removed");
        assert_eq!(budget.metrics.requests_in_flight_bytes.get(), 0);
        assert_eq!(budget.metrics.requests_in_flight.get(), 0);
    }

    #[test]
    fn many_greedy_addresses_leave_a_new_one_a_few_requests_and_their_rejections() {
        let budget = budget();
        let held: Vec<_> = (0..100).map(|n| exhaust(&budget, &format!("192.0.2.{n}"))).collect();
        assert!(held.iter().all(|(admitted, rejected, is_address)| {
            admitted.len() * REQUEST_BYTES >= ADMITTED.address_min
                && rejected.len() * REJECTION_BYTES >= REJECTED.address_min
                && *is_address
        }));
        let (admitted, rejected, _) = exhaust(&budget, "198.51.100.1");
        assert_eq!(admitted.len() * REQUEST_BYTES, ADMITTED.address_min);
        assert_eq!(rejected.len() * REJECTION_BYTES, REJECTED.address_min);
    }

    #[test]
    fn all_addresses_together_stay_within_the_limit_of_the_process() {
        let budget = budget();
        let addresses = (0..1000).map(|n| format!("10.0.{}.{}", n / 250, n % 250));
        let held: Vec<_> = addresses.map(|address| exhaust(&budget, &address)).collect();
        assert!(budget.used.lock().total.admitted <= ADMITTED.max);
        assert!(budget.used.lock().total.rejected <= REJECTED.max);
        assert!(held[0].2, "the first one exceeds its own limit");
        assert!(matches!(admit(&budget, "10.0.0.0"), Admission::Exhausted));
    }

    #[test]
    fn a_health_check_is_admitted_from_an_address_over_its_share_and_when_the_process_is_full() {
        let budget = budget();
        let address = Some("192.0.2.1".parse().unwrap());
        let _held = exhaust(&budget, "192.0.2.1");
        let checks: Vec<_> = std::iter::from_fn(|| match budget.admit(address, &HeaderMap::new(), true) {
            Admission::Admitted(charge) => Some(charge),
            Admission::Rejected(..) | Admission::Exhausted => None,
        })
        .collect();
        assert_eq!(
            checks.len(),
            (HEALTH.max - HEALTH.reserved) / 4 / REQUEST_BYTES,
            "health checks are bounded as well"
        );
        let others: Vec<_> = std::iter::from_fn(|| match budget.admit(None, &HeaderMap::new(), false) {
            Admission::Admitted(charge) => Some(charge),
            Admission::Rejected(_, problem) => {
                assert!(matches!(problem, Problem::TooManyRequests), "the server is full");
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
        assert_eq!(budget.used.lock().total.admitted, REQUEST_BYTES + HEADER_LINE_BYTES + 1004);
        charge.release_headers();
        charge.release_headers();
        assert_eq!(budget.used.lock().total.admitted, REQUEST_BYTES);
        drop(charge);
        assert_eq!(budget.used.lock().total.admitted, 0);
    }
}
