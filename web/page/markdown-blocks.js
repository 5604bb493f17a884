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
 * @typedef {{key: string, start: number, link?: any, build: () => Node, token?: any, at: number,
 *   count: number}} Block `key`: what it is made of; `start`: where its source begins; `link`: the
 *   link that it defines; `at`, `count`: where its nodes are, once it is shown.
 */

import { CodeBlocks } from './code-blocks.js';
import { h } from './dom.js';
import { asTable, heal, isOpenFence, withoutUnclear } from './healing.js';
import { rendererFor } from './markdown-html.js';

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

/** Markdown where marked and DOMPurify are there. */
export class RichText {
  #lib;
  #purify;
  #codes;
  #marked;
  #places;

  constructor(lib, purify, highlighter) {
    this.#lib = lib;
    this.#purify = purify;
    this.#codes = new CodeBlocks(highlighter);
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
    if (streaming && last && !this.#completeTable(last, lexer)) this.#complete(last, source, lexer);
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

  /** Make the last block a table, where it begins like one. */
  #completeTable(block, lexer) {
    const { token } = block;
    const table = token.type === 'paragraph' ? asTable(token.raw.trimEnd()) : null;
    if (table === null) return false;
    const { tokens } = this.#lex(table, lexer.tokens.links);
    block.token = { type: 'blocks', raw: table, tokens };
    block.key = `table ${table}`;
    return true;
  }

  /** Make the last block such that it looks like what it probably becomes. */
  #complete(block, source, lexer) {
    const { token } = block;
    const leaf = lastLeaf(token);
    if (leaf?.type === 'code') {
      leaf.open = leaf.codeBlockStyle !== 'indented' && isOpenFence(leaf.raw);
      if (leaf.open) block.key = `open ${block.key}`;
    } else if (leaf?.tokens && !isOver(leaf, source)) {
      this.#heal(block, leaf, lexer);
    }
  }

  #heal(block, leaf, lexer) {
    const [first] = leaf.tokens;
    const box = first?.type === 'checkbox' ? [first] : [];
    const text = box.length ? leaf.text.replace(first.raw, '') : leaf.text;
    const healed = heal(text);
    if (healed === text) return;
    leaf.tokens = [...box, ...lexer.inlineTokens(healed, [])];
    block.key = `healed ${block.key} ${healed}`;
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
      const region = h('div.table', { role: 'region', tabindex: '0', 'aria-label': 'Table' });
      table.replaceWith(region);
      region.append(table);
    });
    fragment.querySelectorAll('pre').forEach((place, index) => {
      place.replaceWith(codes[index] ? this.#codes.build(codes[index]) : '');
    });
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
  return h('p.plain', { dir: 'auto' }, text.trim());
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

function checkbox(checked) {
  const label = checked ? 'Done' : 'To do';
  const state = { type: 'checkbox', disabled: true, defaultChecked: checked };
  return h('input.task', { ...state, 'aria-label': label });
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

/** A short name of a text, so that each block's key does not hold all links. */
function digestOf(text) {
  let digest = 0;
  for (let at = 0; at < text.length; at += 1) digest = (digest * 31 + text.charCodeAt(at)) % 2 ** 45;
  return ` ${text.length}:${digest}`;
}
