//! What clients may use, as far as an operator has limited it.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;

use super::selection::Percent;
use super::{ClientKey, file};

/// Something that an operator may switch on for a part of the clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// `?ack=stored`.
    AckStored,
    /// `job` in responses, and lookups of jobs.
    Receipts,
    /// Requests may be forwarded to another server.
    Forward,
}

impl Feature {
    /// Every feature.
    pub const ALL: [Self; 3] = [Self::AckStored, Self::Receipts, Self::Forward];

    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::AckStored => "ack_stored",
            Self::Receipts => "receipts",
            Self::Forward => "forward",
        }
    }

    fn salt(self) -> &'static str {
        match self {
            Self::AckStored => "feature:ack_stored",
            Self::Receipts => "feature:receipts",
            Self::Forward => "feature:forward",
        }
    }
}

/// For which clients a feature is on.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `percent`, `tenants` and `except`")]
pub struct Toggle {
    /// The share of all clients.
    pub percent: Percent,
    /// Tenants for which it is on in addition.
    #[serde(default, deserialize_with = "file::tenants")]
    pub tenants: HashSet<String>,
    /// Tenants for which it is off in any case.
    #[serde(default, deserialize_with = "file::tenants")]
    pub except: HashSet<String>,
}

/// The features that are limited. The others are on for every client.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `ack_stored`, `receipts` and `forward`, each optional")]
pub struct Features {
    ack_stored: Option<Toggle>,
    receipts: Option<Toggle>,
    forward: Option<Toggle>,
}

impl Features {
    /// For which clients a feature is on; `None` for all.
    pub fn toggle(&self, feature: Feature) -> Option<&Toggle> {
        match feature {
            Feature::AckStored => self.ack_stored.as_ref(),
            Feature::Receipts => self.receipts.as_ref(),
            Feature::Forward => self.forward.as_ref(),
        }
    }

    /// Warns of tenants that do not exist: a misspelled name does nothing.
    pub(super) fn warn_of_unknown_tenants(&self, is_known: impl Fn(&str) -> bool) {
        for feature in Feature::ALL {
            let Some(Toggle { tenants, except, .. }) = self.toggle(feature) else { continue };
            for (member, names) in [("tenants", tenants), ("except", except)] {
                let mut unknown: Vec<&str> = names.iter().map(String::as_str).filter(|name| !is_known(name)).collect();
                unknown.sort_unstable();
                if let Some(first) = unknown.first() {
                    tracing::warn!(
                        tenant = first,
                        count = unknown.len(),
                        "ROLLOUT_FILE: features.{}.{member} has tenants that are not in TOKENS_FILE, so they have no effect: correct \
                         their names, or remove them",
                        feature.name()
                    );
                }
            }
        }
    }

    /// Whether a client may use a feature. A client of which nothing is known may, if all may.
    pub fn is_on(&self, feature: Feature, client: Option<&ClientKey<'_>>) -> bool {
        let Some(Toggle { percent, tenants, except }) = self.toggle(feature) else { return true };
        if let Some(ClientKey::Tenant(name)) = client {
            if except.contains(*name) {
                return false;
            }
            if tenants.contains(*name) {
                return true;
            }
        }
        client.map_or(*percent == Percent::ALL, |client| client.selected_by(*percent, feature.salt()))
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limited = Feature::ALL.into_iter().filter_map(|feature| Some((feature, self.toggle(feature)?)));
        let texts: Vec<String> = limited
            .map(|(feature, Toggle { percent, tenants, except })| {
                let (name, tenants, except) = (feature.name(), tenants.len(), except.len());
                format!("{name} for {percent} of clients and {tenants} tenants, except {except}")
            })
            .collect();
        f.write_str(if texts.is_empty() { "all on" } else { "" })?;
        f.write_str(&texts.join("; "))
    }
}
