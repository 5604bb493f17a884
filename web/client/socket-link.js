/** One WebSocket that carries all lanes. */

import { isRefusal, parsed, refusalOf } from './errors.js';
import { isEvent, randomId } from './lane.js';

/**
 * @typedef {import('./lane.js').Lane} Lane
 * @typedef {import('./traffic.js').Command} Command
 * @typedef {{lane?: Lane, command?: Command}} Subject what a request on the socket is about.
 */

/** Bytes of one message on the socket; larger ones go over HTTP, which takes more. */
const MAX_MESSAGE_BYTES = 65_536;

/** The code of a close for a message that is too large (RFC 6455, 7.4.1). */
const TOO_LARGE = 1009;

/** Each request has a `request_id` of its own, so that nothing late on an old one counts. */
export class SocketLink {
  /** @type {'websocket'} */
  transport = 'websocket';
  /** Whether anything has come: a handshake may pass where nothing else does. */
  heard = false;
  /** @type {any} the browser's WebSocket, or that of `ws`. */
  #socket = null;
  /** @type {Map<string, Subject & {size: number}>} */
  #requests = new Map();
  /** @type {Set<ReturnType<typeof setTimeout>>} */
  #timers = new Set();
  #pings = 0;
  #answered = 0;
  #options;
  #http;
  #host;

  /**
   * @param {import('./options.js').Options} options
   * @param {import('./http.js').Http} http
   * @param {import('./traffic.js').Traffic} host
   */
  constructor(options, http, host) {
    this.#options = options;
    this.#http = http;
    this.#host = host;
  }

  /** Connect; the host is told by `opened` or `lost`. */
  open() {
    this.#after(this.#options.connectTimeout, () => this.#socket?.readyState !== 1 && this.#lose());
    try {
      this.#socket = new this.#options.WebSocket(this.#http.socketUrl);
    } catch {
      queueMicrotask(() => this.#lose()); // the page may not connect there
      return;
    }
    this.#socket.onopen = () => {
      this.check(this.#options.pongTimeout);
      this.#host.opened(this);
    };
    this.#socket.onmessage = (/** @type {MessageEvent} */ { data }) => this.#receive(data);
    this.#socket.onclose = (/** @type {CloseEvent} */ { code }) => {
      if (code === TOO_LARGE) this.#viaHttp();
      this.#lose();
    };
    this.#socket.onerror = () => {}; // a close follows
  }

  get isFull() {
    return this.#lanes().length >= this.#options.maxRuns;
  }

  /**
   * Ask for a lane's run, or go on with it.
   *
   * @param {Lane} lane
   */
  follow(lane) {
    const [type, data] = lane.isKnown
      ? ['subscribe', { run_id: lane.id, after: lane.cursor ?? lane.seq }]
      : [lane.kind, { ...lane.data, idempotency_key: lane.key }];
    const { id, json } = this.#frame(type, data, { lane });
    if (byteLength(json) > MAX_MESSAGE_BYTES) {
      this.#requests.delete(id);
      lane.viaHttp = true;
      return;
    }
    Object.assign(lane, { link: this, sent: true });
    this.#socket.send(json);
  }

  /**
   * Stop reading a lane. The service knows runs, not lanes: other lanes of the run follow it again.
   *
   * @param {Lane} lane
   */
  leave(lane) {
    const others = this.#lanes().filter((each) => each !== lane && each.id === lane.id);
    for (const [id, { lane: each }] of this.#requests) {
      if (each && (each === lane || others.includes(each))) this.#requests.delete(id);
    }
    lane.link = null;
    if (lane.isKnown) this.#send('unsubscribe', { run_id: lane.id });
    for (const other of others) this.follow(other);
  }

  /** @param {Command} command */
  command(command) {
    command.link = this;
    command.sends += 1;
    this.#send(command.type, command.data, { command });
  }

  /**
   * Ask for a sign of life; without one in time the connection is lost.
   *
   * @param {number} timeout
   */
  check(timeout) {
    const ping = ++this.#pings;
    this.#send('ping');
    this.#after(timeout, () => this.#answered < ping && this.#lose());
  }

  close() {
    const socket = this.#socket;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    this.#requests.clear();
    this.#socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    if (this.heard && socket.readyState === 1) socket.close(1000);
    else if (socket.terminate) socket.terminate(); // of Node's: nobody is there for a handshake
    else socket.close();
  }

  /** @returns {Lane[]} */
  #lanes() {
    return [...this.#requests.values()].flatMap(({ lane }) => lane ?? []);
  }

  #lose() {
    this.#host.lost(this);
  }

  /** @param {number} milliseconds @param {() => void} act */
  #after(milliseconds, act) {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      act();
    }, milliseconds);
    this.#timers.add(timer);
  }

  /**
   * @param {string} type
   * @param {object} [data]
   * @param {Subject} [subject] whoever gets the answer.
   */
  #frame(type, data, subject) {
    const id = randomId(type);
    const json = JSON.stringify({ type, request_id: id, data });
    if (subject) this.#requests.set(id, { ...subject, size: json.length });
    return { id, json };
  }

  /** @param {string} type @param {object} [data] @param {Subject} [subject] */
  #send(type, data, subject) {
    this.#socket.send(this.#frame(type, data, subject).json);
  }

  /** @param {string} text */
  #receive(text) {
    this.heard = true;
    this.#answered = this.#pings; // whatever comes is a sign of life
    const message = parsed(text);
    if (typeof message?.type !== 'string') {
      this.#lose(); // this is no Parley service, or no more
      return;
    }
    const { command, lane } = this.#requests.get(message.request_id) ?? {};
    if (command) this.#settle(message, command);
    else if (lane) this.#deliver(message, lane);
    else if (isRefusal(message) && message.data.code === 'too_large') this.#viaHttp();
  }

  /** @param {any} message @param {Command} command */
  #settle(message, command) {
    this.#requests.delete(message.request_id);
    command.link = null;
    if (isRefusal(message)) this.#host.commandRefused(command, refusalOf(message.data));
    else this.#host.commandDone(command);
  }

  /** @param {any} message @param {Lane} lane */
  #deliver(message, lane) {
    if (message.type === 'ack') {
      if (!lane.isStarted) lane.start();
    } else if (isRefusal(message)) {
      this.#release(message.request_id, lane);
      this.#host.refused(lane, refusalOf(message.data));
    } else if (isEvent(message.data, message.id)) {
      const isLast = lane.take(message.data, message.id);
      if (isLast) this.#release(message.request_id, lane);
      this.#host.took(lane, isLast);
    }
  }

  /** @param {string} id @param {Lane} lane */
  #release(id, lane) {
    this.#requests.delete(id);
    lane.link = null;
  }

  /** A message was too large, and the service cannot say which: the largest that has no answer. */
  #viaHttp() {
    let largest;
    for (const [id, { lane, size }] of this.#requests) {
      if (lane && !lane.isStarted && size > (largest?.size ?? 0)) largest = { id, lane, size };
    }
    if (!largest) return;
    this.#release(largest.id, largest.lane);
    largest.lane.viaHttp = true;
    this.#host.pump();
  }
}

/** @param {string} text */
function byteLength(text) {
  return text.length > MAX_MESSAGE_BYTES / 3 ? new TextEncoder().encode(text).length : text.length;
}
