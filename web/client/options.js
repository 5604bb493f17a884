/** The options of a client, and what they are where they are not given. */

/**
 * Times are in milliseconds.
 *
 * @typedef {object} Options
 * @property {'auto'|'websocket'|'sse'} transport `auto`: a WebSocket, or server-sent events where
 *   there is no WebSocket or it is blocked.
 * @property {any} WebSocket the class; that of the platform where it is not given.
 * @property {typeof fetch} fetch likewise.
 * @property {number} backoffMin before the first new attempt, at most.
 * @property {number} backoffMax before any attempt, at most.
 * @property {number} connectTimeout for a connection to be made.
 * @property {number} pingInterval between two pings.
 * @property {number} pongTimeout for the answer to one.
 * @property {number} checkTimeout likewise, when the page is shown or the network has changed.
 * @property {number} silence after which an event stream counts as lost.
 * @property {number} requestTimeout for `request`.
 * @property {number} sseFor how long a blocked WebSocket is not tried again.
 * @property {number} maxRuns on one socket at a time: not more than the service's
 *   `WEBSOCKET_MAX_CHATS`.
 * @property {number} maxStreams event streams at a time: 4 in a page, else `maxRuns`.
 * @property {number} maxUnread events of a run that wait to be taken.
 */

/** @type {Omit<Options, 'WebSocket' | 'fetch' | 'maxStreams'>} */
const DEFAULTS = {
  transport: 'auto',
  backoffMin: 500,
  backoffMax: 10_000,
  connectTimeout: 10_000,
  pingInterval: 20_000,
  pongTimeout: 10_000,
  checkTimeout: 5_000,
  silence: 40_000,
  requestTimeout: 30_000,
  sseFor: 60_000,
  maxRuns: 32,
  maxUnread: 1_024,
};

/**
 * @param {Partial<Options>} given an `undefined` one counts as not given.
 * @returns {Options}
 * @throws {TypeError} an option's value is none.
 */
export function optionsOf(given) {
  const named = Object.entries(given).filter(([, value]) => value !== undefined);
  /** @type {any} */
  const options = { ...DEFAULTS, ...Object.fromEntries(named) };
  if (!['auto', 'websocket', 'sse'].includes(options.transport)) {
    throw new TypeError(`There is no transport ${options.transport}.`);
  }
  options.WebSocket ??= globalThis.WebSocket;
  if (!options.WebSocket) {
    if (options.transport === 'websocket') throw new TypeError('There is no WebSocket here.');
    options.transport = 'sse';
  }
  options.maxStreams ??= globalThis.document ? 4 : options.maxRuns;
  options.fetch ??= (
    /** @type {Parameters<typeof fetch>} */ ...parts
  ) => globalThis.fetch(...parts);
  return options;
}

/**
 * @param {string|URL} [given]
 * @returns {string} the address of the service, which ends with a slash.
 * @throws {TypeError} it is none.
 */
export function baseOf(given) {
  const page = globalThis.location?.href;
  if (given === undefined && page === undefined) {
    throw new TypeError('Outside a page the address of the service has to be given.');
  }
  const url = new URL(given ?? '.', page);
  if (!/^https?:$/.test(url.protocol)) throw new TypeError('The address is of HTTP.');
  return url.origin + url.pathname.replace(/\/*$/, '/');
}
