//! The line that is shown while a load runs.

use std::io::{IsTerminal, Write, stderr};

use loadtest::load::Control;
use loadtest::report::Report;
use loadtest::timeline::Sample;
use loadtest::trial::Trial;
use loadtest::units::show_micros;

/// Carries out a trial and shows how it gets on.
pub(crate) async fn watched(trial: Trial, control: Control) -> anyhow::Result<Report> {
    let mut line = ProgressLine::new();
    let report = Box::pin(trial.run(control, |sample| line.show(sample))).await;
    line.end();
    report
}

/// Shows a line a second on standard error: in place on a terminal, one below the other anywhere else.
struct ProgressLine {
    in_place: bool,
    shown: bool,
}

impl ProgressLine {
    fn new() -> Self {
        Self { in_place: stderr().is_terminal(), shown: false }
    }

    fn show(&mut self, sample: &Sample) {
        if sample.is_short() {
            return;
        }
        let line = line(sample);
        if self.in_place {
            // The cursor goes back to the line's begin, so that a line of the server's log does not stand behind it.
            let _ = write!(stderr(), "\x1b[2K{line}\r");
        } else {
            let _ = writeln!(stderr(), "{line}");
        }
        self.shown = true;
    }

    /// Leaves the last line where it is.
    fn end(&self) {
        if self.in_place && self.shown {
            let _ = writeln!(stderr());
        }
    }
}

fn line(sample: &Sample) -> String {
    let queue = sample.gauges.and_then(|gauges| gauges.queue_jobs).map_or("-".to_owned(), |jobs| jobs.to_string());
    format!(
        "{:>5.0} s {:>9.0}/s   accepted {:>7}   refused {:>6}   unanswered {:>4}   not connected {:>4}   p99 {:>9}   queue {queue}",
        sample.at,
        sample.per_second(sample.accepted + sample.refused),
        sample.accepted,
        sample.refused,
        sample.unanswered,
        sample.connect_errors,
        show_micros(sample.p99),
    )
}

#[cfg(test)]
mod tests {
    use loadtest::timeline::Gauges;

    use super::*;

    #[test]
    fn the_line_has_the_second_in_figures_and_says_when_the_queue_is_not_known() {
        let sample = Sample {
            at: 3.0,
            span: 0.5,
            accepted: 90,
            refused: 10,
            unanswered: 3,
            connect_errors: 7,
            p99: 1_500,
            ..Sample::default()
        };
        let text = line(&sample);
        for part in [
            "3 s ",
            " 200/s ",
            "accepted      90 ",
            "refused     10 ",
            "unanswered    3 ",
            "not connected    7 ",
            "p99   1.50 ms",
            "queue -",
        ] {
            assert!(text.contains(part), "{part:?} in {text:?}");
        }
        let gauges = Some(Gauges { queue_jobs: Some(12), ..Gauges::default() });
        assert!(line(&Sample { gauges, ..sample }).ends_with("queue 12"));
    }
}
