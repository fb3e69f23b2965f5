//! What came of a load on a policy.

use serde::Serialize;

use super::group::Second;
use super::machine::Limit;
use super::model::Model;
use super::prices::Cost;

/// Points of the curves of an outcome.
const POINTS: u32 = 240;

/// A request is a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Totals {
    pub(crate) offered: u64,
    pub(crate) served: u64,
    pub(crate) rejected: u64,
    pub(crate) stored: u64,
    /// Accepted, and not stored at the end.
    pub(crate) waiting: u64,
    /// Accepted, and on a machine that ended before they were stored.
    pub(crate) lost: u64,
    pub(crate) objects: u64,
}

/// Averages of some seconds, and the largest of counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Point {
    /// The first of the seconds.
    pub(crate) at: u32,
    pub(crate) offered_per_second: f64,
    pub(crate) served_per_second: f64,
    pub(crate) rejected_per_second: f64,
    pub(crate) cpu_percent: f64,
    pub(crate) machines: u32,
    pub(crate) in_service: u32,
    pub(crate) backlog: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Outcome {
    pub(crate) load: String,
    pub(crate) policy: String,
    pub(crate) seconds: u32,
    pub(crate) totals: Totals,
    /// The second of the first rejection.
    pub(crate) first_rejection: Option<u32>,
    /// Seconds from the first rejection until the machines in service could take the highest load since then. None if that
    /// was not reached, or if nothing was rejected.
    pub(crate) capacity_after: Option<u32>,
    pub(crate) rejected_seconds: u32,
    /// What rejected the most requests.
    pub(crate) limit: Option<&'static str>,
    pub(crate) most_machines: u32,
    pub(crate) mean_machines: f64,
    /// The most accepted requests that were not stored.
    pub(crate) most_backlog: u64,
    pub(crate) most_cpu_percent: f64,
    /// The p99 of accepted requests at the highest CPU, by the curve.
    pub(crate) worst_p99_millis: f64,
    /// None if nothing was served.
    pub(crate) cost_per_billion_payloads: Option<Cost>,
    pub(crate) points: Vec<Point>,
}

/// Adds seconds up.
#[derive(Debug)]
pub(super) struct Recorder<'m> {
    model: &'m Model,
    seconds: u32,
    totals: Totals,
    first_rejection: Option<u32>,
    capacity_after: Option<u32>,
    /// The highest load since the first rejection.
    peak: u64,
    rejected_seconds: u32,
    rejected_by: [(Limit, u64); 3],
    machine_seconds: u64,
    most_machines: u32,
    most_backlog: u64,
    most_utilization: f64,
    points: Vec<Point>,
}

impl<'m> Recorder<'m> {
    pub(super) fn new(model: &'m Model, seconds: u32) -> Self {
        Self {
            model,
            seconds,
            totals: Totals::default(),
            first_rejection: None,
            capacity_after: None,
            peak: 0,
            rejected_seconds: 0,
            rejected_by: [Limit::Cpu, Limit::Network, Limit::Spool].map(|limit| (limit, 0)),
            machine_seconds: 0,
            most_machines: 0,
            most_backlog: 0,
            most_utilization: 0.0,
            points: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, now: u32, second: &Second) {
        let totals = &mut self.totals;
        totals.offered += second.offered;
        totals.served += second.served;
        totals.rejected += second.rejected;
        totals.stored += second.stored;
        totals.lost += second.lost;
        totals.objects += second.objects;
        totals.waiting = second.backlog;
        self.machine_seconds += u64::from(second.machines);
        self.most_machines = self.most_machines.max(second.machines);
        self.most_backlog = self.most_backlog.max(second.backlog);
        self.most_utilization = self.most_utilization.max(second.utilization);
        if second.rejected > 0 {
            self.rejected_seconds += 1;
            self.first_rejection = self.first_rejection.or(Some(now));
        }
        for (limit, rejected) in &mut self.rejected_by {
            *rejected += if Some(*limit) == second.limit { second.rejected } else { 0 };
        }
        if let Some(first) = self.first_rejection
            && self.capacity_after.is_none()
        {
            self.peak = self.peak.max(second.offered);
            let has_capacity = second.rejected == 0 && second.capacity >= self.peak;
            self.capacity_after = has_capacity.then_some(now - first);
        }
        self.draw(now, second);
    }

    fn draw(&mut self, now: u32, second: &Second) {
        let width = self.seconds.div_ceil(POINTS);
        if now.is_multiple_of(width) {
            self.points.push(Point { at: now, ..Point::default() });
        }
        let count = f64::from(width.min(self.seconds - now / width * width));
        if let Some(point) = self.points.last_mut() {
            point.offered_per_second += second.offered as f64 / count;
            point.served_per_second += second.served as f64 / count;
            point.rejected_per_second += second.rejected as f64 / count;
            point.cpu_percent += 100.0 * second.utilization / count;
            point.machines = point.machines.max(second.machines);
            point.in_service = point.in_service.max(second.in_service);
            point.backlog = point.backlog.max(second.backlog);
        }
    }

    pub(super) fn finish(self, load: &str, policy: &str, cost_per_billion_payloads: Option<Cost>) -> Outcome {
        let most = self.rejected_by.iter().filter(|(_, rejected)| *rejected > 0).max_by_key(|(_, rejected)| *rejected);
        Outcome {
            load: load.to_owned(),
            policy: policy.to_owned(),
            seconds: self.seconds,
            totals: self.totals,
            first_rejection: self.first_rejection,
            capacity_after: self.capacity_after,
            rejected_seconds: self.rejected_seconds,
            limit: most.map(|(limit, _)| limit.name()),
            most_machines: self.most_machines,
            mean_machines: self.machine_seconds as f64 / f64::from(self.seconds),
            most_backlog: self.most_backlog,
            most_cpu_percent: 100.0 * self.most_utilization,
            worst_p99_millis: self.model.machine.p99_millis.at(self.most_utilization),
            cost_per_billion_payloads,
            points: self.points,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(offered: u64, capacity: u64) -> Second {
        let served = offered.min(capacity);
        let rejected = offered - served;
        Second { offered, served, rejected, capacity, machines: 2, limit: Some(Limit::Cpu), ..Second::default() }
    }

    fn recorded(seconds: &[Second]) -> Outcome {
        let model = Model::built_in().unwrap();
        let mut recorder = Recorder::new(&model, seconds.len() as u32);
        (0..).zip(seconds).for_each(|(now, second)| recorder.add(now, second));
        recorder.finish("load", "policy", None)
    }

    #[test]
    fn the_time_to_capacity_ends_when_the_machines_can_take_the_highest_load() {
        let reached = recorded(&[second(5, 10), second(30, 10), second(40, 20), second(30, 35), second(30, 40)]);
        assert_eq!((reached.first_rejection, reached.capacity_after, reached.rejected_seconds), (Some(1), Some(3), 2));
        // The load falls before the machines can take it.
        let fell = recorded(&[second(30, 10), second(5, 10), second(5, 10)]);
        assert_eq!((fell.first_rejection, fell.capacity_after, fell.limit), (Some(0), None, Some("CPU")));
        let none = recorded(&[second(5, 10)]);
        assert_eq!((none.first_rejection, none.capacity_after, none.limit), (None, None, None));
    }

    #[test]
    fn points_are_averages_of_their_seconds() {
        let seconds: Vec<_> = (0..500).map(|now| second(now, 1_000)).collect();
        let points = recorded(&seconds).points;
        assert_eq!((points.len(), points[1].at), (167, 3));
        assert_eq!((points[1].offered_per_second, points[166].offered_per_second), (4.0, 498.5));
    }
}
