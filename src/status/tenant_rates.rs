//! What each tenant sends per second, smoothed over the last seconds.

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

#[derive(Debug, Default)]
pub(super) struct TenantRates(HashMap<String, TenantRate>);

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
}

impl TenantRates {
    /// The state after `seconds` more: the busiest tenants, those that are throttled first, and one entry for all others.
    pub(super) fn update(&mut self, tenants: &Tenants, seconds: f64) -> Vec<TenantStatus> {
        let list = tenants.list();
        let mut rates: Vec<(&Arc<Tenant>, TenantRate)> = list
            .iter()
            .map(|tenant| {
                let mut rate = self.0.remove(tenant.name()).unwrap_or_default();
                rate.update(tenant.activity().totals(), seconds);
                (tenant, rate)
            })
            .collect();
        // Tenants that were removed are dropped here.
        self.0 = rates.iter().map(|(tenant, rate)| (tenant.name().to_owned(), *rate)).collect();
        rates.sort_by(|(a, x), (b, y)| {
            let key = |rate: &TenantRate| (rate.throttled_for > 0, rate.requests);
            key(y).partial_cmp(&key(x)).unwrap_or(std::cmp::Ordering::Equal).then_with(|| a.name().cmp(b.name()))
        });
        let others = rates.split_off(rates.len().min(TENANTS_MAX));
        let mut entries: Vec<_> = rates.iter().map(|(tenant, rate)| entry(tenant, rate)).collect();
        if !others.is_empty() {
            entries.push(sum(&others));
        }
        entries
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

fn sum(others: &[(&Arc<Tenant>, TenantRate)]) -> TenantStatus {
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
