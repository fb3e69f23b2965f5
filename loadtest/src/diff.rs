//! What changed from one report, or set of reports, to another.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::report::{Direction, FIGURES, Figure, Report, flat, median};

/// A figure that moved by less than this share is said to be where it was.
const STILL: f64 = 0.05;

/// What changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Diff {
    /// What was set up differently, by name, in the first and in the second; where it was not set there is nothing.
    pub settings: Vec<(String, Option<String>, Option<String>)>,
    /// The figures of what bears the same name in both.
    pub pairs: Vec<Pair>,
    /// What there is only in the first, and only in the second.
    pub alone: [Vec<String>; 2],
}

/// The figures of the reports of one name, their medians if there are several.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// The name.
    pub name: String,
    /// How many reports there are in the first and in the second.
    pub runs: [usize; 2],
    /// The figures that at least one of both has.
    pub moves: Vec<Move>,
}

/// A figure in both.
#[derive(Debug, Clone, PartialEq)]
pub struct Move {
    /// What it is called.
    pub name: &'static str,
    /// Both values with their units; "-" where there is none.
    pub shown: [String; 2],
    /// The second as a multiple of the first, if that can be told.
    pub ratio: Option<f64>,
    /// What to make of it.
    pub mark: Mark,
}

/// What to make of a figure's change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It moved by no more than a few percent.
    Still,
    /// It moved to where it is to go.
    Better,
    /// It moved away from there.
    Worse,
    /// It moved, and neither way is better, or only one of both has it.
    Moved,
}

impl Diff {
    /// From the reports `a` to the reports `b`. One name in each is the same thing, however it is called.
    pub fn between(a: &[Report], b: &[Report]) -> Self {
        let (groups_a, groups_b) = (groups(a), groups(b));
        let mut pairs = Vec::new();
        let mut alone = [Vec::new(), Vec::new()];
        if let ([(first, of_a)], [(second, of_b)]) = (&*groups_a, &*groups_b) {
            let name = if first == second { (*first).to_owned() } else { format!("{first} and {second}") };
            pairs.push(Pair::new(name, of_a, of_b));
        } else {
            for (name, of_a) in &groups_a {
                match groups_b.iter().find(|(other, _)| other == name) {
                    Some((_, of_b)) => pairs.push(Pair::new((*name).to_owned(), of_a, of_b)),
                    None => alone[0].push((*name).to_owned()),
                }
            }
            let missing = groups_b.iter().filter(|(name, _)| !groups_a.iter().any(|(other, _)| other == name));
            alone[1].extend(missing.map(|(name, _)| (*name).to_owned()));
        }
        Self { settings: settings(&groups_a, &groups_b), pairs, alone }
    }
}

impl Pair {
    fn new(name: String, a: &[&Report], b: &[&Report]) -> Self {
        let value =
            |reports: &[&Report], figure: &Figure| median(reports.iter().filter_map(|report| (figure.of)(report)));
        let moves = FIGURES.iter().filter_map(|figure| {
            let values = [value(a, figure), value(b, figure)];
            values.iter().any(Option::is_some).then(|| Move::new(figure, values))
        });
        Self { name, runs: [a.len(), b.len()], moves: moves.collect() }
    }
}

impl Move {
    fn new(figure: &Figure, values: [Option<f64>; 2]) -> Self {
        let shown = values.map(|value| value.map_or_else(|| "-".to_owned(), figure.show));
        let (ratio, mark) = match values {
            [Some(a), Some(b)] => {
                let rose = b > a;
                // From nothing to something is a change of no ratio.
                let moved = if a == 0.0 { b != 0.0 } else { (b / a - 1.0).abs() > STILL };
                let mark = match (moved, figure.direction) {
                    (false, _) => Mark::Still,
                    (true, Direction::Either) => Mark::Moved,
                    (true, direction) if rose == (direction == Direction::Up) => Mark::Better,
                    (true, _) => Mark::Worse,
                };
                ((a != 0.0).then(|| b / a), mark)
            }
            _ => (None, Mark::Moved),
        };
        Self { name: figure.name, shown, ratio, mark }
    }
}

/// The reports by name, in the order that the names come in.
fn groups(reports: &[Report]) -> Vec<(&str, Vec<&Report>)> {
    let mut groups: Vec<(&str, Vec<&Report>)> = Vec::new();
    for report in reports {
        match groups.iter_mut().find(|(name, _)| *name == report.name) {
            Some((_, group)) => group.push(report),
            None => groups.push((&report.name, vec![report])),
        }
    }
    groups
}

type Groups<'a> = [(&'a str, Vec<&'a Report>)];

/// The settings that differ: of the machine, of the load, and of each name's program. Of several runs, the first speaks.
fn settings(a: &Groups<'_>, b: &Groups<'_>) -> Vec<(String, Option<String>, Option<String>)> {
    let single = a.len() == 1 && b.len() == 1;
    let all = |groups: &Groups<'_>| {
        let mut all = BTreeMap::new();
        for (name, reports) in groups {
            let Some(report) = reports.first() else { continue };
            let of = |part: &str| if single { part.to_owned() } else { format!("{name}: {part}") };
            put(&mut all, "machine", &report.machine);
            put(&mut all, "load", &report.load);
            put(&mut all, &of("program"), &report.program);
            all.insert(of("store"), report.place.clone());
        }
        all
    };
    let (mut all_a, mut all_b) = (all(a), all(b));
    if !single {
        // What only one of both ran at all is said elsewhere.
        let both = |key: &str| match key.split_once(": ") {
            Some((name, _)) => [a, b].iter().all(|groups| groups.iter().any(|(other, _)| *other == name)),
            None => true,
        };
        all_a.retain(|key, _| both(key));
        all_b.retain(|key, _| both(key));
    }
    let mut differ: Vec<_> = Vec::new();
    for (key, value) in &all_a {
        if all_b.get(key) != Some(value) {
            differ.push((key.clone(), Some(value.clone()), all_b.get(key).cloned()));
        }
    }
    let added = all_b.iter().filter(|(key, _)| !all_a.contains_key(*key));
    differ.extend(added.map(|(key, value)| (key.clone(), None, Some(value.clone()))));
    differ
}

fn put(all: &mut BTreeMap<String, String>, part: &str, of: &impl Serialize) {
    let fields = flat(&serde_json::to_value(of).unwrap_or_default());
    all.extend(fields.into_iter().map(|(name, value)| (format!("{part} {name}"), value)));
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.settings.is_empty() {
            writeln!(f, "settings, environment and machine are the same")?;
        } else {
            writeln!(f, "set up differently")?;
            let none = || "-".to_owned();
            let width = self.settings.iter().map(|(name, ..)| name.chars().count()).max().unwrap_or(0) + 2;
            for (name, a, b) in &self.settings {
                let (a, b) = (a.clone().unwrap_or_else(none), b.clone().unwrap_or_else(none));
                writeln!(f, "  {name:<width$}{a}  ->  {b}")?;
            }
        }
        for (names, which) in self.alone.iter().zip(["first", "second"]) {
            if !names.is_empty() {
                writeln!(f, "\nonly in the {which}: {}", names.join(", "))?;
            }
        }
        for pair in &self.pairs {
            let [a, b] = pair.runs;
            let runs = if (a, b) == (1, 1) { String::new() } else { format!(", medians of {a} and {b} runs") };
            writeln!(f, "\n{}{runs}", pair.name)?;
            for change in &pair.moves {
                let [a, b] = &change.shown;
                let ratio = change.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("x{ratio:.2}"));
                let mark = match change.mark {
                    Mark::Still => "",
                    Mark::Better => "  <- better",
                    Mark::Worse => "  <- worse",
                    Mark::Moved => "  <- moved",
                };
                writeln!(f, "  {:<26}{a:>14}{b:>14}{ratio:>10}{mark}", change.name)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample::report;

    fn of<'a>(diff: &'a Diff, name: &str) -> &'a Move {
        diff.pairs[0].moves.iter().find(|change| change.name == name).unwrap()
    }

    #[test]
    fn the_same_report_twice_has_nothing_to_tell() {
        let diff = Diff::between(&[report()], &[report()]);
        assert_eq!((diff.settings.len(), diff.pairs.len()), (0, 1));
        assert!(diff.pairs[0].moves.iter().all(|change| change.mark == Mark::Still), "{diff}");
        assert!(!diff.to_string().contains("<-"), "{diff}");
    }

    #[test]
    fn what_moved_by_more_than_a_few_percent_is_marked_the_way_it_went() {
        let (a, mut b) = (report(), report());
        b.requests_per_second *= 1.10;
        b.accepted.p50 = a.accepted.p50 * 104 / 100;
        b.accepted.p99 = a.accepted.p99 * 2;
        b.ledger.lost = 1;
        b.objects.as_mut().unwrap().count *= 2;
        b.server.as_mut().unwrap().peak_memory /= 2;
        let diff = Diff::between(&[a], &[b]);
        assert_eq!(of(&diff, "requests answered").mark, Mark::Better);
        assert_eq!(of(&diff, "latency p50").mark, Mark::Still);
        assert_eq!(of(&diff, "latency p99").mark, Mark::Worse);
        assert_eq!(of(&diff, "latency p99").ratio, Some(2.0));
        assert_eq!((of(&diff, "payloads lost").mark, of(&diff, "payloads lost").ratio), (Mark::Worse, None));
        assert_eq!(of(&diff, "objects").mark, Mark::Moved);
        assert_eq!(of(&diff, "peak memory").mark, Mark::Better);
        assert_eq!(of(&diff, "runs failed").mark, Mark::Worse);
        assert!(diff.to_string().contains("x2.00  <- worse"), "{diff}");
    }

    #[test]
    fn a_figure_that_only_one_has_is_shown_beside_nothing() {
        let (a, mut b) = (report(), report());
        b.server = None;
        let diff = Diff::between(&[a], &[b]);
        let change = of(&diff, "peak memory");
        assert_eq!((&*change.shown[1], change.ratio, change.mark), ("-", None, Mark::Moved));
    }

    #[test]
    fn settings_that_differ_are_told_and_those_that_do_not_are_not() {
        let (a, mut b) = (report(), report());
        let env = &mut b.program.as_mut().unwrap().env;
        env.insert("ACK".to_owned(), "stored".to_owned());
        env.insert("MAX_WORKERS".to_owned(), "2".to_owned());
        b.machine.cores += 1;
        b.load.connections = 7;
        b.load.threads = Some(2);
        (b.load.duration, b.load.requests) = (None, Some(100));
        let faults = crate::s3::FaultPlan::share(0.2, [crate::s3::Fault::Delay(std::time::Duration::from_millis(50))]);
        b.load.faults = faults.unwrap().to_string();
        let diff = Diff::between(&[a], &[b]);
        let differs = |name: &str| {
            let (_, a, b) = diff.settings.iter().find(|(told, ..)| told == name).unwrap();
            (a.as_deref(), b.as_deref())
        };
        assert_eq!(differs("load connections"), (Some("64"), Some("7")));
        assert_eq!(differs("load threads"), (Some("1"), Some("2")));
        assert_eq!(differs("load duration"), (Some("10"), None));
        assert_eq!(differs("load requests"), (None, Some("100")));
        assert_eq!(differs("load faults"), (None, Some("20% delay:50ms")));
        assert_eq!(differs("machine cores"), (Some("2"), Some("3")));
        assert_eq!(differs("program env.ACK"), (Some("memory"), Some("stored")));
        assert_eq!(differs("program env.MAX_WORKERS"), (None, Some("2")));
        assert_eq!(diff.settings.len(), 8);
    }

    #[test]
    fn several_runs_are_compared_by_name_and_by_their_medians() {
        let named = |name: &str, rate: f64| Report { name: name.to_owned(), requests_per_second: rate, ..report() };
        let a = [named("floor", 100.0), named("floor", 900.0), named("floor", 110.0), named("old", 1.0)];
        let b = [named("new", 1.0), named("floor", 220.0)];
        let diff = Diff::between(&a, &b);
        assert_eq!(diff.alone, [vec!["old".to_owned()], vec!["new".to_owned()]]);
        assert_eq!((diff.pairs.len(), diff.pairs[0].runs), (1, [3, 1]));
        assert_eq!(of(&diff, "requests answered").ratio, Some(2.0));
        assert_eq!(diff.settings, []);
    }
}
