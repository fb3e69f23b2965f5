//! The reasons against readiness, which `/ready` and the status report.

use std::time::UNIX_EPOCH;

use super::model::Reason;
use crate::context::PipelineContext;
use crate::health::{Outage, Side};
use crate::queue::QueueDepth;
use crate::rfc3339;

impl Reason {
    fn of(what: &str, outage: Outage) -> Self {
        let since = outage.since.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).ok();
        let since_time = since.map(|_| rfc3339::with_seconds(outage.since));
        Self { what: what.to_owned(), detail: Some(outage.message), since, since_time }
    }

    fn now(what: &str) -> Self {
        Self { what: what.to_owned(), detail: None, since: None, since_time: None }
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
    let outages = [
        ("spool", health.spool_outage().or_else(|| failing(Side::Spool))),
        ("store", health.store_outage().or_else(|| failing(Side::Store))),
    ];
    reasons.extend(outages.into_iter().filter_map(|(what, outage)| Some(Reason::of(what, outage?))));
    if context.spool.space().is_some_and(|space| space.is_nearly_full()) {
        reasons.push(Reason::now("spool full"));
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
