// The panels of figures: ledger, traffic, errors, saturation, packing.

import { byId, create, list, pairs, setText, tiles } from "./dom.js";
import { bytes, count, duration, figure, latency, percent, plural } from "./format.js";
import { FINE, LIMITS, OUTCOMES, REASONS, SEALS, words } from "./terms.js";

/** Shares of a limit from which it is shown as a warning, and as nearly used up. */
const HIGH = 0.75;
const NEARLY_FULL = 0.9;
const CERTIFICATE_WARNING_DAYS = 21;

export function showLedger({ ledger, oldest_unstored_seconds: oldest }) {
  for (const part of ["accepted", "stored", "waiting", "dead"]) {
    const box = byId("ledger").querySelector(`[data-part=${part}]`);
    setText(box.querySelector("[data-jobs]"), count(ledger[part].jobs));
    setText(box.querySelector("[data-payloads]"), plural(ledger[part].payloads, "payload"));
    box.dataset.level = part === "dead" && ledger.dead.jobs > 0 ? "bad" : "";
  }
  const difference = ledger.accepted.jobs - ledger.stored.jobs - ledger.waiting.jobs - ledger.dead.jobs;
  const notes = [difference === 0 ? "✓ balanced" : `✗ not balanced by ${plural(difference, "job")}: report a bug`];
  notes.push(oldest === null ? "nothing waits" : `the oldest waiting job is ${duration(oldest)} old`);
  notes.push(ledger.possibly_lost.jobs > 0 ? `${plural(ledger.possibly_lost.jobs, "job")} possibly lost` : "none possibly lost");
  setText(byId("ledger-notes"), notes.join(" · "));
}

export function showTraffic({ traffic }) {
  tiles(byId("rates"), [
    ["Requests", `${figure(traffic.requests_per_second)}/s`],
    ["Payloads", `${figure(traffic.payloads_per_second)}/s`],
    ["Received", `${bytes(traffic.received_bytes_per_second)}/s`],
    ["Stored", `${bytes(traffic.stored_bytes_per_second)}/s`],
  ]);
  const busiest = traffic.outcomes.toSorted((a, b) => b.per_second - a.per_second || b.total - a.total);
  pairs(byId("outcomes"), busiest.map(({ outcome, total, per_second: rate }) =>
    [words(outcome), `${figure(rate)}/s · ${count(total)}`, OUTCOMES[outcome]]));
}

/** What needs attention: `{level, text}`. */
function problems({ reasons, traffic, ledger, dead, files, rollout }) {
  const found = reasons.filter(({ what }) => what !== "draining").map(({ what }) => {
    const text = REASONS[what]?.[0] ?? what;
    return { level: "bad", text: text[0].toUpperCase() + text.slice(1) };
  });
  const rateOf = (isKind) => traffic.outcomes.filter(isKind).reduce((sum, { per_second: rate }) => sum + rate, 0);
  const rejected = rateOf(({ outcome }) => !FINE.has(outcome) && outcome !== "failed");
  const failed = rateOf(({ outcome }) => outcome === "failed");
  if (rejected > 0) found.push({ level: "warn", text: `${figure(rejected)}/s are rejected` });
  if (failed > 0) found.push({ level: "bad", text: `${figure(failed)}/s fail: look for errors in the log` });
  const { upload_failures_per_second: uploads, commit_failures_per_second: commits } = traffic;
  if (uploads > 0) found.push({ level: "warn", text: `${figure(uploads)}/s uploads fail and are retried` });
  if (commits > 0) found.push({ level: "bad", text: `${figure(commits)}/s commits fail: their batches are rejected` });
  if (ledger.dead.jobs > 0) {
    found.push({ level: "bad", text: `${plural(ledger.dead.jobs, "acknowledged job")} damaged on disk and lost` });
  }
  if (dead.files > 0) found.push({ level: "bad", text: `${plural(dead.files, "file")} under dead/: ${bytes(dead.bytes)}` });
  if (rollout?.forward?.tripped) {
    found.push({ level: "bad", text: `Nothing is forwarded to the other version any more: ${rollout.forward.tripped.detail}` });
  }
  for (const file of files.reload_failing ?? []) {
    found.push({ level: "warn", text: `The last reload of ${file} failed: the previous version is in force` });
  }
  if (Number.isFinite(files.certificate_days) && files.certificate_days < CERTIFICATE_WARNING_DAYS) {
    const left = files.certificate_days;
    found.push({ level: left < 3 ? "bad" : "warn", text: left < 0 ? "The certificate has expired" : `The certificate expires in ${duration(left * 86400)}` });
  }
  return found;
}

export function showErrors(status) {
  const found = problems(status);
  const shown = found.length > 0 ? found : [{ level: "ok", text: "No errors now" }];
  list(byId("problems"), shown, () => create("li"), (item, { level, text }) => {
    item.dataset.level = level;
    setText(item, text);
  });
}

/** What the guard can judge. */
const GUARD = {
  compared: "compares both versions",
  errors_only: "judges errors only: too few requests are handled here",
  too_few_requests: "too few forwarded requests to compare: only 10 failures in a row stop forwarding",
};

/** What is rolled out; hidden without a file. */
export function showRollout({ rollout }) {
  byId("rollout").hidden = !rollout;
  if (!rollout) return;
  const { mirror, forward, features } = rollout;
  const parts = [
    ["mirror", mirror ? `${mirror.percent}% of accepted batches to ${mirror.url}` : "off"],
    ["forward", forward ? `${forward.percent}% of ${forward.by}s to ${forward.url}` : "off"],
    ...(mirror ? [["copies", `${count(mirror.sent_total)} sent, ${count(mirror.dropped_total)} dropped, ` +
      `${count(mirror.failed_total)} failed`]] : []),
    ...(forward ? [["forwarded", `${count(forward.passed_total)} passed, ${count(forward.taken_here_total)} taken here, ` +
      `${count(forward.unknown_total)} unknown, ${count(forward.abandoned_total)} abandoned`]] : []),
    ...(forward?.guard && !forward.tripped ? [["guard", GUARD[forward.guard] ?? forward.guard]] : []),
    ...(forward?.tripped ? [["forwarding stopped", `since ${forward.tripped.since_time}: ${forward.tripped.detail}`]] : []),
    ...features.map(({ name, percent, tenants, except }) =>
      [`feature ${name}`, `${percent}% of clients and ${plural(tenants, "tenant")}, except ${plural(except, "tenant")}`]),
  ];
  pairs(byId("rollout-parts"), parts);
}

function level(share) {
  if (share >= NEARLY_FULL) return "bad";
  return share >= HIGH ? "warn" : "ok";
}

/** The limits of the server and of its machine as `{title, hint, used, max, text}`. */
function meters({ limits, process, disk }) {
  const found = limits.map(({ name, used, max }) => {
    const [title, setting] = LIMITS[name] ?? [words(name), ""];
    const show = name.endsWith("_bytes") ? bytes : count;
    return { title, hint: setting, used, max, text: `${show(used)} of ${show(max)}` };
  });
  if (Number.isFinite(disk?.free_bytes) && Number.isFinite(disk?.total_bytes)) {
    const used = disk.total_bytes - disk.free_bytes;
    const spool = limits.find(({ name }) => name === "spool_bytes");
    // Other programs may use the disk too, so a high share alone says nothing.
    const state = spool && disk.free_bytes < spool.max - spool.used ? "bad" : "ok";
    const word = "less free than SPOOL_MAX_BYTES needs";
    found.push({ title: "Disk", hint: "of SPOOL_DIR", used, max: disk.total_bytes, text: `${bytes(disk.free_bytes)} free of ${bytes(disk.total_bytes)}`, state, word });
  }
  found.push({ title: "CPU", hint: "cores", used: process.cpu_cores, max: process.cores, text: `${figure(process.cpu_cores)} of ${count(process.cores)}` });
  if (Number.isFinite(process.runtime_busy_share)) {
    found.push({ title: "Handlers", hint: "busy share of their threads", used: process.runtime_busy_share, max: 1, text: percent(process.runtime_busy_share) });
  }
  return found;
}

export function showSaturation(status) {
  const make = () => {
    const bar = create("div", "bar", create("div"));
    bar.setAttribute("role", "meter");
    bar.setAttribute("aria-valuemin", "0");
    return create("li", "", create("span", "name"), create("span", "hint muted"), create("span", "value"), bar);
  };
  list(byId("limits"), meters(status), make, (item, { title, hint, used, max, text, state: known, word: problem }) => {
    const [name, note, value, bar] = item.children;
    const share = max > 0 && Number.isFinite(used) ? Math.min(1, used / max) : 0;
    const state = known ?? level(share);
    setText(name, title);
    setText(note, hint);
    const word = problem ?? (share >= 1 ? "full" : "nearly full");
    setText(value, state === "bad" ? `${text} · ${word}` : text);
    item.dataset.level = state;
    bar.firstElementChild.style.width = `${share * 100}%`;
    bar.setAttribute("aria-label", title);
    bar.setAttribute("aria-valuemax", max ?? 0);
    bar.setAttribute("aria-valuenow", Math.min(used ?? 0, max ?? 0));
    bar.setAttribute("aria-valuetext", text);
  });
}

export function showPacking({ packing, traffic, latency: stages, process, settings }) {
  tiles(byId("pack"), [
    ["Objects", `${figure(traffic.objects_per_second)}/s`],
    ["Jobs per commit", figure(packing.jobs_per_commit), "The jobs that share one fsync"],
    ["Commits", `${figure(packing.commits_per_second)}/s`],
    ["Commit p99", latency(stages.commit.p99)],
    ["Stored per received", percent(packing.stored_per_received), "Bytes of objects for each received byte, since the start"],
    ["Segment size", bytes(packing.segment_bytes), "Mean of the sealed segments, compressed"],
    ["Segments waiting", count(packing.segments_waiting), "Sealed, and not yet taken by a worker"],
    ["Compression", settings.compression],
    ["Ack level", settings.ack],
    ["Memory", bytes(process.memory_bytes), "Resident memory of the process"],
  ]);
  pairs(byId("seals"), packing.seals.map(({ reason, total }) => [`sealed: ${words(reason)}`, count(total), SEALS[reason]]));
}
