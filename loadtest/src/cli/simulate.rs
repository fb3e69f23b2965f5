//! The command `simulate`: a group of machines and its policies, on paper.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::json;

use super::output::{self, Exit, show};
use crate::simulate::{
    self, MODEL, Model, Outcome, PRICES, PerMinute, Prices, Question, Seconds, Span, costs, figures, machine, plot, svg,
};

#[derive(Debug, Args)]
pub(super) struct SimulateArgs {
    /// Loads of the model: day, growth, spike or step, or all
    #[arg(long = "load", value_name = "NAME", value_delimiter = ',', default_value = "spike")]
    loads: Vec<String>,
    /// Policies of the model [default: all]
    #[arg(long = "policy", value_name = "NAME", value_delimiter = ',')]
    policies: Vec<String>,
    /// The model, as a TOML file [default: built in, see --print model]
    #[arg(long)]
    model: Option<PathBuf>,
    /// The prices, as a TOML file [default: built in, see --print prices]
    #[arg(long)]
    prices: Option<PathBuf>,
    /// Replaces base of the loads: requests a minute, such as 1M
    #[arg(long)]
    base: Option<PerMinute>,
    /// Replaces peak of the loads: requests a minute, up to 1B
    #[arg(long)]
    peak: Option<PerMinute>,
    /// Replaces duration of the loads
    #[arg(long)]
    duration: Option<Seconds>,
    /// Replaces start of a machine, the time from its launch until the server listens
    #[arg(long)]
    start: Option<Seconds>,
    /// Replaces network-gbits of a machine
    #[arg(long)]
    network_gbits: Option<f64>,
    /// Replaces clusters of the broker
    #[arg(long)]
    broker_clusters: Option<u32>,
    /// The store is away for a time, such as 20m+10m: from 20 min on for 10 min
    #[arg(long, value_name = "START+LENGTH")]
    outage: Option<Span>,
    /// The seed of the noise
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Show the curves as text too
    #[arg(long)]
    plot: bool,
    /// Draw the curves into this file, as SVG
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Write all figures and curves to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Print the built-in model or prices, to change them, and exit
    #[arg(long, conflicts_with_all = ["model", "prices"])]
    print: Option<BuiltIn>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum BuiltIn {
    Model,
    Prices,
}

pub(super) fn run(args: &SimulateArgs) -> anyhow::Result<Exit> {
    if let Some(built_in) = args.print {
        let text = match built_in {
            BuiltIn::Model => MODEL,
            BuiltIn::Prices => PRICES,
        };
        show(text.trim_end());
        return Ok(Exit::Held);
    }
    output::check(&args.json)?;
    output::check(&args.svg)?;
    let prices = match &args.prices {
        Some(path) => read(path, Prices::parse)?,
        None => Prices::built_in()?,
    };
    let model = args.changed(match &args.model {
        Some(path) => read(path, Model::parse)?,
        None => Model::built_in()?,
    })?;
    let outcomes = args.outcomes(&model, &prices)?;
    show(&format!("{}\n\n{}\n\n{}", machine(&model)?, figures(&outcomes), costs(&outcomes, &prices)));
    if args.plot {
        outcomes.iter().for_each(|outcome| show(&format!("\n{}", plot(outcome))));
    }
    if let Some(path) = &args.svg {
        output::write(path, svg(&outcomes).as_bytes())?;
    }
    let found = json!({"seed": args.seed, "machine": model.machine.name, "currency": prices.currency, "region": prices.region, "outcomes": outcomes});
    output::write_json(&args.json, &found)?;
    Ok(Exit::Held)
}

fn read<T>(path: &Path, parse: fn(&str) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

impl SimulateArgs {
    /// The model with what the arguments replace, in the loads that are asked for.
    fn changed(&self, mut model: Model) -> anyhow::Result<Model> {
        for name in self.loads(&model) {
            if let Some(load) = model.load.get_mut(&name) {
                load.replace(self.base, self.peak, self.duration);
            }
        }
        let machine = &mut model.machine;
        machine.start = self.start.unwrap_or(machine.start);
        machine.network_gbits = self.network_gbits.unwrap_or(machine.network_gbits);
        model.broker.clusters = self.broker_clusters.unwrap_or(model.broker.clusters);
        model.check().map(|()| model)
    }

    fn outcomes(&self, model: &Model, prices: &Prices) -> anyhow::Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        let all: Vec<String> = model.policy.keys().cloned().collect();
        let policies = if self.policies.is_empty() { &all } else { &self.policies };
        for load in &self.loads(model) {
            for policy in policies {
                let question = Question { load, policy, seed: self.seed, outage: self.outage };
                outcomes.push(simulate::simulate(model, prices, question)?);
            }
        }
        Ok(outcomes)
    }

    fn loads(&self, model: &Model) -> Vec<String> {
        if self.loads.iter().any(|name| name == "all") {
            model.load.keys().cloned().collect()
        } else {
            self.loads.clone()
        }
    }
}
