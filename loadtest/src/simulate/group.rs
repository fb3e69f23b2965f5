//! The machines of a group behind a load balancer.

use super::machine::{Limit, Limits, Machine};
use super::model::Model;
use super::policy::Reading;

/// What happened in a second.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(super) struct Second {
    pub(super) offered: u64,
    pub(super) served: u64,
    /// Not taken by a machine: 503, or a timeout where the network is full.
    pub(super) rejected: u64,
    /// What rejected them. None if no machine was in service.
    pub(super) limit: Option<Limit>,
    /// Requests that came into objects.
    pub(super) stored: u64,
    pub(super) objects: u64,
    /// Accepted, but on a machine that ended before they were stored.
    pub(super) lost: u64,
    /// Accepted, and not stored yet.
    pub(super) backlog: u64,
    pub(super) in_service: u32,
    /// All machines, the starting and draining ones included.
    pub(super) machines: u32,
    /// The highest utilization of a machine in service, from 0 to 1.
    pub(super) utilization: f64,
    /// Requests a second that the machines in service can take, without the spool.
    pub(super) capacity: u64,
}

/// Sums of a period, for the metrics.
#[derive(Debug, Default)]
struct Period {
    seconds: u32,
    utilization: f64,
    warm_seconds: u64,
    offered: u64,
    service_seconds: u64,
}

#[derive(Debug)]
pub(super) struct Group<'m> {
    model: &'m Model,
    limits: Limits,
    /// In the order in which they were launched.
    machines: Vec<Machine>,
    period: Period,
    /// Which machine gets the first of the requests that are left after an even split.
    turn: u64,
}

impl<'m> Group<'m> {
    /// The smallest group, in service and warm.
    pub(super) fn new(model: &'m Model, limits: Limits) -> Self {
        let machines = (0..model.group.min).map(|_| Machine::new(0, 0)).collect();
        Self { model, limits, machines, period: Period::default(), turn: 0 }
    }

    /// Splits the requests of a second evenly between the machines in service, then uploads objects and ends machines that
    /// have drained.
    pub(super) fn second(&mut self, now: u32, offered: u64, store_is_away: bool) -> Second {
        let mut second = Second { offered, ..Second::default() };
        second.in_service = self.count(|machine| machine.is_in_service(now));
        second.machines = self.machines.len() as u32;
        second.capacity = self.limits.rate() * u64::from(second.in_service);
        self.period.seconds += 1;
        self.period.offered += offered;
        let count = u64::from(second.in_service).max(1);
        let (each, rest) = (offered / count, offered % count);
        let in_service = self.machines.iter_mut().filter(|machine| machine.is_in_service(now));
        for (index, machine) in (0..).zip(in_service) {
            let share = each + u64::from((index + self.turn) % count < rest);
            let (served, limit) = machine.take(now, share, &self.limits);
            second.served += served;
            second.limit = second.limit.max(limit);
            let utilization = self.model.machine.utilization(served).min(1.0);
            second.utilization = second.utilization.max(utilization);
            self.period.service_seconds += 1;
            if machine.is_warm(now) {
                self.period.utilization += utilization;
                self.period.warm_seconds += 1;
            }
        }
        self.turn = (self.turn + rest) % count;
        second.rejected = offered - second.served;
        self.machines.retain_mut(|machine| {
            let uploaded = machine.upload(now, store_is_away, &self.limits);
            second.stored += uploaded.requests;
            second.objects += uploaded.objects;
            let ends = machine.ends(now, &self.limits);
            *(if ends { &mut second.lost } else { &mut second.backlog }) += machine.backlog();
            !ends
        });
        second
    }

    /// The metrics of the period that ends now. The next one begins.
    pub(super) fn reading(&mut self, now: u32) -> Reading {
        let period = std::mem::take(&mut self.period);
        let machines = |seconds: u64| seconds as f64 / f64::from(period.seconds);
        let average = |sum: f64, count: u64| (count > 0).then(|| (sum / count as f64, machines(count)));
        Reading {
            cpu: average(100.0 * period.utilization, period.warm_seconds),
            requests: average(period.offered as f64, period.service_seconds),
            warm: self.count(|machine| machine.is_warm(now)),
            launched: self.count(|machine| machine.draining_since.is_none()),
        }
    }

    /// Launches machines, or removes the newest: one that starts ends at once, and one in service drains first.
    pub(super) fn resize(&mut self, now: u32, desired: u32) {
        let desired = desired.clamp(self.model.group.min, self.model.group.max);
        let launched = self.count(|machine| machine.draining_since.is_none());
        let spec = &self.model.machine;
        let serves_at = now + spec.start.0 + spec.health_checks.0;
        for _ in launched..desired {
            self.machines.push(Machine::new(serves_at, serves_at + spec.warm_up.0));
        }
        let removed = launched.saturating_sub(desired) as usize;
        let newest = self.machines.iter_mut().rev().filter(|machine| machine.draining_since.is_none());
        newest.take(removed).for_each(|machine| machine.draining_since = Some(now));
        self.machines.retain(|machine| machine.draining_since.is_none() || now >= machine.serves_at);
    }

    fn count(&self, is: impl Fn(&Machine) -> bool) -> u32 {
        self.machines.iter().filter(|machine| is(machine)).count() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(min: u32) -> Model {
        let mut model = Model::built_in().unwrap();
        model.group.min = min;
        model
    }

    fn group(model: &Model) -> Group<'_> {
        Group::new(model, model.machine.limits(&model.request).unwrap())
    }

    #[test]
    fn requests_are_split_evenly_and_beyond_the_capacity_they_are_rejected() {
        let model = model(3);
        let mut group = group(&model);
        let second = group.second(0, 100_001, false);
        let rate = 3 * group.limits.rate();
        assert_eq!((second.served, second.rejected, second.capacity), (rate, 100_001 - rate, rate));
        assert_eq!(second.limit, Some(Limit::Network));
        let second = group.second(1, 10, false);
        assert_eq!((second.served, second.rejected, second.limit), (10, 0, None));
    }

    #[test]
    fn a_machine_takes_requests_after_its_start_and_counts_as_busy_after_its_warm_up() {
        let model = model(1);
        let mut group = group(&model);
        group.resize(0, 2);
        let (serves, warm) = (140, 200);
        let cpu = |group: &mut Group<'_>, now| {
            group.reading(now);
            let second = group.second(now, 20_000, false);
            (second.in_service, second.machines, group.reading(now).cpu.unwrap().0.round())
        };
        let all = (100.0 * model.machine.utilization(20_000)).round();
        let half = (100.0 * model.machine.utilization(10_000)).round();
        assert_eq!(cpu(&mut group, serves - 1), (1, 2, all));
        // The new machine takes half of the requests, and the metric has only the old one.
        assert_eq!(cpu(&mut group, serves), (2, 2, half));
        assert_eq!(group.reading(serves), Reading { cpu: None, requests: None, warm: 1, launched: 2 });
        assert_eq!(group.reading(warm).warm, 2);
        assert_eq!(cpu(&mut group, warm), (2, 2, half));
    }

    #[test]
    fn a_machine_that_joins_within_a_period_counts_for_its_part_of_it() {
        let model = model(1);
        let mut group = group(&model);
        group.machines.push(Machine::new(3, 3));
        for now in 0..4 {
            group.second(now, 100, false);
        }
        assert_eq!(group.reading(4).requests, Some((80.0, 1.25)));
    }

    #[test]
    fn a_warming_machine_that_is_idle_or_busy_does_not_change_the_metric() {
        let model = model(1);
        let mut group = group(&model);
        group.machines.push(Machine::new(0, 1_000));
        group.second(0, 30_000, false);
        assert_eq!((group.period.warm_seconds, group.period.service_seconds), (1, 2));
    }

    #[test]
    fn scale_in_ends_a_machine_only_after_its_backlog_is_stored() {
        let mut model = model(2);
        model.group.min = 1;
        let mut group = group(&model);
        group.machines.push(Machine::new(0, 0));
        group.second(0, 50_000, true);
        group.resize(1, 1);
        // The store is away, so that the backlog stays, and the machine with it. It takes no new requests.
        let waits = group.second(1, 10, true);
        assert_eq!((waits.in_service, waits.machines, waits.backlog, waits.lost), (1, 2, 50_010, 0));
        let stored = group.second(2, 0, false);
        assert_eq!((stored.stored, stored.lost), (25_000 + 2 * group.limits.object, 0));
        assert_eq!(group.machines.len(), 1);
    }

    #[test]
    fn what_a_machine_has_not_stored_when_its_time_to_drain_is_over_is_lost() {
        let model = model(1);
        let mut group = group(&model);
        group.machines.push(Machine::new(0, 0));
        group.second(0, 50_000, true);
        group.resize(1, 1);
        let drain = model.machine.drain.0;
        assert_eq!(group.second(drain, 0, true).lost, 0);
        let ended = group.second(1 + drain, 0, true);
        assert_eq!((ended.lost, ended.backlog), (25_000, 25_000));
    }

    #[test]
    fn a_machine_that_has_not_started_ends_at_once() {
        let model = model(1);
        let mut group = group(&model);
        group.resize(0, 3);
        group.resize(10, 1);
        assert_eq!(group.machines.len(), 1);
        group.resize(10, u32::MAX);
        assert_eq!(group.machines.len(), model.group.max as usize);
    }
}
