//! Policies: how many machines a group should have, from its metric of the last periods.

use anyhow::ensure;
use serde::Deserialize;

use super::quantity::Seconds;

/// A low alarm of target tracking is below this share of the target.
const TARGET_TRACKING_LOW: f64 = 0.9;

/// What a policy looks at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Metric {
    /// The average CPU in percent, of the machines that have warmed up.
    #[default]
    Cpu,
    /// Requests a second for each machine in service, rejected ones included.
    Requests,
}

/// A part `[policy.NAME]` of a model.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub(crate) enum Policy {
    /// The trigger of Elastic Beanstalk: so many machines more or fewer, then a cooldown for both directions.
    Trigger {
        #[serde(default)]
        metric: Metric,
        above: f64,
        below: f64,
        periods: u32,
        add: u32,
        remove: u32,
        cooldown: Seconds,
    },
    /// Target tracking: as many machines as bring the metric to the target.
    Target {
        #[serde(default)]
        metric: Metric,
        target: f64,
        periods_out: u32,
        periods_in: u32,
    },
    /// Step scaling: a percentage of the machines that rises with the metric.
    Step {
        #[serde(default)]
        metric: Metric,
        steps: Vec<[f64; 2]>,
        periods_out: u32,
        below: f64,
        periods_in: u32,
        remove_percent: f64,
    },
    /// Several policies of one group.
    Combined { policies: Vec<Policy> },
}

impl Policy {
    pub(crate) fn check(&self, name: &str) -> anyhow::Result<()> {
        let is_positive = |number: f64| number.is_finite() && number > 0.0;
        let (low, high, periods) = match self {
            Self::Combined { policies } => {
                ensure!(!policies.is_empty(), "[policy.{name}] policies is empty");
                return policies.iter().try_for_each(|policy| policy.check(name));
            }
            Self::Trigger { above, below, periods, add, remove, .. } => {
                ensure!(*add > 0 && *remove > 0, "[policy.{name}] add and remove are 1 or more");
                (*below, *above, [*periods; 2])
            }
            Self::Target { target, periods_out, periods_in, .. } => {
                ensure!(is_positive(*target), "[policy.{name}] target is above 0");
                (target * TARGET_TRACKING_LOW, *target, [*periods_out, *periods_in])
            }
            Self::Step { steps, periods_out, below, periods_in, remove_percent, .. } => {
                ensure!(
                    steps.is_sorted_by(|before, after| before[0] < after[0])
                        && steps.iter().flatten().all(|number| is_positive(*number)),
                    "[policy.{name}] steps are pairs [above, percent] of numbers above 0, with rising values of above"
                );
                ensure!(
                    is_positive(*remove_percent) && *remove_percent <= 100.0,
                    "[policy.{name}] remove-percent is above 0 and at most 100"
                );
                let [first, _] = steps.first().ok_or_else(|| anyhow::anyhow!("[policy.{name}] steps is empty"))?;
                (*below, *first, [*periods_out, *periods_in])
            }
        };
        ensure!(low.is_finite() && low >= 0.0 && low < high, "[policy.{name}] scale-in is not below scale-out");
        ensure!(periods.iter().all(|count| *count > 0), "[policy.{name}] needs 1 period or more for each alarm");
        Ok(())
    }
}

/// The average of a metric, and the average number of machines that it is of.
pub(super) type Average = (f64, f64);

/// What a policy knows at the end of a period.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Reading {
    /// The CPU in percent, if a machine has warmed up.
    pub(super) cpu: Option<Average>,
    /// Requests a second for each machine in service, if there is one.
    pub(super) requests: Option<Average>,
    /// Machines that have warmed up.
    pub(super) warm: u32,
    /// All machines but the draining ones.
    pub(super) launched: u32,
}

/// Counts successive periods in which a condition holds.
#[derive(Debug, Default)]
struct Alarm(u32);

impl Alarm {
    /// Whether it has held for so many periods.
    fn observe(&mut self, holds: bool, periods: u32) -> bool {
        self.0 = if holds { self.0 + 1 } else { 0 };
        self.0 >= periods
    }
}

/// A policy at work.
#[derive(Debug)]
pub(super) struct Scaler<'p> {
    policy: &'p Policy,
    high: Alarm,
    low: Alarm,
    /// The end of a cooldown.
    quiet_until: u32,
    /// Those of the policies of a combined one.
    parts: Vec<Scaler<'p>>,
}

impl<'p> Scaler<'p> {
    pub(super) fn new(policy: &'p Policy) -> Self {
        let parts = if let Policy::Combined { policies } = policy { policies.as_slice() } else { &[] };
        let parts = parts.iter().map(Self::new).collect();
        Self { policy, high: Alarm::default(), low: Alarm::default(), quiet_until: 0, parts }
    }

    /// How many machines the group should have, starting ones included and draining ones not. Of several policies, the one that
    /// asks for the most decides; if none scales out, each of them may scale in.
    pub(super) fn decide(&mut self, now: u32, reading: &Reading) -> u32 {
        match self.policy {
            Policy::Combined { .. } => {
                let desired: Vec<_> = self.parts.iter_mut().map(|part| part.decide(now, reading)).collect();
                let out = desired.iter().copied().max().filter(|count| *count > reading.launched);
                out.or(desired.into_iter().min()).unwrap_or(reading.launched)
            }
            Policy::Trigger { metric, above, below, periods, add, remove, cooldown } => {
                let value = reading.of(*metric).map(|(value, _)| value);
                let high = self.high.observe(value.is_some_and(|value| value > *above), *periods);
                let low = self.low.observe(value.is_some_and(|value| value < *below), *periods);
                if now < self.quiet_until || !(high || low) {
                    return reading.launched;
                }
                self.quiet_until = now + cooldown.0;
                if high { reading.launched.saturating_add(*add) } else { reading.launched.saturating_sub(*remove) }
            }
            Policy::Target { metric, target, periods_out, periods_in } => {
                let desired = |(value, machines): Average| (machines * value / target).ceil().max(1.0) as u32;
                self.track(
                    reading,
                    *metric,
                    [*target, target * TARGET_TRACKING_LOW],
                    [*periods_out, *periods_in],
                    desired,
                    desired,
                )
            }
            Policy::Step { metric, steps, periods_out, below, periods_in, remove_percent } => {
                let lowest = steps.first().map_or(f64::INFINITY, |[above, _]| *above);
                let more = |(value, machines): Average| {
                    let percent =
                        steps.iter().rev().find(|[above, _]| value > *above).map_or(0.0, |[_, percent]| *percent);
                    (machines * (1.0 + percent / 100.0)).ceil() as u32
                };
                let fewer = |_| {
                    let removed = (f64::from(reading.launched) * remove_percent / 100.0).floor().max(1.0) as u32;
                    reading.launched.saturating_sub(removed)
                };
                self.track(reading, *metric, [lowest, *below], [*periods_out, *periods_in], more, fewer)
            }
        }
    }

    /// Scale-out counts machines that start or warm up as there already. Scale-in waits until there are none, and for new
    /// periods after each time.
    fn track(
        &mut self,
        reading: &Reading,
        metric: Metric,
        [above, below]: [f64; 2],
        [periods_out, periods_in]: [u32; 2],
        more: impl Fn(Average) -> u32,
        fewer: impl Fn(Average) -> u32,
    ) -> u32 {
        let known = reading.of(metric);
        let high = self.high.observe(known.is_some_and(|(value, _)| value > above), periods_out);
        let low = self.low.observe(known.is_some_and(|(value, _)| value < below), periods_in);
        match known {
            Some(known) if high => more(known).max(reading.launched),
            Some(known) if low && reading.warm == reading.launched => {
                self.low = Alarm::default();
                fewer(known).min(reading.launched)
            }
            _ => reading.launched,
        }
    }
}

impl Reading {
    fn of(&self, metric: Metric) -> Option<Average> {
        match metric {
            Metric::Cpu => self.cpu,
            Metric::Requests => self.requests,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(cpu: f64, machines: u32) -> Reading {
        let average = Some((cpu, f64::from(machines)));
        Reading { cpu: average, requests: average, warm: machines, launched: machines }
    }

    fn trigger() -> Policy {
        let (above, below, cooldown) = (90.0, 30.0, Seconds(360));
        Policy::Trigger { metric: Metric::Cpu, above, below, periods: 5, add: 1, remove: 1, cooldown }
    }

    fn target() -> Policy {
        Policy::Target { metric: Metric::Cpu, target: 40.0, periods_out: 3, periods_in: 15 }
    }

    /// The decisions of one period after the other, each of 60 s.
    fn decisions(policy: &Policy, readings: &[Reading]) -> Vec<u32> {
        let mut scaler = Scaler::new(policy);
        (1..).zip(readings).map(|(period, reading)| scaler.decide(period * 60, reading)).collect()
    }

    #[test]
    fn the_trigger_waits_for_five_periods_and_then_for_its_cooldown() {
        let high = [reading(95.0, 2); 12];
        assert_eq!(decisions(&trigger(), &high), [2, 2, 2, 2, 3, 2, 2, 2, 2, 2, 3, 2]);
        let mut interrupted = high;
        interrupted[3] = reading(90.0, 2);
        assert_eq!(decisions(&trigger(), &interrupted)[..9], [2, 2, 2, 2, 2, 2, 2, 2, 3]);
    }

    #[test]
    fn the_trigger_removes_a_machine_below_its_lower_threshold() {
        assert_eq!(decisions(&trigger(), &[reading(29.0, 4); 5]), [4, 4, 4, 4, 3]);
        assert_eq!(decisions(&trigger(), &[reading(30.0, 4); 5]), [4; 5]);
    }

    #[test]
    fn target_tracking_asks_for_as_many_machines_as_bring_the_metric_to_the_target() {
        assert_eq!(decisions(&target(), &[reading(100.0, 4); 3]), [4, 4, 10]);
        assert_eq!(decisions(&target(), &[reading(40.0, 4); 20]), [4; 20]);
    }

    #[test]
    fn machines_that_start_are_not_asked_for_twice() {
        let waits = Reading { launched: 10, ..reading(100.0, 4) };
        assert_eq!(decisions(&target(), &[waits; 4]), [10; 4]);
    }

    #[test]
    fn target_tracking_scales_in_after_fifteen_periods_and_not_while_machines_warm_up() {
        let low = decisions(&target(), &[reading(10.0, 8); 30]);
        assert_eq!((&low[..15], &low[28..]), (&[8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 2][..], &[8, 2][..]));
        let warming = Reading { launched: 9, ..reading(10.0, 8) };
        assert_eq!(decisions(&target(), &[warming; 30]), [9; 30]);
    }

    #[test]
    fn higher_steps_add_more_and_at_least_one_machine() {
        let (steps, below) = (vec![[40.0, 25.0], [50.0, 100.0]], 20.0);
        let policy =
            Policy::Step { metric: Metric::Cpu, steps, periods_out: 1, below, periods_in: 2, remove_percent: 10.0 };
        let readings = [reading(40.0, 8), reading(41.0, 8), reading(51.0, 8), reading(41.0, 1)];
        assert_eq!(decisions(&policy, &readings), [8, 10, 16, 2]);
        assert_eq!(decisions(&policy, &[reading(19.0, 40), reading(19.0, 40), reading(19.0, 3)]), [40, 36, 3]);
    }

    #[test]
    fn of_combined_policies_the_one_that_scales_out_decides_and_each_may_scale_in() {
        let combined = Policy::Combined { policies: vec![trigger(), target()] };
        assert_eq!(decisions(&combined, &[reading(95.0, 2); 6]), [2, 2, 5, 5, 5, 5]);
        assert_eq!(decisions(&combined, &[reading(29.0, 4); 5]), [4, 4, 4, 4, 3]);
        let apart =
            |cpu, requests| Reading { cpu: Some((cpu, 4.0)), requests: Some((requests, 4.0)), ..reading(0.0, 4) };
        let requests = Policy::Target { metric: Metric::Requests, target: 100.0, periods_out: 3, periods_in: 15 };
        let combined = Policy::Combined { policies: vec![trigger(), requests] };
        assert_eq!(decisions(&combined, &[apart(29.0, 200.0); 6]), [4, 4, 8, 8, 8, 8], "scale-out wins over scale-in");
        assert_eq!(decisions(&combined, &[apart(95.0, 80.0); 5]), [4, 4, 4, 4, 5], "the other way round too");
    }

    #[test]
    fn a_group_without_a_metric_stays_as_it_is() {
        let none = Reading { cpu: None, requests: None, warm: 0, launched: 2 };
        assert_eq!(decisions(&trigger(), &[none; 10]), [2; 10]);
        assert_eq!(decisions(&target(), &[none; 20]), [2; 20]);
    }
}
