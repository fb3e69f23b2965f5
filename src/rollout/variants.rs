//! Variants (A/B): which one a client belongs to.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::ClientKey;
use super::selection::Percent;

/// Variants at the same time. Each has series of metrics.
const VARIANTS_MAX: usize = 16;
const NAME_MAX_BYTES: usize = 32;
const SALT: &str = "variant";

/// A variant.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `name` and `percent`")]
pub struct Variant {
    /// Its name: lower case letters, digits, `_` and `-`, which need no escapes in JSON.
    #[serde(deserialize_with = "variant_name")]
    pub name: Arc<str>,
    /// The share of the clients.
    pub percent: Percent,
}

/// The variants in the order of the file. Together they have at most all clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Variants(Vec<Variant>);

/// The name of a variant.
fn variant_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    let name = String::deserialize(deserializer)?;
    let is_valid = (1..=NAME_MAX_BYTES).contains(&name.len())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
    let expected = || D::Error::custom("expected a name of 1 to 32 lower case letters, digits, `_` and `-`");
    if is_valid { Ok(name.into()) } else { Err(expected()) }
}

impl Variants {
    /// All of them.
    pub fn list(&self) -> &[Variant] {
        &self.0
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|variant| &*variant.name)
    }

    /// What is wrong with the variants together.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let Self(list) = self;
        let names: HashSet<&str> = list.iter().map(|variant| &*variant.name).collect();
        let buckets: u32 = list.iter().map(|variant| u32::from(variant.percent.buckets())).sum();
        if names.len() < list.len() {
            return Err("two have the same name: give each its own");
        }
        if list.len() > VARIANTS_MAX {
            return Err("there are more than 16: remove some");
        }
        if buckets > u32::from(Percent::ALL.buckets()) {
            return Err("their shares exceed 100 percent together: lower some");
        }
        Ok(())
    }

    /// The variant of a client. Each variant has the buckets after those of the variants before it.
    pub fn of(&self, client: Option<&ClientKey<'_>>) -> Option<&Arc<str>> {
        if self.0.is_empty() {
            return None;
        }
        let bucket = client?.bucket(SALT);
        let mut end = 0;
        let variant = self.0.iter().find(|variant| {
            end += variant.percent.buckets();
            bucket < end
        });
        variant.map(|variant| &variant.name)
    }
}

impl fmt::Display for Variants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(|Variant { name, percent }| format!("{name} {percent}")).collect();
        f.write_str(if texts.is_empty() { "none" } else { "" })?;
        f.write_str(&texts.join(", "))
    }
}
