/**
 * A source of Markdown becomes blocks, and a block becomes nodes that may go into a page.
 *
 * - Nothing of the source is HTML: raw HTML is shown as the text that it is.
 * - What marked makes is sanitized into a fragment that has neither class, id, style nor form
 *   elements. Code blocks, checkboxes and all attributes but a few are put into it here, as nodes.
 *   A place for a block of code is an empty `pre`, for a checkbox an empty `i`, which Markdown
 *   itself never makes.
 * - Links lead to http, https and mailto, into another tab. Images are links: nothing is loaded.
 *
 * @typedef {{key: string, start: number, link: ?object, build: function(): Node}} Block `key`: what
 *   it is made of; `start`: where its source begins; `link`: the link that it defines.
 */

import { asTable, heal, isOpenFence, withoutUnclear } from './healing.js';

const PROTOCOLS = new Set(['http:', 'https:', 'mailto:']);

const SANITIZED = Object.freeze({
  ALLOWED_TAGS: [
    'a', 'blockquote', 'br', 'code', 'del', 'em', 'h3', 'h4', 'h5', 'h6', 'hr', 'i', 'li', 'ol',
    'p', 'pre', 'strong', 'table', 'tbody', 'td', 'th', 'thead', 'tr', 'ul',
  ],
  ALLOWED_ATTR: ['align', 'href', 'start', 'title'],
  ADD_URI_SAFE_ATTR: ['align', 'start'],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
});

const DIRECTED = 'p, h3, h4, h5, h6, ul, ol, blockquote, th, td'; // what is in one follows it
const COLOURED = 60_000; // characters of code, more of which are not coloured
const LONG_LINE = /[^\n]{1000}/; // for which some languages take very long
const GROWING = 8000; // and of a block that still grows

/** Markdown where marked and DOMPurify are there. */
export class RichText {
  #lib;
  #purify;
  #colours;
  #marked;
  #places;
  #grown = {};

  constructor(lib, purify, highlighter) {
    this.#lib = lib;
    this.#purify = purify;
    this.#colours = highlighter;
    this.#places = { codes: [], tasks: [] };
    this.#marked = new lib.Marked({ renderer: rendererFor(this.#places), tokenizer: { del } });
  }

  /**
   * Split a source into blocks.
   *
   * @param {string} source
   * @param {boolean} streaming Whether more of it will come.
   * @param {object} links The definitions of links before it.
   * @returns {Block[]}
   */
  read(source, streaming, links) {
    const clear = streaming ? withoutUnclear(source) : source;
    return orPlain(() => this.#read(clear, streaming, links), () => new PlainText().read(source));
  }

  #read(source, streaming, links) {
    const lexer = this.#lex(source, links);
    const hasLinks = Object.keys(lexer.tokens.links).length > 0;
    const signature = digestOf(JSON.stringify(lexer.tokens.links));
    const blocks = [];
    let start = 0;
    for (const token of lexer.tokens) {
      if (token.type !== 'space') {
        const known = hasLinks && token.raw.includes('[') ? signature : '';
        blocks.push({ key: token.raw + known, start, token });
      }
      start += token.raw.length;
    }
    const last = blocks.at(-1);
    if (streaming && last) this.#complete(last, source, lexer);
    return blocks.map(({ key, start: begin, token }) => ({
      key,
      start: begin,
      link: token.type === 'def' ? token : null,
      build: () => orPlain(() => this.#build(token), () => plain(token.raw)),
    }));
  }

  #lex(source, links) {
    const lexer = new this.#lib.Lexer(this.#marked.defaults);
    Object.assign(lexer.tokens.links, links);
    lexer.lex(source);
    return lexer;
  }

  /** Make the last block such that it looks like what it probably becomes. */
  #complete(block, source, lexer) {
    const { token } = block;
    const table = token.type === 'paragraph' && asTable(token.raw.trimEnd());
    if (typeof table === 'string') {
      const { tokens } = this.#lex(table, lexer.tokens.links);
      block.token = { type: 'blocks', raw: table, tokens };
      block.key = `table ${table}`;
      return;
    }
    const leaf = lastLeaf(token);
    if (leaf?.type === 'code') {
      leaf.open = leaf.codeBlockStyle !== 'indented' && isOpenFence(leaf.raw);
      if (leaf.open) block.key = `open ${block.key}`;
    } else if (leaf?.tokens && !isOver(leaf, source)) {
      const [first] = leaf.tokens;
      const box = first?.type === 'checkbox' ? [first] : [];
      const text = box.length ? leaf.text.replace(first.raw, '') : leaf.text;
      const healed = heal(text);
      if (healed === text) return;
      leaf.tokens = [...box, ...lexer.inlineTokens(healed, [])];
      block.key = `healed ${block.key} ${healed}`;
    }
  }

  #build(token) {
    this.#places.codes.length = 0;
    this.#places.tasks.length = 0;
    const tokens = token.type === 'blocks' ? token.tokens : [token];
    const html = this.#lib.Parser.parse(tokens, this.#marked.defaults);
    const fragment = this.#purify.sanitize(html, SANITIZED);
    this.#furnish(fragment);
    return fragment;
  }

  /** Put into a sanitized fragment what only we may put there. */
  #furnish(fragment) {
    const { codes, tasks } = this.#places;
    fragment.querySelectorAll('i').forEach((place, index) => {
      place.replaceWith(checkbox(tasks[index]));
    });
    fragment.querySelectorAll('a').forEach(furnishLink);
    fragment.querySelectorAll(DIRECTED).forEach((element) => {
      if (!element.closest('[dir]')) element.setAttribute('dir', 'auto');
    });
    fragment.querySelectorAll('table').forEach((table) => {
      const region = make('div', 'table', { role: 'region', tabindex: '0', 'aria-label': 'Table' });
      table.replaceWith(region);
      region.append(table);
    });
    fragment.querySelectorAll('pre').forEach((place, index) => {
      place.replaceWith(codes[index] ? this.#codeBlock(codes[index]) : '');
    });
  }

  #codeBlock({ text, language, open }) {
    const block = make('div', 'code');
    const head = make('div', 'code-head');
    const label = make('span', 'code-language');
    label.textContent = language || 'code';
    const copy = make('button', 'code-copy', { type: 'button', 'aria-label': 'Copy code' });
    copy.textContent = 'Copy';
    head.append(label, copy);
    const region = make('pre', '', { tabindex: '0' });
    const code = make('code', '');
    code.append(open ? this.#growing(text, language) : this.#coloured(text, language));
    region.append(code);
    block.append(head, region);
    return block;
  }

  #coloured(text, language) {
    const known = language && this.#colours?.getLanguage(language);
    if (!known || text.length > COLOURED || LONG_LINE.test(text)) return text;
    return coloured(this.#colours.highlight(text, { language, ignoreIllegals: true }).value);
  }

  /** Colour the lines that are complete, each time that there is one more. */
  #growing(text, language) {
    const lines = text.slice(0, text.lastIndexOf('\n', GROWING) + 1);
    if (this.#grown.lines !== lines || this.#grown.language !== language) {
      this.#grown = { lines, language, nodes: wrapped(this.#coloured(lines, language)) };
    }
    const fragment = this.#grown.nodes.cloneNode(true);
    fragment.append(text.slice(lines.length));
    return fragment;
  }
}

/** Show what is nested deeper than recursion goes as the text that it is. */
function orPlain(attempt, otherwise) {
  try {
    return attempt();
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return otherwise();
  }
}

/** Text as it is, a paragraph for what is between blank lines. */
export class PlainText {
  /** @returns {Block[]} */
  read(source) {
    const blocks = [];
    for (const { 0: text, index } of source.matchAll(/(?:[^\n]|\n(?![ \t]*\n))+/g)) {
      if (text.trim()) blocks.push({ key: text.trim(), start: index, build: () => plain(text) });
    }
    return blocks;
  }
}

function plain(text) {
  const paragraph = make('p', 'plain', { dir: 'auto' });
  paragraph.textContent = text.trim();
  return paragraph;
}

/** Return the token that the end of a source is in. */
function lastLeaf(token) {
  switch (token?.type) {
    case 'list': return lastLeaf(token.items.at(-1));
    case 'list_item':
    case 'blockquote': return lastLeaf(token.tokens.findLast(({ type }) => type !== 'space'));
    case 'table': {
      const row = token.rows.at(-1) ?? token.header;
      return row.findLast(({ text }) => text);
    }
    default: return token;
  }
}

/** Tell whether the text of a leaf is complete, because the line or the paragraph has ended. */
function isOver(leaf, source) {
  const paragraph = leaf.type === 'paragraph' || leaf.type === 'text';
  return (paragraph ? /\n[ \t]*\n[ \t]*$/ : /\n$/).test(source);
}

/** Take two tildes for what is struck out, and one for what it says: about. */
function del(source) {
  return source.startsWith('~~') ? false : undefined; // false: as marked has it
}

/** The HTML of tokens, which are escaped wherever they are text. */
function rendererFor(places) {
  let links = 0;
  const inside = (renderer, tokens) => renderer.parser.parseInline(tokens);
  return {
    space: () => '',
    def: () => '',
    hr: () => '<hr>',
    br: () => '<br>',
    text(token) {
      return token.tokens?.length ? inside(this, token.tokens) : escaped(token.text);
    },
    html({ text, block }) {
      if (/^<br ?\/?>$/i.test(text)) return '<br>';
      const shown = wholly(text.trimEnd()).replaceAll('\n', block ? '<br>' : '\n');
      return block ? `<p>${shown}</p>` : shown;
    },
    code({ text, lang, open }) {
      const language = /^[^\s{,]*/.exec(lang ?? '')[0].slice(0, 30);
      places.codes.push({ text: text.replace(/\n$/, ''), language, open });
      return '<pre></pre>';
    },
    checkbox({ checked }) {
      places.tasks.push(checked);
      return '<i></i>';
    },
    codespan: ({ text }) => `<code>${wholly(text)}</code>`,
    paragraph({ tokens }) {
      const content = inside(this, tokens);
      return content && `<p>${content}</p>`;
    },
    heading({ tokens, depth }) {
      const name = `h${Math.min(depth + 2, 6)}`;
      return `<${name}>${inside(this, tokens)}</${name}>`;
    },
    blockquote({ tokens }) {
      return `<blockquote>${this.parser.parse(tokens)}</blockquote>`;
    },
    list({ ordered, start, items }) {
      const content = items.map((item) => this.listitem(item)).join('');
      const first = ordered && start !== 1 ? ` start="${Number(start)}"` : '';
      return ordered ? `<ol${first}>${content}</ol>` : `<ul>${content}</ul>`;
    },
    listitem({ tokens }) {
      return `<li>${this.parser.parse(tokens)}</li>`;
    },
    table({ header, rows }) {
      const line = (cells) => `<tr>${cells.map((cell) => this.tablecell(cell)).join('')}</tr>`;
      const body = rows.length ? `<tbody>${rows.map(line).join('')}</tbody>` : '';
      return `<table><thead>${line(header)}</thead>${body}</table>`;
    },
    tablecell({ tokens, header, align }) {
      const name = header ? 'th' : 'td';
      return `<${name}${align ? ` align="${align}"` : ''}>${inside(this, tokens)}</${name}>`;
    },
    strong({ tokens }) {
      return `<strong>${inside(this, tokens)}</strong>`;
    },
    em({ tokens }) {
      return `<em>${inside(this, tokens)}</em>`;
    },
    del({ tokens }) {
      return `<del>${inside(this, tokens)}</del>`;
    },
    link({ href, title, text, tokens, autolink }) {
      links += 1;
      const content = autolink ? wholly(text) : inside(this, tokens);
      links -= 1;
      return links ? content : anchor(href, title, content);
    },
    image({ href, title, text }) {
      const content = escaped(text.trim() || 'image');
      return links ? content : anchor(href, title, content);
    },
  };
}

function anchor(href, title, content) {
  const named = title ? ` title="${escaped(title)}"` : '';
  return `<a href="${escaped(href)}"${named}>${content}</a>`;
}

const ENTITIES = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
const CHARACTERS = Object.fromEntries(Object.entries(ENTITIES).map(([to, from]) => [from, to]));

function wholly(text) {
  return text.replace(/[&<>"']/g, (character) => ENTITIES[character]);
}

/** Escape a text whose character references stand for characters. */
function escaped(text) {
  const bare = /[<>"']|&(?!(?:#\d{1,7}|#[Xx][\dA-Fa-f]{1,6}|\w+);)/g;
  return text.replace(bare, (character) => ENTITIES[character]);
}

function make(name, className, attributes = {}) {
  const element = document.createElement(name);
  if (className) element.className = className;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function checkbox(checked) {
  const box = make('input', 'task', { type: 'checkbox', disabled: '' });
  if (checked) box.setAttribute('checked', '');
  box.setAttribute('aria-label', checked ? 'Done' : 'To do');
  return box;
}

function furnishLink(link) {
  const href = link.getAttribute('href') ?? '';
  if (!URL.canParse(href) || !PROTOCOLS.has(new URL(href).protocol)) {
    link.replaceWith(...link.childNodes);
    return;
  }
  link.setAttribute('target', '_blank');
  link.setAttribute('rel', 'noopener noreferrer nofollow');
}

function wrapped(content) {
  const fragment = document.createDocumentFragment();
  fragment.append(content);
  return fragment;
}

/** Make nodes of a highlighter's HTML, which is spans with a class, and text. */
function coloured(html) {
  const root = document.createDocumentFragment();
  let into = root;
  for (const part of html.split(/(<span class="[^"]*">|<\/span>)/)) {
    const [, className] = /^<span class="([^"]*)">$/.exec(part) ?? [];
    if (className !== undefined) {
      const span = make('span', className);
      into.append(span);
      into = span;
    } else if (part === '</span>') {
      into = into.parentNode;
    } else if (part) {
      into.append(part.replace(/&(?:amp|lt|gt|quot|#x27);/g, character));
    }
  }
  return root;
}

/** A short name of a text, so that each block's key does not hold all links. */
function digestOf(text) {
  let digest = 0;
  for (let at = 0; at < text.length; at += 1) digest = (digest * 31 + text.charCodeAt(at)) % 2 ** 45;
  return ` ${text.length}:${digest}`;
}

const character = (entity) => (entity === '&#x27;' ? "'" : CHARACTERS[entity]);
