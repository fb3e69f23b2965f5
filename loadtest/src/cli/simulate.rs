//! The command `simulate`: a group of machines and its policies, on paper.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

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
    let found = args.found()?;
    show(&found.text()?);
    if args.plot {
        found.outcomes.iter().for_each(|outcome| show(&format!("\n{}", plot(outcome))));
    }
    if let Some(path) = &args.svg {
        output::write(path, svg(&found.outcomes).as_bytes())?;
    }
    output::write_json(&args.json, &found.json(args.seed))?;
    Ok(Exit::Held)
}

/// The question and its outcomes.
struct Found {
    model: Model,
    prices: Prices,
    outcomes: Vec<Outcome>,
}

impl Found {
    fn text(&self) -> anyhow::Result<String> {
        let Self { model, prices, outcomes } = self;
        Ok(format!("{}\n\n{}\n\n{}", machine(model)?, figures(outcomes), costs(outcomes, prices)))
    }

    fn json(&self, seed: u64) -> Value {
        let Prices { currency, region, .. } = &self.prices;
        let machine = &self.model.machine.name;
        json!({"seed": seed, "machine": machine, "currency": currency, "region": region, "outcomes": self.outcomes})
    }
}

fn read<T>(path: &Path, parse: fn(&str) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

impl SimulateArgs {
    fn found(&self) -> anyhow::Result<Found> {
        let prices = match &self.prices {
            Some(path) => read(path, Prices::parse)?,
            None => Prices::built_in()?,
        };
        let model = self.changed(match &self.model {
            Some(path) => read(path, Model::parse)?,
            None => Model::built_in()?,
        })?;
        let outcomes = self.outcomes(&model, &prices)?;
        Ok(Found { model, prices, outcomes })
    }

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

#[cfg(test)]
mod tests {
    use clap::Parser;
    use tempfile::TempDir;

    use super::*;
    use crate::cli::{Cli, Command};

    fn arguments(words: &str) -> SimulateArgs {
        let words = ["loadtest", "simulate"].into_iter().chain(words.split_whitespace());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Simulate(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn error(words: &str) -> String {
        arguments(words).found().map(|_| ()).map_err(|wrong| format!("{wrong:#}")).unwrap_err()
    }

    /// A document that differs from what its commands print is wrong: copy the output into it.
    #[test]
    fn the_document_has_what_its_commands_print() {
        let document = include_str!("../../../docs/autoscaling.md");
        let command = |line: &'static str| line.strip_prefix("target/release/loadtest simulate");
        let commands: Vec<_> =
            document.lines().filter_map(command).filter(|words| words.starts_with(" --load")).collect();
        assert!(commands.len() >= 4, "{commands:?}");
        for command in commands {
            let printed = arguments(command).found().unwrap().text().unwrap();
            for part in printed.split("\n\n").filter(|part| part.starts_with('|')) {
                assert!(document.contains(part), "{command} prints\n{part}");
            }
        }
    }

    #[test]
    fn files_replace_the_built_in_model_and_prices_and_an_error_names_the_file() {
        let folder = TempDir::new().unwrap();
        let path = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let model = path("model.toml", &MODEL.replace("c6i.large", "mine"));
        let prices = path("prices.toml", &PRICES.replace("price = 0.008", "price = 0"));
        let found = arguments(&format!("--model {model} --prices {prices} --policy trigger")).found().unwrap();
        assert_eq!(
            (&*found.model.machine.name, found.json(1)["outcomes"][0]["policy"].as_str()),
            ("mine", Some("trigger"))
        );
        assert!(found.outcomes[0].cost_per_billion_payloads.unwrap().load_balancer < 1.0);
        let wrong = path("wrong.toml", &MODEL.replace("cores = 2", "cores = \"two\""));
        for part in ["wrong.toml", "cores", "line"] {
            assert!(error(&format!("--model {wrong}")).contains(part), "{part}");
        }
        assert!(error("--prices there/is/none.toml").contains("reading there/is/none.toml"));
    }

    #[test]
    fn arguments_that_do_not_fit_the_model_are_rejected() {
        for (words, part) in [
            ("--load magic", "no load \"magic\": it has day, growth, spike, step"),
            ("--policy magic", "no policy \"magic\""),
            ("--base 20M", "[load.spike] base 20M is above peak 8M"),
            ("--duration 5m", "[load.spike] at is not before the end"),
            ("--network-gbits 0", "[machine] network-gbits is above 0"),
        ] {
            assert!(error(words).contains(part), "{words}: {}", error(words));
        }
    }
}
