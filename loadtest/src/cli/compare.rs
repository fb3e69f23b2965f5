//! The command `compare`: a reference and variants of a server under the same load in turns, so that both are of one
//! machine at about the same time.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;

use super::args::{LoadArgs, variable};
use super::baseline;
use super::output::{self, Exit, note, show};
use crate::baseline::Baseline;
use crate::diff::{Diff, Rounds, groups};
use crate::load::Control;
use crate::report::Report;
use crate::s3::FaultPlan;
use crate::server::Program;
use crate::trial::{TestedServer, TestedStore, Trial};

/// The name of a server without variants.
const SERVER: &str = "server";

/// After the name of a variant, its run by the build of `--against`.
const AGAINST: &str = ", against";

#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    /// The server to compare
    #[arg(long)]
    spawn: PathBuf,
    /// Another build of the server, as the reference of each variant [default: the floor is the reference of all]
    #[arg(long, conflicts_with = "baselines")]
    against: Option<PathBuf>,
    /// A name and an environment for the server, as 'gzip:COMPRESSION=gzip,ACK=memory', repeated
    #[arg(long = "variant", value_name = "NAME:NAME=VALUE,…", value_parser = variant)]
    variants: Vec<Variant>,
    /// How often each is run
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Run a simpler design too, which puts each payload as an object of its own
    #[arg(long, requires = "in_memory_s3")]
    baselines: bool,
    /// Store into an S3 server in this process, with the objects in memory, instead of a directory
    #[arg(long)]
    in_memory_s3: bool,
    #[command(flatten)]
    load: LoadArgs,
    /// Write all reports to this file too, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone)]
struct Variant {
    name: String,
    env: Vec<(String, String)>,
}

pub(super) async fn run(args: &CompareArgs) -> anyhow::Result<Exit> {
    let control = Control::default();
    args.check()?;
    output::check(&args.json)?;
    let mut reports = Vec::new();
    let mut broken = false;
    let done = output::interruptible(&control, Box::pin(rounds(args, &control, &mut reports, &mut broken))).await;
    // What has been measured is shown, also after an error.
    for diff in args.diffs(&reports) {
        show(diff.to_string().trim_end());
    }
    output::write_json(&args.json, &reports)?;
    done?;
    Ok(Exit::broken_if(broken))
}

/// Adds each report as soon as its run is over.
async fn rounds(
    args: &CompareArgs,
    control: &Control,
    reports: &mut Vec<Report>,
    broken: &mut bool,
) -> anyhow::Result<()> {
    for round in 0..args.rounds {
        for trial in args.round(round)? {
            let name = trial.name.clone();
            // A baseline promises nothing: what it loses is a figure.
            let promises = matches!(trial.server, TestedServer::Spawn(_));
            let run = Box::pin(output::watched(trial, control.child()));
            let report = run.await.with_context(|| format!("round {round} of {name}"))?;
            if control.end.is_cancelled() {
                return Ok(());
            }
            let failed = promises && report.failed();
            let verdict = if failed { "FAILED" } else { "done" };
            note(&format!("round {round}  {name:<24}{:>9.0}/s   {verdict}", report.requests_per_second));
            if failed {
                show(&report.to_string());
                *broken = true;
            }
            reports.push(report);
        }
    }
    Ok(())
}

impl CompareArgs {
    fn check(&self) -> anyhow::Result<()> {
        if self.baselines && !self.load.is_plain() {
            bail!("the baselines take a plain envelope: leave --form and --encoding out");
        }
        if self.against.is_none() && !self.load.suits_baselines() {
            bail!(
                "the floor takes a plain envelope over HTTP/1.1 without TLS: compare with another build, as --against"
            );
        }
        Ok(())
    }

    /// The trials of one round.
    fn round(&self, number: usize) -> anyhow::Result<Vec<Trial>> {
        let log = Some(PathBuf::from("/dev/null"));
        let store = if self.in_memory_s3 { TestedStore::InMemory(FaultPlan::none()) } else { TestedStore::Fresh };
        let mut trials = Vec::new();
        if self.against.is_none() {
            let design = self.baselines.then(|| (Baseline::PutPerPayload, store.clone()));
            for (baseline, store) in std::iter::once((Baseline::Floor, TestedStore::None)).chain(design) {
                trials.push(baseline::trial(baseline, baseline.name(), self.load.plan()?, store)?);
            }
        }
        let unnamed = [Variant { name: SERVER.to_owned(), env: Vec::new() }];
        for Variant { name, env } in if self.variants.is_empty() { &unnamed[..] } else { &self.variants } {
            let mut add = |name: String, path: &Path| -> anyhow::Result<()> {
                let (path, env) = (path.to_owned(), env.clone());
                let program = Program { path, args: Vec::new(), env, log: log.clone() };
                let trial = Trial::new(name, self.load.plan()?, TestedServer::Spawn(program), store.clone());
                trials.push(Trial { tls: self.load.tls, ..trial });
                Ok(())
            };
            if let Some(against) = &self.against {
                add(format!("{name}{AGAINST}"), against)?;
            }
            add(name.clone(), &self.spawn)?;
        }
        // In every other round in the other order, so that none always has the warmer machine.
        if number % 2 == 1 {
            trials.reverse();
        }
        Ok(trials)
    }

    /// Each variant and its reference.
    fn diffs(&self, reports: &[Report]) -> Vec<Diff> {
        let groups = groups(reports);
        let of = |name: &str| groups.iter().find(|(other, _)| *other == name);
        let floor = Baseline::Floor.name();
        let variants = groups.iter().filter(|(name, _)| !name.ends_with(AGAINST) && *name != floor);
        let diffs = variants.filter_map(|(name, runs)| {
            let (reference, before) = of(&format!("{name}{AGAINST}")).or_else(|| of(&floor))?;
            let what = if reference.ends_with(AGAINST) {
                format!("{name} (--against)  ->  {name} (--spawn)")
            } else {
                format!("{reference}  ->  {name}")
            };
            Some(Diff::new(what, before, runs, Rounds::Paired))
        });
        diffs.collect()
    }
}

fn variant(text: &str) -> Result<Variant, String> {
    let (name, env) = text.split_once(':').unwrap_or((text, ""));
    let env = env.split(',').filter(|pair| !pair.is_empty()).map(variable).collect::<Result<_, _>>()?;
    Ok(Variant { name: name.to_owned(), env })
}
