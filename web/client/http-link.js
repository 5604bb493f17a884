/** An event stream for each lane, by fetch. */

import { ParleyError, parsed, problemOf } from './errors.js';
import { FrameDecoder } from './frames.js';
import { isEvent } from './lane.js';

/**
 * @typedef {import('./lane.js').Lane} Lane
 * @typedef {import('./traffic.js').Command} Command
 */

export class HttpLink {
  /** @type {'sse'} */
  transport = 'sse';
  heard = false;
  /** @type {Map<Lane, AbortController>} */
  #streams = new Map();
  #closed = new AbortController();
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

  open() {
    this.#probe(this.#options.connectTimeout, () => {
      this.heard = true;
      this.#host.opened(this);
    });
  }

  get isFull() {
    return this.#streams.size >= this.#options.maxStreams;
  }

  /**
   * Ask for a lane's run, or go on with it.
   *
   * @param {Lane} lane
   */
  async follow(lane) {
    const stream = new AbortController();
    this.#streams.set(lane, stream);
    Object.assign(lane, { link: this, sent: true });
    const isMine = () => this.#streams.get(lane) === stream;
    /** @type {ParleyError | string} */
    let outcome;
    try {
      outcome = await this.#read(lane, stream, isMine);
    } catch {
      outcome = 'lost'; // fetch does not say more than that
    } finally {
      stream.abort();
    }
    if (!isMine()) return;
    this.#streams.delete(lane);
    lane.link = null;
    if (outcome instanceof ParleyError) this.#host.refused(lane, outcome);
    else if (outcome === 'again') this.#host.pump();
    else if (outcome === 'lost') this.#host.broken(this, lane);
    else this.#host.took(lane, true);
  }

  /** @param {Lane} lane */
  leave(lane) {
    this.#streams.get(lane)?.abort();
    this.#streams.delete(lane);
    lane.link = null;
    this.#host.pump();
  }

  /** @param {Command} command */
  async command(command) {
    command.link = this;
    command.sends += 1;
    /** @type {?ParleyError} */
    const error = await this.#http.request(this.#closed.signal, 'POST', command.path)
      .then(() => null, (problem) => problem);
    if (command.link !== this) return;
    if (!error) {
      this.#host.commandDone(command);
      return;
    }
    command.link = null;
    if (error.code === 'unreachable') this.#host.lost(this);
    else this.#host.commandRefused(command, error);
  }

  /** @param {number} timeout */
  check(timeout) {
    this.#probe(timeout, () => {});
  }

  close() {
    this.#closed.abort();
    for (const stream of this.#streams.values()) stream.abort();
    this.#streams.clear();
  }

  /** @param {number} timeout @param {() => void} then */
  async #probe(timeout, then) {
    const answers = await this.#http.answers(timeout, this.#closed.signal);
    if (this.#closed.signal.aborted) return;
    if (answers) then();
    else this.#host.lost(this);
  }

  /**
   * Read a lane's stream to its end.
   *
   * @param {Lane} lane
   * @param {AbortController} stream
   * @param {() => boolean} isMine whether the lane is still on this stream.
   * @returns {Promise<ParleyError | string>} a refusal; `ended`: with the run; `again`: it broke
   *   off, having brought something; `lost`: without.
   */
  async #read(lane, stream, isMine) {
    const silence = watch(this.#options.silence, () => stream.abort());
    try {
      const response = await this.#ask(lane, stream.signal);
      silence.touch();
      if (!response.ok) {
        const error = problemOf(response, await response.text());
        return error.code === 'unreachable' ? 'lost' : error;
      }
      if (!isMine()) return 'lost';
      if (lane.isKnown && !lane.isStarted) lane.start();
      if (response.status === 204) return 'ended';
      return await this.#readAll(lane, response, silence, isMine);
    } finally {
      silence.stop();
    }
  }

  /**
   * @param {Lane} lane
   * @param {Response} response
   * @param {ReturnType<typeof watch>} silence
   * @param {() => boolean} isMine
   */
  async #readAll(lane, response, silence, isMine) {
    const body = /** @type {ReadableStream<Uint8Array>} */ (response.body);
    const reader = body.getReader();
    const before = lane.cursor;
    try {
      for await (const frame of framesOf(reader, silence.touch)) {
        if (!isMine()) return 'lost';
        if (this.#take(lane, frame)) return 'ended';
      }
    } catch {
      // broken off, as any other end before the run's, or what comes is no frame
    } finally {
      reader.cancel().catch(() => {}); // where it is over, that says so
    }
    return silence.isOver || lane.cursor === before ? 'lost' : 'again';
  }

  /** @param {Lane} lane @param {import('./frames.js').Frame} frame */
  #take(lane, frame) {
    const event = parsed(frame.data);
    if (!isEvent(event, frame.id)) return false;
    const isLast = lane.take(event, frame.id ?? '');
    if (!isLast) this.#host.took(lane, false);
    return isLast;
  }

  /** @param {Lane} lane @param {AbortSignal} signal */
  #ask(lane, signal) {
    if (!lane.data || lane.isKnown) {
      const after = encodeURIComponent(lane.cursor ?? lane.seq);
      const events = `runs/${encodeURIComponent(lane.id ?? '')}/events`;
      const path = `${events}?protocol=events&after=${after}`;
      return this.#http.fetch(path, { signal, cache: 'no-store' });
    }
    const { conversation_id: conversationId, ...rest } = lane.data;
    const isChat = lane.kind === 'chat';
    const place = `conversations/${encodeURIComponent(conversationId)}`;
    const path = isChat ? 'chat' : `${place}/${lane.kind}`;
    return this.#http.fetch(`${path}/stream?protocol=events`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', 'Idempotency-Key': lane.key ?? '' },
      body: JSON.stringify(isChat ? lane.data : rest),
      signal,
    });
  }
}

/**
 * @param {ReadableStreamDefaultReader<Uint8Array>} reader
 * @param {() => void} touch is called with each sign of life.
 */
async function* framesOf(reader, touch) {
  const decoder = new TextDecoder();
  const frames = new FrameDecoder();
  for (;;) {
    const { value, done } = await reader.read();
    touch();
    if (done) return;
    yield* frames.feed(decoder.decode(value, { stream: true }));
  }
}

/**
 * Call `act` after a time without `touch`, which costs no timer.
 *
 * @param {number} milliseconds
 * @param {() => void} act
 */
function watch(milliseconds, act) {
  let last = Date.now();
  const touch = () => {
    last = Date.now();
  };
  const timer = setInterval(() => {
    silence.isOver = Date.now() - last >= milliseconds;
    if (silence.isOver) act();
  }, milliseconds / 4);
  const silence = { isOver: false, touch, stop: () => clearInterval(timer) };
  return silence;
}
