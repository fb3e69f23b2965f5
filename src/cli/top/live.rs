//! The live view: a snapshot every second until a key or a signal ends it.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use super::screen::{Line, Look, Style};
use super::status::Status;
use super::terminal::Terminal;
use super::{parse, snapshot, view};
use crate::cli::CliError;
use crate::cli::client::Client;
use crate::cli::text::duration;

/// The server renews its snapshot as often.
const INTERVAL: Duration = Duration::from_secs(1);
/// Older values are marked as stale.
const STALE: Duration = Duration::from_secs(3);

/// What is on the screen.
struct Shown {
    status: Status,
    /// When it arrived.
    updated: Instant,
    /// Why the last request failed, if it did.
    error: Option<String>,
}

/// Runs until q, Ctrl-C, a signal, or the end of the terminal.
pub(super) async fn run(client: &Client, style: Style) -> Result<(), CliError> {
    // A first failure is the operator's mistake, such as a wrong address: it is reported as any command's.
    let first = parse(client, &snapshot(client).await?)?;
    let mut shown = Shown { status: first, updated: Instant::now(), error: None };
    // Before the terminal changes, so that none of them leaves it changed.
    let failed = |error: io::Error| CliError::Failed(format!("cannot install signal handlers: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let mut resized = signal(SignalKind::window_change()).map_err(failed)?;
    let mut terminal =
        Terminal::open().map_err(|error| CliError::Failed(format!("cannot use the terminal: {error}")))?;
    let mut next = Box::pin(next(client));
    loop {
        terminal.draw(&shown.frame(client, style, terminal.size()))?;
        tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
            keys = terminal.keys() => {
                // Without keys the terminal is gone.
                if keys.is_none_or(|keys| keys.iter().any(|key| matches!(key, b'q' | b'Q'))) {
                    return Ok(());
                }
            }
            snapshot = &mut next => {
                shown.update(snapshot);
                next.set(self::next(client));
            }
            _ = resized.recv() => {}
            // The age of stale values grows while a request waits.
            () = sleep(INTERVAL) => {}
        }
    }
}

/// The snapshot of the next second.
async fn next(client: &Client) -> Result<Status, CliError> {
    sleep(INTERVAL).await;
    parse(client, &snapshot(client).await?)
}

impl Shown {
    /// A failure keeps the last values: the next request may succeed, also after a restart of the server.
    fn update(&mut self, snapshot: Result<Status, CliError>) {
        match snapshot {
            Ok(status) => *self = Self { status, updated: Instant::now(), error: None },
            Err(error) => self.error = Some(error.to_string()),
        }
    }

    fn frame(&self, client: &Client, style: Style, (columns, rows): (usize, usize)) -> String {
        let lines = view::lines(&self.status, Some(rows));
        style.frame(&lines, &self.footer(client.url()), (columns, rows))
    }

    fn footer(&self, url: &str) -> Line {
        let age = self.updated.elapsed();
        match &self.error {
            Some(error) => {
                let age = duration(Duration::from_secs(age.as_secs()));
                Line::of(Look::Bad, &format!("STALE for {age}, reconnecting")).add(Look::Plain, &format!("  {error}"))
            }
            None if age >= STALE => {
                let age = duration(Duration::from_secs(age.as_secs()));
                Line::of(Look::Bad, &format!("STALE for {age}, waiting for {url}"))
            }
            None => Line::of(Look::Dim, &format!("{url}   every second   q exits")),
        }
    }
}
