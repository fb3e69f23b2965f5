//! The file of prices, and the bill of a simulation.

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use super::group::Second;
use super::model::Model;

/// The built-in prices.
pub(crate) const PRICES: &str = include_str!("../../simulate/prices.toml");

const HOUR: f64 = 3_600.0;
/// A month has so many hours.
const MONTH: f64 = 730.0;
const GB: f64 = 1e9;
const BILLION: f64 = 1e9;

/// Prices, each with where it is from.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Prices {
    pub(crate) currency: String,
    pub(crate) region: String,
    machine_hour: Price,
    volume_gb_month: Price,
    put: Price,
    storage_gb_month: Price,
    balancer_hour: Price,
    lcu_hour: Price,
    lcu: Lcu,
    broker_node_hour: Price,
    zone_transfer_gb: Price,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Price {
    price: f64,
    source: String,
    date: String,
}

/// What a capacity unit of the load balancer contains.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Lcu {
    new_connections_per_second: f64,
    active_connections: f64,
    gb_per_hour: f64,
    source: String,
    date: String,
}

/// The cost of a simulation, or of a billion payloads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Cost {
    /// Machines and their volumes.
    pub(crate) compute: f64,
    pub(crate) puts: f64,
    /// Its hours and its capacity units.
    pub(crate) load_balancer: f64,
    /// Nodes, volumes, and transfers between zones.
    pub(crate) broker: f64,
    /// The objects, for one month.
    pub(crate) storage: f64,
}

impl Cost {
    pub(crate) fn total(&self) -> f64 {
        self.compute + self.puts + self.load_balancer + self.broker + self.storage
    }

    fn times(self, factor: f64) -> Self {
        let Self { compute, puts, load_balancer, broker, storage } = self;
        Self {
            compute: compute * factor,
            puts: puts * factor,
            load_balancer: load_balancer * factor,
            broker: broker * factor,
            storage: storage * factor,
        }
    }
}

impl Prices {
    /// The prices of `PRICES`.
    pub(crate) fn built_in() -> anyhow::Result<Self> {
        Self::parse(PRICES).context("the built-in prices")
    }

    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let prices: Self = toml::from_str(text)?;
        for (name, Price { price, source, date }) in prices.named() {
            ensure!(price.is_finite() && *price >= 0.0, "[{name}] price is 0 or above");
            ensure!(!source.trim().is_empty() && !date.trim().is_empty(), "[{name}] needs a source and a date");
        }
        let Lcu { new_connections_per_second, active_connections, gb_per_hour, source, date } = &prices.lcu;
        for part in [new_connections_per_second, active_connections, gb_per_hour] {
            ensure!(part.is_finite() && *part > 0.0, "[lcu] its parts are above 0");
        }
        ensure!(!source.trim().is_empty() && !date.trim().is_empty(), "[lcu] needs a source and a date");
        Ok(prices)
    }

    fn named(&self) -> [(&'static str, &Price); 8] {
        [
            ("machine-hour", &self.machine_hour),
            ("volume-gb-month", &self.volume_gb_month),
            ("put", &self.put),
            ("storage-gb-month", &self.storage_gb_month),
            ("balancer-hour", &self.balancer_hour),
            ("lcu-hour", &self.lcu_hour),
            ("broker-node-hour", &self.broker_node_hour),
            ("zone-transfer-gb", &self.zone_transfer_gb),
        ]
    }

    fn volume_hour(&self, gb: f64) -> f64 {
        gb * self.volume_gb_month.price / MONTH
    }
}

/// Counts what is billed.
#[derive(Debug)]
pub(super) struct Meter<'m> {
    model: &'m Model,
    prices: &'m Prices,
    seconds: u32,
    machine_seconds: u64,
    requests: u64,
    served: u64,
    stored: u64,
    objects: u64,
    lcu_hours: f64,
    /// Requests of the hour that is not over, for its capacity units.
    hour: u64,
}

impl<'m> Meter<'m> {
    pub(super) fn new(model: &'m Model, prices: &'m Prices) -> Self {
        let (seconds, machine_seconds, requests, served, stored, objects) = (0, 0, 0, 0, 0, 0);
        Self { model, prices, seconds, machine_seconds, requests, served, stored, objects, lcu_hours: 0.0, hour: 0 }
    }

    pub(super) fn add(&mut self, second: &Second) {
        self.seconds += 1;
        self.machine_seconds += u64::from(second.machines);
        self.requests += second.offered;
        self.served += second.served;
        self.stored += second.stored;
        self.objects += second.objects;
        self.hour += second.offered;
        if self.seconds.is_multiple_of(HOUR as u32) {
            let requests = std::mem::take(&mut self.hour);
            self.lcu_hours += self.lcus(requests);
        }
    }

    /// The capacity units of the requests of an hour, rejected ones included: the largest of its parts.
    fn lcus(&self, requests: u64) -> f64 {
        let (request, lcu) = (&self.model.request, &self.prices.lcu);
        let connections = requests as f64 / request.requests_per_connection;
        let new = connections / HOUR / lcu.new_connections_per_second;
        let active = connections * f64::from(request.connection_time.0) / HOUR / lcu.active_connections;
        let bytes = requests as f64 * (f64::from(request.network_bytes) + f64::from(request.response_bytes));
        new.max(active).max(bytes / GB / lcu.gb_per_hour)
    }

    /// The cost of what has been counted, in proportion to the time.
    pub(super) fn cost(&self) -> Cost {
        let (model, prices) = (self.model, self.prices);
        let hours = f64::from(self.seconds) / HOUR;
        let stored_gb = self.stored as f64 * f64::from(model.request.stored_bytes) / GB;
        let nodes = f64::from(model.broker.clusters) * f64::from(model.broker.nodes);
        let machine_hour = prices.machine_hour.price + prices.volume_hour(model.machine.volume_gb);
        let node_hour = prices.broker_node_hour.price + prices.volume_hour(model.broker.volume_gb);
        let transferred = if nodes > 0.0 { stored_gb * model.broker.zone_transfers } else { 0.0 };
        Cost {
            compute: self.machine_seconds as f64 / HOUR * machine_hour,
            puts: self.objects as f64 * prices.put.price,
            load_balancer: hours * prices.balancer_hour.price
                + (self.lcu_hours + self.lcus(self.hour)) * prices.lcu_hour.price,
            broker: hours * nodes * node_hour + transferred * prices.zone_transfer_gb.price,
            storage: stored_gb * prices.storage_gb_month.price,
        }
    }

    /// The cost of a billion payloads that were served, if there were any.
    pub(super) fn cost_per_billion(&self) -> Option<Cost> {
        let payloads = self.served as f64 * f64::from(self.model.request.payloads);
        (payloads > 0.0).then(|| self.cost().times(BILLION / payloads))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(left: f64, right: f64) {
        assert!((left - right).abs() < 1e-9 * right.abs().max(1.0), "{left} {right}");
    }

    /// A million requests a second for so many seconds, on 40 machines, in objects of 10,000 requests.
    fn metered<'m>(model: &'m Model, prices: &'m Prices, seconds: u32) -> Meter<'m> {
        let mut meter = Meter::new(model, prices);
        let requests = 1_000_000;
        for _ in 0..seconds {
            meter.add(&Second {
                offered: requests,
                served: requests,
                stored: requests,
                objects: 100,
                machines: 40,
                ..Second::default()
            });
        }
        meter
    }

    #[test]
    fn each_part_of_the_cost_follows_from_its_price() {
        let (mut model, prices) = (Model::built_in().unwrap(), Prices::built_in().unwrap());
        let cost = metered(&model, &prices, 5_400).cost();
        close(cost.compute, 40.0 * 1.5 * (0.085 + 64.0 * 0.08 / 730.0));
        close(cost.puts, 540_000.0 * 0.000005);
        // The bytes are the largest part: 3,600 bytes a request, 12,960 GB an hour.
        close(cost.load_balancer, 1.5 * 0.0225 + 1.5 * 12_960.0 * 0.008);
        close(cost.storage, 5_400.0 * 0.864 * 0.023);
        assert_eq!(cost.broker, 0.0);
        model.broker.clusters = 2;
        let cost = metered(&model, &prices, 5_400).cost();
        close(cost.broker, 6.0 * 1.5 * (0.085 + 64.0 * 0.08 / 730.0) + 5_400.0 * 0.864 * 3.33 * 0.02);
    }

    #[test]
    fn the_largest_part_of_a_capacity_unit_is_billed() {
        let (mut model, prices) = (Model::built_in().unwrap(), Prices::built_in().unwrap());
        let lcus = |model: &Model| Meter::new(model, &prices).lcus(3_600_000);
        close(lcus(&model), 12.96);
        model.request.requests_per_connection = 1.0;
        close(lcus(&model), 40.0);
        model.request.connection_time = crate::simulate::quantity::Seconds(600);
        close(lcus(&model), 200.0);
    }

    #[test]
    fn a_billion_payloads_cost_in_proportion() {
        let (model, prices) = (Model::built_in().unwrap(), Prices::built_in().unwrap());
        let meter = metered(&model, &prices, 3_600);
        close(meter.cost_per_billion().unwrap().total(), meter.cost().total() / 36.0);
        assert_eq!(Meter::new(&model, &prices).cost_per_billion(), None);
    }

    #[test]
    fn prices_without_a_source_or_with_a_mistake_are_rejected() {
        for (before, after, part) in [
            ("price = 0.085", "price = -1", "[machine-hour] price is 0 or above"),
            ("price = 0.085", "price = nan", "[machine-hour] price is 0 or above"),
            ("date = \"2026-02-24\"", "date = \"\"", "[volume-gb-month] needs a source and a date"),
            ("date = \"2026-02-24\"\n", "", "missing field `date`"),
            ("gb-per-hour = 1", "gb-per-hour = 0", "[lcu] its parts are above 0"),
            ("[put]", "[putt]", "unknown field `putt`"),
        ] {
            assert!(PRICES.contains(before), "{before}");
            let wrong = Prices::parse(&PRICES.replacen(before, after, 1)).unwrap_err();
            assert!(format!("{wrong:#}").contains(part), "{after}\n{wrong:#}");
        }
    }
}
