//! Selects the variables that are settings, parses their values one by one, and collects every problem.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::{table, typos};

/// Settings that protect the server. Where one is set but empty, it is more likely that a template failed than that the
/// operator wants no protection.
const PROTECTIVE: [&str; 8] = [
    "ADMIN_TOKEN",
    "ADMIN_TOKEN_FILE",
    "BROKER_CREDENTIALS",
    "BROKER_URL",
    "TLS_CERT",
    "TLS_KEY",
    "TOKENS_FILE",
    "TRUSTED_PROXIES",
];

/// Settings whose values may contain a secret. Messages do not repeat them.
const SECRET: [&str; 7] = [
    "ADMIN_TOKEN",
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "BROKER_URL",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
];

/// Parses the values of the settings and collects every problem.
#[derive(Default)]
pub(super) struct Reader {
    /// The values that are set. The names are in lower case, as envy returns them.
    pub(super) values: BTreeMap<String, String>,
    /// Names whose values are invalid. Their defaults stand in for them, so that all other problems are found as well.
    invalid: Vec<&'static str>,
    pub(super) problems: Vec<String>,
}

impl Reader {
    /// Keeps the variables that are settings, and reports those that are probably meant to be one.
    pub(super) fn select(&mut self, vars: impl IntoIterator<Item = (OsString, OsString)>) -> BTreeMap<String, String> {
        let vars: Vec<_> = vars.into_iter().collect();
        let is_set = |wanted: &str| vars.iter().any(|(name, value)| name == wanted && !value.is_empty());
        let mut selected = BTreeMap::new();
        for (name, value) in &vars {
            let Some(name) = name.to_str() else { continue };
            if table::find(name).is_none() {
                match typos::foreign_name(name) {
                    // Beside the right name, it is meant for another program.
                    Some(right) if value.is_empty() || is_set(right) => {}
                    Some(right) => self.problems.push(format!("{name}: unknown setting; use {right}")),
                    None => self.problems.extend(
                        typos::nearest(name).map(|near| format!("{name}: unknown setting; did you mean {near}?")),
                    ),
                }
                continue;
            }
            match value.to_str().map(str::trim) {
                None => self.problems.push(format!("{name}: expected text in UTF-8")),
                Some("") if PROTECTIVE.contains(&name) => {
                    self.problems
                        .push(format!("{name}: expected a value, but it is empty; unset it to run without it"));
                }
                Some("") => {}
                Some(value) => {
                    selected.insert(name.to_owned(), value.to_owned());
                }
            }
        }
        selected
    }

    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.values.get(&name.to_ascii_lowercase()).map(String::as_str)
    }

    /// Whether the operator has set `name`, to a valid value or not.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    pub(super) fn are_valid(&self, names: [&str; 2]) -> bool {
        names.iter().all(|name| !self.invalid.contains(name))
    }

    /// Whether the operator has set both to valid values. Where only one of two limits is set, the default of the other
    /// one does not conflict with it: the lower of the two applies.
    pub(super) fn are_set(&self, names: [&str; 2]) -> bool {
        self.are_valid(names) && names.iter().all(|name| self.is_set(name))
    }

    pub(super) fn reject_if(&mut self, is_wrong: bool, problem: &str) {
        if is_wrong {
            self.problems.push(problem.to_owned());
        }
    }

    /// The value of `name`; `None` if it is unset or invalid.
    pub(super) fn get_optional<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.value(name)?;
        match parse(value) {
            Ok(value) => Some(value),
            Err(expected) => {
                let shown = if SECRET.contains(&name) { String::new() } else { format!("={value}") };
                self.problems.push(format!("{name}{shown}: expected {expected}"));
                self.invalid.push(name);
                None
            }
        }
    }

    /// The value of `name`, or its default in the table. Every setting that is read with this has a valid default.
    pub(super) fn get<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        self.get_optional(name, &parse).or_else(|| parse(table::find(name)?.default?).ok())
    }
}
