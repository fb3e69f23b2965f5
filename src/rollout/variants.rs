//! Variants (A/B): which one a client belongs to.

use std::fmt;
use std::sync::Arc;

use super::ClientKey;
use super::selection::Percent;

/// Variants at the same time. Each has series of metrics.
pub const VARIANTS_MAX: usize = 16;
const SALT: &str = "variant";

/// A variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// Its name: lower case letters, digits, `_` and `-`, which need no escapes in JSON.
    pub name: Arc<str>,
    /// The share of the clients.
    pub percent: Percent,
}

/// The variants in the order of the file. Together they have at most all clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variants(pub(super) Vec<Variant>);

impl Variants {
    /// All of them.
    pub fn list(&self) -> &[Variant] {
        &self.0
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|variant| &*variant.name)
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
