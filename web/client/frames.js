/** Server-sent events out of text. */

import { ParleyError } from './errors.js';

/** Characters that one frame of an event stream may have; the service's have far fewer. */
const MAX_FRAME_CHARS = 64 * 1024 * 1024;

/** @typedef {{id: ?string, data: string}} Frame */

/**
 * Server-sent events out of text that is cut anywhere. Lines end with CR, LF or CRLF, and with
 * nothing else; of the fields only `id` and `data` are read. A frame's `id` is its own.
 */
export class FrameDecoder {
  #line = '';
  #size = 0;
  #afterCr = false;
  /** @type {string[]} */
  #data = [];
  /** @type {?string} */
  #id = null;

  /**
   * @param {string} text the next piece.
   * @returns {Frame[]} the frames that are complete now.
   * @throws {ParleyError} `bad_answer`: a frame has no end.
   */
  feed(text) {
    /** @type {Frame[]} */
    const frames = [];
    let from = this.#afterCr && text.startsWith('\n') ? 1 : 0;
    if (text !== '') this.#afterCr = text.endsWith('\r');
    const ends = /\r\n|\r|\n/g;
    ends.lastIndex = from;
    for (let end = ends.exec(text); end !== null; end = ends.exec(text)) {
      this.#take(this.#line + text.slice(from, end.index), frames);
      this.#line = '';
      from = ends.lastIndex;
    }
    this.#line += text.slice(from);
    this.#size = frames.length > 0 ? 0 : this.#size + text.length;
    if (this.#size > MAX_FRAME_CHARS) {
      throw new ParleyError('A frame has no end.', { code: 'bad_answer' });
    }
    return frames;
  }

  /** @param {string} line @param {Frame[]} frames */
  #take(line, frames) {
    if (line === '') {
      if (this.#data.length > 0) frames.push({ id: this.#id, data: this.#data.join('\n') });
      this.#data = [];
      this.#id = null;
      return;
    }
    const colon = line.indexOf(':');
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (field === 'data') this.#data.push(value);
    else if (field === 'id') this.#id = value;
  }
}
