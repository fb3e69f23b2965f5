//! What is rolled out to the client of a request.

use std::net::IpAddr;
use std::sync::Arc;

use super::ack::RequestedAck;
use super::auth::Identity;
use super::problem::Problem;
use crate::rollout::{ClientKey, Feature, Plan, Rollout};

/// The plan that was in force when the request arrived, so that a reload never changes it in between.
#[derive(Debug, Clone, Default)]
pub(super) struct RequestRollout {
    plan: Option<Arc<Plan>>,
    client: Option<IpAddr>,
}

impl RequestRollout {
    pub(super) fn new(rollout: Option<&Arc<Rollout>>, client: Option<IpAddr>) -> Self {
        Self { plan: rollout.map(|rollout| rollout.plan()), client }
    }

    /// Whether the client may use a feature. An unauthenticated one is asked again when its token is known.
    pub(super) fn is_on(&self, feature: Feature, identity: &Identity) -> bool {
        let Some(plan) = &self.plan else { return true };
        matches!(identity, Identity::Unauthenticated(_)) || plan.features.is_on(feature, self.key(identity).as_ref())
    }

    /// Rejects a request for a level that is switched off for its client.
    pub(super) fn check(&self, ack: RequestedAck, identity: &Identity) -> Result<(), Problem> {
        if ack.asks_for_stored() { self.require(Feature::AckStored, identity) } else { Ok(()) }
    }

    /// Rejects a request that needs a feature, if it is off for its client.
    pub(super) fn require(&self, feature: Feature, identity: &Identity) -> Result<(), Problem> {
        if self.is_on(feature, identity) {
            return Ok(());
        }
        let tenant = identity.tenant().map(|tenant| tenant.name().to_owned());
        Err(Problem::FeatureOff { feature: feature.name(), tenant })
    }

    /// The variant of the client; none if it is not known yet.
    pub(super) fn variant(&self, identity: &Identity) -> Option<&Arc<str>> {
        let plan = self.plan.as_ref()?;
        if matches!(identity, Identity::Unauthenticated(_)) {
            return None;
        }
        plan.variants.of(self.key(identity).as_ref())
    }

    fn key<'a>(&self, identity: &'a Identity) -> Option<ClientKey<'a>> {
        ClientKey::new(identity.tenant().map(|tenant| tenant.name()), self.client)
    }
}
