//! Which requests are sampled.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use opentelemetry::trace::{SpanId, TraceId};
use parking_lot::Mutex;

use super::traceparent::TraceParent;
use crate::config::{RootSampler, SamplerSettings};
use crate::server::network;

/// The most requests in a second that are sampled because of what the client sent: its sampled flag, or a trace id within
/// the ratio. Any client can set both.
pub const PARENT_SAMPLED_MAX: u32 = 100;
/// Of these, the most of one address, or of one IPv6 network.
pub const PARENT_SAMPLED_PER_ADDRESS_MAX: u32 = 25;

/// A sampled request: the trace that it continues or begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampled {
    /// The trace.
    pub trace: TraceId,
    /// The client's span, if the request continues a trace.
    pub parent: Option<SpanId>,
}

/// Implements the samplers of OpenTelemetry, and limits what clients decide.
#[derive(Debug)]
pub(super) struct Sampler {
    follows_parent: bool,
    root: Root,
    by_clients: RateBound,
    by_address: Mutex<AddressBound>,
}

/// The requests that were sampled in one second, by address; at most `PARENT_SAMPLED_MAX` entries.
#[derive(Debug, Default)]
struct AddressBound {
    second: u64,
    taken: HashMap<Option<IpAddr>, u32>,
}

#[derive(Debug, Clone, Copy)]
enum Root {
    Always,
    Never,
    /// Trace ids whose low 63 bits are below.
    Below(u64),
}

impl Root {
    fn new(settings: RootSampler) -> Self {
        match settings {
            RootSampler::AlwaysOff => Self::Never,
            RootSampler::AlwaysOn => Self::Always,
            RootSampler::TraceIdRatio(ratio) if ratio >= 1.0 => Self::Always,
            RootSampler::TraceIdRatio(ratio) => Self::Below((ratio * (1_u64 << 63) as f64) as u64),
        }
    }

    /// The decision of `TraceIdRatioBased` in OpenTelemetry's SDK, so that services with the same ratio agree.
    fn samples(self, trace_low: u64) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Below(bound) => trace_low >> 1 < bound,
        }
    }
}

impl Sampler {
    pub(super) fn new(settings: SamplerSettings, start: Instant) -> Self {
        let SamplerSettings { follows_parent, root } = settings;
        Self {
            follows_parent,
            root: Root::new(root),
            by_clients: RateBound::new(PARENT_SAMPLED_MAX, start),
            by_address: Mutex::default(),
        }
    }

    pub(super) fn sample(&self, parent: Option<&TraceParent>, client: Option<IpAddr>, now: Instant) -> Option<Sampled> {
        let Some(parent) = parent else {
            let low = fastrand::u64(..);
            return self.root.samples(low).then(|| {
                // An id of zeros is invalid.
                let high = fastrand::u64(1..);
                Sampled { trace: TraceId::from(u128::from(high) << 64 | u128::from(low)), parent: None }
            });
        };
        let is_sampled = match (self.follows_parent, self.root) {
            (true, _) => parent.is_sampled && self.take(client, now),
            (false, Root::Always) => true,
            (false, root) => root.samples(low_bytes(parent.trace)) && self.take(client, now),
        };
        is_sampled.then_some(Sampled { trace: parent.trace, parent: Some(parent.span) })
    }

    /// Whether a client may still decide in this second that its request is sampled.
    fn take(&self, client: Option<IpAddr>, now: Instant) -> bool {
        let client = client.map(network);
        let mut bound = self.by_address.lock();
        let second = now.saturating_duration_since(self.by_clients.start).as_secs();
        if second > bound.second {
            *bound = AddressBound { second, taken: HashMap::new() };
        }
        let taken = bound.taken.get(&client).copied().unwrap_or_default();
        let is_sampled = taken < PARENT_SAMPLED_PER_ADDRESS_MAX && self.by_clients.take(now);
        if is_sampled {
            bound.taken.insert(client, taken + 1);
        }
        is_sampled
    }
}

fn low_bytes(trace: TraceId) -> u64 {
    u128::from_be_bytes(trace.to_bytes()) as u64
}

/// At most so many in each second.
#[derive(Debug)]
struct RateBound {
    max: u32,
    start: Instant,
    /// The second since the start in the upper half, the number of requests in that second in the lower half.
    taken: AtomicU64,
}

impl RateBound {
    fn new(max: u32, start: Instant) -> Self {
        Self { max, start, taken: AtomicU64::new(0) }
    }

    fn take(&self, now: Instant) -> bool {
        let second = now.saturating_duration_since(self.start).as_secs() & u64::from(u32::MAX);
        // It guards no other memory.
        let taken = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
            // Another thread may have seen a later second already, which is not begun again.
            let taken = taken.max(second << 32);
            (taken & u64::from(u32::MAX) < u64::from(self.max)).then_some(taken + 1)
        });
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry::trace::SpanKind;
    use opentelemetry_sdk::trace::{Sampler as SdkSampler, SamplingDecision, ShouldSample};

    use super::*;

    fn sampler(follows_parent: bool, root: RootSampler) -> Sampler {
        Sampler::new(SamplerSettings { follows_parent, root }, Instant::now())
    }

    fn parent(trace: u128, is_sampled: bool) -> TraceParent {
        TraceParent { trace: TraceId::from(trace), span: SpanId::from(7), is_sampled }
    }

    #[test]
    fn the_sampled_flag_of_clients_samples_a_bounded_number_of_requests_in_a_second() {
        for sampler in [sampler(true, RootSampler::AlwaysOff), sampler(false, RootSampler::TraceIdRatio(0.5))] {
            let start = sampler.by_clients.start;
            let sampled = |after: Duration| {
                (0..10_000)
                    .filter(|client| sampler.sample(Some(&parent(1, true)), from(*client), start + after).is_some())
                    .count()
            };
            let max = PARENT_SAMPLED_MAX as usize;
            let counts = [0, 250, 999, 1000, 999, 1999, 60_000].map(|ms| sampled(Duration::from_millis(ms)));
            assert_eq!(counts, [max, 0, 0, max, 0, 0, max]);
        }
    }

    fn from(client: u32) -> Option<IpAddr> {
        Some(std::net::Ipv4Addr::from_bits(client).into())
    }

    #[test]
    fn one_address_leaves_sampled_requests_to_the_others() {
        let (sampler, now) = (sampler(true, RootSampler::AlwaysOff), Instant::now());
        let sampled =
            |client, at| (0..10_000).filter(|_| sampler.sample(Some(&parent(1, true)), client, at).is_some()).count();
        let each = PARENT_SAMPLED_PER_ADDRESS_MAX as usize;
        assert_eq!([sampled(from(1), now), sampled(from(2), now), sampled(None, now)], [each; 3]);
        let each_once =
            (0..10_000).filter(|client| sampler.sample(Some(&parent(1, true)), from(*client), now).is_some());
        assert_eq!(each_once.count(), PARENT_SAMPLED_MAX as usize - 3 * each, "what the others have left");
        assert!(sampler.by_address.lock().taken.len() <= PARENT_SAMPLED_MAX as usize);
        assert_eq!(sampled(from(1), now + Duration::from_secs(1)), each);
    }

    #[test]
    fn the_operator_may_sample_every_request() {
        let (sampler, now) = (sampler(false, RootSampler::AlwaysOn), Instant::now());
        assert!((0..10_000).all(|_| sampler.sample(Some(&parent(1, false)), None, now).is_some()));
        assert!((0..10_000).all(|_| sampler.sample(None, None, now).is_some()));
    }

    #[test]
    fn a_sampled_request_continues_the_trace_of_its_parent() {
        let (follows, now) = (sampler(true, RootSampler::AlwaysOn), Instant::now());
        let expected = Sampled { trace: TraceId::from(9), parent: Some(SpanId::from(7)) };
        assert_eq!(follows.sample(Some(&parent(9, true)), None, now), Some(expected));
        assert_eq!(follows.sample(Some(&parent(9, false)), None, now), None);
        let root = follows.sample(None, None, now).unwrap();
        assert!(root.trace != TraceId::INVALID && root.parent.is_none());
        assert_eq!(sampler(true, RootSampler::AlwaysOff).sample(None, None, now), None);
        assert_eq!(sampler(false, RootSampler::AlwaysOff).sample(Some(&parent(9, true)), None, now), None);
    }

    #[test]
    fn the_ratio_decides_as_the_sdk_does() {
        for ratio in [0.0, 0.001, 0.1, 0.5, 1.0] {
            let (ours, sdk) = (Root::new(RootSampler::TraceIdRatio(ratio)), SdkSampler::TraceIdRatioBased(ratio));
            for _ in 0..1000 {
                let trace = TraceId::from(fastrand::u128(..) >> 64 >> fastrand::u32(..32));
                let expected = sdk.should_sample(None, trace, "", &SpanKind::Server, &[], &[]).decision;
                assert_eq!(ours.samples(low_bytes(trace)), expected == SamplingDecision::RecordAndSample, "{trace}");
            }
        }
    }
}
