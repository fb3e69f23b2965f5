//! What each tenant sends per second, smoothed over the last seconds.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use super::model::TenantStatus;
use crate::metrics::TenantTotals;
use crate::queue::Share;
use crate::spool::SpoolShare;
use crate::tenants::{Tenant, Tenants};

/// The tenants with an entry of their own.
pub(super) const TENANTS_MAX: usize = 20;
/// The weight of the last second in the averages.
const WEIGHT: f64 = 0.3;
/// A tenant counts as throttled for so many seconds.
const THROTTLED_SECONDS: u32 = 10;
/// Rates below this are reported as 0.
const RATE_MIN: f64 = 0.001;

/// The rates of all tenants. A tenant that sends nothing costs a comparison a second, since there may be very many.
#[derive(Debug, Default)]
pub(super) struct TenantRates {
    /// The tenants of `rates`, in their order.
    list: Arc<Vec<Arc<Tenant>>>,
    rates: Vec<TenantRate>,
}

#[derive(Debug, Clone, Copy, Default)]
struct TenantRate {
    totals: TenantTotals,
    requests: f64,
    payloads: f64,
    bytes: f64,
    rejected: f64,
    /// Seconds for which the tenant still counts as throttled.
    throttled_for: u32,
}

impl TenantRate {
    fn update(&mut self, totals: TenantTotals, seconds: f64) {
        let delta = totals.since(self.totals);
        let smooth = |rate: &mut f64, count: u64| {
            *rate += (count as f64 / seconds.max(0.1) - *rate) * WEIGHT;
            if *rate < RATE_MIN {
                *rate = 0.0;
            }
        };
        smooth(&mut self.requests, delta.accepted + delta.rejected);
        smooth(&mut self.payloads, delta.payloads);
        smooth(&mut self.bytes, delta.bytes);
        smooth(&mut self.rejected, delta.rejected);
        self.throttled_for = if delta.throttled > 0 { THROTTLED_SECONDS } else { self.throttled_for.saturating_sub(1) };
        self.totals = totals;
    }

    /// Whether it changes without requests.
    fn is_active(&self) -> bool {
        self.throttled_for > 0 || self.requests + self.payloads + self.bytes + self.rejected > 0.0
    }

    /// Orders tenants by what an operator wants to see first, ascending.
    fn rank(&self, other: &Self) -> Ordering {
        let throttled = (self.throttled_for > 0).cmp(&(other.throttled_for > 0));
        throttled.then(self.requests.total_cmp(&other.requests))
    }
}

impl TenantRates {
    /// The state after `seconds` more: the busiest tenants, those that are throttled first, and one entry for all others.
    pub(super) fn update(&mut self, tenants: &Tenants, seconds: f64) -> Vec<TenantStatus> {
        let list = tenants.list();
        if !Arc::ptr_eq(&list, &self.list) {
            self.replace(list);
        }
        for (rate, tenant) in self.rates.iter_mut().zip(self.list.iter()) {
            let totals = tenant.activity().totals();
            if totals != rate.totals || rate.is_active() {
                rate.update(totals, seconds);
            }
        }
        let mut rates: Vec<(&Tenant, &TenantRate)> = self.list.iter().map(Arc::as_ref).zip(&self.rates).collect();
        let by_activity = |(_, a): &(&Tenant, &TenantRate), (_, b): &(&Tenant, &TenantRate)| b.rank(a);
        if rates.len() > TENANTS_MAX {
            rates.select_nth_unstable_by(TENANTS_MAX, by_activity);
        }
        let others = rates.split_off(rates.len().min(TENANTS_MAX));
        rates.sort_by(|a, b| by_activity(a, b).then_with(|| a.0.name().cmp(b.0.name())));
        let mut entries: Vec<_> = rates.iter().map(|(tenant, rate)| entry(tenant, rate)).collect();
        if !others.is_empty() {
            entries.push(sum(&others));
        }
        entries
    }

    /// Follows another list. A tenant that was in the previous one keeps its rates; another one begins with none, whatever it
    /// has sent before.
    fn replace(&mut self, list: Arc<Vec<Arc<Tenant>>>) {
        let before: HashMap<&str, TenantRate> =
            self.list.iter().map(|tenant| tenant.name()).zip(self.rates.iter().copied()).collect();
        let rate = |tenant: &Arc<Tenant>| {
            let new = || TenantRate { totals: tenant.activity().totals(), ..TenantRate::default() };
            before.get(tenant.name()).copied().unwrap_or_else(new)
        };
        self.rates = list.iter().map(rate).collect();
        self.list = list;
    }
}

fn entry(tenant: &Tenant, rate: &TenantRate) -> TenantStatus {
    TenantStatus {
        tenant: Some(tenant.name().to_owned()),
        others: None,
        requests_per_second: rate.requests,
        payloads_per_second: rate.payloads,
        bytes_per_second: rate.bytes,
        rejected_per_second: rate.rejected,
        is_throttled: rate.throttled_for > 0,
        accepted_total: rate.totals.accepted,
        rejected_total: rate.totals.rejected,
        queue_bytes: tenant.share().map(Share::queued_bytes),
        spool_bytes: tenant.share().and_then(Share::spool).map(SpoolShare::used),
    }
}

fn sum(others: &[(&Tenant, &TenantRate)]) -> TenantStatus {
    let rate = |rate: fn(&TenantRate) -> f64| others.iter().map(|(_, of)| rate(of)).sum();
    let totals = others.iter().map(|(_, rate)| rate.totals).fold(TenantTotals::default(), TenantTotals::plus);
    TenantStatus {
        tenant: None,
        others: Some(others.len()),
        requests_per_second: rate(|rate| rate.requests),
        payloads_per_second: rate(|rate| rate.payloads),
        bytes_per_second: rate(|rate| rate.bytes),
        rejected_per_second: rate(|rate| rate.rejected),
        is_throttled: others.iter().any(|(_, rate)| rate.throttled_for > 0),
        accepted_total: totals.accepted,
        rejected_total: totals.rejected,
        queue_bytes: None,
        spool_bytes: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::queue;

    fn tenants(text: &str) -> Tenants {
        let (queue, _) = queue(100, 1000, Arc::default());
        Tenants::from_entries(
            crate::tenants::parse(text.as_bytes()).unwrap(),
            queue.share_limits(50),
            100,
            Arc::default(),
        )
    }

    fn file(count: usize) -> String {
        let tenant = |index| format!(r#"{{"name":"t{index:03}","tokens_sha256":["{index:064x}"]}}"#);
        format!(r#"{{"tenants":[{}]}}"#, (1..=count).map(tenant).collect::<Vec<_>>().join(","))
    }

    #[test]
    fn the_busiest_and_the_throttled_tenants_are_listed_and_the_others_are_one_entry() {
        let tenants = tenants(&file(TENANTS_MAX + 5));
        let mut rates = TenantRates::default();
        rates.update(&tenants, 1.0);
        let list = tenants.list();
        list.iter().skip(1).for_each(|tenant| tenant.activity().accepted(2, 10));
        list[3].activity().accepted(2, 10);
        list[7].activity().rejected(true);
        let entries = rates.update(&tenants, 1.0);
        let name = |index: usize| entries[index].tenant.as_deref();
        assert_eq!([name(0), name(1), name(TENANTS_MAX)], [Some("t008"), Some("t004"), None]);
        assert!(entries[0].is_throttled && !entries[1].is_throttled);
        assert_eq!((entries.len(), entries[TENANTS_MAX].others), (TENANTS_MAX + 1, Some(5)));
        assert!(entries[TENANTS_MAX].requests_per_second > 0.0);
        (0..100).for_each(|_| drop(rates.update(&tenants, 1.0)));
        assert!(
            rates.update(&tenants, 1.0).iter().all(|entry| entry.requests_per_second == 0.0 && !entry.is_throttled)
        );
    }

    #[test]
    fn a_tenant_that_is_added_again_has_not_sent_anything_in_this_second() {
        let (all, one) = (file(2), file(1));
        let tenants = tenants(&all);
        let mut rates = TenantRates::default();
        rates.update(&tenants, 1.0);
        tenants.list()[1].activity().rejected(true);
        tenants.replace(crate::tenants::parse(one.as_bytes()).unwrap());
        rates.update(&tenants, 1.0);
        tenants.replace(crate::tenants::parse(all.as_bytes()).unwrap());
        let entries = rates.update(&tenants, 1.0);
        let added = entries.iter().find(|entry| entry.tenant.as_deref() == Some("t002")).unwrap();
        assert_eq!((added.requests_per_second, added.is_throttled, added.rejected_total), (0.0, false, 1));
    }
}
