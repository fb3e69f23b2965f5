//! The command `attack`: attacks one after the other, each beside a normal load on a server of its own, after one without.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::args::{LoadArgs, variable};
use super::output::{self, Exit, show};
use crate::attack::{Attack, AttackRun, Outcome};
use crate::load::{Control, Plan};
use crate::report::Report;
use crate::server::Program;
use crate::trial::{TestedServer, TestedStore, Trial};
use crate::units::{self, show_micros, show_size};

/// With more connections from one address than this, the server's limit of these has to be off: the attack and the load are
/// on one machine.
const MANY: u32 = 1_000;

const HEAD: &str = "\
| attack | p50 | p99 | p99.9 | not accepted | lost | memory | open files | CPU | connections, closed | sent | exit |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |";

#[derive(Debug, Args)]
pub(super) struct AttackArgs {
    /// What the attackers do
    #[arg(value_enum, required_unless_present = "all")]
    attacks: Vec<Attack>,
    /// All attacks
    #[arg(long, conflicts_with = "attacks")]
    all: bool,
    /// A server to start for each attack, with a normal load beside
    #[arg(long)]
    spawn: PathBuf,
    /// The environment of the servers that are started, repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Connections of the attack
    #[arg(long, default_value_t = 100)]
    attackers: u32,
    /// Bytes a second of the attack over all its connections; 0 is as fast as the server reads
    #[arg(long, value_parser = units::size, default_value = "16MiB")]
    attack_bandwidth: usize,
    #[command(flatten)]
    load: LoadArgs,
    /// Write the reports to this file too, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

pub(super) async fn run(args: &AttackArgs) -> anyhow::Result<Exit> {
    let attacks = if args.all { Attack::value_variants() } else { &args.attacks };
    let plan = args.load.plan()?;
    let attack_run = AttackRun {
        attack: None,
        target: plan.target.addr,
        connections: args.attackers,
        duration: plan.duration.unwrap_or(Duration::from_secs(10)),
        reconnects: true,
        bandwidth: (args.attack_bandwidth > 0).then_some(args.attack_bandwidth as u64),
    };
    output::check(&args.json)?;
    let mut reports = Vec::new();
    show(HEAD);
    for attack in std::iter::once(None).chain(attacks.iter().copied().map(Some)) {
        let trial = args.trial(plan.clone(), AttackRun { attack, ..attack_run });
        let report = Box::pin(trial.run(Control::default(), |_| {})).await.with_context(|| format!("{attack:?}"))?;
        show(&row(&report));
        reports.push(report);
    }
    for Report { name, unsent, .. } in reports.iter().filter(|report| report.unsent > 0) {
        show(&format!("{name}: requests not sent in time: {unsent}; this machine or the server is too busy"));
    }
    output::write_json(&args.json, &reports)?;
    Ok(if reports.iter().any(|report| report.failed() || not_accepted(report) > 0) {
        Exit::Broken
    } else if reports.iter().any(|report| report.unsent > 0) {
        Exit::NotChecked
    } else {
        Exit::Held
    })
}

impl AttackArgs {
    fn trial(&self, plan: Plan, attack: AttackRun) -> Trial {
        let mut env = self.env.clone();
        if attack.connections + plan.connections > MANY {
            env.insert(0, ("MAX_CONNECTIONS_PER_ADDRESS".to_owned(), "off".to_owned()));
        }
        let program = Program { path: self.spawn.clone(), args: Vec::new(), env, log: Some("/dev/null".into()) };
        let name = attack.attack.map_or_else(|| "none".to_owned(), Attack::name);
        let trial = Trial::new(name, plan, TestedServer::Spawn(program), TestedStore::Fresh);
        Trial { attack: Some(attack), tls: self.load.tls, ..trial }
    }
}

/// Requests of the load that were sent and not accepted, and connections that could not be made.
fn not_accepted(report: &Report) -> u64 {
    report.answered_requests() - report.accepted_requests() + report.unanswered + report.connects.1
}

fn row(report: &Report) -> String {
    let [p50, p99, p99_9] = [report.accepted.p50, report.accepted.p99, report.accepted.p99_9].map(show_micros);
    let lost = report.ledger.map_or_else(|| "-".to_owned(), |totals| totals.lost.to_string());
    let (mut resources, mut connections) = (String::new(), String::new());
    if let Some(attack) = &report.attack {
        let (from, to) = (show_size(attack.before.resident), show_size(attack.peak.resident));
        let Outcome { connected, ended, sent, .. } = attack.outcome;
        resources = format!("{from} to {to} | {}", attack.peak.files);
        connections = format!("{connected}, {ended} | {}", show_size(sent));
    }
    let (cpu, code) = report.server.as_ref().map_or((0.0, None), |server| (server.cpu_seconds, server.exit.code));
    let code = code.map_or_else(|| "killed".to_owned(), |code| code.to_string());
    let (name, not_accepted) = (&report.name, not_accepted(report));
    format!(
        "| {name} | {p50} | {p99} | {p99_9} | {not_accepted} | {lost} | {resources} | {cpu:.1} s | {connections} | {code} |"
    )
}
