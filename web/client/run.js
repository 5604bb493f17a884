/** A run as the user of the client sees it. */

import { ParleyError } from './errors.js';

/** @typedef {import('./lane.js').RunEvent} RunEvent */

/**
 * A run that is followed; `ParleyClient` makes it. Iterating gives its events.
 *
 * There is one consumer: all loops over a run take from the same queue, so each event goes to one
 * of them, and a loop that was broken off is gone on with by the next. Who wants the events twice
 * follows the run twice. At most `maxUnread` events (and what one read of the connection brings)
 * wait to be taken: then the run is left alone, and gone on with from its cursor when they are
 * taken; adjacent pieces of text may come as one then.
 */
export class Run {
  #lane;
  #host;

  /** @param {import('./lane.js').Lane} lane @param {import('./traffic.js').Traffic} host */
  constructor(lane, host) {
    this.#lane = lane;
    this.#host = host;
  }

  /** @returns {Promise<string>} The run's id, once the service has accepted it. */
  get started() {
    return this.#lane.started;
  }

  /** @returns {?string} The run's id; null before it has started. */
  get id() {
    return this.#lane.id;
  }

  /** @returns {?string} Its conversation; of an edit and of a run that is followed, once known. */
  get conversationId() {
    return this.#lane.conversationId;
  }

  /** @returns {?string} After the newest event that has come: `<run_id>:<epoch>:<seq>`. */
  get cursor() {
    return this.#lane.cursor;
  }

  /** @returns {AsyncIterator<RunEvent, undefined>} */
  [Symbol.asyncIterator]() {
    const next = async () => {
      const result = await this.#lane.next();
      if (this.#lane.unread === 0) this.#host.drained(this.#lane);
      return result;
    };
    return { next, return: async () => ({ value: undefined, done: true }) };
  }

  /**
   * End the run, unless it has ended. Its last event comes like any other: a `chat_complete` with
   * the `finish_reason` `cancelled`. One that was never sent is not sent at all, and fails with the
   * code `cancelled`.
   *
   * @returns {Promise<void>} settled when the service has acknowledged it.
   * @throws {ParleyError} the run was refused, or the service knows it no longer.
   */
  async cancel() {
    if (this.#lane.hasEnded) return;
    if (!this.#lane.sent && !this.#lane.isKnown) {
      const text = 'The message was taken back before it was sent.';
      this.#host.fail(this.#lane, new ParleyError(text, { code: 'cancelled' }));
      return;
    }
    const id = this.id ?? (await this.started);
    await this.#host.command('cancel', { run_id: id }, `runs/${encodeURIComponent(id)}/cancel`);
  }

  /**
   * End one tool call; its siblings and the run go on.
   *
   * @param {string} toolCallId
   * @returns {Promise<void>} settled when the service has acknowledged it.
   * @throws {ParleyError} the call is not under way (`tool_call_not_found`).
   */
  async cancelTool(toolCallId) {
    const id = this.id ?? (await this.started);
    const data = { run_id: id, tool_call_id: toolCallId };
    const [run, call] = [id, toolCallId].map(encodeURIComponent);
    await this.#host.command('cancel_tool', data, `runs/${run}/tool_calls/${call}/cancel`);
  }

  /** Stop following; iterations end, and the run goes on. A message still waiting is sent. */
  leave() {
    this.#host.leave(this.#lane);
  }
}
