//! Scenarios one after the other, each with its question and the answer.

mod answer;
mod file;
mod log;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use loadtest::load::{Control, Plan, Rate};
use loadtest::proof::Verdict;
use loadtest::report::{Conclusion, Report};
use loadtest::server::Program;
use loadtest::trial::{Place, Target, Trial};
use loadtest::units;
use serde::Serialize;

use self::answer::{Answer, Overload};
use self::file::{BUILT_IN, Scenario, StoreKind, Work};
use self::log::Log;
use crate::cli::LoadArgs;
use crate::progress;

#[derive(Debug, Args)]
pub(crate) struct ScenarioArgs {
    /// Names of built-in scenarios, or paths of files
    #[arg(required_unless_present = "list")]
    names: Vec<String>,
    /// Show the built-in scenarios and what they ask
    #[arg(long)]
    list: bool,
    /// The server to start [default: millpond, in the folder of this program]
    #[arg(long)]
    spawn: Option<PathBuf>,
    /// Send for this long, whatever the files say
    #[arg(long, value_parser = units::duration)]
    duration: Option<Duration>,
    /// Let what a proof is about happen this often, whatever the files say
    #[arg(long)]
    rounds: Option<u32>,
    /// A folder for what was found, as NAME.json, a page for each load, as NAME-1.html, and the servers' logs, as NAME.log [default: none of these is kept]
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What a scenario has shown.
#[derive(Debug, Serialize)]
struct Finding {
    name: String,
    question: String,
    answer: Answer,
    reports: Vec<Report>,
    proof: Option<Verdict>,
}

pub(crate) async fn run(args: &ScenarioArgs) -> anyhow::Result<bool> {
    if args.list {
        for (name, text) in BUILT_IN {
            crate::show(&format!("{name:<18}{}", Scenario::parse(name, text)?.question));
        }
        return Ok(true);
    }
    // All of them are read before the first begins.
    let scenarios = args.names.iter().map(|name| Scenario::find(name)).collect::<anyhow::Result<Vec<_>>>()?;
    let control = Control::default();
    crate::interruptible(&control, Box::pin(all(args, &scenarios, &control))).await
}

async fn all(args: &ScenarioArgs, scenarios: &[Scenario], control: &Control) -> anyhow::Result<bool> {
    if let Some(folder) = &args.json {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let mut hold = true;
    for scenario in scenarios {
        let runner = Runner { args, scenario, control };
        let finding = Box::pin(runner.run()).await.with_context(|| format!("scenario {}", scenario.name))?;
        finding.show();
        if let Some(folder) = &args.json {
            let path = folder.join(format!("{}.json", finding.name));
            let json = serde_json::to_vec_pretty(&finding)?;
            std::fs::write(&path, json).with_context(|| format!("writing {}", path.display()))?;
            for (report, number) in finding.reports.iter().zip(1..) {
                let path = folder.join(format!("{}-{number}.html", finding.name));
                std::fs::write(&path, report.html()).with_context(|| format!("writing {}", path.display()))?;
            }
        }
        hold &= finding.answer.holds;
        if control.end.is_cancelled() {
            break;
        }
    }
    Ok(hold)
}

impl Finding {
    /// Every report gets the question and the answer, so that each can be read alone.
    fn new(scenario: &Scenario, answer: Answer, reports: Vec<Report>, proof: Option<Verdict>) -> Self {
        let (name, question) = (scenario.name.clone(), scenario.question.clone());
        let mut finding = Self { name, question, answer, reports, proof };
        let conclusion = finding.conclusion();
        for report in &mut finding.reports {
            report.conclusion = Some(conclusion.clone());
        }
        finding
    }

    fn conclusion(&self) -> Conclusion {
        Conclusion { question: self.question.clone(), holds: self.answer.holds, answer: self.answer.text.clone() }
    }

    /// The question and the answer, and then what they rest on.
    fn show(&self) {
        for report in &self.reports {
            crate::show(&report.to_string());
        }
        if let Some(verdict) = &self.proof {
            crate::show(&format!("\n{}: {}", self.name, self.conclusion()));
            crate::show(&verdict.to_string());
        }
    }
}

struct Runner<'a> {
    args: &'a ScenarioArgs,
    scenario: &'a Scenario,
    control: &'a Control,
}

impl Runner<'_> {
    async fn run(&self) -> anyhow::Result<Finding> {
        let (mut reports, mut proof) = (Vec::new(), None);
        let answer = match &self.scenario.work {
            Work::Load(load, pass) => {
                let report = self.load(&self.scenario.name, self.plan(load)?).await?;
                let answer = Answer::of_load(&report, pass);
                reports.push(report);
                answer
            }
            Work::Overload(load, pass, multiples) => {
                let overload = self.overload(load, multiples).await?;
                let answer = Answer::of_overload(&overload, pass);
                reports.extend([overload.peak, overload.half]);
                reports.extend(overload.beyond.into_iter().map(|(_, report)| report));
                answer
            }
            Work::Prove(scene, how) => {
                let mut how = how.clone();
                how.rounds = self.args.rounds.or(how.rounds);
                let is_s3 = self.scenario.store == StoreKind::S3;
                let proof_of = how.proof(*scene, self.program(None)?, is_s3, &self.scenario.faults, None)?;
                let verdict = Box::pin(proof_of.run(self.one_load(), crate::note)).await?;
                let answer = Answer::of_proof(&verdict);
                proof = Some(verdict);
                answer
            }
        };
        Ok(Finding::new(self.scenario, answer, reports, proof))
    }

    /// First as fast as it is answered, to see what the server takes at most; half of that, to see what an acceptance
    /// costs when there is no refusal; and then the multiples.
    async fn overload(&self, load: &LoadArgs, multiples: &[f64]) -> anyhow::Result<Overload> {
        let name = &self.scenario.name;
        let peak = self.load(&format!("{name}, unpaced"), self.plan(load)?).await?;
        let rate = peak.accepted_per_second().round();
        ensure!(rate > 0.0, "nothing was accepted, so there is nothing to be a multiple of");
        let at = |times: f64| anyhow::Ok(Plan { rate: Rate::steady(rate * times), ..self.plan(load)? });
        let half = self.load(&format!("{name}, half of the peak"), at(0.5)?).await?;
        let mut beyond = Vec::new();
        for times in multiples {
            beyond.push((*times, self.load(&format!("{name}, {times} times the peak"), at(*times)?).await?));
        }
        Ok(Overload { peak, half, beyond })
    }

    async fn load(&self, name: &str, plan: Plan) -> anyhow::Result<Report> {
        let place = match self.scenario.store {
            StoreKind::Folder => Place::Fresh,
            StoreKind::S3 => Place::InProcess(self.scenario.faults.plan()?),
        };
        let log = match &self.args.json {
            Some(folder) => Log::at(folder.join(format!("{}.log", self.scenario.name))),
            None => Log::temporary()?,
        };
        let trial = Trial {
            name: name.to_owned(),
            plan,
            target: Target::Spawn(self.program(Some(log.path().to_owned()))?),
            place,
            admin: None,
            stop_after: None,
            settle: Duration::ZERO,
            exit_limit: Duration::from_secs(60),
        };
        let report = Box::pin(progress::watched(trial, self.one_load())).await;
        let ended_well = |report: &Report| report.server.as_ref().is_some_and(|server| server.exit.code == Some(0));
        if !report.as_ref().is_ok_and(ended_well) {
            crate::note(&log.tail());
        }
        report
    }

    fn plan(&self, load: &LoadArgs) -> anyhow::Result<Plan> {
        let plan = load.plan()?;
        let plan = Plan { duration: self.args.duration.or(plan.duration), ..plan };
        plan.check()?;
        Ok(plan)
    }

    fn program(&self, log: Option<PathBuf>) -> anyhow::Result<Program> {
        let path = match &self.args.spawn {
            Some(path) => path.clone(),
            None => {
                let this = std::env::current_exe().context("finding this program")?;
                let path = this.parent().unwrap_or(Path::new(".")).join("millpond");
                ensure!(path.exists(), "there is no {}: give the server as --spawn", path.display());
                path
            }
        };
        Ok(Program { path, args: Vec::new(), env: self.scenario.env.clone(), log })
    }

    /// Each load ends by itself, and all of them when this is interrupted.
    fn one_load(&self) -> Control {
        Control { end: self.control.end.child_token(), ..Control::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::report;

    #[test]
    fn every_report_of_a_scenario_has_its_question_and_its_answer() {
        let scenario = Scenario::find("steady").unwrap();
        let answer = Answer { holds: false, text: "p99 is over 1ms".to_owned() };
        let finding = Finding::new(&scenario, answer, vec![report(), report()], None);
        for report in &finding.reports {
            let conclusion = report.conclusion.as_ref().unwrap();
            assert_eq!((&*conclusion.question, conclusion.word()), (&*scenario.question, "NO"));
            assert_eq!(conclusion.answer, "p99 is over 1ms");
        }
    }
}
