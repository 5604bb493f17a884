/** The client: what is asked of a service. */

import { Http } from './http.js';
import { Lane, placeOf, randomId } from './lane.js';
import { baseOf, optionsOf } from './options.js';
import { Traffic } from './traffic.js';

/** @typedef {import('./run.js').Run} Run */

/**
 * A connection to a Parley service that restores itself.
 *
 * Fires `statechange` events; `detail` is `{state, transport, retryAt}`.
 *
 * One socket carries all runs, up to `maxRuns` at a time; the next ones wait for their place. Where
 * WebSockets are blocked and HTTP is not, the runs go on as event streams, up to `maxStreams` at a
 * time, because a browser keeps few connections to a host.
 */
export class ParleyClient extends EventTarget {
  #http;
  #traffic;

  /**
   * @param {string|URL} [baseUrl] the address of the service; that of the page where it is absent.
   * @param {Partial<import('./options.js').Options>} [options] see there.
   * @throws {TypeError} there is no address, or an option's value is none.
   */
  constructor(baseUrl, options = {}) {
    super();
    const base = baseOf(baseUrl);
    const all = optionsOf(options);
    this.#http = new Http(base, all.fetch, all.requestTimeout);
    this.#traffic = new Traffic(all, this.#http, (detail) => {
      this.dispatchEvent(new CustomEvent('statechange', { detail }));
    });
  }

  /** @returns {'idle'|'connecting'|'online'|'offline'|'closed'} */
  get state() {
    return this.#traffic.connection.state;
  }

  /** @returns {'websocket'|'sse'} What is used, or was last. */
  get transport() {
    return this.#traffic.connection.transport;
  }

  /** Connect before anything is sent; `state` tells what becomes of it. */
  connect() {
    this.#traffic.connection.connect();
  }

  /** Try again now, where there is no connection; check the one that there is. */
  reconnect() {
    this.#traffic.connection.reconnect();
  }

  /** End all; what is followed fails with the code `closed`. The runs themselves go on. */
  close() {
    this.#traffic.close();
  }

  /**
   * Send a message.
   *
   * @param {Record<string, any>} message the fields of `POST /chat/stream`: `message`, and
   *   `conversation_id`, `agent`, `user_id`, `if_busy`, … where wanted. Without a
   *   `conversation_id` it begins a conversation of its own, whose id the run has at once.
   * @returns {Run}
   */
  chat(message) {
    const data = { ...message, conversation_id: message.conversation_id ?? randomId('conv') };
    return this.#ask('chat', data, data.conversation_id);
  }

  /**
   * Regenerate the answer to the last message of a conversation.
   *
   * @param {Record<string, any>} wish `conversation_id`, and `agent`, … where wanted.
   * @returns {Run}
   */
  regenerate(wish) {
    return this.#ask('regenerate', { ...wish }, wish.conversation_id);
  }

  /**
   * Put another message in the place of an earlier one, in a branch of the conversation.
   *
   * @param {Record<string, any>} change `conversation_id`, `message_id`, `message`; `agent`, …
   *   where wanted.
   * @returns {Run}
   */
  edit(change) {
    return this.#ask('edit', { ...change }, null);
  }

  /**
   * Follow a run, whoever began it.
   *
   * @param {string} runId
   * @param {number|string} [after=0] a `seq` or a whole cursor: what follows it. After the run's
   *   end nothing does.
   * @returns {Run}
   */
  follow(runId, after = 0) {
    const lane = new Lane('follow', null, null);
    lane.id = runId;
    if (typeof after === 'string' && after.includes(':')) {
      [lane.epoch, lane.seq] = placeOf(after);
      lane.cursor = after;
    } else {
      lane.seq = Number(after);
    }
    lane.viaHttp = lane.seq > 0; // only there the service says that nothing follows
    return this.#traffic.add(lane);
  }

  /**
   * Ask the service something over HTTP.
   *
   * @param {string} method
   * @param {string} path below the address of the service, with its query.
   * @param {unknown} [body] sent as JSON.
   * @returns {Promise<any>} the JSON of the answer; null where it has no body.
   * @throws {import('./errors.js').ParleyError} a refusal; `unreachable` where there is no answer
   *   in time.
   */
  async request(method, path, body) {
    return this.#http.request(this.#traffic.connection.signal, method, path, body);
  }

  /**
   * @param {import('./lane.js').Kind} kind
   * @param {Record<string, any>} data
   * @param {?string} conversationId where it is known.
   */
  #ask(kind, data, conversationId) {
    const lane = new Lane(kind, data, randomId('key'));
    lane.conversationId = conversationId;
    return this.#traffic.add(lane);
  }
}
