// The first thing that an operator reads: whether the server works, and if not, why, since when, and how long the spool lasts.

import { byId, create, list, setText } from "./dom.js";
import { bytes, duration, moment, percent, plural } from "./format.js";
import { REASONS, REJECTING, STORE_WITHOUT_SPOOL } from "./terms.js";

/** A spool that is full within this time is shown as a warning. */
const SPOOL_WARNING_S = 3600;

const STATES = {
  ready: ["Ready", "Batches are accepted and stored."],
  not_ready: ["Not ready", ""],
  draining: ["Draining", "New batches are rejected while the jobs that wait are uploaded."],
  drained: ["Drained", "Every accepted job is stored or counted as dead. The process can be stopped."],
};

/** Shows the verdict of `status`. Returns a short form for the title of the tab. */
export function showVerdict(status, isCurrent) {
  const section = byId("verdict");
  const [name, text] = STATES[status.state] ?? [status.state, ""];
  const known = STATES[status.state] ? status.state : "unknown";
  section.dataset.state = isCurrent ? known : "unknown";
  const causes = status.reasons.map(({ what }) => REASONS[what]?.[0] ?? what);
  const title = status.state === "not_ready" && causes.length > 0 ? `${name}: ${causes.join("; ")}` : name;
  setText(byId("verdict-title"), isCurrent ? title : `Last known: ${title}`);
  setText(byId("verdict-summary"), text);
  setText(byId("verdict-since"), `since ${since(status.since, status.timestamp)}`);
  showReasons(status);
  showSpool(status);
  return isCurrent ? title : "No connection";
}

function since(timestamp, now) {
  return `${moment(timestamp, now)}, for ${duration(now - timestamp)}`;
}

function showReasons(status) {
  const make = () => {
    const item = create("li", "", create("strong"), " ", create("span", "muted"), create("p"), create("code"));
    return item;
  };
  const isAccepting = !status.reasons.some(({ what }) => REJECTING.has(what));
  list(byId("reasons"), status.reasons, make, (item, reason) => {
    const [what, age, meaning, detail] = item.children;
    setText(what, reason.what);
    setText(age, reason.since ? `since ${since(reason.since, status.timestamp)}` : "");
    const hasNoSpool = reason.what === "store" && status.settings.spool_dir === null && !status.broker;
    const [text, ifAccepting] = hasNoSpool ? STORE_WITHOUT_SPOOL : REASONS[reason.what]?.slice(1) ?? [""];
    setText(meaning, isAccepting && ifAccepting ? `${ifAccepting} ${text}` : text);
    setText(detail, reason.detail ?? "");
    detail.hidden = !reason.detail;
  });
}

function showSpool(status) {
  const line = byId("spool-left");
  const spool = status.limits.find(({ name }) => name === "spool_bytes");
  const left = status.disk?.spool_full_in_seconds;
  line.dataset.level = "";
  if (status.broker) {
    const { servers, stream, is_connected: isConnected, bytes: held, max_bytes: max, segments_waiting: waiting } = status.broker;
    const state = isConnected ? "connected" : "not connected";
    setText(line, `Broker ${servers.join(", ")}: ${state}. Stream ${stream}: ${bytes(held)} of ${bytes(max)} used ` +
      `(${percent(held / max)}), ${plural(waiting, "sealed segment")} to upload in the fleet.`);
    return;
  }
  if (status.settings.spool_dir === null || !spool) {
    setText(line, "No spool: jobs wait in memory.");
    return;
  }
  const used = `${bytes(spool.used)} of ${bytes(spool.max)} used (${percent(spool.used / spool.max)})`;
  if (Number.isFinite(left)) {
    line.dataset.level = left < SPOOL_WARNING_S ? "warn" : "";
    setText(line, `The spool will be full in ${duration(left)} at the current rate: ${used}.`);
  } else {
    setText(line, `The spool is not filling: ${used}.`);
  }
}
