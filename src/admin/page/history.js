// The rows of the last 15 minutes, by column.

const SPAN_S = 900;
/** Rows further apart than this (a restart) are not joined by a line. */
const GAP_S = 8;

/** Those of `sample` in `/v1/status`; the history of a stream names its own. */
const COLUMNS = [
  "timestamp", "accepted_per_second", "rejected_per_second", "failed_per_second", "payloads_per_second",
  "received_bytes_per_second", "stored_bytes_per_second", "p50", "p90", "p99", "commit_p99", "upload_p99", "queue_jobs",
  "queue_bytes", "spool_bytes", "waiting_jobs", "oldest_unstored_seconds", "cpu_cores", "memory_bytes", "connections",
  "busy_workers", "jobs_per_commit",
];

export class History {
  #columns = COLUMNS;
  #rows = [];

  /** Takes the history of the server. Rows that are older than its first stay, because a restarted server has none of them. */
  load({ columns, rows }) {
    const isSame = columns.join() === this.#columns.join();
    const first = rows.length > 0 ? rows[0][0] : Infinity;
    const older = isSame ? this.#rows.filter((row) => row[0] < first) : [];
    this.#columns = columns;
    this.#rows = older;
    for (const row of rows) this.push(row);
  }

  push(row) {
    const last = this.#rows.at(-1);
    if (!row || (last && row[0] <= last[0])) return;
    if (last && row[0] - last[0] > GAP_S) this.#rows.push([last[0] + 1, ...row.slice(1).fill(null)]);
    this.#rows.push(row);
    const oldest = row[0] - SPAN_S;
    const expired = this.#rows.findIndex((kept) => kept[0] >= oldest);
    if (expired > 0) this.#rows.splice(0, expired);
  }

  /** The time of the newest row. */
  get newest() {
    return this.#rows.at(-1)?.[0] ?? null;
  }

  /** The columns of `names` over the last `seconds`, as uPlot expects them: the times first. */
  series(names, seconds) {
    const from = (this.newest ?? 0) - seconds;
    // One row more, so that the line reaches the left edge.
    const start = Math.max(0, this.#rows.findIndex((row) => row[0] >= from) - 1);
    const rows = this.#rows.slice(start);
    return ["timestamp", ...names].map((name) => {
      const column = this.#columns.indexOf(name);
      return rows.map((row) => (column < 0 ? null : row[column]));
    });
  }
}
