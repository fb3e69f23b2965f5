//! The command `scenario`: scenarios one after the other, each with its question and the answer.

mod answer;
mod file;
mod floor;
mod limits;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde::Serialize;

use self::answer::Overload;
use self::file::{BUILT_IN, Scenario, StoreKind};
use self::floor::Measured;
use super::baseline;
use super::output::{self, Exit, note, show};
use crate::baseline::Baseline;
use crate::diff::Diff;
use crate::load::{Control, Plan, Rate};
use crate::report::{Conclusion, Report};
use crate::server::Program;
use crate::trial::{TestedServer, TestedStore, Trial};
use crate::units;

/// Lines of a server's log that are shown.
const LOG_LINES: usize = 20;

#[derive(Debug, Args)]
pub(super) struct ScenarioArgs {
    /// Names of built-in scenarios, or paths of files
    #[arg(required_unless_present = "list")]
    names: Vec<String>,
    /// List the built-in scenarios and their questions
    #[arg(long)]
    list: bool,
    /// The server to start [default: millpond, in the directory of this program]
    #[arg(long)]
    spawn: Option<PathBuf>,
    /// Send for this long instead of the file's duration
    #[arg(long, value_parser = units::duration)]
    duration: Option<Duration>,
    /// A directory for reports, as NAME.json, a page for each load, as NAME-1.html, and the servers' logs, as NAME.log
    #[arg(long)]
    json: Option<PathBuf>,
}

/// The result of a scenario.
#[derive(Debug, Serialize)]
struct Finding {
    name: String,
    conclusion: Conclusion,
    reports: Vec<Report>,
    /// Of the runs beside the floor, which are too many to show each.
    #[serde(skip)]
    diffs: Vec<Diff>,
}

impl Finding {
    fn show(&self) {
        if !self.diffs.is_empty() {
            show(&format!("\n{}: {}", self.name, self.conclusion));
        }
        for report in self.reports.iter().filter(|report| self.diffs.is_empty() || report.failed()) {
            show(&report.to_string());
        }
        for diff in &self.diffs {
            show(diff.to_string().trim_end());
        }
    }
}

pub(super) async fn run(args: &ScenarioArgs) -> anyhow::Result<Exit> {
    if args.list {
        for (name, text) in BUILT_IN {
            show(&format!("{name:<18}{}", Scenario::parse(name, text)?.question));
        }
        return Ok(Exit::Held);
    }
    // All of them are read before the first begins.
    let scenarios = args.names.iter().map(|name| Scenario::find(name)).collect::<anyhow::Result<Vec<_>>>()?;
    let control = Control::default();
    output::interruptible(&control, Box::pin(all(args, &scenarios, &control))).await
}

async fn all(args: &ScenarioArgs, scenarios: &[Scenario], control: &Control) -> anyhow::Result<Exit> {
    let logs = tempfile::tempdir().context("making a directory")?;
    let logs = args.json.as_deref().unwrap_or(logs.path());
    std::fs::create_dir_all(logs).with_context(|| format!("making {}", logs.display()))?;
    let mut holds = true;
    for scenario in scenarios {
        let log = logs.join(format!("{}.log", scenario.name));
        let runner = Runner { args, scenario, control, log };
        let finding = Box::pin(runner.run()).await.with_context(|| format!("scenario {}", scenario.name))?;
        finding.show();
        if let Some(folder) = &args.json {
            output::write_json(&Some(folder.join(format!("{}.json", finding.name))), &finding)?;
            for (report, number) in finding.reports.iter().zip(1..) {
                output::write(&folder.join(format!("{}-{number}.html", finding.name)), report.html()?.as_bytes())?;
            }
        }
        holds &= finding.conclusion.holds;
        if control.end.is_cancelled() {
            break;
        }
    }
    Ok(Exit::broken_if(!holds))
}

struct Runner<'a> {
    args: &'a ScenarioArgs,
    scenario: &'a Scenario,
    control: &'a Control,
    log: PathBuf,
}

impl Runner<'_> {
    async fn run(&self) -> anyhow::Result<Finding> {
        let Scenario { name, question, overload, floor, pass, .. } = self.scenario;
        let mut diffs = Vec::new();
        let (conclusion, mut reports) = if !floor.is_empty() {
            let measured = self.beside_floor().await?;
            diffs = measured.iter().map(Measured::diff).collect();
            let conclusion = floor::of_floor(question, &measured, pass);
            (conclusion, measured.into_iter().flat_map(|measured| measured.rounds).flatten().collect())
        } else if overload.is_empty() {
            let report = self.load(name, self.plan()?).await?;
            (answer::of_load(question, &report, pass), vec![report])
        } else {
            let overload = self.overload(overload).await?;
            let conclusion = answer::of_overload(question, &overload, pass);
            let beyond = overload.beyond.into_iter().map(|(_, report)| report);
            (conclusion, [overload.peak, overload.half].into_iter().chain(beyond).collect())
        };
        // Each report can be read alone.
        for report in &mut reports {
            report.conclusion = Some(conclusion.clone());
        }
        Ok(Finding { name: name.clone(), conclusion, reports, diffs })
    }

    /// The floor and the server at each rate, in every other round in the other order, so that neither always has the warmer
    /// machine.
    async fn beside_floor(&self) -> anyhow::Result<Vec<Measured>> {
        let Scenario { name, floor, rounds, .. } = self.scenario;
        let mut all = Vec::new();
        for limits in floor {
            let at = format!("at {}/s", limits.rate);
            let plan = || anyhow::Ok(Plan { rate: Rate::steady(limits.rate), ..self.plan()? });
            let run_floor = async || {
                let name = format!("{name}, floor {at}");
                let trial = baseline::trial(Baseline::Floor, name, plan()?, TestedStore::None)?;
                Box::pin(output::watched(trial, self.control.child())).await
            };
            let run_server = async || self.load(&format!("{name}, server {at}"), plan()?).await;
            let mut measured = Measured { limits: *limits, rounds: Vec::new() };
            for round in 0..*rounds {
                note(&format!("{name} {at}, round {} of {rounds}", round + 1));
                let (floor, server);
                if round % 2 == 0 {
                    floor = run_floor().await?;
                    server = run_server().await?;
                } else {
                    server = run_server().await?;
                    floor = run_floor().await?;
                }
                if self.control.end.is_cancelled() {
                    bail!("interrupted in round {} of {rounds} {at}", round + 1);
                }
                measured.rounds.push([floor, server]);
            }
            all.push(measured);
        }
        Ok(all)
    }

    /// First as fast as responses arrive, to find the most that the server accepts; half of that, for the cost of an
    /// acceptance without rejections; and then the multiples.
    async fn overload(&self, multiples: &[f64]) -> anyhow::Result<Overload> {
        let name = &self.scenario.name;
        let peak = self.load(&format!("{name}, unpaced"), self.plan()?).await?;
        let rate = peak.accepted_per_second().round();
        ensure!(rate > 0.0, "nothing was accepted, so there is no peak");
        let at = |times: f64| anyhow::Ok(Plan { rate: Rate::steady(rate * times), ..self.plan()? });
        let half = self.load(&format!("{name}, half of the peak"), at(0.5)?).await?;
        let mut beyond = Vec::new();
        for times in multiples {
            beyond.push((*times, self.load(&format!("{name}, {times} times the peak"), at(*times)?).await?));
        }
        Ok(Overload { peak, half, beyond })
    }

    async fn load(&self, name: &str, plan: Plan) -> anyhow::Result<Report> {
        let store = match self.scenario.store {
            StoreKind::Directory => TestedStore::Fresh,
            StoreKind::S3 => TestedStore::InProcess(self.scenario.faults.plan()?),
            StoreKind::MemoryS3 => TestedStore::InMemory(self.scenario.faults.plan()?),
        };
        let trial = Trial::new(name, plan, TestedServer::Spawn(self.program()?), store);
        let trial = Trial { tls: self.scenario.load.tls, ..trial };
        let report = Box::pin(output::watched(trial, self.control.child())).await;
        let exited_well = |report: &Report| report.server.as_ref().is_some_and(|server| server.exit.code == Some(0));
        if !report.as_ref().is_ok_and(exited_well) {
            note(&tail(&self.log));
        }
        report
    }

    fn plan(&self) -> anyhow::Result<Plan> {
        let plan = self.scenario.load.plan()?;
        let plan = Plan { duration: self.args.duration.or(plan.duration), ..plan };
        plan.check()?;
        Ok(plan)
    }

    fn program(&self) -> anyhow::Result<Program> {
        let path = match &self.args.spawn {
            Some(path) => path.clone(),
            None => std::env::current_exe().context("finding this program")?.with_file_name("millpond"),
        };
        ensure!(path.exists(), "there is no {}: give the server as --spawn", path.display());
        Ok(Program { path, args: Vec::new(), env: self.scenario.env.clone(), log: Some(self.log.clone()) })
    }
}

/// The last lines of a server's log.
fn tail(path: &Path) -> String {
    let text = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
    format!("the end of the server's log:\n  {}", last.join("\n  "))
}
