/** The HTML of Markdown's tokens, in which all that is text is escaped. It is sanitized after. */

const ENTITIES = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };

/**
 * A renderer for marked.
 *
 * @param {{codes: object[], tasks: boolean[]}} places takes what stands where an empty `pre` or an
 *   empty `i` is put, in their order.
 */
export function rendererFor(places) {
  return { ...BLOCKS, ...INLINE, ...links(), ...replaced(places) };
}

const inside = (renderer, tokens) => renderer.parser.parseInline(tokens);

/** Methods of marked's renderer, which is their `this`. */
const BLOCKS = {
  space: () => '',
  def: () => '',
  hr: () => '<hr>',
  html({ text, block }) {
    if (/^<br ?\/?>$/i.test(text)) return '<br>';
    const shown = wholly(text.trimEnd()).replaceAll('\n', block ? '<br>' : '\n');
    return block ? `<p>${shown}</p>` : shown;
  },
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
};

const INLINE = {
  br: () => '<br>',
  text(token) {
    return token.tokens?.length ? inside(this, token.tokens) : escaped(token.text);
  },
  codespan: ({ text }) => `<code>${wholly(text)}</code>`,
  strong({ tokens }) {
    return `<strong>${inside(this, tokens)}</strong>`;
  },
  em({ tokens }) {
    return `<em>${inside(this, tokens)}</em>`;
  },
  del({ tokens }) {
    return `<del>${inside(this, tokens)}</del>`;
  },
};

/** A link in a link is its text. */
function links() {
  let depth = 0;
  return {
    link({ href, title, text, tokens, autolink }) {
      depth += 1;
      const content = autolink ? wholly(text) : inside(this, tokens);
      depth -= 1;
      return depth ? content : anchor(href, title, content);
    },
    image({ href, title, text }) {
      const content = escaped(text.trim() || 'image');
      return depth ? content : anchor(href, title, content);
    },
  };
}

function replaced({ codes, tasks }) {
  return {
    code({ text, lang, open }) {
      const [language] = /^[^\s{,]*/.exec(lang ?? '') ?? [''];
      codes.push({ text: text.replace(/\n$/, ''), language: language.slice(0, 30), open });
      return '<pre></pre>';
    },
    checkbox({ checked }) {
      tasks.push(checked);
      return '<i></i>';
    },
  };
}

function anchor(href, title, content) {
  const named = title ? ` title="${escaped(title)}"` : '';
  return `<a href="${escaped(href)}"${named}>${content}</a>`;
}

function wholly(text) {
  return text.replace(/[&<>"']/g, (character) => ENTITIES[character]);
}

/** Escape a text whose character references stand for characters. */
function escaped(text) {
  const bare = /[<>"']|&(?!(?:#\d{1,7}|#[Xx][\dA-Fa-f]{1,6}|\w+);)/g;
  return text.replace(bare, (character) => ENTITIES[character]);
}
