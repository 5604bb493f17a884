/** One run as its reader sees it. */

import { ParleyError } from './errors.js';

/**
 * An event of a run; docs/protocol.md says what its fields are.
 *
 * @typedef {{event_type: string, run_id: string, [field: string]: any}} RunEvent
 */

/**
 * What carries lanes and commands: a `SocketLink` or an `HttpLink`.
 *
 * @typedef {import('./socket-link.js').SocketLink | import('./http-link.js').HttpLink} Link
 */

/** @typedef {'chat' | 'regenerate' | 'edit' | 'follow'} Kind */

const LAST = new Set(['chat_complete', 'error']);

/**
 * How a run is asked for, how far it was read (its cursor), and a queue of the events that nobody
 * has taken yet. It outlives connections.
 */
export class Lane {
  /** @type {?string} */
  id = null;
  /** @type {?string} */
  conversationId = null;
  /** @type {?number} */
  epoch = null;
  seq = 0;
  /** @type {?string} */
  cursor = null;
  /** @type {?Link} the link that it is on. */
  link = null;
  /** Whether it was ever put on a link: the service may know of it. */
  sent = false;
  isStarted = false;
  isParked = false;
  isLeft = false;
  hasEnded = false;
  /** Whether only HTTP will do for it. */
  viaHttp = false;
  /** How often in a row it was put off, and the timer while it is. */
  delays = 0;
  /** @type {?ReturnType<typeof setTimeout>} */
  timer = null;

  /** @type {any} the controller of a `ReadableStream` of `RunEvent`, and of an error at its end. */
  #queue;
  #reader;

  /**
   * @param {Kind} kind
   * @param {?Record<string, any>} data what is asked for; null where a run is followed.
   * @param {?string} key under which the service answers once.
   */
  constructor(kind, data, key) {
    this.kind = kind;
    this.data = data;
    this.key = key;
    /** @type {Promise<string>} */
    this.started = new Promise((resolve, reject) => {
      this.resolveStarted = resolve;
      this.rejectStarted = reject;
    });
    this.started.catch(() => {}); // who iterates learns of it there
    const events = new ReadableStream({
      start: (controller) => {
        this.#queue = controller;
      },
    }, { highWaterMark: 0 });
    this.#reader = events.getReader();
  }

  /** Whether its run is to be gone on with, not asked for. */
  get isKnown() {
    return this.id !== null;
  }

  /** How many events wait to be taken. */
  get unread() {
    return -(this.#queue.desiredSize ?? 0);
  }

  /** What has begun, wherever it is. */
  start() {
    this.isStarted = true;
    this.delays = 0;
    this.resolveStarted(/** @type {string} */ (this.id));
  }

  /**
   * Take an event that a link brings; one that came before is dropped.
   *
   * @param {RunEvent} event
   * @param {string} id the cursor after it.
   * @returns {boolean} whether it is the run's last.
   */
  take(event, id) {
    const isLast = LAST.has(event.event_type);
    if (event.event_type === 'reset') {
      this.#moveTo(event.run_id, event.epoch, 0);
    } else {
      const [epoch, seq] = placeOf(id);
      if (epoch === this.epoch && seq <= this.seq) return isLast;
      this.#moveTo(event.run_id, epoch, seq);
    }
    if (event.event_type === 'chat_start') this.conversationId = event.conversation_id;
    if (!this.isStarted) this.start();
    if (!this.isLeft && !this.hasEnded) this.#queue.enqueue(event);
    return isLast;
  }

  /** @param {string} runId @param {number} epoch @param {number} seq */
  #moveTo(runId, epoch, seq) {
    Object.assign(this, { id: runId, epoch, seq, cursor: `${runId}:${epoch}:${seq}`, delays: 0 });
  }

  /**
   * Nothing more comes.
   *
   * @param {?ParleyError} error thrown, once, to whoever takes what follows the events.
   */
  end(error = null) {
    if (this.hasEnded) return;
    this.hasEnded = true;
    if (error) this.rejectStarted(error);
    if (this.isLeft) return;
    if (error) this.#queue.enqueue(error);
    this.#queue.close();
  }

  /** Forget what nobody has taken, and end. */
  leave() {
    this.isLeft = true;
    this.#reader.cancel();
  }

  /**
   * The next event, as an iterator gives it.
   *
   * @returns {Promise<IteratorResult<RunEvent, undefined>>}
   */
  async next() {
    const { value, done } = await this.#reader.read();
    if (value instanceof ParleyError) throw value;
    return done ? { value: undefined, done } : { value, done };
  }
}

/**
 * The epoch and the seq of a cursor.
 *
 * @param {string} cursor
 * @returns {[number, number]}
 */
export function placeOf(cursor) {
  const [, epoch, seq] = /:(\d+):(\d+)$/.exec(cursor) ?? [];
  if (seq === undefined) throw new TypeError('A cursor is "<run_id>:<epoch>:<seq>".');
  return [Number(epoch), Number(seq)];
}

/**
 * Whether it is an event with its place; what follows a `reset` has the place of that.
 *
 * @param {any} data
 * @param {?string} id
 */
export function isEvent(data, id) {
  const type = data?.event_type;
  return type === 'reset' || (type !== undefined && /:\d+:\d+$/.test(id ?? ''));
}

/**
 * An id that nobody else has. `randomUUID` is not there in a page without TLS.
 *
 * @param {string} prefix
 */
export function randomId(prefix) {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `${prefix}_${Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')}`;
}
