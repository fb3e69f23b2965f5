//! Runs of the baselines, and the loads that they take.

use std::path::PathBuf;
use std::time::Duration;

use super::args::LoadArgs;
use crate::baseline::Baseline;
use crate::batch::{Encoding, Form};
use crate::load::Plan;
use crate::server::Program;
use crate::trial::{TestedServer, TestedStore, Trial};

/// How long to wait for what a baseline accepted to be in the store, before it is stopped.
const SETTLE: Duration = Duration::from_secs(10);

impl LoadArgs {
    /// Whether the baselines can read its bodies.
    pub(super) fn is_plain(&self) -> bool {
        self.form == Form::Envelope && self.encoding == Encoding::Identity
    }

    /// Whether the baselines can take it: they have neither TLS nor HTTP/2.
    pub(super) fn suits_baselines(&self) -> bool {
        self.is_plain() && !self.tls && !self.http2
    }
}

/// A run of a baseline, without its log.
pub(super) fn trial(
    baseline: Baseline,
    name: impl Into<String>,
    plan: Plan,
    store: TestedStore,
) -> anyhow::Result<Trial> {
    let program = Program { log: Some(PathBuf::from("/dev/null")), ..baseline.program()? };
    Ok(Trial { settle: SETTLE, ..Trial::new(name, plan, TestedServer::Baseline(program), store) })
}
