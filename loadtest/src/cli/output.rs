//! What a command leaves: its exit code, its files, and lines on the terminal.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write, stderr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::load::Control;
use crate::report::Report;
use crate::timeline::Sample;
use crate::trial::Trial;
use crate::units::show_micros;

/// What a command has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    Held = 0,
    Broken = 1,
    NotChecked = 2,
}

impl Exit {
    pub(super) fn broken_if(broken: bool) -> Self {
        if broken { Self::Broken } else { Self::Held }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[expect(clippy::print_stdout, reason = "the report is the output of this program")]
pub(super) fn show(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "progress and errors, beside the report")]
pub(super) fn note(text: &str) {
    eprintln!("{text}");
}

/// Makes the file, if there is a path, or leaves an existing one: a path that cannot be written is an error before the work.
pub(super) fn check(path: &Option<PathBuf>) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let made = OpenOptions::new().append(true).create(true).open(path);
    made.map(drop).with_context(|| format!("making {}", path.display()))
}

pub(super) fn write_json(path: &Option<PathBuf>, value: &impl Serialize) -> anyhow::Result<()> {
    match path {
        Some(path) => write(path, &serde_json::to_vec_pretty(value)?),
        None => Ok(()),
    }
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

/// Carries `work` out; Ctrl-C ends its load and the report is still made. With a second one it is aborted, and the servers
/// that it started are killed.
pub(super) async fn interruptible<T>(
    control: &Control,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let twice = async {
        interrupt.recv().await;
        control.end.cancel();
        interrupt.recv().await;
    };
    tokio::select! {
        done = work => done,
        () = twice => bail!("interrupted"),
    }
}

/// Carries out a trial and shows its progress on standard error: in place on a terminal, else a line a second.
pub(super) async fn watched(trial: Trial, control: Control) -> anyhow::Result<Report> {
    let in_place = stderr().is_terminal();
    let (before, after) = if in_place { ("\x1b[2K", "\r") } else { ("", "\n") };
    let show = |sample: &Sample| {
        if !sample.is_short() {
            let _ = write!(stderr(), "{before}{}{after}", line(sample));
        }
    };
    let report = Box::pin(trial.run(control, show)).await;
    if in_place {
        let _ = writeln!(stderr());
    }
    report
}

fn line(sample: &Sample) -> String {
    let Sample { at, accepted, rejected, unanswered, connect_errors, p99, .. } = sample;
    let queue = sample.gauges.get("queue_jobs").map_or("-".to_owned(), ToString::to_string);
    let (rate, p99) = (sample.per_second(accepted + rejected), show_micros(*p99));
    format!(
        "{at:>5.0} s {rate:>9.0}/s   accepted {accepted:>7}   rejected {rejected:>6}   unanswered {unanswered:>4}   \
         not connected {connect_errors:>4}   p99 {p99:>9}   queue {queue}"
    )
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_path_that_cannot_be_written_is_an_error_and_an_existing_file_stays_until_it_is_written() {
        let folder = TempDir::new().unwrap();
        let (bad, good) = (Some(folder.path().join("none/a.json")), Some(folder.path().join("a.json")));
        assert!(check(&bad).unwrap_err().to_string().contains("none/a.json"));
        check(&None).unwrap();
        let text = || std::fs::read_to_string(folder.path().join("a.json")).unwrap();
        check(&good).unwrap();
        assert_eq!(text(), "");
        write_json(&good, &"from before").unwrap();
        check(&good).unwrap();
        assert_eq!(text(), "\"from before\"");
    }

    #[test]
    fn the_line_has_the_figures_of_a_second_and_the_queue_if_it_is_known() {
        let mut sample = Sample { at: 3.0, span: 0.5, accepted: 90, rejected: 10, p99: 1_500, ..Sample::default() };
        let text = line(&sample);
        for part in ["3 s ", " 200/s ", "accepted      90 ", "rejected     10 ", "p99   1.50 ms", "queue -"] {
            assert!(text.contains(part), "{part:?} in {text:?}");
        }
        sample.gauges.insert("queue_jobs".to_owned(), 12);
        assert!(line(&sample).ends_with("queue 12"));
    }
}
