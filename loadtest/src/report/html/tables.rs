//! The tables of the page.

use std::fmt::{self, Write};

use super::{Escaped, thousands};
use crate::report::{Report, flat};
use crate::units::{show_micros, show_size};

/// A row of a table, and whether it is what went wrong.
pub(super) struct Row {
    name: String,
    value: String,
    wrong: bool,
}

impl Report {
    pub(super) fn ledger_rows(&self) -> Vec<Row> {
        let rows = self.ledger.rows().into_iter();
        rows.map(|(name, count, must_be_zero)| {
            let wrong = must_be_zero && count > 0;
            let note = if wrong { " (must be 0)" } else { "" };
            Row { name: name.to_owned(), value: format!("{}{note}", thousands(count)), wrong }
        })
        .collect()
    }

    pub(super) fn request_rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = self
            .statuses
            .iter()
            .map(|(status, count)| plain(&format!("answered {status}"), thousands(*count)))
            .collect();
        rows.push(plain("unanswered", thousands(self.unanswered)));
        rows.push(plain("due and never sent", thousands(self.unsent)));
        rows.push(plain("connections made", thousands(self.connects.0)));
        rows.push(plain("connections failed", thousands(self.connects.1)));
        rows.push(plain("from the first to the last", format!("{:.1} s", self.seconds)));
        rows.push(plain(
            "CPU of loadtest a request",
            self.per_request(format!("{:.2} us", self.own_cpu_micros_per_request)),
        ));
        rows
    }

    pub(super) fn quantile_rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (of, quantiles) in [("accepted", self.accepted), ("refused", self.refused), ("sent late by", self.late)] {
            if quantiles.max > 0 {
                let times = [
                    ("p50", quantiles.p50),
                    ("p90", quantiles.p90),
                    ("p99", quantiles.p99),
                    ("p99.9", quantiles.p99_9),
                    ("max", quantiles.max),
                ];
                rows.extend(times.map(|(name, micros)| plain(&format!("{of} {name}"), show_micros(micros))));
            }
        }
        rows
    }

    pub(super) fn server_rows(&self) -> Vec<Row> {
        let mut rows = self.program.as_ref().map(settings).unwrap_or_default();
        if let Some(server) = &self.server {
            let request = format!("{:.2} us", server.cpu_micros_per_request);
            rows.push(plain("CPU a request", self.per_request(request)));
            let payload = format!("{:.3} us", server.cpu_micros_per_payload);
            rows.push(plain("CPU a payload", self.per_request(payload)));
            rows.push(plain("CPU in all", format!("{:.2} s", server.cpu_seconds)));
            rows.push(plain("peak memory, with the drain", show_size(server.peak_memory)));
            let wrong = server.exit.code != Some(0);
            let value = format!("{} after {:.2} s", server.exit.status, server.exit.seconds);
            rows.push(Row { name: "end".to_owned(), value, wrong });
        }
        rows
    }

    pub(super) fn store_rows(&self) -> Vec<Row> {
        let mut rows = vec![plain("place", self.place.clone())];
        if let Some(objects) = &self.objects {
            rows.push(plain("objects", thousands(objects.count)));
            rows.push(plain("lines", thousands(objects.lines)));
            rows.push(plain("bytes", show_size(objects.bytes)));
            let [min, median, max] = [objects.min, objects.median, objects.max].map(show_size);
            rows.push(plain("smallest, median, largest", format!("{min}, {median}, {max}")));
        }
        if let Some(s3) = &self.s3 {
            rows.push(plain("PUTs, stored", format!("{}, {}", thousands(s3.puts), thousands(s3.stored))));
            rows.push(plain("PUTs at once at most", thousands(s3.in_flight_peak)));
            rows.extend(s3.faults.iter().map(|(name, count)| plain(&format!("fault {name}"), thousands(*count))));
        }
        rows
    }
}

/// The fields of a part of the report as rows, the environment's variables by their own names.
pub(super) fn settings(of: &impl serde::Serialize) -> Vec<Row> {
    let value = serde_json::to_value(of).unwrap_or_default();
    let named = |(name, value): (String, String)| match name.strip_prefix("env.") {
        Some(variable) => plain(variable, value),
        None => plain(&name.replace('_', " "), value),
    };
    flat(&value).into_iter().map(named).collect()
}

fn plain(name: &str, value: String) -> Row {
    Row { name: name.to_owned(), value, wrong: false }
}

pub(super) fn table(out: &mut String, title: &str, rows: Vec<Row>) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    write!(out, "<div class=\"table\"><h3>{}</h3><table>", Escaped(title))?;
    for row in rows {
        let class = if row.wrong { " class=\"wrong\"" } else { "" };
        write!(out, "<tr{class}><th scope=\"row\">{}</th><td>{}</td></tr>", Escaped(&row.name), Escaped(&row.value))?;
    }
    writeln!(out, "</table></div>")
}
