/**
 * Markdown that is still being written, made such that no markup flashes: what is open is closed,
 * and what cannot be understood yet is left out until more of it has come. The whole text never
 * comes through here, so nothing that is left out is lost.
 *
 * Why not remend (1.4.0, the package that Streamdown uses)? It closes what was opened last and
 * leaves the rest as it is. Of 929 beginnings of 26 short texts, 231 show markup that goes away
 * again when more comes (162 where marks at the very end are cut off first), against 12 here:
 * `**Bold with *em` keeps its asterisks, a link whose address has a bracket is shown as it is
 * written. It is as fast as this, but what it returns takes marked long to read: 40,000 characters
 * of open emphasis in 20,000 pieces took 35 s to draw, against 0.8 s.
 */

/**
 * What a line may begin with, while nothing after it says what it means: a list, a heading, a
 * line, the underlining of a heading, a fence (whose first line is not complete), a quotation.
 */
const UNCLEAR = new RegExp(
  [
    /^[ \t]*(?:>[ \t]*)*/, // in quotations
    /(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*/, // in lists
    /(?:-+|=+|\*+|_+|\++|#+|~+|`+|\d{1,3}[.)]?|\[[ xX]?\]?|(?:`{3,}|~{3,})[^`]*)?[ \t]*$/,
  ]
    .map(({ source }) => source)
    .join(''),
);
const LONGEST = 200; // characters of such a line

const TABLE_BEGUN = /(?:^|\n)( {0,3}\|[^\n]*)(?:\n[|:\- \t]*)?$/;

const DEEPEST = 16; // emphasis in emphasis, deeper than which nothing is closed
const REACH = 2000; // characters in which the end of a link is looked for

/**
 * Leave out the end of a text whose last line may still become anything.
 *
 * @param {string} source
 * @returns {string} The source, or its beginning.
 */
export function withoutUnclear(source) {
  const start = source.lastIndexOf('\n') + 1;
  const line = source.slice(start);
  const isUnclear = line.length < LONGEST && line.trim() && UNCLEAR.test(line);
  return isUnclear ? source.slice(0, start) : source;
}

/**
 * Complete a table of which no more than the first line is there.
 *
 * @param {string} paragraph The source of a paragraph.
 * @returns {?string} The source of a table, or null where the paragraph does not begin one.
 */
export function asTable(paragraph) {
  const found = TABLE_BEGUN.exec(paragraph);
  if (!found) return null;
  const head = found[1].trim();
  if (head === '|') return paragraph.slice(0, found.index);
  const cells = head.replace(/^\||\|$/g, '').split(/(?<!\\)\|/);
  const before = paragraph.slice(0, found.index);
  return `${before}${before && '\n'}${head}\n|${cells.map(() => ' --- |').join('')}`;
}

/**
 * Tell whether a block of code has not come to its closing fence.
 *
 * @param {string} raw The block's source.
 * @returns {boolean}
 */
export function isOpenFence(raw) {
  const [, fence] = /^ {0,3}(`{3,}|~{3,})/.exec(raw) ?? [];
  if (!fence) return false;
  const closing = new RegExp(`\\n {0,3}${fence[0]}{${fence.length},}[ \\t]*\\n*$`);
  return !closing.test(raw);
}

/**
 * Close what is open at the end of inline Markdown.
 *
 * @param {string} text
 * @returns {string}
 */
export function heal(text) {
  return new Healer(text).run();
}

const PLAIN = /[^\\`*_~[!<]+/y;
const TAG = /<[^<>\n]*>/y;

const isWord = (character) => character !== undefined && /[\p{L}\p{N}]/u.test(character);
const isSpace = (character) => character === undefined || /\s/.test(character);

class Healer {
  constructor(text) {
    this.text = text;
    this.at = 0;
    this.out = '';
    this.open = []; // emphasis that waits for its end, the innermost last
  }

  run() {
    while (this.at < this.text.length) {
      this.#step();
      if (this.open.length > DEEPEST) return this.text; // to read what closes them takes for ever
    }
    let end = '';
    for (const { mark, length, start } of this.open.reverse()) {
      if (this.out.slice(start + length).trim()) end += mark.repeat(length);
      else this.out = this.out.slice(0, start); // nothing is in it yet
    }
    return end ? this.out.trimEnd() + end : this.out;
  }

  #step() {
    const plain = this.#match(PLAIN);
    if (plain) {
      this.#copy(plain.length);
      return;
    }
    switch (this.text[this.at]) {
      case '\\': this.#escape(); break;
      case '`': this.#code(); break;
      case '<': this.#copy((this.#match(TAG) ?? '<').length); break;
      case '[': this.#link(0); break;
      case '!': this.#exclamation(); break;
      default: this.#emphasis();
    }
  }

  #match(pattern) {
    pattern.lastIndex = this.at;
    return pattern.exec(this.text)?.[0] ?? null;
  }

  #copy(length) {
    this.out += this.text.slice(this.at, this.at + length);
    this.at += length;
  }

  #finish(last) {
    this.out += last;
    this.at = this.text.length;
  }

  #escape() {
    if (this.at + 1 < this.text.length) this.#copy(2);
    else this.#finish('');
  }

  #exclamation() {
    const next = this.text[this.at + 1];
    if (next === '[') this.#link(1);
    else if (next === undefined && isSpace(this.text[this.at - 1])) this.#finish('');
    else this.#copy(1);
  }

  #code() {
    const ticks = this.#match(/`+/y);
    const begin = this.at + ticks.length;
    for (const { 0: run, index } of this.text.slice(begin).matchAll(/`+/g)) {
      if (run.length === ticks.length) {
        this.#copy(ticks.length + index + run.length);
        return;
      }
    }
    const rest = this.text.slice(begin).replace(/`+$/, '');
    this.#finish(rest.trim() ? ticks + rest + ticks : '');
  }

  #emphasis() {
    const run = this.#match(/([*_~])\1*/y);
    const [mark] = run;
    const before = this.text[this.at - 1];
    const after = this.text[this.at + run.length];
    const opened = this.open.findLastIndex((each) => each.mark === mark);
    if (after === undefined && (opened >= 0 || !isWord(before))) {
      this.#finish('');
      return;
    }
    if (opened >= 0 && !isSpace(before) && (mark !== '_' || !isWord(after))) {
      this.#close(opened, run.length);
    } else if (this.#opens(run, before, after)) {
      this.open.push({ mark, length: run.length, start: this.out.length });
    }
    this.#copy(run.length);
  }

  #opens(run, before, after) {
    if (isSpace(after) || (run[0] === '~' && run.length !== 2)) return false;
    return !isWord(before) || (run[0] === '*' && run.length > 1);
  }

  #close(opened, length) {
    this.open.length = opened + 1; // what is open inside of it has no end
    const entry = this.open[opened];
    entry.length -= length;
    if (entry.length <= 0) this.open.pop();
  }

  #link(image) {
    const bracket = this.at + image;
    const end = this.#partner(bracket, '[', ']');
    if (end < 0) {
      if (isWord(this.text[this.at - 1])) this.#copy(image + 1);
      else this.at = bracket + 1;
      return;
    }
    const inner = this.text.slice(bracket + 1, end);
    const next = this.text[end + 1];
    const closing = { '(': ')', '[': ']' }[next];
    if (next === undefined) {
      this.#finish(this.#unclearLabel(inner));
    } else if (!closing) {
      this.#copy(image + 1);
    } else {
      const last = this.#partner(end + 1, next, closing);
      if (last < 0) this.#finish(inner);
      else this.#copy(last + 1 - this.at);
    }
  }

  #unclearLabel(inner) {
    return isWord(this.text[this.at - 1]) ? `[${inner}]` : inner;
  }

  /** Find the bracket that closes the one at an index; -1 where there is none within reach. */
  #partner(from, opening, closing) {
    let depth = 0;
    const limit = Math.min(this.text.length, from + REACH);
    for (let at = from; at < limit; at += 1) {
      const character = this.text[at];
      if (character === '\\') at += 1;
      else if (character === opening) depth += 1;
      else if (character === closing && --depth === 0) return at;
    }
    return -1;
  }
}
