// Values as text. `null` is a value that the server does not know.

const UNKNOWN = "–";
const integer = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const two = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });

const isUnknown = (value) => value === null || value === undefined || !Number.isFinite(value);

/** A count, in full. */
export function count(value) {
  return isUnknown(value) ? UNKNOWN : integer.format(value);
}

/** A figure with about three digits. */
export function figure(value) {
  if (isUnknown(value)) return UNKNOWN;
  if (value >= 100) return integer.format(value);
  if (value >= 10) return one.format(value);
  return value > 0 && value < 0.01 ? "<0.01" : two.format(value);
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** Bytes in the binary units that the settings use. */
export function bytes(value) {
  if (isUnknown(value)) return UNKNOWN;
  let unit = 0;
  let scaled = value;
  while (scaled >= 1024 && unit < UNITS.length - 1) {
    scaled /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? integer.format(scaled) : figure(scaled)} ${UNITS[unit]}`;
}

/** A short time, such as a latency. */
export function latency(seconds) {
  if (isUnknown(seconds)) return UNKNOWN;
  if (seconds === 0) return "0";
  if (seconds < 0.001) return `${figure(seconds * 1e6)} µs`;
  if (seconds < 1) return `${figure(seconds * 1e3)} ms`;
  return seconds < 100 ? `${figure(seconds)} s` : duration(seconds);
}

const SPANS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

/** A long time, in its two largest units. */
export function duration(seconds) {
  if (isUnknown(seconds)) return UNKNOWN;
  let rest = Math.max(0, Math.round(seconds));
  const parts = [];
  for (const [name, size] of SPANS) {
    const amount = Math.floor(rest / size);
    rest -= amount * size;
    if (amount > 0) parts.push(`${amount} ${name}`);
    else if (parts.length > 0) break;
    if (parts.length === 2) break;
  }
  return parts.join(" ") || "0 s";
}

/** A share from 0 to 1. */
export function percent(share) {
  if (isUnknown(share)) return UNKNOWN;
  return share > 0 && share < 0.001 ? "<0.1%" : `${one.format(share * 100)}%`;
}

/** The time of day of seconds since 1970, in UTC. */
export function clock(timestamp) {
  return isUnknown(timestamp) ? UNKNOWN : new Date(timestamp * 1000).toISOString().slice(11, 19);
}

/** The date and time of seconds since 1970; the time alone if it is on the day of `now`. */
export function moment(timestamp, now) {
  if (isUnknown(timestamp)) return UNKNOWN;
  const text = new Date(timestamp * 1000).toISOString();
  const isToday = text.slice(0, 10) === new Date(now * 1000).toISOString().slice(0, 10);
  return isToday ? text.slice(11, 19) : `${text.slice(0, 10)} ${text.slice(11, 19)}`;
}

/** The same of a text in RFC 3339. */
export function momentOf(text, now) {
  return moment(Date.parse(text) / 1000, now);
}

/** `1 job`, `2 jobs`. */
export function plural(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}
