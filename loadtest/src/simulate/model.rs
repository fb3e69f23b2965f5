//! The file of a model. `loadtest/simulate/model.toml` is built in, and explains each value.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use serde::Deserialize;

use super::demand::Shape;
use super::machine::{Request, Spec};
use super::policy::Policy;
use super::quantity::Seconds;

/// The built-in model.
pub(crate) const MODEL: &str = include_str!("../../simulate/model.toml");

/// The largest group.
pub(crate) const MAX_MACHINES: u32 = 10_000;

/// The largest group times the longest load in seconds, which limits the time of a simulation.
pub(crate) const MAX_MACHINE_SECONDS: u64 = 1_000_000_000;

/// A model.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Model {
    pub(crate) request: Request,
    pub(crate) machine: Spec,
    pub(crate) group: Size,
    pub(crate) broker: Broker,
    pub(crate) policy: BTreeMap<String, Policy>,
    pub(crate) load: BTreeMap<String, Shape>,
}

/// The part `[group]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Size {
    pub(crate) min: u32,
    pub(crate) max: u32,
    pub(crate) period: Seconds,
}

/// The part `[broker]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Broker {
    pub(crate) clusters: u32,
    pub(crate) nodes: u32,
    pub(crate) zone_transfers: f64,
    pub(crate) volume_gb: f64,
}

impl Model {
    /// The model of `MODEL`.
    pub(crate) fn built_in() -> anyhow::Result<Self> {
        Self::parse(MODEL).context("the built-in model")
    }

    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let model: Self = toml::from_str(text)?;
        model.check()?;
        Ok(model)
    }

    /// Errors: the first value without a meaning.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.request.check()?;
        self.machine.limits(&self.request)?;
        let Size { min, max, period } = self.group;
        ensure!(
            (1..=max).contains(&min) && max <= MAX_MACHINES,
            "[group] min is from 1 to max, and max is at most {MAX_MACHINES}"
        );
        ensure!(period.0 > 0, "[group] period is 1s or longer");
        let Broker { zone_transfers, volume_gb, .. } = self.broker;
        ensure!(
            [zone_transfers, volume_gb].iter().all(|number| number.is_finite() && *number >= 0.0),
            "[broker] zone-transfers and volume-gb are 0 or above"
        );
        ensure!(!self.policy.is_empty(), "needs a [policy.NAME]");
        ensure!(!self.load.is_empty(), "needs a [load.NAME]");
        for name in self.policy.keys().chain(self.load.keys()) {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            ensure!(!name.is_empty() && name.bytes().all(is_plain), "{name:?}: a name has letters, digits, - and _");
        }
        self.policy.iter().try_for_each(|(name, policy)| policy.check(name))?;
        for (name, shape) in &self.load {
            shape.check(name)?;
            let work = u64::from(max) * u64::from(shape.seconds());
            ensure!(
                work <= MAX_MACHINE_SECONDS,
                "[load.{name}] duration times [group] max is above {MAX_MACHINE_SECONDS} machine seconds"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_model_has_the_policies_and_loads_of_its_documentation() {
        let model = Model::built_in().unwrap();
        assert_eq!(
            model.policy.keys().collect::<Vec<_>>(),
            ["beanstalk", "step", "target-cpu", "target-requests", "trigger"]
        );
        assert_eq!(model.load.keys().collect::<Vec<_>>(), ["day", "growth", "spike", "step"]);
    }

    #[test]
    fn a_model_with_a_mistake_is_rejected_and_says_which() {
        for (before, after, part) in [
            ("cores = 2", "cores = 0", "[machine] cores is above 0"),
            ("cores = 2", "cores = 2\nkores = 2", "unknown field `kores`"),
            ("cores = 2\n", "", "missing field `cores`"),
            ("cores = 2", "cores = inf", "cores is above 0"),
            ("network-gbits = 0.781", "network-gbits = 1e-9", "cannot take a request a second"),
            ("[16667, 36.6]", "[16667, 99.0]", "has to rise with the rate"),
            ("[16667, 36.6]", "[-1, 36.6]", "a curve needs"),
            ("[0.02, 0.46]", "[2, 0.46]", "rising values of x"),
            ("start = \"2m\"", "start = \"soon\"", "expected a time"),
            ("put-time = \"500ms\"", "put-time = \"0\"", "put-time is above 0"),
            ("spool = \"10GiB\"", "spool = \"1MiB\"", "spool is smaller than object"),
            ("object = \"8MiB\"", "object = \"8\"", "object is smaller than stored-bytes"),
            ("uploads = 16", "uploads = 0", "uploads is 1 or more"),
            ("payloads = 10", "payloads = 0", "payloads is 1 or more"),
            ("requests-per-connection = 100", "requests-per-connection = 0", "requests-per-connection is 1 or more"),
            ("min = 2", "min = 0", "min is from 1 to max"),
            ("max = 1000", "max = 10001", "at most 10000"),
            ("period = \"60s\"", "period = \"0s\"", "period is 1s or longer"),
            ("zone-transfers = 3.33", "zone-transfers = -1", "[broker] zone-transfers"),
            ("kind = \"trigger\"", "kind = \"magic\"", "unknown variant `magic`"),
            ("below = 30", "below = 95", "[policy.trigger] scale-in is not below scale-out"),
            ("target = 40", "target = 0", "[policy.target-cpu] target is above 0"),
            ("[[40, 25], [50, 50], [54, 100]]", "[]", "[policy.step] steps is empty"),
            ("[[40, 25], [50, 50], [54, 100]]", "[[50, 25], [40, 50]]", "rising values of above"),
            ("periods-out = 2", "periods-out = 0", "1 period or more"),
            ("[policy.step]", "[policy.\"<b>\"]", "a name has letters"),
            ("peak = \"6M\"", "peak = \"2B\"", "from 1 to 1B"),
            ("peak = \"6M\"", "peak = \"500k\"", "[load.day] base 1M is above peak 500k"),
            ("day = \"24h\"", "day = \"0s\"", "[load.day] day is 1s or longer"),
            ("duration = \"24h\"", "duration = \"169h\"", "\"169h\" is above 168h"),
            ("length = \"30m\"\nduration = \"2h\"", "length = \"30m\"\nduration = \"10m\"", "at is not before the end"),
            ("duration = \"24h\"", "duration = \"0s\"", "[load.day] duration is 1s or longer"),
            ("length = \"30m\"", "length = \"0s\"", "length is 1s or longer"),
            ("noise = 0.02", "noise = 1", "noise is a share"),
        ] {
            assert!(MODEL.contains(before), "{before}");
            let wrong = Model::parse(&MODEL.replacen(before, after, 1)).unwrap_err();
            assert!(format!("{wrong:#}").contains(part), "{after}\n{wrong:#}");
        }
        let large = MODEL.replace("max = 1000", "max = 10000").replace("duration = \"24h\"", "duration = \"168h\"");
        assert!(Model::parse(&large).unwrap_err().to_string().contains("machine seconds"));
    }
}
