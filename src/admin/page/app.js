// The operators' page: takes statuses from the connection and shows them, at most once a frame.

import { Chart } from "./charts.js";
import { Connection } from "./connection.js";
import { byId, setText } from "./dom.js";
import { count, duration, figure, latency } from "./format.js";
import { History } from "./history.js";
import { showErrors, showLedger, showPacking, showRollout, showSaturation, showTraffic } from "./panels.js";
import { showTables } from "./tables.js";
import { showVerdict } from "./verdict.js";

/** A live status is one second old at most; after this it counts as stale. */
const STALE_MS = 3_500;
/** A polled one. */
const STALE_POLLING_MS = 12_000;

const PHASES = {
  connecting: "Connecting",
  live: "Live",
  polling: "Updated every 5 s",
  disconnected: "Disconnected",
  ended: "The server shut down",
  token: "Token required",
};

const rate = (value) => (value === null ? figure(value) : `${figure(value)}/s`);
const charts = [
  new Chart(byId("traffic-chart"), {
    label: "Batches per second by outcome", format: rate, height: 210,
    series: [
      { column: "accepted_per_second", name: "accepted", color: "accepted", width: 2, fill: true },
      { column: "rejected_per_second", name: "rejected", color: "rejected" },
      { column: "failed_per_second", name: "failed", color: "failed" },
    ],
  }),
  new Chart(byId("latency-chart"), {
    label: "Latency of accepted batches", format: latency,
    series: [
      { column: "p50", name: "p50", color: "p50" },
      { column: "p90", name: "p90", color: "p90" },
      { column: "p99", name: "p99", color: "p99", width: 2 },
    ],
  }),
  new Chart(byId("errors-chart"), {
    label: "Rejected and failed batches per second", format: rate,
    series: [
      { column: "rejected_per_second", name: "rejected", color: "rejected", fill: true },
      { column: "failed_per_second", name: "failed", color: "failed", width: 2, fill: true },
    ],
  }),
  new Chart(byId("waiting-chart"), {
    label: "Jobs that are accepted and not yet stored", format: figure,
    series: [{ column: "waiting_jobs", name: "waiting jobs", color: "p90", width: 2, fill: true }],
  }),
];

const history = new History();
let status = null;
/** The version of the server that this page came from. */
let version = null;
let isPaused = false;
let isDue = false;

const connection = new Connection({
  history: (message) => history.load(message),
  status: (message) => {
    status = message;
    history.push(message.sample);
    draw();
  },
  changed: () => {
    showConnection();
    draw();
  },
});

function age() {
  return connection.receivedAt === null ? null : performance.now() - connection.receivedAt;
}

function isStale() {
  if (connection.phase === "polling") return age() > STALE_POLLING_MS;
  return connection.phase !== "live" || age() > STALE_MS;
}

/** Draws in the next frame: a page in the background has none, and costs nothing. */
function draw() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    show();
  });
}

function show() {
  const needsToken = connection.phase === "token";
  byId("main").hidden = needsToken || status === null;
  byId("controls").hidden = needsToken;
  if (status === null || needsToken) return;
  if (isPaused) return;
  const stale = isStale();
  byId("main").dataset.stale = stale;
  const verdict = showVerdict(status, !stale);
  document.title = `${verdict} · ${status.process.host} · millpond`;
  const { process, build, settings } = status;
  setText(byId("identity"), `${process.host} · pid ${process.pid} · version ${build.version} · up ${duration(process.uptime_seconds)} · role ${settings.role} · ${settings.store}`);
  showLedger(status);
  showTraffic(status);
  showErrors(status);
  showSaturation(status);
  showPacking(status);
  showRollout(status);
  showTables(status);
  showCharts();
  version ??= build.version;
  byId("upgrade").hidden = version === build.version;
}

function showCharts() {
  if (history.newest === null) return;
  const seconds = Number(document.querySelector("#window input:checked").value);
  for (const chart of charts) {
    chart.show(history.series(chart.columns, seconds), history.newest - seconds, history.newest);
  }
}

function showConnection() {
  const { phase, detail, retryAt } = connection;
  const isSilent = phase === "live" && isStale();
  byId("connection").dataset.phase = isSilent ? "stale" : phase;
  const name = isSilent ? "No data" : PHASES[phase];
  setText(byId("phase"), detail ? `${name}: ${detail}` : name);
  const parts = [];
  if (age() !== null && phase !== "token" && isStale()) parts.push(`stale data, ${duration(age() / 1000)} old`);
  const isWaiting = retryAt !== null && ["disconnected", "ended"].includes(phase);
  if (isWaiting) parts.push(`next attempt in ${count(Math.max(0, Math.ceil((retryAt - performance.now()) / 1000)))} s`);
  setText(byId("age"), parts.join(" · "));
  byId("retry").hidden = !isWaiting;
  showLogin(phase === "token", detail);
}

function showLogin(isNeeded, error) {
  const form = byId("login");
  if (form.hidden === isNeeded) {
    form.hidden = !isNeeded;
    if (isNeeded) byId("token").focus();
  }
  if (!isNeeded) return;
  setText(byId("identity"), "");
  document.title = "Token required · millpond";
  setText(byId("login-error"), error);
  byId("token").setAttribute("aria-invalid", error ? "true" : "false");
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = byId("token").value.trim();
  byId("token").value = "";
  if (token) connection.useToken(token);
});

byId("pause").addEventListener("click", ({ currentTarget: button }) => {
  isPaused = !isPaused;
  button.setAttribute("aria-pressed", isPaused);
  setText(button, isPaused ? "Continue" : "Pause");
  document.body.dataset.paused = isPaused;
  draw();
});

byId("retry").addEventListener("click", () => connection.retry());
byId("reload").addEventListener("click", () => location.reload());
byId("window").addEventListener("change", showCharts);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach((chart) => chart.redraw()));
addEventListener("online", () => connection.phase === "disconnected" && connection.retry());

// Ages grow while nothing arrives.
setInterval(() => {
  showConnection();
  if (isStale()) draw();
}, 1000);

connection.run();
