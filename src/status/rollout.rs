//! What is rolled out.

use super::model::{FeatureStatus, ForwardStatus, MirrorStatus, ResultStatus, RolloutStatus, VariantStatus};
use super::sources::since_1970;
use crate::metrics::{Metrics, RequestResult};
use crate::rollout::{By, Feature, Rollout};

/// The state of `rollout`, with what `metrics` have counted.
pub(super) fn of(rollout: &Rollout, metrics: &Metrics) -> RolloutStatus {
    let plan = rollout.plan();
    let mirror = plan.mirror.as_ref().map(|mirror| MirrorStatus {
        url: mirror.url.to_string(),
        percent: mirror.percent.percent(),
        tokens: mirror.tokens,
        results: results(metrics.relay.mirror_results()),
    });
    let stopped = rollout.forwarder.tripped();
    let forward = plan.forward.as_ref().map(|forward| ForwardStatus {
        url: forward.url.to_string(),
        percent: forward.percent.percent(),
        by: match forward.by {
            By::Tenant => "tenant",
            By::Request => "request",
        }
        .to_owned(),
        stopped: stopped.as_ref().map(|stopped| stopped.why.to_string()),
        stopped_since: stopped.as_ref().map(|stopped| since_1970(stopped.since)),
        results: results(metrics.relay.forward_results()),
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

fn results(counts: impl Iterator<Item = (&'static str, u64)>) -> Vec<ResultStatus> {
    counts.map(|(result, total)| ResultStatus { result: result.to_owned(), total }).collect()
}
