//! The snapshot as lines, the most important ones first. Pure.

use super::screen::{Line, Look};
use super::status::{Count, Limit, Other, Quantiles, Rejection, Share, Status, Tenant};
use crate::cli::text::{Align, bytes, count, decimal, printable, seconds, table};

/// Columns of a bar.
const BAR: usize = 24;
/// A limit is marked from this share on, and more so from the second.
const WARNING_SHARE: f64 = 0.6;
const BAD_SHARE: f64 = 0.85;
/// Without a bound on the lines, so many tenants and rejections are shown.
const ROWS_MAX: usize = 20;
/// With one, so many tenants.
const TENANTS_LIVE: usize = 6;
/// Days before the expiry of the certificate from which it is shown.
const CERTIFICATE_DAYS: f64 = 21.0;

/// All lines; with `rows`, the ones that fit, and as many rejections as there is room for.
pub(super) fn lines(status: &Status, rows: Option<usize>) -> Vec<Line> {
    let mut lines = heading(status);
    lines.extend(verdict(status));
    lines.push(Line::default());
    lines.extend(ledger(status));
    lines.extend(traffic(status));
    lines.extend(latency(status));
    lines.extend(limits(status));
    lines.extend(packing(status));
    lines.extend(rollout(status));
    lines.extend(tenants(status, if rows.is_some() { TENANTS_LIVE } else { ROWS_MAX }));
    let left = rows.map_or(ROWS_MAX, |rows| rows.saturating_sub(lines.len() + 2));
    lines.extend(rejections(&status.recent_rejections, left));
    lines
}

fn heading(status: &Status) -> Vec<Line> {
    let process = &status.process;
    let up = process.uptime_seconds.map_or("-".to_owned(), seconds);
    let title = format!("millpond {} on {}, pid {}, up {up}", status.build.version, process.host, process.pid);
    let cpu = format!(
        "cpu {} of {} cores   runtime busy {}   memory {}",
        optional(process.cpu_cores, decimal),
        optional(process.cores, decimal),
        optional(process.runtime_busy_share, percent),
        optional(process.memory_bytes, bytes),
    );
    let settings = &status.settings;
    let store = format!("store {}   ack {}   compression {}", settings.store, settings.ack, settings.compression);
    vec![
        Line::of(Look::Title, &title).add(Look::Dim, &format!("   {}", status.time)),
        Line::of(Look::Plain, &cpu),
        Line::of(Look::Dim, &store),
    ]
}

fn verdict(status: &Status) -> Vec<Line> {
    let (look, state) = match status.state.as_str() {
        "ready" => (Look::Good, "READY".to_owned()),
        "drained" => (Look::Good, "DRAINED: everything is stored".to_owned()),
        "draining" => (Look::Warning, "DRAINING".to_owned()),
        "" => (Look::Warning, "UNKNOWN STATE".to_owned()),
        "not_ready" => (Look::Bad, "NOT READY".to_owned()),
        other => (Look::Warning, other.to_uppercase()),
    };
    let ago = |since: f64| format!(" for {}", seconds((status.timestamp - since).max(0.0)));
    let mut lines = vec![Line::of(look, &state).add(Look::Plain, &status.since.map(ago).unwrap_or_default())];
    for reason in &status.reasons {
        let since = reason.since.map(ago).unwrap_or_default();
        let detail = reason.detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
        lines.push(Line::of(look, &format!("  {}{since}", reason.what)).add(Look::Plain, &detail));
    }
    let dead = &status.dead;
    if dead.files.is_some_and(|files| files > 0.0) {
        let (files, size) = (optional(dead.files, whole), optional(dead.bytes, bytes));
        lines.push(Line::of(Look::Warning, &format!("  damaged files under dead/: {files}, {size}")));
    }
    if let Some(days) = status.files.certificate_days.filter(|days| *days < CERTIFICATE_DAYS) {
        lines.push(Line::of(Look::Warning, &format!("  the certificate expires in {days:.1} days")));
    }
    for file in &status.files.reload_failing {
        lines.push(Line::of(
            Look::Warning,
            &format!("  the last reload of {} failed: the previous version is in force", printable(file)),
        ));
    }
    let traffic = &status.traffic;
    for (what, rate) in
        [("uploads", traffic.upload_failures_per_second), ("commits", traffic.commit_failures_per_second)]
    {
        if let Some(rate) = rate.filter(|rate| *rate > 0.0) {
            lines.push(Line::of(Look::Warning, &format!("  {what} that fail: {} a second", decimal(rate))));
        }
    }
    lines
}

fn ledger(status: &Status) -> Vec<Line> {
    let ledger = &status.ledger;
    let row =
        |name: &str, count: &Count| vec![name.to_owned(), optional(count.jobs, whole), optional(count.payloads, whole)];
    let rows = vec![
        titles(["LEDGER", "JOBS", "PAYLOADS"]),
        row("accepted", &ledger.accepted),
        row("stored", &ledger.stored),
        row("waiting", &ledger.waiting),
        row("dead", &ledger.dead),
        row("possibly lost", &ledger.possibly_lost),
    ];
    let is_lost = |count: &Count| count.jobs.is_some_and(|jobs| jobs > 0.0);
    let losses = [is_lost(&ledger.dead), is_lost(&ledger.possibly_lost)];
    let mut lines = section(&[Align::Left, Align::Right, Align::Right], &rows);
    for (line, is_lost) in lines.iter_mut().skip(4).zip(losses) {
        if is_lost {
            *line = Line::of(Look::Bad, &line.text());
        }
    }
    let oldest = status.oldest_unstored_seconds.map_or("none".to_owned(), seconds);
    lines.push(Line::of(Look::Plain, &format!("oldest job that is not stored: {oldest}")));
    lines.push(Line::default());
    lines
}

fn traffic(status: &Status) -> Vec<Line> {
    let traffic = &status.traffic;
    let summary = format!(
        "TRAFFIC  {} requests/s   {} jobs/s   {} payloads/s   received {}/s   stored {}/s   {} objects/s",
        optional(traffic.requests_per_second, decimal),
        optional(traffic.jobs_per_second, decimal),
        optional(traffic.payloads_per_second, decimal),
        optional(traffic.received_bytes_per_second, bytes),
        optional(traffic.stored_bytes_per_second, bytes),
        optional(traffic.objects_per_second, decimal),
    );
    let row = |outcome: &super::status::Outcome| {
        vec![outcome.outcome.clone(), optional(outcome.per_second, decimal), optional(outcome.total, whole)]
    };
    let rows: Vec<_> =
        std::iter::once(titles(["OUTCOME", "PER SECOND", "TOTAL"])).chain(traffic.outcomes.iter().map(row)).collect();
    let mut lines = vec![Line::of(Look::Title, &summary)];
    if !traffic.outcomes.is_empty() {
        lines.extend(section(&[Align::Left, Align::Right, Align::Right], &rows));
    }
    lines.push(Line::default());
    lines
}

fn latency(status: &Status) -> Vec<Line> {
    let latency = &status.latency;
    let row = |name: &str, quantiles: &Quantiles| {
        let quantile = |value: Option<f64>| optional(value, seconds);
        let Quantiles { p50, p90, p99, count } = quantiles;
        vec![name.to_owned(), quantile(*p50), quantile(*p90), quantile(*p99), optional(*count, whole)]
    };
    let rows = vec![
        titles(["LATENCY", "P50", "P90", "P99", "COUNT"]),
        row("accepted", &latency.accepted),
        row("rejected", &latency.rejected),
        row("failed", &latency.failed),
        row("queue wait", &latency.queue_wait),
        row("commit", &latency.commit),
        row("upload", &latency.upload),
        row("segment to object", &latency.stored),
    ];
    let mut lines = section(&[Align::Left, Align::Right, Align::Right, Align::Right, Align::Right], &rows);
    lines.push(Line::default());
    lines
}

fn limits(status: &Status) -> Vec<Line> {
    let known = |limit: &Limit| Some((limit.name.clone(), limit.used?, limit.max?));
    let limits: Vec<_> = status.limits.iter().filter_map(known).collect();
    if limits.is_empty() {
        return Vec::new();
    }
    let name_width = limits.iter().map(|(name, ..)| name.chars().count()).max().unwrap_or_default();
    let mut lines = vec![Line::of(Look::Title, "LIMITS")];
    for (name, used, max) in limits {
        let share = if max > 0.0 { (used / max).clamp(0.0, 1.0) } else { 0.0 };
        let look = match share {
            share if share >= BAD_SHARE => Look::Bad,
            share if share >= WARNING_SHARE => Look::Warning,
            _ => Look::Good,
        };
        let number = if name.ends_with("bytes") { bytes } else { whole };
        let name = name.replace('_', " ");
        lines.push(
            Line::of(Look::Plain, &format!("{name:name_width$}  "))
                .add(look, &bar(share))
                .add(Look::Plain, &format!("  {:>4}  {} of {}", percent(share), number(used), number(max))),
        );
    }
    if let Some(disk) = &status.disk {
        let full = match disk.spool_full_in_seconds {
            Some(left) if left.is_finite() => format!("   spool full in {}", seconds(left)),
            _ => String::new(),
        };
        let (free, total) = (optional(disk.free_bytes, bytes), optional(disk.total_bytes, bytes));
        let spool = status.limits.iter().find(|limit| limit.name == "spool_bytes");
        let needed = spool.and_then(|spool| Some(spool.max? - spool.used?));
        let line = Line::of(Look::Plain, &format!("disk free {free} of {total}{full}"));
        lines.push(match (disk.free_bytes, needed) {
            (Some(free), Some(needed)) if free < needed => line.add(Look::Bad, "   less than SPOOL_MAX_BYTES needs"),
            _ => line,
        });
    }
    lines.push(Line::default());
    lines
}

fn packing(status: &Status) -> Vec<Line> {
    let packing = &status.packing;
    let text = format!(
        "PACKING  {} jobs a commit   {} commits/s   stored/received {}   mean segment {}   segments waiting {}",
        optional(packing.jobs_per_commit, decimal),
        optional(packing.commits_per_second, decimal),
        optional(packing.stored_per_received, decimal),
        optional(packing.segment_bytes, bytes),
        optional(packing.segments_waiting, whole),
    );
    vec![Line::of(Look::Plain, &text), Line::default()]
}

fn rollout(status: &Status) -> Vec<Line> {
    let Some(rollout) = &status.rollout else { return Vec::new() };
    let share = |percent: Option<f64>| optional(percent, |percent| format!("{percent}%"));
    let other = |name: &str, other: &Option<Other>| {
        let to = |other: &Other| {
            let to = match &other.tripped {
                Some(tripped) => format!("stopped for {} of {}", tripped.reason, other.url),
                None => format!("{} to {}", share(other.percent), other.url),
            };
            let is_blind = other.guard.as_deref() == Some("too_few_requests");
            to + &counts(other) + if is_blind { ", too few to judge" } else { "" }
        };
        format!("{name} {}", other.as_ref().map_or("off".to_owned(), to))
    };
    let shares = |list: &[Share]| {
        let texts: Vec<String> = list.iter().map(|one| format!("{} {}", one.name, share(one.percent))).collect();
        if texts.is_empty() { "all".to_owned() } else { texts.join(", ") }
    };
    let text = format!(
        "ROLLOUT  {}   {}   features {}   variants {}",
        other("mirror", &rollout.mirror),
        other("forward", &rollout.forward),
        shares(&rollout.features),
        if rollout.variants.is_empty() { "none".to_owned() } else { shares(&rollout.variants) },
    );
    let is_stopped = rollout.forward.as_ref().is_some_and(|forward| forward.tripped.is_some());
    let look = if is_stopped { Look::Bad } else { Look::Plain };
    vec![Line::of(look, &printable(&text)), Line::default()]
}

/// What became of the requests for another server.
fn counts(other: &Other) -> String {
    let counts = [
        ("sent", other.sent_total),
        ("dropped", other.dropped_total),
        ("failed", other.failed_total),
        ("passed", other.passed_total),
        ("taken here", other.taken_here_total),
        ("unknown", other.unknown_total),
        ("abandoned", other.abandoned_total),
    ];
    let texts: Vec<String> =
        counts.into_iter().filter_map(|(name, count)| Some(format!("{} {name}", whole(count?)))).collect();
    if texts.is_empty() { String::new() } else { format!(": {}", texts.join(", ")) }
}

fn tenants(status: &Status, max: usize) -> Vec<Line> {
    if status.tenants.is_empty() {
        return Vec::new();
    }
    let row = |tenant: &Tenant| {
        let others = || format!("{} others", optional(tenant.others, whole));
        let name = tenant.tenant.as_deref().map_or_else(others, printable);
        vec![
            name,
            optional(tenant.requests_per_second, decimal),
            optional(tenant.payloads_per_second, decimal),
            optional(tenant.bytes_per_second, bytes),
            optional(tenant.rejected_per_second, decimal),
            optional(tenant.queue_bytes, bytes),
            optional(tenant.spool_bytes, bytes),
            (if tenant.is_throttled { "throttled" } else { "" }).to_owned(),
        ]
    };
    let rows: Vec<_> =
        std::iter::once(titles(["TENANT", "REQUESTS/S", "PAYLOADS/S", "BYTES/S", "REJECTED/S", "QUEUE", "SPOOL", ""]))
            .chain(status.tenants.iter().take(max).map(row))
            .collect();
    let mut align = [Align::Right; 8];
    let [first, .., last] = &mut align;
    (*first, *last) = (Align::Left, Align::Left);
    let mut lines = section(&align, &rows);
    let hidden = status.tenants.len().saturating_sub(max);
    if hidden > 0 {
        lines.push(Line::of(Look::Dim, &format!("and {hidden} more")));
    }
    lines.push(Line::default());
    lines
}

fn rejections(recent: &[Rejection], max: usize) -> Vec<Line> {
    if recent.is_empty() || max == 0 {
        return Vec::new();
    }
    let text = |text: &Option<String>| text.as_deref().map_or("-".to_owned(), printable);
    let row = |rejection: &Rejection| {
        vec![
            printable(&rejection.time),
            rejection.status.map_or("-".to_owned(), |status| status.to_string()),
            printable(&rejection.outcome),
            text(&rejection.tenant),
            text(&rejection.address),
            text(&rejection.detail),
        ]
    };
    let rows: Vec<_> =
        std::iter::once(titles(["RECENT REJECTIONS", "STATUS", "OUTCOME", "TENANT", "ADDRESS", "DETAIL"]))
            .chain(recent.iter().take(max).map(row))
            .collect();
    section(&[Align::Left; 6], &rows)
}

/// A table whose first row is its heading.
fn section(align: &[Align], rows: &[Vec<String>]) -> Vec<Line> {
    let printable_rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let lines = table(align, &printable_rows);
    let look = |row: usize| if row == 0 { Look::Title } else { Look::Plain };
    lines.iter().enumerate().map(|(row, line)| Line::of(look(row), line)).collect()
}

fn titles<const N: usize>(titles: [&str; N]) -> Vec<String> {
    titles.map(str::to_owned).to_vec()
}

fn bar(share: f64) -> String {
    let filled = (share * BAR as f64).round() as usize;
    // A little is not nothing.
    let filled = if share > 0.0 { filled.clamp(1, BAR) } else { 0 };
    format!("[{}{}]", "#".repeat(filled), ".".repeat(BAR - filled))
}

fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.0}%", share * 100.0) } else { "-".to_owned() }
}

fn whole(number: f64) -> String {
    if number.is_finite() && number >= 0.0 { count(number as u64) } else { "-".to_owned() }
}

fn optional(number: Option<f64>, text: impl Fn(f64) -> String) -> String {
    number.map_or("-".to_owned(), text)
}

#[cfg(test)]
mod tests;
