/** A block of code as nodes, with its language, a button that copies it, and colours. */

import { h } from './dom.js';

const COLOURED = 60_000; // characters of code, more of which are not coloured
const LONG_LINE = /[^\n]{1000}/; // for which some languages take very long
const GROWING = 8000; // characters of a block that still grows, likewise

const CHARACTERS = { '&amp;': '&', '&lt;': '<', '&gt;': '>', '&quot;': '"', '&#x27;': "'" };

export class CodeBlocks {
  #highlighter;
  /** @type {{lines?: string, language?: string, nodes?: any}} the block that grew last. */
  #grown = {};

  /** @param {any} highlighter highlight.js, where it is there */
  constructor(highlighter) {
    this.#highlighter = highlighter;
  }

  /** @param {{text: string, language: string, open?: boolean}} code `open`: it still grows. */
  build({ text, language, open }) {
    const content = open ? this.#growing(text, language) : this.#coloured(text, language);
    return h('div.code', {},
      h('div.code-head', {},
        h('span.code-language', {}, language || 'code'),
        h('button.code-copy', { type: 'button', 'aria-label': 'Copy code' }, 'Copy')),
      h('pre', { tabindex: '0' }, h('code', {}, content)));
  }

  #coloured(text, language) {
    const known = language && this.#highlighter?.getLanguage(language);
    if (!known || text.length > COLOURED || LONG_LINE.test(text)) return text;
    return nodesOf(this.#highlighter.highlight(text, { language, ignoreIllegals: true }).value);
  }

  /** Colour the lines that are complete, each time that there is one more. */
  #growing(text, language) {
    const lines = text.slice(0, text.lastIndexOf('\n', GROWING) + 1);
    if (this.#grown.lines !== lines || this.#grown.language !== language) {
      const nodes = document.createDocumentFragment();
      nodes.append(this.#coloured(lines, language));
      this.#grown = { lines, language, nodes };
    }
    const fragment = this.#grown.nodes.cloneNode(true);
    fragment.append(text.slice(lines.length));
    return fragment;
  }
}

/** Make nodes of a highlighter's HTML, which is spans with a class, and text. */
function nodesOf(html) {
  const root = document.createDocumentFragment();
  /** @type {any} */
  let into = root;
  for (const part of html.split(/(<span class="[^"]*">|<\/span>)/)) {
    const [, className] = /^<span class="([^"]*)">$/.exec(part) ?? [];
    if (className !== undefined) {
      const span = h('span', { className });
      into.append(span);
      into = span;
    } else if (part === '</span>') {
      into = into.parentNode;
    } else if (part) {
      into.append(part.replace(/&(?:amp|lt|gt|quot|#x27);/g, (entity) => CHARACTERS[entity]));
    }
  }
  return root;
}
