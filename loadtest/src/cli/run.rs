//! The command `run`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::args::{FaultArgs, LoadArgs, secret, variable};
use super::output::{self, Exit, show};
use crate::client::Target;
use crate::load::Control;
use crate::readback::Store;
use crate::server::Program;
use crate::timeline::Admin;
use crate::trial::{TestedServer, TestedStore, Trial};
use crate::units;

/// The default wait for uploads after the last segment was sealed.
const UPLOAD_TIME: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// A server that is running, as `https://millpond.example` or `http://127.0.0.1:8080`
    #[arg(long, required_unless_present = "spawn", conflicts_with = "spawn")]
    url: Option<String>,
    /// A file with the certificate authorities to trust, in PEM [default: the system's]
    #[arg(long, requires = "url")]
    ca: Option<PathBuf>,
    /// The server's admin listener, to read its metrics once a second, as http://127.0.0.1:9090
    #[arg(long, requires = "url")]
    admin_url: Option<String>,
    /// A file with the token of the admin listener
    #[arg(long)]
    admin_token_file: Option<PathBuf>,
    /// A server to start on free ports, and to stop at the end
    #[arg(long)]
    spawn: Option<PathBuf>,
    /// The environment of the server that is started, repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// A file for the log of the server that is started [default: standard error]
    #[arg(long)]
    server_log: Option<PathBuf>,
    /// The server's store: dir:PATH or s3://BUCKET/PREFIX [default with --spawn: a new directory]
    #[arg(long, group = "where")]
    store: Option<String>,
    /// Run an S3 server in this process for the server that is started
    #[arg(long, group = "where", requires = "spawn")]
    in_process_s3: bool,
    /// The same with the objects in memory, which takes the least CPU
    #[arg(long, group = "where", requires = "spawn")]
    in_memory_s3: bool,
    #[command(flatten)]
    faults: FaultArgs,
    #[command(flatten)]
    load: LoadArgs,
    /// The OBJECT_MAX_AGE of the server at --url; only a longer --settle, or its metrics, prove that a payload is lost
    #[arg(long, value_parser = units::duration, default_value = "60s")]
    object_max_age: Duration,
    /// Wait this long for what was accepted to be in the store [default: --object-max-age + 30s with --url, else 0]
    #[arg(long, value_parser = units::duration)]
    settle: Option<Duration>,
    /// How long the server may take to stop before it is killed
    #[arg(long, value_parser = units::duration, default_value = "60s")]
    exit_limit: Duration,
    /// Write the report to this file too, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// And to this file as a page with charts
    #[arg(long)]
    html: Option<PathBuf>,
}

pub(super) async fn run(args: &RunArgs) -> anyhow::Result<Exit> {
    let trial = args.trial().await?;
    output::check(&args.json)?;
    output::check(&args.html)?;
    let control = Control::default();
    let report = output::interruptible(&control, Box::pin(output::watched(trial, control.clone()))).await?;
    show(report.to_string().trim_end());
    output::write_json(&args.json, &report)?;
    if let Some(path) = &args.html {
        output::write(path, report.html()?.as_bytes())?;
    }
    // Without --store there was nothing to check.
    let is_unchecked = args.store.is_some() && report.not_checked.is_some();
    Ok(match report.failed() {
        true => Exit::Broken,
        false if is_unchecked || report.payloads.accepted == 0 => Exit::NotChecked,
        false => Exit::Held,
    })
}

impl RunArgs {
    async fn trial(&self) -> anyhow::Result<Trial> {
        let mut plan = self.load.plan()?;
        let server = match (&self.url, &self.spawn) {
            (Some(url), _) => {
                if self.load.tls {
                    bail!("--tls is for a server that is started here: use a URL with https://");
                }
                let (target, path) = Target::resolve(url, self.ca.as_deref()).await?;
                plan.target = target;
                plan.path = path.unwrap_or(plan.path);
                TestedServer::Running
            }
            (None, path) => TestedServer::Spawn(Program {
                path: path.clone().context("give one of --url and --spawn")?,
                args: Vec::new(),
                env: self.env.clone(),
                log: self.server_log.clone(),
            }),
        };
        self.faults.check(self.in_process_s3 || self.in_memory_s3)?;
        let store = match &self.store {
            _ if self.in_process_s3 => TestedStore::InProcess(self.faults.plan()?),
            _ if self.in_memory_s3 => TestedStore::InMemory(self.faults.plan()?),
            Some(store) => TestedStore::Given(parse_store(store).await?),
            None if self.url.is_some() => TestedStore::None,
            None => TestedStore::Fresh,
        };
        let admin = match &self.admin_url {
            Some(url) => Some(Target::resolve(url, self.ca.as_deref()).await?.0),
            None => None,
        };
        let settle = if self.url.is_some() { self.object_max_age + UPLOAD_TIME } else { Duration::ZERO };
        Ok(Trial {
            admin: Admin { target: admin, token: self.admin_token_file.as_deref().map(secret).transpose()? },
            tls: self.load.tls,
            settle: self.settle.unwrap_or(settle),
            object_max_age: self.object_max_age,
            exit_limit: self.exit_limit,
            ..Trial::new("loadtest", plan, server, store)
        })
    }
}

async fn parse_store(text: &str) -> anyhow::Result<Store> {
    if let Some(path) = text.strip_prefix("dir:") {
        return Ok(Store::Dir(PathBuf::from(path)));
    }
    let rest =
        text.strip_prefix("s3://").with_context(|| format!("{text:?} is neither dir:PATH nor s3://BUCKET/PREFIX"))?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    Ok(Store::s3_from_env(bucket, prefix).await)
}
