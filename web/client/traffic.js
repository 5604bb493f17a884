/** Lanes and commands, and which of them is on which link. */

import { Connection } from './connection.js';
import { ParleyError } from './errors.js';
import { HttpLink } from './http-link.js';
import { Run } from './run.js';

/**
 * @typedef {import('./lane.js').Lane} Lane
 * @typedef {import('./lane.js').Link} Link
 * @typedef {{type: string, data: object, path: string, link: ?Link, sends: number,
 *   timer: ?ReturnType<typeof setTimeout>, resolve: () => void,
 *   reject: (error: ParleyError) => void}} Command a cancellation, and the address for it over HTTP
 */

/** Refusals that say that the service cannot take any work now: what was asked waits. */
const WAITS = new Set(['unavailable', 'shutting_down', 'run_elsewhere']);

/** What a timer can wait at most; with more it does not wait at all. */
const LONGEST_DELAY = 2 ** 31 - 1;

export class Traffic {
  /** @type {Set<Lane>} */
  #lanes = new Set();
  /** @type {Set<Command>} */
  #commands = new Set();
  /** For lanes that only HTTP will do for, while the connection is a WebSocket. */
  #side;
  #options;

  /**
   * @param {import('./options.js').Options} options
   * @param {import('./http.js').Http} http
   * @param {(detail: import('./connection.js').Detail) => void} tell
   */
  constructor(options, http, tell) {
    this.#options = options;
    this.#side = new HttpLink(options, http, this);
    this.connection = new Connection(options, http, this, tell);
  }

  close() {
    if (this.connection.state === 'closed') return;
    this.#side.close();
    const error = closedError();
    this.connection.close();
    for (const lane of this.#lanes) this.fail(lane, error);
    for (const command of this.#commands) {
      hurry(command);
      command.reject(error);
    }
    this.#commands.clear();
  }

  // What links tell of themselves.

  /** @param {Link} link */
  opened(link) {
    if (link !== this.connection.link) return;
    for (const each of [...this.#lanes, ...this.#commands]) hurry(each);
    this.connection.opened(link);
    this.pump();
  }

  /** @param {Link} link */
  lost(link) {
    if (link === this.connection.link) this.connection.lost(link);
  }

  /** @param {Link} link of which nothing is to be expected any more. */
  dropped(link) {
    for (const each of [...this.#lanes, ...this.#commands]) {
      if (each.link === link) each.link = null;
    }
  }

  /**
   * A stream has ended without bringing anything.
   *
   * @param {Link} link
   * @param {Lane} lane
   */
  broken(link, lane) {
    if (link === this.connection.link) this.lost(link);
    else this.#later(lane, null);
  }

  // Lanes.

  /**
   * @param {Lane} lane
   * @returns {Run}
   */
  add(lane) {
    if (this.connection.state === 'closed') {
      lane.end(closedError());
    } else {
      this.#lanes.add(lane);
      this.connection.connect();
      this.pump();
    }
    return new Run(lane, this);
  }

  /** Put lanes and commands that are on no link on one, in their order, as far as there is room. */
  pump() {
    for (const command of this.#commands) this.#placeCommand(command);
    /** @type {Set<string>} conversations in which a message is on its way that must be first */
    const busy = new Set();
    for (const lane of this.#lanes) {
      if (this.connection.state !== 'online') return;
      this.#place(lane, busy);
      const mayOvertake = lane.isStarted || lane.link?.transport === 'websocket';
      if (!mayOvertake && lane.data) busy.add(lane.data.conversation_id);
    }
  }

  /** @param {Command} command */
  #placeCommand(command) {
    const { link, state } = this.connection;
    const isFree = command.link === null && command.timer === null;
    if (isFree && state === 'online') link?.command(command);
  }

  /** @param {Lane} lane @param {Set<string>} busy */
  #place(lane, busy) {
    const { link } = this.connection;
    const waits = lane.link !== null || lane.timer !== null || lane.isParked;
    if (!link || waits || (!lane.isKnown && busy.has(lane.data?.conversation_id))) return;
    if (!lane.viaHttp && !link.isFull) link.follow(lane);
    if (!lane.viaHttp || lane.link !== null) return; // a link may find that only HTTP will do
    const http = link.transport === 'sse' ? link : this.#side;
    if (!http.isFull) http.follow(lane);
  }

  /**
   * A lane has taken an event.
   *
   * @param {Lane} lane
   * @param {boolean} isLast
   */
  took(lane, isLast) {
    if (isLast) {
      this.#remove(lane);
      lane.end();
    } else if (lane.isLeft) {
      this.#remove(lane);
    } else if (lane.unread >= this.#options.maxUnread) {
      lane.isParked = true;
      lane.link?.leave(lane);
    }
    if (isLast || lane.link === null) this.pump();
  }

  /** @param {Lane} lane of which all events are taken. */
  drained(lane) {
    if (!lane.isParked) return;
    lane.isParked = false;
    this.pump();
  }

  /** @param {Lane} lane @param {ParleyError} error */
  refused(lane, error) {
    const waits = lane.isKnown ? error.retryable : WAITS.has(error.code);
    if (waits) this.#later(lane, error.retryAfter);
    else this.fail(lane, error);
    this.pump();
  }

  /**
   * Put a lane off; a new connection is reason enough to try it at once.
   *
   * @param {Lane} lane
   * @param {?number} retryAfter seconds
   */
  #later(lane, retryAfter) {
    const delay = this.connection.delay(lane.delays++);
    this.#putOff(lane, Math.max((retryAfter ?? 0) * 1000, delay));
  }

  /** @param {Lane | Command} each @param {number} delay */
  #putOff(each, delay) {
    // An answer that comes too late must not keep a program alive.
    if (this.connection.state === 'closed') return;
    each.timer = setTimeout(() => {
      each.timer = null;
      this.pump();
    }, Math.min(delay, LONGEST_DELAY));
  }

  /** @param {Lane} lane @param {ParleyError} error */
  fail(lane, error) {
    this.#remove(lane);
    lane.end(error);
  }

  /** @param {Lane} lane */
  leave(lane) {
    lane.leave();
    if (lane.isStarted || lane.isKnown) this.#remove(lane);
    this.pump();
  }

  /** @param {Lane} lane */
  #remove(lane) {
    hurry(lane);
    this.#lanes.delete(lane);
    if (!lane.hasEnded) lane.link?.leave(lane);
  }

  // Commands.

  /**
   * @param {string} type
   * @param {object} data
   * @param {string} path
   * @returns {Promise<void>} settled when it is acknowledged.
   */
  command(type, data, path) {
    if (this.connection.state === 'closed') return Promise.reject(closedError());
    return new Promise((resolve, reject) => {
      this.#commands.add({ type, data, path, resolve, reject, link: null, sends: 0, timer: null });
      this.connection.connect();
      this.pump();
    });
  }

  /** @param {Command} command */
  commandDone(command) {
    this.#commands.delete(command);
    command.resolve();
  }

  /** @param {Command} command @param {ParleyError} error */
  commandRefused(command, error) {
    // It may have been done the first time, and only the answer was lost.
    if (command.sends > 1 && error.code === 'tool_call_not_found') {
      this.commandDone(command);
    } else if (error.retryable) {
      this.#putOff(command, this.connection.delay(command.sends));
    } else {
      this.#commands.delete(command);
      command.reject(error);
    }
  }
}

/**
 * Put something off no longer.
 *
 * @param {Lane | Command} each
 */
function hurry(each) {
  clearTimeout(each.timer ?? undefined);
  each.timer = null;
}

function closedError() {
  return new ParleyError('The client was closed.', { code: 'closed' });
}
