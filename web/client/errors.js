/** Refusals and failures, and how answers of the service become them. */

/** What a proxy says while the service behind it is not there. */
const GATEWAY = new Set([502, 503, 504]);

/**
 * @typedef {object} Fields
 * @property {string} [code] a stable name for programs.
 * @property {?number} [status] the HTTP status, where there was one.
 * @property {boolean} [retryable] whether the same request may succeed later.
 * @property {?number} [retryAfter] in so many seconds, where that is known.
 * @property {{field: string, message: string}[]} [errors] the faults of invalid values.
 * @property {unknown} [cause]
 */

/**
 * A refusal or a failure that has a name.
 *
 * `code` is the service's, or the client's own: `unreachable` (no answer), `bad_answer` (one that
 * cannot be understood), `closed` (the client was closed), `cancelled` (before it was ever sent).
 */
export class ParleyError extends Error {
  /**
   * @param {string} message for a person.
   * @param {Fields} [fields]
   */
  constructor(message, fields = {}) {
    super(message, fields.cause === undefined ? undefined : { cause: fields.cause });
    this.name = 'ParleyError';
    this.code = fields.code ?? 'internal_error';
    this.status = fields.status ?? null;
    this.retryable = fields.retryable ?? false;
    this.retryAfter = fields.retryAfter ?? null;
    this.errors = fields.errors ?? [];
  }
}

/**
 * The value of a JSON text; undefined where it is none.
 *
 * @param {string} text
 * @returns {any}
 */
export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // the caller says what that means
  }
}

/**
 * Whether a message on the socket is an `error` that is no event of a run.
 *
 * @param {any} message
 */
export function isRefusal(message) {
  return message.type === 'error' && message.data?.run_id === undefined;
}

/** @param {any} data of a refusal on the socket. */
export function refusalOf({ message, code, retryable, retry_after: retryAfter, errors }) {
  return new ParleyError(message, { code, retryable, retryAfter, errors });
}

/**
 * @param {Response} response that is not `ok`.
 * @param {string} text its body.
 */
export function problemOf(response, text) {
  const { status } = response;
  const problem = parsed(text);
  const seconds = Number(response.headers.get('Retry-After') ?? NaN);
  const retryAfter = Number.isFinite(seconds) ? seconds : null;
  if (typeof problem?.code === 'string') {
    const { detail, title, code, retryable, errors } = problem;
    return new ParleyError(detail ?? title, { code, status, retryable, retryAfter, errors });
  }
  if (GATEWAY.has(status)) return unreachable({ status, retryAfter });
  return new ParleyError(`The answer was ${status}.`, { code: 'http_error', status, retryAfter });
}

/** @param {Fields} fields */
export function unreachable(fields) {
  const text = 'The service cannot be reached.';
  return new ParleyError(text, { code: 'unreachable', retryable: true, ...fields });
}
