//! What each tenant sends. The number of tenants is not bounded, so only the first ones have series of their own.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, Opts};

use super::registration::name;

/// The tenants with series of their own. Those that are seen later share the label `(other)`.
pub const LABELLED_TENANTS_MAX: usize = 100;
/// The label of all other tenants. A name has no brackets.
const OTHER: &str = "(other)";

/// The counters of one tenant.
#[derive(Debug, Default)]
pub struct TenantActivity {
    accepted: AtomicU64,
    rejected: AtomicU64,
    throttled: AtomicU64,
    payloads: AtomicU64,
    bytes: AtomicU64,
}

/// The counters of one tenant, or of several, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TenantTotals {
    /// Accepted requests.
    pub accepted: u64,
    /// Rejected requests.
    pub rejected: u64,
    /// Those among them that exceeded a rate limit or a share.
    pub throttled: u64,
    /// Accepted payloads.
    pub payloads: u64,
    /// Bytes of accepted bodies, as sent.
    pub bytes: u64,
}

impl TenantActivity {
    /// Counts an accepted batch, with the bytes of its body as sent.
    pub fn accepted(&self, payloads: u32, bytes: usize) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.payloads.fetch_add(payloads.into(), Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts a rejected request. `is_throttled` says whether it exceeded a rate limit or a share of the tenant.
    pub fn rejected(&self, is_throttled: bool) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
        self.throttled.fetch_add(is_throttled.into(), Ordering::Relaxed);
    }

    /// The current counts.
    pub fn totals(&self) -> TenantTotals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TenantTotals {
            accepted: read(&self.accepted),
            rejected: read(&self.rejected),
            throttled: read(&self.throttled),
            payloads: read(&self.payloads),
            bytes: read(&self.bytes),
        }
    }
}

impl TenantTotals {
    /// The sum of both.
    pub fn plus(self, other: Self) -> Self {
        Self {
            accepted: self.accepted + other.accepted,
            rejected: self.rejected + other.rejected,
            throttled: self.throttled + other.throttled,
            payloads: self.payloads + other.payloads,
            bytes: self.bytes + other.bytes,
        }
    }

    /// What was counted since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            accepted: self.accepted.saturating_sub(before.accepted),
            rejected: self.rejected.saturating_sub(before.rejected),
            throttled: self.throttled.saturating_sub(before.throttled),
            payloads: self.payloads.saturating_sub(before.payloads),
            bytes: self.bytes.saturating_sub(before.bytes),
        }
    }
}

/// The counters of all tenants. No series goes back when tenants are removed or added.
#[derive(Debug, Default)]
pub struct TenantActivities(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The first tenants, in the order in which they were seen. They keep their counters when they are removed.
    labelled: Vec<(String, Arc<TenantActivity>)>,
    /// The other current tenants.
    others: HashMap<String, Arc<TenantActivity>>,
    /// What the removed ones among the others have counted.
    removed: TenantTotals,
}

impl TenantActivities {
    /// The counters of the tenants with these names.
    pub fn of(&self, names: &[&str]) -> Vec<Arc<TenantActivity>> {
        let mut known = self.0.lock();
        let Known { labelled, others, removed } = &mut *known;
        let mut before = std::mem::take(others);
        let mut activity = |name: &&str| {
            if let Some((_, activity)) = labelled.iter().find(|(known, _)| known == name) {
                return Arc::clone(activity);
            }
            let activity = before.remove(*name).or_else(|| others.get(*name).cloned()).unwrap_or_default();
            if labelled.len() < LABELLED_TENANTS_MAX {
                labelled.push(((*name).to_owned(), Arc::clone(&activity)));
            } else {
                others.insert((*name).to_owned(), Arc::clone(&activity));
            }
            activity
        };
        let activities = names.iter().map(&mut activity).collect();
        *removed = before.values().map(|activity| activity.totals()).fold(*removed, TenantTotals::plus);
        activities
    }
}

/// Exports the counters.
pub(super) struct TenantsCollector {
    activities: Arc<TenantActivities>,
    requests: IntCounterVec,
    payloads: IntCounterVec,
    bytes: IntCounterVec,
}

impl TenantsCollector {
    pub(super) fn new(activities: Arc<TenantActivities>) -> prometheus::Result<Self> {
        let counters = |short, help, labels: &[&str]| IntCounterVec::new(Opts::new(name(short), help), labels);
        Ok(Self {
            activities,
            requests: counters("tenant_requests_total", "Batches, by tenant and result", &["tenant", "result"])?,
            payloads: counters("tenant_payloads_total", "Accepted payloads, by tenant", &["tenant"])?,
            bytes: counters("tenant_bytes_total", "Bytes of accepted bodies as sent, by tenant", &["tenant"])?,
        })
    }

    fn set(&self, tenant: &str, totals: TenantTotals) {
        let raise = |counter: prometheus::IntCounter, total: u64| counter.inc_by(total.saturating_sub(counter.get()));
        raise(self.requests.with_label_values(&[tenant, "accepted"]), totals.accepted);
        raise(self.requests.with_label_values(&[tenant, "rejected"]), totals.rejected);
        raise(self.payloads.with_label_values(&[tenant]), totals.payloads);
        raise(self.bytes.with_label_values(&[tenant]), totals.bytes);
    }
}

impl Collector for TenantsCollector {
    fn desc(&self) -> Vec<&Desc> {
        [&self.requests, &self.payloads, &self.bytes].into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let known = self.activities.0.lock();
        for (name, activity) in &known.labelled {
            self.set(name, activity.totals());
        }
        let others = known.others.values().map(|activity| activity.totals()).fold(known.removed, TenantTotals::plus);
        if !known.others.is_empty() || others != TenantTotals::default() {
            self.set(OTHER, others);
        }
        [&self.requests, &self.payloads, &self.bytes].into_iter().flat_map(Collector::collect).collect()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    #[test]
    fn tenants_beyond_the_bound_share_one_label_and_no_series_goes_back() {
        let activities = Arc::new(TenantActivities::default());
        let registry = Registry::new();
        registry.register(Box::new(TenantsCollector::new(Arc::clone(&activities)).unwrap())).unwrap();
        let names: Vec<String> = (0..LABELLED_TENANTS_MAX + 2).map(|index| format!("t{index}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        activities.of(&names).iter().for_each(|activity| activity.accepted(3, 10));
        // A reload without most of them, and one with all of them again.
        activities.of(&names[..1]).iter().for_each(|activity| activity.rejected(true));
        activities.of(&names).iter().for_each(|activity| activity.accepted(1, 1));
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        let series = |line: &str| assert!(text.lines().any(|have| have == line), "{line} in {text}");
        series("millpond_tenant_requests_total{result=\"accepted\",tenant=\"t0\"} 2");
        series("millpond_tenant_requests_total{result=\"rejected\",tenant=\"t0\"} 1");
        series("millpond_tenant_payloads_total{tenant=\"t99\"} 4");
        series("millpond_tenant_payloads_total{tenant=\"(other)\"} 8");
        series("millpond_tenant_bytes_total{tenant=\"(other)\"} 22");
        assert!(!text.contains("\"t100\""));
    }

    #[test]
    fn removed_tenants_take_no_memory() {
        let activities = TenantActivities::default();
        for reload in 0..20 {
            let names: Vec<String> = (0..1000).map(|index| format!("t{reload}-{index}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            activities.of(&names).iter().for_each(|activity| activity.rejected(false));
        }
        let known = activities.0.lock();
        assert_eq!((known.labelled.len(), known.others.len()), (LABELLED_TENANTS_MAX, 1000));
        let counted = known.others.values().map(|activity| activity.totals()).fold(known.removed, TenantTotals::plus);
        assert_eq!(counted.rejected, 20 * 1000 - LABELLED_TENANTS_MAX as u64);
    }
}
