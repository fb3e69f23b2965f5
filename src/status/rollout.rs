//! What is rolled out.

use super::model::{FeatureStatus, ForwardStatus, MirrorStatus, RolloutStatus, VariantStatus};
use crate::metrics::{Metrics, RequestResult};
use crate::rollout::{By, Feature, Plan};

/// The state of `plan`, with what `metrics` have counted.
pub(super) fn of(plan: &Plan, metrics: &Metrics) -> RolloutStatus {
    let mirror = plan.mirror.as_ref().map(|mirror| MirrorStatus {
        url: mirror.url.to_string(),
        percent: mirror.percent.percent(),
        tokens: mirror.tokens,
    });
    let forward = plan.forward.as_ref().map(|forward| ForwardStatus {
        url: forward.url.to_string(),
        percent: forward.percent.percent(),
        by: match forward.by {
            By::Tenant => "tenant",
            By::Request => "request",
        }
        .to_owned(),
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
