//! What is rolled out.

use super::model::{FeatureStatus, ForwardStatus, MirrorStatus, RolloutStatus, TrippedStatus, VariantStatus};
use crate::metrics::{ForwardResult, Metrics, MirrorResult, RequestResult};
use crate::rfc3339;
use crate::rollout::{Feature, Rollout, Tripped};

/// The state of `rollout`, with what `metrics` have counted.
pub(super) fn of(rollout: &Rollout, metrics: &Metrics) -> RolloutStatus {
    let (in_force, relay) = (rollout.current(), &metrics.relay);
    let (plan, forwards) = (&in_force.plan, in_force.forward.as_ref());
    let tripped = |Tripped { since, why }| TrippedStatus {
        since_time: rfc3339::with_seconds(since),
        reason: why.reason.name().to_owned(),
        detail: why.to_string(),
    };
    let mirror = plan.mirror.as_ref().map(|mirror| MirrorStatus {
        url: mirror.url.to_string(),
        percent: mirror.percent.percent(),
        tokens: mirror.tokens,
        sent_total: relay.mirrors(MirrorResult::Sent),
        dropped_total: relay.mirrors(MirrorResult::Dropped),
        failed_total: relay.mirrors(MirrorResult::Failed),
    });
    let forward = plan.forward.as_ref().map(|forward| ForwardStatus {
        url: forward.url.to_string(),
        percent: forward.percent.percent(),
        by: forward.by.name().to_owned(),
        passed_total: relay.forwards(ForwardResult::Passed),
        taken_here_total: relay.forwards(ForwardResult::TakenHere),
        unknown_total: relay.forwards(ForwardResult::Unknown),
        abandoned_total: relay.forwards(ForwardResult::Abandoned),
        guard: forwards.map(|forward| forward.judgement().name().to_owned()),
        tripped: forwards.and_then(|forward| forward.tripped()).map(tripped),
    });
    let feature = |feature: Feature| {
        let toggle = plan.features.toggle(feature)?;
        Some(FeatureStatus {
            name: feature.name().to_owned(),
            percent: toggle.percent.percent(),
            tenants: toggle.tenants.len(),
            except: toggle.except.len(),
        })
    };
    let variants = plan.variants.list().iter().map(|variant| {
        let count = |result| metrics.variants.count(&variant.name, result);
        VariantStatus {
            name: variant.name.to_string(),
            percent: variant.percent.percent(),
            accepted_total: count(RequestResult::Accepted),
            rejected_total: count(RequestResult::Rejected),
            failed_total: count(RequestResult::Failed),
        }
    });
    RolloutStatus {
        mirror,
        forward,
        features: Feature::ALL.into_iter().filter_map(feature).collect(),
        variants: variants.collect(),
    }
}
