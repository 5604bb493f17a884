/**
 * Markdown as it arrives, shown without flicker and without trust.
 *
 * - The source is split into top-level blocks. A block whose source is the same keeps its nodes,
 *   and one that grew is patched in place: selection, focus, scroll position and buttons survive.
 * - While an answer streams only its last blocks are read again, from the start of the last but
 *   one: what is before them cannot change any more but by definitions of links, which the last,
 *   complete rendering takes into account. It gives what rendering from scratch gives.
 */

import { PlainText, RichText } from './markdown-blocks.js';

const COPIED = 1600; // ms for which a button tells that it has copied

// A block that still grows and is longer than so many characters is drawn only so often that most
// of the time is left to others: after each drawing come so many times its duration without one.
const LONG = 4000;
const PAUSE = 3;

/**
 * Load what renders Markdown. A library that is missing is done without.
 *
 * @param {string} base Where the libraries are, relative to this module.
 * @returns {Promise<Markdown>}
 */
export async function loadMarkdown(base = '../vendor/') {
  const from = new URL(base, import.meta.url);
  const load = (name) => import(new URL(name, from).href).catch(() => null); // stated above
  const [marked, dompurify, highlight] = await Promise.all(
    ['marked.js', 'dompurify.js', 'highlight.js'].map(load),
  );
  const purify = dompurify?.default;
  const rich = marked && purify?.isSupported;
  return new Markdown(rich ? new RichText(marked, purify, highlight?.default) : new PlainText());
}

/** Shows Markdown in elements. */
export class Markdown {
  #engine;
  #views = new WeakMap();

  /** @param {{read: function}} engine Turns source into blocks. */
  constructor(engine) {
    this.#engine = engine;
  }

  /**
   * Make an element's children show a text.
   *
   * @param {Element} element Whose children nobody else changes.
   * @param {string} text The whole text so far, as Markdown.
   * @param {{streaming?: boolean}} options `streaming`: more of the text will come.
   */
  render(element, text, { streaming = false } = {}) {
    let view = this.#views.get(element);
    if (!view) {
      view = new View(element, this.#engine);
      this.#views.set(element, view);
      element.addEventListener('click', copyCode);
    }
    view.show(text.replace(/\r\n?/g, '\n').replaceAll('\0', '\uFFFD'), streaming);
  }
}

/**
 * The blocks of one element (see markdown-blocks.js), which here also know where their nodes are:
 * `at`, the index of the first one among the children of the element, and `count`.
 */
class View {
  #element;
  #engine;
  #source = '';
  #blocks = [];
  #settled = 0; // blocks that stay as they are, whatever comes
  #links = {};
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #pausedUntil = 0;

  constructor(element, engine) {
    this.#element = element;
    this.#engine = engine;
  }

  show(source, streaming) {
    clearTimeout(this.#timer);
    const wait = streaming && this.#isLong(source) ? this.#pausedUntil - performance.now() : 0;
    if (wait > 0) {
      this.#timer = setTimeout(() => this.#draw(source, streaming), wait);
    } else {
      this.#draw(source, streaming);
    }
  }

  #isLong(source) {
    return source.length - (this.#blocks[this.#settled]?.start ?? 0) > LONG;
  }

  #draw(source, streaming) {
    const begun = performance.now();
    this.#take(source, streaming);
    const now = performance.now();
    this.#pausedUntil = now + PAUSE * (now - begun);
  }

  #take(source, streaming) {
    if (!streaming || !source.startsWith(this.#source)) {
      this.#settled = 0;
      this.#links = {};
    }
    this.#source = source;
    const from = this.#settled;
    const start = from ? this.#blocks[from].start : 0;
    const read = this.#engine.read(source.slice(start), streaming, this.#links);
    for (const block of read) block.start += start;
    this.#put(from, read);
    this.#settle(streaming);
  }

  /** Take the blocks from an index on, changing no node of one that is the same. */
  #put(from, read) {
    let same = 0;
    while (same < read.length && this.#blocks[from + same]?.key === read[same].key) {
      Object.assign(this.#blocks[from + same], { start: read[same].start, link: read[same].link });
      same += 1;
    }
    this.#blocks.length = Math.min(this.#blocks.length, from + same);
    const last = this.#blocks.at(-1);
    const first = last ? last.at + last.count : 0;
    const fragment = document.createDocumentFragment();
    for (const block of read.slice(same)) {
      block.at = first + fragment.childNodes.length;
      fragment.append(block.build());
      block.count = first + fragment.childNodes.length - block.at;
      this.#blocks.push(block);
    }
    morph(this.#element, fragment, first);
  }

  /** All blocks but the last two stay: the last decides about the one before it. */
  #settle(streaming) {
    const settled = streaming ? Math.max(this.#settled, this.#blocks.length - 2) : 0;
    for (const { link } of this.#blocks.slice(this.#settled, settled)) {
      if (link) this.#links[link.tag] ??= { href: link.href, title: link.title };
    }
    this.#settled = settled < this.#blocks.length ? settled : 0;
  }
}

/** Make the children of an element, from an index on, those of a fragment; keep what is alike. */
function morph(parent, wanted, from = 0) {
  let old = parent.childNodes[from] ?? null;
  for (const next of [...wanted.childNodes]) {
    const following = old?.nextSibling ?? null;
    if (!old) parent.append(next);
    else if (alike(old, next)) patch(old, next);
    else old.replaceWith(next);
    old = following;
  }
  while (old) {
    const following = old.nextSibling;
    old.remove();
    old = following;
  }
}

function alike(old, next) {
  if (old.nodeName !== next.nodeName) return false;
  return isButton(old) || old.className === next.className;
}

/** A button may be telling that it has copied; it stays as it is. */
function isButton(node) {
  return node.nodeName === 'BUTTON';
}

function patch(old, next) {
  if (next.nodeType === Node.TEXT_NODE) {
    if (old.data === next.data) return;
    if (next.data.startsWith(old.data)) old.appendData(next.data.slice(old.data.length));
    else old.data = next.data;
  } else if (!isButton(next)) {
    patchAttributes(old, next);
    morph(old, next);
  }
}

function patchAttributes(old, next) {
  for (const { name } of [...old.attributes]) {
    if (!next.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of next.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
}

/** Copy the code whose button was pressed. */
async function copyCode(event) {
  const button = event.target.closest?.('.code-copy');
  if (!button) return;
  const code = button.closest('.code').querySelector('code');
  const copied = await copy(code);
  button.textContent = copied ? 'Copied' : 'Press Ctrl+C';
  button.classList.toggle('copied', copied);
  setTimeout(() => {
    button.textContent = 'Copy';
    button.classList.remove('copied');
  }, COPIED);
}

async function copy(code) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    return true;
  } catch {
    getSelection()?.selectAllChildren(code); // no permission, or not a secure context
    return document.execCommand('copy');
  }
}
