//! A scenario as a file: a question, what is done to find the answer, and what would be a no.
//!
//! ```toml
//! question = "What happens?"    # what the scenario answers
//! store = "folder"              # or "s3", a server in this process, which can go wrong
//! [faults]                      # of that server: faults = ["delay:50ms"], fault-share = 1.0
//! [server]                      # the environment of the server: COMPRESSION = "gzip"
//! [load]                        # what `run` has as options: rate = 16667, shape = "m"
//! [pass]                        # p99 = "25ms"; cores = 0.5; memory = "150MiB"; refusals = true lets the server refuse
//! ```
//!
//! The ledger always has to hold. With `overload = [2, 5, 10]` the load is sent at these multiples of what the server
//! takes at most; `peak-share` is what it has to go on taking of that, and `refusal-share` what a refusal may cost of an
//! acceptance. With `prove = "kill"` and a `[proof]` instead of a load, it is what the command `prove` does.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use loadtest::proof::Scene;
use serde::Deserialize;

use crate::cli::{self, FaultArgs, LoadArgs};
use crate::prove::ProofArgs;

/// The scenarios that this program has in itself: those of the folder `scenarios`.
pub(super) const BUILT_IN: [(&str, &str); 14] = {
    macro_rules! built_in {
        ($($name:literal),* $(,)?) => {
            [$(($name, include_str!(concat!("../../scenarios/", $name, ".toml")))),*]
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
        "kill",
        "outage",
        "spool-slow-store",
        "stop",
        "disk-full",
        "takeover",
    ]
};

/// A scenario as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct File {
    pub(super) question: String,
    #[serde(default)]
    pub(super) store: StoreKind,
    #[serde(default)]
    pub(super) faults: FaultArgs,
    #[serde(default)]
    pub(super) server: BTreeMap<String, String>,
    pub(super) load: Option<LoadArgs>,
    #[serde(default)]
    pub(super) overload: Vec<f64>,
    prove: Option<String>,
    proof: Option<ProofArgs>,
    pass: Option<Pass>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum StoreKind {
    #[default]
    Folder,
    S3,
}

/// What would be a no, beside a ledger that does not hold.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Pass {
    /// What the 99th percentile of accepted requests may take.
    #[serde(deserialize_with = "cli::some_duration")]
    pub(super) p99: Option<Duration>,
    /// Whether the server may refuse.
    pub(super) refusals: bool,
    /// The share of its peak that it has to accept under any overload.
    pub(super) peak_share: Option<f64>,
    /// The share of an acceptance's CPU that a refusal under any overload has to cost less than.
    pub(super) refusal_share: Option<f64>,
    /// The CPU that the server may take during the load, in cores.
    pub(super) cores: Option<f64>,
    /// The memory that it may take at most, drain and all, in bytes.
    #[serde(deserialize_with = "cli::some_size")]
    pub(super) memory: Option<usize>,
}

/// A scenario, checked.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) name: String,
    pub(super) question: String,
    pub(super) store: StoreKind,
    pub(super) faults: FaultArgs,
    pub(super) env: Vec<(String, String)>,
    pub(super) work: Work,
}

/// What is done.
#[derive(Debug)]
pub(super) enum Work {
    Load(LoadArgs, Pass),
    Overload(LoadArgs, Pass, Vec<f64>),
    Prove(Scene, ProofArgs),
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
            bail!("{name:?} is no scenario: give the path of a .toml file, or one of {}", names.join(", "));
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
        let work = match (file.load, file.prove) {
            (Some(load), None) => {
                ensure!(file.proof.is_none(), "[proof] goes with prove = \"…\"");
                load.plan()?;
                let pass = file.pass.unwrap_or_default();
                let multiples = file.overload;
                if multiples.is_empty() {
                    ensure!(pass.peak_share.is_none(), "peak-share goes with overload = […]");
                    ensure!(pass.refusal_share.is_none(), "refusal-share goes with overload = […]");
                    Work::Load(load, pass)
                } else {
                    ensure!(multiples.iter().all(|times| *times > 1.0), "an overload is more than 1 times the peak");
                    ensure!(load.plan()?.rate.is_unpaced(), "an overload finds its rate by itself: leave it out");
                    Work::Overload(load, pass, multiples)
                }
            }
            (None, Some(scene)) => {
                ensure!(file.pass.is_none() && file.overload.is_empty(), "a proof has no [pass] and no overload");
                let scenes = Scene::ALL.map(Scene::name).join(", ");
                let scene = Scene::named(&scene).with_context(|| format!("prove is one of {scenes}"))?;
                Work::Prove(scene, file.proof.unwrap_or_default())
            }
            _ => bail!("give a [load], or prove = \"…\""),
        };
        let needs_s3 = matches!(work, Work::Prove(Scene::SlowStore, _));
        ensure!(file.store == StoreKind::S3 || file.faults.is_empty() || needs_s3, "faults are for store = \"s3\"");
        Ok(Self {
            name: name.to_owned(),
            question: file.question,
            store: file.store,
            faults: file.faults,
            env: file.server.into_iter().collect(),
            work,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_built_in_parses_and_asks() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort_unstable();
        assert_eq!(files.len(), BUILT_IN.len());
        for path in files {
            let scenario = Scenario::find(path.to_str().unwrap()).unwrap();
            assert!(scenario.question.ends_with('?'), "{}", scenario.name);
            let (_, text) = BUILT_IN.iter().find(|(name, _)| *name == scenario.name).unwrap();
            assert_eq!(*text, std::fs::read_to_string(&path).unwrap());
        }
    }

    #[test]
    fn every_scene_of_a_proof_has_a_scenario() {
        let proven: Vec<_> = BUILT_IN
            .iter()
            .filter_map(|(name, text)| match Scenario::parse(name, text).unwrap().work {
                Work::Prove(scene, _) => Some(scene),
                Work::Load(..) | Work::Overload(..) => None,
            })
            .collect();
        assert!(Scene::ALL.iter().all(|scene| proven.contains(scene)), "{proven:?}");
    }

    #[test]
    fn what_is_left_out_is_what_the_command_line_has() {
        let Work::Load(load, _) = Scenario::parse("x", "question = \"?\"\n[load]\nrate = \"5..10\"").unwrap().work
        else {
            panic!("no load")
        };
        let plan = load.plan().unwrap();
        assert_eq!(plan.rate.to_string(), "5..10/s");
        assert_eq!((plan.connections, plan.duration, &*plan.token), (64, Some(Duration::from_secs(10)), "loadtest"));
    }

    #[test]
    fn a_file_that_makes_no_sense_is_refused_and_says_why() {
        for (text, part) in [
            ("[load]", "question"),
            ("question = \" \"\n[load]", "the question is empty"),
            ("question = \"?\"", "give a [load]"),
            ("question = \"?\"\nprove = \"kill\"\n[load]", "give a [load]"),
            ("question = \"?\"\nprove = \"fire\"", "kill, outage, slow-store"),
            ("question = \"?\"\nprove = \"kill\"\n[pass]", "no [pass]"),
            ("question = \"?\"\n[load]\n[proof]", "goes with prove"),
            ("question = \"?\"\n[load]\nrat = 1", "rat"),
            ("question = \"?\"\n[load]\nrate = \"1..x\"", "\"x\" is no rate"),
            ("question = \"?\"\n[load]\nshape = \"xl\"", "expected s, m, l or mixed"),
            ("question = \"?\"\n[load]\nshape = \"s\"\npayloads = 3", "a shape or a number"),
            ("question = \"?\"\n[load]\nrate = 5\nspike = \"9@9s+9s\"", "9@9s+9s"),
            ("question = \"?\"\n[load]\nconnections = 10001", "1 to 10000"),
            ("question = \"?\"\n[load]\n[pass]\np99 = \"soon\"", "no time"),
            ("question = \"?\"\n[load]\n[pass]\npeak-share = 0.9", "goes with overload"),
            ("question = \"?\"\n[load]\n[pass]\nrefusal-share = 0.5", "goes with overload"),
            ("question = \"?\"\n[load]\n[pass]\nmemory = \"much\"", "no size"),
            ("question = \"?\"\noverload = [2]\n[load]\nrate = 5", "leave it out"),
            ("question = \"?\"\noverload = [0.5]\n[load]", "more than 1"),
            ("question = \"?\"\n[load]\n[faults]\nfaults = [\"500\"]", "store = \"s3\""),
            ("question = \"?\"\n[load]\n[faults]\nfaults = [\"fire\"]", "\"fire\" is no fault"),
        ] {
            let wrong = format!("{:#}", Scenario::parse("x", text).unwrap_err());
            assert!(wrong.contains(part), "{text}\n{wrong}");
        }
    }
}
