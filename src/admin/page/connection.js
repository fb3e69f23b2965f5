// The connection to the server: a stream of one status a second. When the server has no stream left, the page polls; when
// the connection is lost, it reconnects with growing pauses; when the server requires a token, it waits for one.

import { events } from "./sse.js";

/** The stream sends once a second, so after so much silence it is dead. */
const SILENCE_MS = 10_000;
const POLL_MS = 5_000;
/** After so many polls the page asks for a stream again. */
const POLLS_PER_STREAM = 6;
const BACKOFF_MIN_MS = 500;
const BACKOFF_MAX_MS = 10_000;
const REASON_MAX = 300;

/** An HTTP error of the server, with its text. */
class HttpError extends Error {
  constructor(status, text) {
    super(text.trim().slice(0, REASON_MAX) || `the server responded with ${status}`);
    this.status = status;
  }
}

export class Connection {
  /** `connecting`, `live`, `polling`, `disconnected`, `ended` or `token`. */
  phase = "connecting";
  /** Why, in words; may be empty. */
  detail = "";
  /** When the last status arrived (`performance.now()`); null before the first. */
  receivedAt = null;
  /** When the next attempt is due (`performance.now()`), while there is none. */
  retryAt = null;

  #token = null;
  /** The server has accepted the token, or requires none. */
  #isAuthorized = false;
  #failures = 0;
  #wake = () => {};
  #handlers;

  /** `handlers`: `history(message)`, `status(message)`, `changed()`. */
  constructor(handlers) {
    this.#handlers = handlers;
  }

  /** Uses `token` for all requests from now on. It is kept in this object only. */
  useToken(token) {
    this.#token = token;
    this.#isAuthorized = false;
    this.retry();
  }

  /** Ends a pause. */
  retry() {
    this.#wake();
  }

  /** Runs as long as the page is open. */
  async run() {
    for (;;) {
      try {
        await this.#stream();
      } catch (error) {
        await this.#recover(error);
      }
    }
  }

  #become(phase, detail = "") {
    this.phase = phase;
    this.detail = detail;
    this.#handlers.changed();
  }

  /** Waits for `ms`, or for `retry()`. */
  async #pause(ms) {
    this.retryAt = performance.now() + ms;
    const { promise, resolve } = Promise.withResolvers();
    const timer = Number.isFinite(ms) ? setTimeout(resolve, ms) : undefined;
    this.#wake = resolve;
    this.#handlers.changed();
    await promise;
    clearTimeout(timer);
    this.#wake = () => {};
    this.retryAt = null;
  }

  async #get(path, signal) {
    const headers = this.#token === null ? {} : { Authorization: `Bearer ${this.#token}` };
    const response = await fetch(path, { headers, signal, cache: "no-store", redirect: "error" });
    if (!response.ok) throw new HttpError(response.status, await response.text());
    this.#isAuthorized = true;
    return response;
  }

  #received(status) {
    this.receivedAt = performance.now();
    this.#failures = 0;
    this.#handlers.status(status);
  }

  /** Reads a stream to its end. */
  async #stream() {
    const abort = new AbortController();
    let silence;
    const alive = () => {
      clearTimeout(silence);
      silence = setTimeout(() => abort.abort(new Error(`no data for ${SILENCE_MS / 1000} s`)), SILENCE_MS);
    };
    alive();
    try {
      const response = await this.#get("v1/stream", abort.signal);
      for await (const { name, data } of events(response, alive)) {
        if (name === "end") {
          this.#become("ended");
          await this.#pause(BACKOFF_MIN_MS);
          return;
        }
        if (name === "history") this.#handlers.history(JSON.parse(data));
        if (name === "status") {
          this.#received(JSON.parse(data));
          if (this.phase !== "live") this.#become("live");
        }
      }
      throw new Error("the server closed the connection");
    } finally {
      clearTimeout(silence);
      abort.abort();
    }
  }

  async #recover(error) {
    if (error instanceof HttpError) {
      if (error.status === 401) return this.#askForToken();
      if (error.status === 429 || error.status === 503) return this.#poll(error.message);
    }
    // `fetch` reports every network failure as a TypeError without a cause.
    const reason = error instanceof TypeError ? "the server cannot be reached" : error.message;
    const isEnded = this.phase === "ended" && error instanceof TypeError;
    this.#become(isEnded ? "ended" : "disconnected", isEnded ? this.detail : reason);
    const longest = Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** this.#failures);
    this.#failures += 1;
    // Random, so that many pages do not return to a restarted server at one moment.
    await this.#pause(longest * (0.5 + Math.random() / 2));
  }

  async #askForToken(text = "The token is wrong.") {
    const isFirst = this.#token === null;
    this.#token = null;
    this.#isAuthorized = false;
    this.#become("token", isFirst ? "" : text);
    await this.#pause(Infinity);
    this.#become("connecting");
  }

  /** Asks for single statuses, because the server has no stream for this page. */
  async #poll(reason) {
    for (let poll = 0; poll < POLLS_PER_STREAM; poll += 1) {
      try {
        const response = await this.#get("v1/status", AbortSignal.timeout(SILENCE_MS));
        this.#received(await response.json());
        this.#become("polling", reason);
      } catch (error) {
        // Too many wrong tokens.
        const isRejected = error instanceof HttpError && error.status === 429 && !this.#isAuthorized;
        if (isRejected) return this.#askForToken(error.message);
        const isBusy = error instanceof HttpError && [429, 503].includes(error.status);
        if (!isBusy) return this.#recover(error);
        this.#become("disconnected", error.message);
      }
      await this.#pause(POLL_MS);
    }
  }
}
