// What the values of the API mean, for people. An unknown value is shown as it is.

/** The reasons against readiness: headline, what it means, and the consequence for clients if no other reason rejects batches. */
export const REASONS = {
  draining: ["the server is draining", "New batches are rejected while the jobs that wait are uploaded."],
  store: ["the store is unavailable", "Uploads are retried until they succeed, so nothing is lost.", "Batches are accepted until the spool is full."],
  spool: ["the spool fails", "Batches are rejected while commits fail. Check the disk of SPOOL_DIR."],
  "spool full": ["the spool is full", "Batches are rejected with 503 until segments are stored."],
  "spool folders not adopted": ["spool folders cannot be adopted", "Jobs of an exited process wait in a folder that this process cannot read.", "Batches are accepted."],
  broker: ["the broker fails", "Batches are rejected while it takes no commits. Check its servers and BROKER_URL."],
  "broker full": ["the stream of the broker is full", "Batches are rejected with 503 until workers have stored segments."],
  "broker permission": ["the user of the broker lacks a permission", "Segments may wait, or be uploaded again and again.", "Batches are accepted."],
  "queue full": ["the queue is full", "Batches are rejected with 503: commits are slower than ingestion."],
};

/** Reasons for which batches are rejected. */
export const REJECTING = new Set(["draining", "spool", "spool full", "broker", "broker full", "queue full"]);

/** The same for an unavailable store without a spool. */
export const STORE_WITHOUT_SPOOL = ["There is no spool: jobs that wait are lost if the process exits.", "Batches are accepted until the queue is full."];

export const OUTCOMES = {
  accepted: "2xx",
  invalid: "400: the body is not valid",
  too_large: "413: the batch exceeds a limit",
  slow: "408: the client sends too slowly",
  not_understood: "404, 405, 411, 415, 501: path, method or encoding",
  no_token: "401: no token",
  unknown_token: "403: no tenant has the token",
  not_allowed: "403: the client lacks the permission",
  over_rate: "429: the tenant exceeds its rate limit",
  queue_full: "503: the queue is full",
  share_full: "503: the tenant's share of the queue is full",
  spool_share_full: "503: the tenant's share of the spool is full",
  too_many_connections: "503: MAX_CONNECTIONS are open",
  too_many_from_address: "429: the address has too many connections",
  too_many_requests: "503: the memory for requests in flight is used up",
  too_many_requests_from_address: "429: the address uses its part of the memory for requests in flight",
  cross_origin: "403: a web page of another origin",
  no_spool: "503: the spool is full or fails",
  draining: "503: the server drains or shuts down",
  failed: "500, or 503 because the store does not respond to a lookup",
  other: "not a batch, such as a health check",
};

/** Outcomes that are no error of a batch. */
export const FINE = new Set(["accepted", "other"]);

/** The limits: name, and the setting that changes it. */
export const LIMITS = {
  queue_jobs: ["Queue, jobs", "MAX_QUEUE"],
  queue_bytes: ["Queue, bytes", "MAX_QUEUE_BYTES"],
  spool_bytes: ["Spool", "SPOOL_MAX_BYTES"],
  requests_in_flight_bytes: ["Requests in flight", "fixed"],
  connections: ["Connections", "MAX_CONNECTIONS"],
  workers: ["Upload workers", "MAX_WORKERS"],
  open_files: ["Open files", "ulimit -n"],
};

export const SEALS = {
  size: "OBJECT_MAX_BYTES was reached",
  age: "OBJECT_MAX_AGE was reached",
  urgent: "a request waits for ack=stored",
  fault: "a commit failed",
  spool_full: "the spool was nearly full",
  shutdown: "the server was shutting down",
};

/** The rows of the latency table. */
export const STAGES = [
  ["accepted", "Accepted batch", "from the request to the response"],
  ["rejected", "Rejected batch", "4xx, and 503 that ask for a retry"],
  ["failed", "Failed request", "500, or the store does not respond"],
  ["queue_wait", "Wait in the queue", "until the commit begins, of the oldest job of each commit"],
  ["commit", "Commit", "append and fsync of a frame"],
  ["upload", "Upload", "one attempt to upload an object"],
  ["stored", "Segment to object", "from the opening of a segment to its object"],
];

/** An API name for people: `too_large` becomes `too large`. */
export const words = (name) => name.replaceAll("_", " ");
