//! `millpond top`: what a running server does, in a terminal.

mod live;
mod screen;
mod status;
mod terminal;
mod view;

use std::io::{self, IsTerminal};
use std::time::Duration;

use hyper::Method;

use super::args::Top;
use super::client::{Client, JSON_MAX_BYTES};
use super::environment::Environment;
use super::text::printable_json;
use super::{CliError, block_on, print};
use screen::Style;
use status::Status;

/// The longest wait for a snapshot. It is short, so that a server that hangs shows as stale.
const TIMEOUT: Duration = Duration::from_secs(4);
const PATH: &str = "/v1/status";

pub(super) fn run(arguments: &Top, environment: &Environment) -> Result<(), CliError> {
    let client = Client::admin(&arguments.admin, environment)?;
    let is_dumb = environment.get("TERM").is_none_or(|term| term == "dumb");
    if arguments.json {
        let body = block_on(snapshot(&client))?;
        parse(&client, &body)?;
        return print(printable_json(&String::from_utf8_lossy(body.trim_ascii())) + "\n");
    }
    if arguments.once || is_dumb || !io::stdout().is_terminal() {
        let body = block_on(snapshot(&client))?;
        let lines = view::lines(&parse(&client, &body)?, None);
        let text = lines.iter().map(|line| line.text() + "\n").collect::<String>();
        return print(text);
    }
    let style = if environment.get("NO_COLOR").is_some() { Style::plain() } else { Style::colored() };
    block_on(live::run(&client, style))
}

async fn snapshot(client: &Client) -> Result<bytes::Bytes, CliError> {
    Ok(client.call(Method::GET, PATH, TIMEOUT, JSON_MAX_BYTES).await?)
}

fn parse(client: &Client, body: &[u8]) -> Result<Status, CliError> {
    let unexpected = |error| CliError::Failed(format!("{}: unexpected status: {error}", client.url()));
    serde_json::from_slice(body).map_err(unexpected)
}
