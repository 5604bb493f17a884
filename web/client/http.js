/** Requests to the service over HTTP. */

import { ParleyError, parsed, problemOf, unreachable } from './errors.js';

export class Http {
  #base;
  #fetch;
  #timeout;

  /**
   * @param {string} base the address of the service, which ends with a slash.
   * @param {import('./options.js').Options['fetch']} fetch
   * @param {number} timeout of a request, in ms.
   */
  constructor(base, fetch, timeout) {
    this.#base = base;
    this.#fetch = fetch;
    this.#timeout = timeout;
  }

  /** @returns {string} the address of the WebSocket. */
  get socketUrl() {
    return this.#url('ws').replace(/^http/, 'ws');
  }

  /** @param {string} path */
  #url(path) {
    return this.#base + path.replace(/^\/+/, '');
  }

  /**
   * @param {string} path below the address of the service.
   * @param {RequestInit} options
   */
  fetch(path, options) {
    const fetch = this.#fetch; // called as a method of anything, a browser's own throws
    return fetch(this.#url(path), options);
  }

  /**
   * @param {AbortSignal} stop ends it.
   * @param {string} method
   * @param {string} path
   * @param {unknown} [body] sent as JSON.
   * @returns {Promise<any>} the JSON of the answer; null where it has no body.
   * @throws {ParleyError} a refusal; `unreachable` where there is no answer in time.
   */
  async request(stop, method, path, body) {
    /** @type {RequestInit} */
    const options = { method };
    if (body !== undefined) {
      options.headers = { 'Content-Type': 'application/json' };
      options.body = JSON.stringify(body);
    }
    const { response, text } = await this.#exchange(path, options, stop);
    if (!response.ok) throw problemOf(response, text);
    if (text === '') return null;
    const value = parsed(text);
    if (value !== undefined) return value;
    const { status } = response;
    throw new ParleyError('The answer is not JSON.', { code: 'bad_answer', status });
  }

  /** @param {string} path @param {RequestInit} options @param {AbortSignal} stop */
  async #exchange(path, options, stop) {
    try {
      return await within(this.#timeout, stop, async (signal) => {
        const response = await this.fetch(path, { ...options, signal });
        return { response, text: await response.text() };
      });
    } catch (cause) {
      throw unreachable({ cause });
    }
  }

  /**
   * Tell whether the service answers; a proxy without a service behind it does not.
   *
   * @param {number} timeout
   * @param {AbortSignal} stop
   */
  async answers(timeout, stop) {
    try {
      return await within(timeout, stop, async (signal) => {
        const response = await this.fetch('health', { signal, cache: 'no-store' });
        await response.text();
        return response.status < 500;
      });
    } catch {
      return false; // whatever the reason is
    }
  }
}

/**
 * Do what can be stopped, for a time at most, and only while `stop` allows.
 *
 * @template T
 * @param {number} milliseconds
 * @param {AbortSignal} stop
 * @param {(signal: AbortSignal) => Promise<T>} act
 */
async function within(milliseconds, stop, act) {
  const both = new AbortController();
  const abort = () => both.abort();
  const timer = setTimeout(abort, milliseconds);
  stop.addEventListener('abort', abort);
  if (stop.aborted) abort();
  try {
    return await act(both.signal);
  } finally {
    clearTimeout(timer);
    stop.removeEventListener('abort', abort);
  }
}
