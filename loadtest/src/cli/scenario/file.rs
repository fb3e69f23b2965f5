//! A scenario as a file: a question, the load that answers it, and the limits of a yes.
//!
//! ```toml
//! question = "What happens?"    # what the scenario answers
//! store = "directory"           # or "s3", a server in this process, which can have faults; "memory-s3": objects in memory
//! [faults]                      # of that server: faults = ["delay:50ms"], fault-share = 1.0
//! [server]                      # the environment of the server: COMPRESSION = "gzip"
//! [load]                        # the options of `run`: rate = 16667, shape = "m", tls = true
//! [pass]                        # p99 = "25ms"; cores = 0.5; memory = "150MiB"; rejections = true allows these
//! ```
//!
//! The ledger always has to hold. With `overload = [2, 5, 10]` the load is sent at these multiples of the most that the
//! server accepts; `peak-share` is the share of that which it has to keep accepting, and `rejection-share` the limit of a
//! rejection's CPU as a share of an acceptance's.
//!
//! With `[[floor]]` the limits are ratios to the floor, a server that stores nothing:
//!
//! ```toml
//! rounds = 5                    # how often the floor and the server are run at each rate, in turns
//! [[floor]]                     # repeated, for several rates
//! rate = 16667                  # of the load, which then has none in [load]
//! cpu = 1.7                     # at most this many times the floor's CPU a request
//! p99 = 4.0                     # and these latencies
//! p999 = 5.0
//! ```
//!
//! A ratio is the median over the rounds of the server's figure divided by the floor's in the same round. The ledger and the
//! limits of `[pass]` have to hold in every run of the server, without a rejection.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, anyhow, bail, ensure};
use clap::Args;
use serde::Deserialize;
use toml::{Table, Value};

use super::limits::{FloorLimits, Pass};
use crate::cli::args::{FaultArgs, LoadArgs};

/// Rounds beside the floor, unless the file says otherwise.
const ROUNDS: usize = 5;

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        /// The scenarios in this program: those of the directory `scenarios`.
        pub(super) const BUILT_IN: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../../scenarios/", $name, ".toml")))),*];
    };
}
built_in![
    "steady",
    "fifty-thousand",
    "overload",
    "spike",
    "many-connections",
    "small",
    "large",
    "slow-store",
    "secure",
];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    question: String,
    #[serde(default)]
    store: StoreKind,
    #[serde(default)]
    faults: Table,
    #[serde(default)]
    server: BTreeMap<String, String>,
    load: Table,
    #[serde(default)]
    overload: Vec<f64>,
    #[serde(default)]
    floor: Vec<FloorLimits>,
    rounds: Option<usize>,
    #[serde(default)]
    pass: Table,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum StoreKind {
    #[default]
    Directory,
    S3,
    MemoryS3,
}

/// A scenario, checked.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) name: String,
    pub(super) question: String,
    pub(super) store: StoreKind,
    pub(super) faults: FaultArgs,
    pub(super) env: Vec<(String, String)>,
    pub(super) load: LoadArgs,
    /// The multiples of an overload; empty for one load.
    pub(super) overload: Vec<f64>,
    /// The rates beside the floor; empty for one load.
    pub(super) floor: Vec<FloorLimits>,
    /// How often each is run beside the floor.
    pub(super) rounds: usize,
    pub(super) pass: Pass,
}

impl Scenario {
    /// The built-in scenario of this name, or the one in the file at this path.
    pub(super) fn find(name: &str) -> anyhow::Result<Self> {
        if let Some((name, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
            return Self::parse(name, text);
        }
        let path = Path::new(name);
        if path.extension().is_none() {
            let names: Vec<_> = BUILT_IN.iter().map(|(name, _)| *name).collect();
            bail!("{name:?} is not a scenario: give the path of a .toml file, or one of {}", names.join(", "));
        }
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let stem = path.file_stem().context("a file without a name")?;
        Self::parse(&stem.to_string_lossy(), &text)
    }

    pub(super) fn parse(name: &str, text: &str) -> anyhow::Result<Self> {
        let in_file = || format!("scenario {name}");
        let file: File = toml::from_str(text).with_context(in_file)?;
        Self::new(name, file).with_context(in_file)
    }

    fn new(name: &str, file: File) -> anyhow::Result<Self> {
        ensure!(!file.question.trim().is_empty(), "the question is empty");
        let load: LoadArgs = arguments(&file.load)?;
        let (faults, pass): (FaultArgs, Pass) = (arguments(&file.faults)?, arguments(&file.pass)?);
        let plan = load.plan()?;
        if file.overload.is_empty() {
            ensure!(pass.peak_share.is_none(), "peak-share goes with overload = […]");
            ensure!(pass.rejection_share.is_none(), "rejection-share goes with overload = […]");
        } else {
            ensure!(file.overload.iter().all(|times| *times > 1.0), "an overload is more than 1 times the peak");
            ensure!(plan.rate.is_unpaced(), "an overload has the rate of its multiples: leave it out");
        }
        if file.floor.is_empty() {
            ensure!(file.rounds.is_none(), "rounds goes with [[floor]]");
        } else {
            ensure!(file.overload.is_empty(), "overload and [[floor]] exclude each other");
            ensure!(plan.rate.is_unpaced(), "the load has the rate of each [[floor]]: leave it out of [load]");
            ensure!(
                load.suits_baselines(),
                "the floor takes a plain envelope over HTTP/1.1 without TLS: leave form, encoding, http2 and tls out of [load]"
            );
            ensure!(!pass.rejections, "beside the floor nothing may be rejected: leave rejections out of [pass]");
            ensure!(file.rounds != Some(0), "rounds is 1 or more");
            file.floor.iter().try_for_each(FloorLimits::check)?;
            for (index, limits) in file.floor.iter().enumerate() {
                let is_new = file.floor.iter().take(index).all(|other| other.rate != limits.rate);
                ensure!(is_new, "two [[floor]] have the rate {}: give its limits in one of them", limits.rate);
            }
        }
        let has_s3 = file.store != StoreKind::Directory;
        ensure!(has_s3 || faults.is_empty(), "faults are for store = \"s3\" or \"memory-s3\"");
        Ok(Self {
            name: name.to_owned(),
            question: file.question,
            store: file.store,
            faults,
            env: file.server.into_iter().collect(),
            load,
            overload: file.overload,
            floor: file.floor,
            rounds: file.rounds.unwrap_or(ROUNDS),
            pass,
        })
    }
}

/// A table as arguments: its keys are options of the command line.
fn arguments<A: Args>(table: &Table) -> anyhow::Result<A> {
    let mut words = Vec::new();
    for (name, value) in table {
        let value = match value {
            Value::Boolean(true) => {
                words.push(format!("--{name}"));
                continue;
            }
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::String(text) => text.clone(),
            Value::Array(parts) => parts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            Value::Boolean(false) | Value::Datetime(_) | Value::Table(_) => bail!("{name} has no value of an option"),
        };
        words.push(format!("--{name}={value}"));
    }
    let command = A::augment_args(clap::Command::new("scenario").no_binary_name(true));
    // The first line says what is wrong, and the others are the usage of a command line.
    let first_line = |wrong: clap::Error| anyhow!(wrong.to_string().lines().next().unwrap_or_default().to_owned());
    let matches = command.try_get_matches_from(words).map_err(first_line)?;
    A::from_arg_matches(&matches).map_err(first_line)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_file_of_the_directory_is_built_in_and_asks_a_question() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), BUILT_IN.len());
        for path in files {
            let scenario = Scenario::find(path.to_str().unwrap()).unwrap();
            assert!(scenario.question.ends_with('?'), "{}", scenario.name);
            let (_, text) = BUILT_IN.iter().find(|(name, _)| *name == scenario.name).unwrap();
            assert_eq!(*text, std::fs::read_to_string(&path).unwrap());
        }
    }

    #[test]
    fn what_is_left_out_has_the_defaults_of_the_command_line() {
        let scenario = Scenario::parse("x", "question = \"?\"\n[load]\nrate = 5\nhttp2 = true").unwrap();
        let plan = scenario.load.plan().unwrap();
        assert_eq!((plan.rate.to_string(), plan.streams), ("5/s".to_owned(), 8));
        assert_eq!((plan.connections, plan.duration, &*plan.token), (64, Some(Duration::from_secs(10)), "loadtest"));
    }

    #[test]
    fn the_floor_has_rates_and_limits() {
        let text = "question = \"?\"\nstore = \"memory-s3\"\n[load]\n[[floor]]\nrate = 5\ncpu = 1.7\n[[floor]]\nrate = 9\np99 = 2";
        let scenario = Scenario::parse("x", text).unwrap();
        let rates: Vec<f64> = scenario.floor.iter().map(|limits| limits.rate).collect();
        assert_eq!((scenario.store, rates, scenario.rounds), (StoreKind::MemoryS3, vec![5.0, 9.0], 5));
    }

    #[test]
    fn a_file_with_a_mistake_is_rejected_and_says_why() {
        for (text, part) in [
            ("[load]", "question"),
            ("question = \" \"\n[load]", "the question is empty"),
            ("question = \"?\"", "missing field `load`"),
            ("question = \"?\"\n[load]\nrat = 1", "--rat"),
            ("question = \"?\"\n[load]\nrate = \"x\"", "\"x\" is not a rate"),
            ("question = \"?\"\n[load]\nshape = \"xl\"", "expected s, m, l or mixed"),
            ("question = \"?\"\n[load]\nshape = \"s\"\npayloads = 3", "cannot be used with"),
            ("question = \"?\"\n[load]\nrate = 5\nspike = \"9@9s+9s\"", "9@9s+9s"),
            ("question = \"?\"\n[load]\nconnections = 10001", "1 to 10000"),
            ("question = \"?\"\n[load]\n[pass]\np99 = \"soon\"", "expected a time"),
            ("question = \"?\"\n[load]\n[pass]\npeak-share = 0.9", "goes with overload"),
            ("question = \"?\"\n[load]\n[pass]\nrejection-share = 0.5", "goes with overload"),
            ("question = \"?\"\n[load]\n[pass]\nmemory = \"much\"", "expected a size"),
            ("question = \"?\"\noverload = [2]\n[load]\nrate = 5", "leave it out"),
            ("question = \"?\"\noverload = [0.5]\n[load]", "more than 1"),
            ("question = \"?\"\n[load]\n[faults]\nfaults = [\"500\"]", "store = \"s3\""),
            ("question = \"?\"\n[load]\n[faults]\nfaults = [\"fire\"]", "\"fire\" is not a fault"),
            ("question = \"?\"\nrounds = 5\n[load]", "rounds goes with [[floor]]"),
            ("question = \"?\"\nrounds = 0\n[load]\n[[floor]]\nrate = 5\np99 = 2", "rounds is 1 or more"),
            ("question = \"?\"\noverload = [2]\n[load]\n[[floor]]\nrate = 5\np99 = 2", "exclude each other"),
            ("question = \"?\"\n[load]\nrate = 5\n[[floor]]\nrate = 5\np99 = 2", "leave it out of [load]"),
            ("question = \"?\"\n[load]\nencoding = \"gzip\"\n[[floor]]\nrate = 5\np99 = 2", "a plain envelope"),
            ("question = \"?\"\n[load]\ntls = true\n[[floor]]\nrate = 5\np99 = 2", "without TLS"),
            ("question = \"?\"\n[load]\nhttp2 = true\n[[floor]]\nrate = 5\np99 = 2", "over HTTP/1.1"),
            (
                "question = \"?\"\n[load]\n[pass]\nrejections = true\n[[floor]]\nrate = 5\np99 = 2",
                "leave rejections out",
            ),
            ("question = \"?\"\n[load]\n[[floor]]\nrate = 5\np99 = 2\n[[floor]]\nrate = 5\ncpu = 2", "in one of them"),
            ("question = \"?\"\n[load]\n[[floor]]\np99 = 2", "missing field `rate`"),
            ("question = \"?\"\n[load]\n[[floor]]\nrate = 0\np99 = 2", "the rate of a [[floor]] is above 0"),
            ("question = \"?\"\n[load]\n[[floor]]\nrate = 5", "at 5/s has no limit: give cpu, p99 or p999"),
            ("question = \"?\"\n[load]\n[[floor]]\nrate = 5\ncpu = 0", "at 5/s are above 0"),
            ("question = \"?\"\n[load]\n[[floor]]\nrate = 5\np95 = 2", "unknown field `p95`"),
        ] {
            let wrong = format!("{:#}", Scenario::parse("x", text).unwrap_err());
            assert!(wrong.contains(part), "{text}\n{wrong}");
        }
    }
}
