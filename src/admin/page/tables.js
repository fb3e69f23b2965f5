// The tables: latency by stage, tenants, recent objects and recent rejections.

import { Table, byId } from "./dom.js";
import { bytes, count, figure, latency, momentOf } from "./format.js";
import { FINE, OUTCOMES, STAGES, words } from "./terms.js";

let now = 0;

const latencies = new Table(byId("latencies"), [
  { name: "Stage", value: ({ name }) => name, hint: ({ meaning }) => meaning },
  { name: "p50", value: ({ p50 }) => latency(p50), kind: "number" },
  { name: "p90", value: ({ p90 }) => latency(p90), kind: "number" },
  { name: "p99", value: ({ p99 }) => latency(p99), kind: "number" },
  { name: "in 10 s", value: (stage) => count(stage.count), kind: "number" },
], "No stages");

const errors = new Table(byId("error-table"), [
  { name: "Outcome", value: ({ outcome }) => words(outcome) },
  { name: "Now", value: (row) => `${figure(row.per_second)}/s`, kind: "number" },
  { name: "Total", value: ({ total }) => count(total), kind: "number" },
  { name: "Meaning", value: ({ outcome }) => OUTCOMES[outcome] ?? "", kind: "meaning" },
], "No request was rejected or failed since the start");

const tenants = new Table(byId("tenant-table"), [
  { name: "Tenant", value: tenantName, kind: "untrusted" },
  { name: "State", value: (row) => (row.is_throttled ? "throttled" : "ok") },
  { name: "Requests/s", value: (row) => figure(row.requests_per_second), kind: "number" },
  { name: "Payloads/s", value: (row) => figure(row.payloads_per_second), kind: "number" },
  { name: "Bytes/s", value: (row) => bytes(row.bytes_per_second), kind: "number" },
  { name: "Rejected/s", value: (row) => figure(row.rejected_per_second), kind: "number" },
  { name: "Queue", value: (row) => bytes(row.queue_bytes), kind: "number" },
  { name: "Spool", value: (row) => bytes(row.spool_bytes), kind: "number" },
  { name: "Accepted", value: (row) => count(row.accepted_total), kind: "number" },
  { name: "Rejected", value: (row) => count(row.rejected_total), kind: "number" },
], "No tenants: set TOKENS_FILE to tell clients apart.");

const variants = new Table(byId("variant-table"), [
  { name: "Variant", value: ({ name }) => name },
  { name: "Clients", value: (row) => `${row.percent}%`, kind: "number" },
  { name: "Accepted", value: (row) => count(row.accepted_total), kind: "number" },
  { name: "Rejected", value: (row) => count(row.rejected_total), kind: "number" },
  { name: "Failed", value: (row) => count(row.failed_total), kind: "number" },
], "No variants");

const objects = new Table(byId("object-table"), [
  { name: "Time", value: (row) => momentOf(row.time, now), kind: "time" },
  { name: "Key", value: (row) => row.key, kind: "untrusted key" },
  { name: "Size", value: (row) => bytes(row.bytes), kind: "number" },
  { name: "Jobs", value: (row) => count(row.jobs), kind: "number" },
  { name: "Payloads", value: (row) => count(row.payloads), kind: "number" },
  { name: "Upload", value: (row) => latency(row.upload_seconds), kind: "number" },
], "No objects since the start");

const rejections = new Table(byId("rejection-table"), [
  { name: "Time", value: (row) => momentOf(row.time, now), kind: "time" },
  { name: "Status", value: (row) => String(row.status ?? "–"), kind: "number" },
  { name: "Outcome", value: (row) => words(row.outcome) },
  { name: "Detail", value: (row) => row.detail ?? "", kind: "untrusted detail" },
  { name: "Tenant", value: (row) => row.tenant ?? "–", kind: "untrusted" },
  { name: "Address", value: (row) => row.address ?? "–" },
  { name: "Request id", value: (row) => row.request_id ?? "–", kind: "untrusted" },
], "No rejections since the start");

function tenantName(row) {
  return row.tenant ?? (row.others ? `${count(row.others)} others` : "others");
}

export function showTables(status) {
  now = status.timestamp;
  latencies.show(STAGES.map(([key, name, meaning]) => ({ name, meaning, ...status.latency[key] })));
  const failures = status.traffic.outcomes.filter(({ outcome }) => !FINE.has(outcome));
  errors.show(failures.toSorted((a, b) => b.per_second - a.per_second || b.total - a.total));
  tenants.show(status.tenants);
  variants.show(status.rollout?.variants ?? []);
  objects.show(status.recent_objects);
  rejections.show(status.recent_rejections);
}
