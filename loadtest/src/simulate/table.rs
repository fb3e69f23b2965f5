//! The figures of outcomes as Markdown tables.

use std::fmt::Write;

use super::machine::Limits;
use super::model::Model;
use super::outcome::Outcome;
use super::prices::{Cost, Prices};

/// What a machine can take, and which limit comes first.
pub(crate) fn machine(model: &Model) -> anyhow::Result<String> {
    let limits = model.machine.limits(&model.request)?;
    let Limits { cpu, network, .. } = limits;
    let percent = 100.0 * model.machine.utilization(limits.rate());
    let first = if network < cpu { "the network is full" } else { "the CPU is used up" };
    Ok(format!(
        "{}: {} requests/s by the network, {} by the CPU; {first} at {percent:.0}% CPU",
        model.machine.name,
        count(network),
        count(cpu)
    ))
}

/// What happened, a row for each outcome.
pub(crate) fn figures(outcomes: &[Outcome]) -> String {
    let head = [
        "load",
        "policy",
        "time to capacity",
        "rejected batches",
        "of all",
        "limited by",
        "machines, mean",
        "most",
        "most CPU",
        "p99",
        "most backlog",
        "lost",
    ];
    let rows = outcomes.iter().map(|outcome| {
        let Outcome { totals, .. } = outcome;
        vec![
            outcome.load.clone(),
            outcome.policy.clone(),
            time_to_capacity(outcome),
            count(totals.rejected),
            format!("{:.1}%", 100.0 * totals.rejected as f64 / totals.offered.max(1) as f64),
            outcome.limit.unwrap_or("-").to_owned(),
            format!("{:.1}", outcome.mean_machines),
            count(u64::from(outcome.most_machines)),
            format!("{:.0}%", outcome.most_cpu_percent),
            format!("{:.1} ms", outcome.worst_p99_millis),
            count(outcome.most_backlog),
            count(totals.lost),
        ]
    });
    table(&head.map(str::to_owned), &rows.collect::<Vec<_>>())
}

/// What a billion payloads cost, a row for each outcome.
pub(crate) fn costs(outcomes: &[Outcome], prices: &Prices) -> String {
    let total = format!("{} a billion payloads", prices.currency);
    let head = ["load", "policy", "compute", "PUTs", "load balancer", "broker", "storage, a month", &total];
    let rows = outcomes.iter().map(|outcome| {
        let show = |of: fn(&Cost) -> f64| {
            outcome.cost_per_billion_payloads.as_ref().map_or("-".to_owned(), |cost| format!("{:.2}", of(cost)))
        };
        vec![
            outcome.load.clone(),
            outcome.policy.clone(),
            show(|cost| cost.compute),
            show(|cost| cost.puts),
            show(|cost| cost.load_balancer),
            show(|cost| cost.broker),
            show(|cost| cost.storage),
            show(Cost::total),
        ]
    });
    table(&head.map(str::to_owned), &rows.collect::<Vec<_>>())
}

fn time_to_capacity(outcome: &Outcome) -> String {
    match (outcome.first_rejection, outcome.capacity_after) {
        (None, _) => "0 s".to_owned(),
        (Some(_), None) => "not reached".to_owned(),
        (Some(_), Some(seconds)) => format!("{seconds} s"),
    }
}

/// A number with commas between its thousands.
fn count(number: u64) -> String {
    let digits = number.to_string();
    let comma = |index: usize| index > 0 && (digits.len() - index).is_multiple_of(3);
    let parts = digits.char_indices().flat_map(|(index, digit)| [comma(index).then_some(','), Some(digit)]);
    parts.flatten().collect()
}

fn table(head: &[String], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).chain(head.get(column)).map(String::len).max().unwrap_or(0)
    };
    let line = |cells: &[String]| {
        let cells = cells.iter().enumerate().map(|(column, cell)| format!(" {cell:<width$} |", width = width(column)));
        format!("|{}", cells.collect::<String>())
    };
    let dashes = (0..head.len()).fold("|".to_owned(), |mut dashes, column| {
        let _ = write!(dashes, " {} |", "-".repeat(width(column).max(3)));
        dashes
    });
    [line(head), dashes].into_iter().chain(rows.iter().map(|row| line(row))).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_that_comes_first_is_named() {
        let mut model = Model::built_in().unwrap();
        assert!(machine(&model).unwrap().ends_with("the network is full at 56% CPU"));
        model.machine.network_gbits = 12.5;
        assert!(machine(&model).unwrap().ends_with("the CPU is used up at 100% CPU"));
    }

    #[test]
    fn thousands_have_commas() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn columns_have_one_width() {
        let text = table(&["load", "x"].map(str::to_owned), &[vec!["a".to_owned(), "1.25".to_owned()]]);
        assert_eq!(text, "| load | x    |\n| ---- | ---- |\n| a    | 1.25 |");
    }
}
