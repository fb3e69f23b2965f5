//! A group of machines, second by second, on paper: how long a policy needs until the machines can take a load, what is rejected
//! meanwhile, and what a billion payloads cost.
//!
//! A second goes through [`demand`] (requests that clients send), [`group`] (the load balancer and its [`mod@machine`]s, whose
//! capacity follows from [`curve`]s), and [`prices`] (what is billed). At the end of each period a [`policy`] reads the metrics of
//! the group and changes its size. The result is an [`outcome`]. All of it is pure, and repeats with the same seed.
//!
//! What it leaves out: retries of clients, credits of network and disk bursts, the time in which the load balancer itself grows,
//! the delay of metrics, and the limits of the broker and of the store's request rate.

mod curve;
mod demand;
mod group;
mod machine;
mod model;
mod outcome;
mod plot;
mod policy;
mod prices;
mod quantity;
mod svg;
mod table;

pub(crate) use self::model::{MODEL, Model};
pub(crate) use self::outcome::Outcome;
pub(crate) use self::plot::plot;
pub(crate) use self::prices::{PRICES, Prices};
pub(crate) use self::quantity::{PerMinute, Seconds, Span};
pub(crate) use self::svg::svg;
pub(crate) use self::table::{costs, figures, machine};

use anyhow::Context;

use self::demand::Demand;
use self::group::Group;
use self::outcome::Recorder;
use self::policy::Scaler;
use self::prices::Meter;

/// One load on one policy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'q> {
    pub(crate) load: &'q str,
    pub(crate) policy: &'q str,
    pub(crate) seed: u64,
    /// When the store is away.
    pub(crate) outage: Option<Span>,
}

/// Simulates a load on a group with a policy.
/// Errors: a name that the model does not have, or a model without a meaning.
pub(crate) fn simulate(model: &Model, prices: &Prices, question: Question<'_>) -> anyhow::Result<Outcome> {
    let Question { load, policy, seed, outage } = question;
    model.check()?;
    let shape = model.load.get(load).with_context(|| unknown("load", load, model.load.keys()))?;
    let scaling = model.policy.get(policy).with_context(|| unknown("policy", policy, model.policy.keys()))?;
    let limits = model.machine.limits(&model.request)?;
    let (mut demand, mut group, mut scaler) =
        (Demand::new(shape, seed), Group::new(model, limits), Scaler::new(scaling));
    let (mut meter, mut recorder) = (Meter::new(model, prices), Recorder::new(model, shape.seconds()));
    for now in 0..shape.seconds() {
        let store_is_away = outage.is_some_and(|outage| outage.contains(now));
        let second = group.second(now, demand.second(now), store_is_away);
        meter.add(&second);
        recorder.add(now, &second);
        let next = now + 1;
        if next.is_multiple_of(model.group.period.0) {
            let desired = scaler.decide(next, &group.reading(next));
            group.resize(next, desired);
        }
    }
    Ok(recorder.finish(load, policy, meter.cost_per_billion()))
}

fn unknown<'n>(what: &str, name: &str, known: impl Iterator<Item = &'n String>) -> String {
    let known = known.map(String::as_str).collect::<Vec<_>>().join(", ");
    format!("the model has no {what} {name:?}: it has {known}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(model: &Model, load: &str, policy: &str) -> Outcome {
        let question = Question { load, policy, seed: 1, outage: None };
        simulate(model, &Prices::built_in().unwrap(), question).unwrap()
    }

    #[test]
    fn offered_is_served_and_rejected_and_served_is_stored_and_waiting_and_lost() {
        let mut model = Model::built_in().unwrap();
        model.load.get_mut("growth").unwrap().replace(None, Some("60M".parse().unwrap()), Some(Seconds(7_200)));
        let day = model.load.get_mut("day").unwrap();
        day.replace(None, None, Some(Seconds(7_200)));
        for load in model.load.keys() {
            for policy in model.policy.keys() {
                for outage in [None, Some(Span { start: 300, length: 5_000 })] {
                    let question = Question { load, policy, seed: 3, outage };
                    let found = simulate(&model, &Prices::built_in().unwrap(), question).unwrap();
                    let totals = found.totals;
                    assert_eq!(totals.offered, totals.served + totals.rejected, "{load} {policy}");
                    assert_eq!(totals.served, totals.stored + totals.waiting + totals.lost, "{load} {policy}");
                    assert!(totals.served > 0 && totals.offered > 0);
                }
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_outcome() {
        let model = Model::built_in().unwrap();
        assert_eq!(outcome(&model, "spike", "step"), outcome(&model, "spike", "step"));
    }

    #[test]
    fn a_trigger_above_the_utilization_of_a_full_network_never_adds_a_machine() {
        let model = Model::built_in().unwrap();
        let found = outcome(&model, "spike", "trigger");
        assert_eq!((found.most_machines, found.capacity_after, found.limit), (2, None, Some("network")));
        assert!(found.most_cpu_percent < 57.0);
    }

    #[test]
    fn without_the_limit_of_the_network_the_trigger_adds_one_machine_at_a_time_and_rejects_more_than_target_tracking() {
        let mut model = Model::built_in().unwrap();
        model.machine.network_gbits = 12.5;
        let (trigger, target) = (outcome(&model, "spike", "trigger"), outcome(&model, "spike", "target-requests"));
        assert_eq!(trigger.limit, Some("CPU"));
        // Two machines take 107,238/s of 133,333/s. The CPU is above 90% for five minutes, a machine starts in 140 s.
        assert_eq!(trigger.capacity_after, Some(300 + 140));
        assert_eq!(target.capacity_after, Some(180 + 140));
        assert!(trigger.totals.rejected > target.totals.rejected);
    }

    #[test]
    fn an_outage_of_the_store_fills_the_spool_and_the_backlog_is_stored_after_it() {
        let mut model = Model::built_in().unwrap();
        model.machine.spool = "1GiB".parse().unwrap();
        let question =
            Question { load: "step", policy: "target-cpu", seed: 1, outage: Some(Span { start: 60, length: 240 }) };
        let found = simulate(&model, &Prices::built_in().unwrap(), question).unwrap();
        let room = 2 * ((1 << 30) / 864);
        assert_eq!(found.most_backlog, room);
        assert!(found.rejected_seconds > 0 && found.totals.lost == 0);
    }

    #[test]
    fn an_unknown_name_says_which_there_are() {
        let (model, prices) = (Model::built_in().unwrap(), Prices::built_in().unwrap());
        let question = Question { load: "spike", policy: "magic", seed: 1, outage: None };
        let wrong = simulate(&model, &prices, question).unwrap_err().to_string();
        assert!(wrong.contains("no policy \"magic\": it has beanstalk, step, target-cpu"), "{wrong}");
    }
}
