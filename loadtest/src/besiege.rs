//! Attacks one after the other, each beside a normal load on a server of its own, and the quiet before them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use loadtest::attack::{Assault, Attack, Besieged, Siege};
use loadtest::server::Program;
use loadtest::{trial, units};

use crate::cli::{LoadArgs, variable};
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct BesiegeArgs {
    /// What is done to the server
    #[arg(value_enum, required_unless_present = "all")]
    attacks: Vec<Attack>,
    /// Everything
    #[arg(long, conflicts_with = "attacks")]
    all: bool,
    /// A server that is running on this machine; it is attacked, and nothing is measured
    #[arg(long, required_unless_present = "spawn", conflicts_with = "spawn")]
    url: Option<String>,
    /// A server to start for each attack and for the quiet before it, with a normal load beside
    #[arg(long)]
    spawn: Option<PathBuf>,
    /// Environment of the servers that are started, repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Connections of the attack
    #[arg(long, default_value_t = 100)]
    attackers: u32,
    /// Bytes a second of the attack over all its connections; 0 is as fast as they are taken
    #[arg(long, value_parser = units::size, default_value = "16MiB")]
    attack_bandwidth: usize,
    #[command(flatten)]
    load: LoadArgs,
    /// Write all that was seen here too, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

pub(crate) async fn run(args: &BesiegeArgs) -> anyhow::Result<bool> {
    let attacks = if args.all { Attack::value_variants() } else { &args.attacks };
    match (&args.url, &args.spawn) {
        (Some(url), _) => {
            let (target, _) = trial::resolve(url).await?;
            for attack in attacks.iter().copied() {
                let duration = args.load.duration.unwrap_or(Duration::from_secs(10));
                let (connections, bandwidth) = (args.attackers, args.bandwidth());
                let assault = Assault { attack, target, connections, duration, persists: true, bandwidth };
                let outcome = assault.run().await?;
                crate::show(&format!("{}: {outcome:?}", attack.name()));
            }
            Ok(true)
        }
        (None, Some(path)) => besiege(args, path.clone(), attacks).await,
        (None, None) => bail!("give one of --url and --spawn"),
    }
}

impl BesiegeArgs {
    fn bandwidth(&self) -> Option<u64> {
        (self.attack_bandwidth > 0).then_some(self.attack_bandwidth as u64)
    }
}

async fn besiege(args: &BesiegeArgs, path: PathBuf, attacks: &[Attack]) -> anyhow::Result<bool> {
    let program = Program { path, args: Vec::new(), env: args.env.clone(), log: Some("/dev/null".into()) };
    let plan = args.load.plan()?;
    output::check(&args.json)?;
    let mut seen = Vec::new();
    crate::show(Besieged::HEAD);
    for attack in std::iter::once(None).chain(attacks.iter().copied().map(Some)) {
        let (program, plan) = (program.clone(), plan.clone());
        let siege = Siege { program, plan, attack, connections: args.attackers, bandwidth: args.bandwidth() };
        let besieged = Box::pin(siege.run()).await.with_context(|| format!("{attack:?}"))?;
        crate::show(&besieged.to_string());
        seen.push(besieged);
    }
    output::write_json(&args.json, &seen)?;
    Ok(!seen.iter().any(Besieged::failed))
}
