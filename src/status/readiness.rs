//! The reasons against readiness, which `/ready` and the status report.

use std::time::{SystemTime, UNIX_EPOCH};

use super::model::Reason;
use crate::context::PipelineContext;
use crate::health::{Outage, Side};
use crate::queue::QueueDepth;
use crate::rfc3339;

impl Reason {
    fn of(what: &str, outage: Outage) -> Self {
        let mut reason = Self { detail: Some(outage.message), ..Self::now(what) };
        reason.begins(outage.since);
        reason
    }

    fn now(what: &str) -> Self {
        Self { what: what.to_owned(), detail: None, since: None, since_time: None }
    }

    /// Sets its beginning, unless it has one.
    pub(super) fn begins(&mut self, at: SystemTime) {
        let Some(since) = at.duration_since(UNIX_EPOCH).ok().filter(|_| self.since.is_none()) else { return };
        (self.since, self.since_time) = (Some(since.as_secs()), Some(rfc3339::with_seconds(at)));
    }
}

/// The reasons why the server is not ready; none if it is.
pub fn readiness(context: &PipelineContext, depth: &QueueDepth) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if context.shutdown.is_announced() {
        reasons.push(Reason::now("draining"));
    }
    let health = &context.health;
    let failing = |side| health.segments.outage(side);
    let spool = health.spool_name();
    let outages = [
        (spool, health.spool_outage().or_else(|| failing(Side::Spool))),
        ("store", health.store_outage().or_else(|| failing(Side::Store))),
    ];
    reasons.extend(outages.into_iter().filter_map(|(what, outage)| Some(Reason::of(what, outage?))));
    if context.spool.is_nearly_full() {
        reasons.push(Reason::now(&format!("{spool} full")));
    }
    if let Some(violation) = context.spool.broker().and_then(|broker| broker.state().violation) {
        reasons.push(Reason { detail: Some(violation), ..Reason::now("broker permission") });
    }
    let unadopted = context.spool.unadopted();
    if unadopted.failing > 0 {
        reasons.push(Reason { detail: unadopted.reason, ..Reason::now("spool folders not adopted") });
    }
    if depth.is_full() {
        reasons.push(Reason::now("queue full"));
    }
    reasons
}
