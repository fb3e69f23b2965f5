//! What is rolled out to the client of a request.

use std::net::IpAddr;
use std::sync::Arc;

use super::ack::RequestedAck;
use super::problem::Problem;
use crate::rollout::{ClientKey, Feature, InForce, Rollout};
use crate::tenants::Tenant;

/// The plan that was in force when the request arrived, so that a reload never changes it in between.
#[derive(Clone, Default)]
pub(super) struct RequestRollout {
    in_force: Option<Arc<InForce>>,
    client: Option<IpAddr>,
    /// Whether every client is a tenant. Then a request without one has its token in the envelope, and is asked about again.
    has_tenants: bool,
}

impl RequestRollout {
    pub(super) fn new(rollout: Option<&Arc<Rollout>>, has_tenants: bool, client: Option<IpAddr>) -> Self {
        Self { in_force: rollout.map(|rollout| rollout.current()), client, has_tenants }
    }

    /// The plan with what acts on it; none without `ROLLOUT_FILE`.
    pub(super) fn in_force(&self) -> Option<&Arc<InForce>> {
        self.in_force.as_ref()
    }

    /// Whether the client may use a feature.
    pub(super) fn is_on(&self, feature: Feature, tenant: Option<&Arc<Tenant>>) -> bool {
        let Some(InForce { plan, .. }) = self.in_force.as_deref() else { return true };
        self.is_unknown(tenant) || plan.features.is_on(feature, self.key(tenant).as_ref())
    }

    /// Rejects a request for a level that is switched off for its client.
    pub(super) fn check(&self, ack: RequestedAck, tenant: Option<&Arc<Tenant>>) -> Result<(), Problem> {
        if ack.asks_for_stored() { self.require(Feature::AckStored, tenant) } else { Ok(()) }
    }

    /// Rejects a request that needs a feature, if it is off for its client.
    pub(super) fn require(&self, feature: Feature, tenant: Option<&Arc<Tenant>>) -> Result<(), Problem> {
        if self.is_on(feature, tenant) {
            return Ok(());
        }
        let tenant = tenant.map(|tenant| tenant.name().to_owned());
        Err(Problem::FeatureOff { feature: feature.name(), tenant })
    }

    /// The variant of the client; none if it is not known yet.
    pub(super) fn variant(&self, tenant: Option<&Arc<Tenant>>) -> Option<&Arc<str>> {
        let in_force = self.in_force.as_ref().filter(|_| !self.is_unknown(tenant))?;
        in_force.plan.variants.of(self.key(tenant).as_ref())
    }

    fn is_unknown(&self, tenant: Option<&Arc<Tenant>>) -> bool {
        self.has_tenants && tenant.is_none()
    }

    fn key<'a>(&self, tenant: Option<&'a Arc<Tenant>>) -> Option<ClientKey<'a>> {
        ClientKey::new(tenant.map(|tenant| tenant.name()), self.client)
    }
}
