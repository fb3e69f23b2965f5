//! What changed from one set of reports to another.

use std::collections::BTreeSet;
use std::fmt;

use crate::report::{Direction, FIGURES, Figure, Report};
use crate::stats::{Interval, median};

/// What changed between two sets of reports: one of them before, or the reference.
#[derive(Debug, Clone, PartialEq)]
pub struct Diff {
    /// What is compared.
    pub name: String,
    /// How many reports there are of each.
    pub runs: [usize; 2],
    /// The settings that differ, by name, of the first report of each set.
    pub settings: Vec<(String, [Option<String>; 2])>,
    /// The figures that at least one of both has.
    pub changes: Vec<Change>,
}

/// A figure in both.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Its name.
    pub name: &'static str,
    /// Both medians with their units; "-" where there is none.
    pub shown: [String; 2],
    /// The second as a multiple of the first; `None` of a single run, and of counts that are 0.
    pub interval: Option<Interval>,
    /// What the interval shows, in words.
    pub verdict: &'static str,
}

/// Whether the n-th reports of both sets were made at about the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounds {
    /// They were: the rounds of one `compare`.
    Paired,
    /// They were not.
    Unpaired,
}

impl Diff {
    /// From the reports `a` to the reports `b`.
    pub fn new(name: impl Into<String>, a: &[&Report], b: &[&Report], rounds: Rounds) -> Self {
        let changes = FIGURES.iter().filter_map(|figure| Change::new(figure, a, b, rounds)).collect();
        Self { name: name.into(), runs: [a.len(), b.len()], settings: settings(a, b), changes }
    }

    /// A diff for each name that is in both sets. If there is one name in each, these are compared.
    pub fn by_name(a: &[Report], b: &[Report]) -> Vec<Self> {
        let (a, b) = (groups(a), groups(b));
        if let ([(first, of_a)], [(second, of_b)]) = (&*a, &*b) {
            return vec![Self::new(format!("{first} and {second}"), of_a, of_b, Rounds::Unpaired)];
        }
        let both = a.iter().filter_map(|(name, of_a)| {
            let (_, of_b) = b.iter().find(|(other, _)| other == name)?;
            Some(Self::new(*name, of_a, of_b, Rounds::Unpaired))
        });
        both.collect()
    }
}

impl Change {
    fn new(figure: &Figure, a: &[&Report], b: &[&Report], rounds: Rounds) -> Option<Self> {
        let [a, b] = [a, b].map(|reports| reports.iter().filter_map(|report| (figure.of)(report)).collect::<Vec<_>>());
        if a.is_empty() && b.is_empty() {
            return None;
        }
        let interval = match rounds {
            Rounds::Paired => Interval::paired(&a, &b),
            Rounds::Unpaired => Interval::unpaired(&a, &b),
        };
        let verdict = match interval {
            None => "",
            Some(interval) if interval.spans_one() => "no difference shown",
            Some(interval) => match (figure.direction, interval.ratio > 1.0) {
                (Direction::Either, _) => "differs",
                (Direction::Up, true) | (Direction::Down, false) => "better",
                (Direction::Up, false) | (Direction::Down, true) => "worse",
            },
        };
        let shown = [&a, &b].map(|values| median(values).map_or_else(|| "-".to_owned(), figure.show));
        Some(Self { name: figure.name, shown, interval, verdict })
    }
}

/// The reports by name, in the order of their first reports.
pub fn groups(reports: &[Report]) -> Vec<(&str, Vec<&Report>)> {
    let mut groups: Vec<(&str, Vec<&Report>)> = Vec::new();
    for report in reports {
        match groups.iter_mut().find(|(name, _)| *name == report.name) {
            Some((_, group)) => group.push(report),
            None => groups.push((&report.name, vec![report])),
        }
    }
    groups
}

fn settings(a: &[&Report], b: &[&Report]) -> Vec<(String, [Option<String>; 2])> {
    let of = |reports: &[&Report]| reports.first().map(|report| report.settings.clone()).unwrap_or_default();
    let both = [of(a), of(b)];
    let names: BTreeSet<_> = both.iter().flat_map(|settings| settings.keys().cloned()).collect();
    let values = names.into_iter().map(|name| {
        let values = both.each_ref().map(|settings| settings.get(&name).cloned());
        (name, values)
    });
    values.filter(|(_, [a, b])| a != b).collect()
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b] = self.runs;
        let what =
            if a.max(b) > 1 { "medians; ratio of the geometric means, with its 95% interval" } else { "one run each" };
        writeln!(f, "\n{}: {a} and {b} runs, {what}", self.name)?;
        for (name, values) in &self.settings {
            let [a, b] = values.each_ref().map(|value| value.as_deref().unwrap_or("-"));
            writeln!(f, "  {name:<26}{a}  ->  {b}")?;
        }
        writeln!(f, "  {:<26}{:>14}{:>14}  ratio", "", "before", "after")?;
        for Change { name, shown: [a, b], interval, verdict } in &self.changes {
            let interval = interval.map_or_else(String::new, |interval| interval.to_string());
            writeln!(f, "  {name:<26}{a:>14}{b:>14}  {interval:<24}{verdict}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change<'a>(diff: &'a Diff, name: &str) -> &'a Change {
        diff.changes.iter().find(|change| change.name == name).unwrap()
    }

    /// A run with so many requests a second, and as many payloads lost.
    fn run(rate: f64, lost: u64) -> Report {
        let mut report = crate::report::sample();
        report.requests_per_second = rate;
        report.ledger.as_mut().unwrap().lost = lost;
        report
    }

    #[test]
    fn a_difference_is_shown_only_if_the_interval_excludes_it_to_be_none() {
        let (a, b) = ([run(100.0, 0), run(110.0, 0), run(90.0, 0)], [run(120.0, 1), run(131.0, 0), run(108.0, 0)]);
        let diff = Diff::new("x", &a.each_ref(), &b.each_ref(), Rounds::Paired);
        let rate = change(&diff, "requests answered");
        assert_eq!((rate.verdict, &rate.shown[0][..]), ("better", "100/s"));
        assert!(diff.to_string().contains("better"), "{diff}");
        // At different times, the spread of the rounds counts.
        let diff = Diff::new("x", &a.each_ref(), &b.each_ref(), Rounds::Unpaired);
        assert_eq!(change(&diff, "requests answered").verdict, "no difference shown");
        let lost = change(&diff, "payloads lost");
        assert_eq!((lost.interval, lost.verdict), (None, ""));
        let back = Diff::new("x", &b.each_ref(), &a.each_ref(), Rounds::Paired);
        assert_eq!(change(&back, "requests answered").verdict, "worse");
    }

    #[test]
    fn one_run_each_shows_figures_and_no_interval() {
        let diff = Diff::new("x", &[&run(100.0, 0)], &[&run(200.0, 0)], Rounds::Paired);
        assert!(diff.changes.iter().all(|change| change.interval.is_none()));
        assert_eq!(change(&diff, "requests answered").shown, ["100/s", "200/s"]);
        assert!(diff.to_string().contains("one run each"), "{diff}");
    }

    #[test]
    fn settings_that_differ_are_listed_and_figures_of_one_alone_stand_beside_a_dash() {
        let (a, mut b) = (run(1.0, 0), run(1.0, 0));
        b.server = None;
        b.settings.insert("load connections".to_owned(), "7".to_owned());
        b.settings.remove("server ACK").unwrap();
        let diff = Diff::new("x", &[&a], &[&b], Rounds::Paired);
        let some = |text: &str| Some(text.to_owned());
        let expected = [
            ("load connections".to_owned(), [some("64"), some("7")]),
            ("server ACK".to_owned(), [some("memory"), None]),
        ];
        assert_eq!(diff.settings, expected);
        assert_eq!(change(&diff, "peak memory").shown[1], "-");
    }

    #[test]
    fn several_runs_are_compared_by_name() {
        let named = |name: &str| Report { name: name.to_owned(), ..run(1.0, 0) };
        let diffs = Diff::by_name(&[named("floor"), named("floor"), named("old")], &[named("new"), named("floor")]);
        assert_eq!((diffs.len(), diffs[0].runs), (1, [2, 1]));
        assert_eq!(Diff::by_name(&[named("old")], &[named("new")])[0].name, "old and new");
    }
}
