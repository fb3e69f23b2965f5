//! The arguments of `compare`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use loadtest::baseline::Baseline;
use loadtest::batch::{Encoding, Form};
use loadtest::server::Program;
use loadtest::trial::{Place, Target, Trial};
use loadtest::units;

use super::{FaultArgs, LoadArgs, S3_FLAGS, variable};

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The server to compare with the floor
    #[arg(long)]
    spawn: PathBuf,
    /// A name and an environment for the server, as 'gzip:COMPRESSION=gzip,ACK=memory', repeated
    #[arg(long = "variant", value_name = "NAME:NAME=VALUE,…", value_parser = variant)]
    variants: Vec<Variant>,
    /// How often each is run
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,
    /// Run the designs of the story too: a task per payload, one uploader, a dispatcher with a PUT per payload
    #[arg(long, requires = "s3")]
    baselines: bool,
    /// Wait this long for what these accepted to be in the store, before they are stopped
    #[arg(long, value_parser = units::duration, default_value = "10s")]
    settle: Duration,
    /// Store into an S3 server in this process instead of a folder
    #[arg(long, group = "s3")]
    in_process_s3: bool,
    /// The same, but it keeps the objects in memory and costs as little as can be
    #[arg(long, group = "s3")]
    in_memory_s3: bool,
    #[command(flatten)]
    faults: FaultArgs,
    /// A folder for the logs of the servers [default: they are thrown away]
    #[arg(long)]
    server_logs: Option<PathBuf>,
    #[command(flatten)]
    load: LoadArgs,
    /// Write all reports here too, as JSON
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub(crate) struct Variant {
    name: String,
    env: Vec<(String, String)>,
}

impl CompareArgs {
    /// The trials of one round: the floor, the other baselines, then each variant.
    pub(crate) fn round(&self, number: usize) -> anyhow::Result<Vec<Trial>> {
        if self.baselines && (self.load.form != Form::Envelope || self.load.encoding != Encoding::Identity) {
            bail!("the baselines take an envelope as it is: leave --form and --encoding out");
        }
        let unnamed = [Variant { name: "server".to_owned(), env: Vec::new() }];
        let variants = if self.variants.is_empty() { &unnamed[..] } else { &self.variants };
        let log = |name: &str| match &self.server_logs {
            Some(folder) => folder.join(format!("{name}-{number}.log")),
            None => PathBuf::from("/dev/null"),
        };
        let place = match (self.in_process_s3, self.in_memory_s3) {
            (true, _) => Place::InProcess(self.faults.plan()?),
            (_, true) => Place::InMemory(self.faults.plan()?),
            (false, false) if self.faults.is_empty() => Place::Fresh,
            (false, false) => bail!("--faults is for the S3 server of this process: use {S3_FLAGS}"),
        };
        let baseline = |baseline: Baseline, place: Place| {
            let name = baseline.name();
            let program = Program { log: Some(log(name)), ..baseline.program()? };
            self.trial(name, Target::Baseline(program), place, self.settle)
        };
        let mut trials = vec![baseline(Baseline::Floor, Place::Nowhere)?];
        for design in Baseline::STORY.into_iter().filter(|_| self.baselines) {
            trials.push(baseline(design, place.clone())?);
        }
        for variant in variants {
            let program = Program {
                path: self.spawn.clone(),
                args: Vec::new(),
                env: variant.env.clone(),
                log: Some(log(&variant.name)),
            };
            trials.push(self.trial(&variant.name, Target::Spawn(program), place.clone(), Duration::ZERO)?);
        }
        Ok(trials)
    }

    fn trial(&self, name: &str, target: Target, place: Place, settle: Duration) -> anyhow::Result<Trial> {
        Ok(Trial {
            name: name.to_owned(),
            plan: self.load.plan()?,
            target,
            place,
            admin: None,
            stop_after: None,
            settle,
            exit_limit: Duration::from_secs(60),
        })
    }
}

fn variant(text: &str) -> Result<Variant, String> {
    let (name, env) = text.split_once(':').unwrap_or((text, ""));
    let env = env.split(',').filter(|pair| !pair.is_empty()).map(variable).collect::<Result<_, _>>()?;
    Ok(Variant { name: name.to_owned(), env })
}
