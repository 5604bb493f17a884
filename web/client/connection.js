/** The connection of a client: made, watched, lost, and made again. */

import { HttpLink } from './http-link.js';
import { SocketLink } from './socket-link.js';

/**
 * @typedef {import('./lane.js').Link} Link
 * @typedef {'idle'|'connecting'|'online'|'offline'|'closed'} State
 * @typedef {{state: State, transport: 'websocket'|'sse', retryAt: ?number}} Detail
 */

/**
 * It is tried again in growing times that are drawn at random, at once when the browser comes
 * online or its page is shown. Where WebSockets are blocked and HTTP is not, the next link is one
 * of event streams.
 */
export class Connection {
  /** @type {State} */
  state = 'idle';
  /** @type {'websocket'|'sse'} what is used, or was last. */
  transport;
  /** @type {?Link} */
  link = null;
  #options;
  #http;
  #host;
  #tell;
  /** @type {?number} */
  #retryAt = null;
  #failures = 0;
  #onlineSince = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #pinger;
  #httpAnswered = false;
  #sseUntil = 0;
  #open = new AbortController();

  /**
   * @param {import('./options.js').Options} options
   * @param {import('./http.js').Http} http
   * @param {import('./traffic.js').Traffic} host whose `opened` and `lost` links call.
   * @param {(detail: Detail) => void} tell is called with each change.
   */
  constructor(options, http, host, tell) {
    this.#options = options;
    this.#http = http;
    this.#host = host;
    this.#tell = tell;
    this.transport = options.transport === 'sse' ? 'sse' : 'websocket';
    this.#listen();
  }

  /** Aborted when the client is closed. */
  get signal() {
    return this.#open.signal;
  }

  connect() {
    if (this.state === 'idle') this.#attempt();
  }

  /** Try again now, where there is no connection; check the one that there is. */
  reconnect() {
    if (this.state === 'online') {
      this.link?.check(this.#options.checkTimeout);
    } else if (this.state === 'offline' || this.state === 'idle') {
      this.#failures = 0;
      this.#attempt();
    }
  }

  close() {
    this.#open.abort();
    clearTimeout(this.#timer);
    this.#drop();
    this.#become('closed');
  }

  #listen() {
    const options = { signal: this.signal };
    const check = () => this.state !== 'idle' && this.reconnect();
    const { document } = globalThis;
    globalThis.addEventListener?.('online', check, options);
    globalThis.addEventListener?.('offline', check, options);
    const seen = () => document.visibilityState === 'visible' && check();
    document?.addEventListener('visibilitychange', seen, options);
  }

  /** @param {State} state @param {?number} [retryAt] */
  #become(state, retryAt = null) {
    if (state === this.state && retryAt === this.#retryAt) return;
    this.state = state;
    this.#retryAt = retryAt;
    this.#tell({ state, transport: this.transport, retryAt });
  }

  #attempt() {
    clearTimeout(this.#timer);
    const isSse = this.#options.transport === 'sse' || Date.now() < this.#sseUntil;
    this.link = new (isSse ? HttpLink : SocketLink)(this.#options, this.#http, this.#host);
    this.transport = this.link.transport;
    this.#become('connecting');
    this.link?.open(); // who was told may have closed the client
  }

  /** @param {Link} link that can be used now. */
  opened(link) {
    this.#onlineSince = Date.now();
    const { pingInterval, pongTimeout } = this.#options;
    this.#pinger = setInterval(() => link.check(pongTimeout), pingInterval);
    this.#become('online');
  }

  /** @param {Link} link that is of no use any more. */
  lost({ heard, transport }) {
    this.#drop();
    if (!heard && transport === 'websocket' && this.#options.transport === 'auto') {
      this.#doubt();
      return;
    }
    if (heard) {
      if (Date.now() - this.#onlineSince > this.#options.backoffMax) this.#failures = 0;
      this.#httpAnswered = false;
    }
    this.#wait();
  }

  /** The WebSocket was refused: is it blocked, or is the service not there? */
  async #doubt() {
    if (this.#httpAnswered) {
      this.#httpAnswered = false;
      this.#sseUntil = Date.now() + this.#options.sseFor;
      this.#attempt();
      return;
    }
    this.#become('connecting');
    const answers = await this.#http.answers(this.#options.connectTimeout, this.signal);
    if (this.state !== 'connecting' || this.link !== null) return;
    this.#httpAnswered = answers;
    if (answers) this.#attempt();
    else this.#wait();
  }

  #wait() {
    const delay = this.delay(this.#failures++);
    this.#timer = setTimeout(() => this.#attempt(), delay);
    this.#become('offline', Date.now() + delay);
  }

  /**
   * A time from nothing to a bound that doubles, so that many clients do not come together.
   *
   * @param {number} failures
   */
  delay(failures) {
    const { backoffMin, backoffMax } = this.#options;
    return Math.random() * Math.min(backoffMax, backoffMin * 2 ** failures);
  }

  #drop() {
    clearInterval(this.#pinger);
    const { link } = this;
    this.link = null;
    if (!link) return;
    this.#host.dropped(link);
    link.close();
  }
}
