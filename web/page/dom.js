/** Making elements. Text is always set as text; nothing here parses HTML. */

const SVG = 'http://www.w3.org/2000/svg';

/** Paths on a grid of 24 by 24, drawn with a stroke. */
const ICONS = {
  plus: 'M12 5v14M5 12h14',
  menu: 'M4 7h16M4 12h16M4 17h16',
  send: 'M12 19V5M6 11l6-6 6 6',
  copy: 'M9 9h10v11H9zM5 15V4h10',
  check: 'M5 12.5l4.5 4.5L19 7',
  cross: 'M6 6l12 12M18 6L6 18',
  again: 'M20 12a8 8 0 1 1-2.5-5.8M20 4v4.5h-4.5',
  pencil: 'M4 20l1-4L16 5l3 3L8 19z',
  bin: 'M5 7h14M10 4h4M7 7l1 13h8l1-13',
  search: 'M11 4a7 7 0 1 0 0 14a7 7 0 0 0 0-14M16.2 16.2L20 20',
  chevron: 'M9 6l6 6-6 6',
  down: 'M12 5v14M6 13l6 6 6-6',
  sun: 'M12 8a4 4 0 1 0 0 8a4 4 0 0 0 0-8M12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.4'
    + 'M17.6 17.6L19 19M19 5l-1.4 1.4M6.4 17.6L5 19',
  moon: 'M20 14.5A8 8 0 0 1 9.5 4a8 8 0 1 0 10.5 10.5z',
  half: 'M12 4a8 8 0 1 0 0 16a8 8 0 0 0 0-16M12 4v16M12 8l6-2.5M12 12h8M12 16l6 2.5',
  clock: 'M12 4a8 8 0 1 0 0 16a8 8 0 0 0 0-16M12 8v4.5l3 1.5',
  branch: 'M7 4v16M7 15c8 0 10-2 10-7M14 10.5L17 8l3 2.5',
  warning: 'M12 4l9 16H3zM12 10v4M12 17v.5',
  spark: 'M12 3l1.8 5.4L19 10l-5.2 1.7L12 17l-1.8-5.3L5 10l5.2-1.6z'
    + 'M19 16l.7 2.3L22 19l-2.3.7L19 22l-.7-2.3L16 19l2.3-.7z',
  table: 'M4 5h16v14H4zM4 10h16M10 10v9',
  code: 'M8 7l-5 5l5 5M16 7l5 5l-5 5',
};

/**
 * The element of the page that has an id; all that are asked for are in index.html.
 *
 * @param {string} id
 * @returns {any}
 */
export const $ = (id) => document.getElementById(id);

/** @typedef {HTMLElementTagNameMap} Tags */

/**
 * Make an element.
 *
 * @template {string} T
 * @param {T} tag a tag's name, with classes: `div.card.open`
 * @param {Record<string, any>} [properties] `on…`: a listener; a property of the element; else an
 *   attribute. `undefined`, `null` and `false` are left out.
 * @param {...(Node|string|null|undefined|false)} children what is falsy is left out
 * @returns {T extends `${infer N extends keyof Tags}.${string}` ? Tags[N]
 *   : T extends keyof Tags ? Tags[T] : HTMLElement}
 */
export function h(tag, properties = {}, ...children) {
  const [name, ...classes] = tag.split('.');
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(' ');
  for (const [key, value] of Object.entries(properties)) set(element, key, value);
  element.append(...children.flatMap((child) => child || []));
  return /** @type {any} */ (element);
}

function set(element, key, value) {
  if (value === undefined || value === null || value === false) return;
  if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
  else if (key in element && key !== 'list' && key !== 'form') element[key] = value;
  else element.setAttribute(key, value === true ? '' : value);
}

/** @returns {SVGElement} An icon, which says nothing to a screen reader. */
export function icon(name) {
  const svg = document.createElementNS(SVG, 'svg');
  const path = document.createElementNS(SVG, 'path');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('class', `icon icon-${name}`);
  svg.setAttribute('aria-hidden', 'true');
  path.setAttribute('d', ICONS[name]);
  svg.append(path);
  return svg;
}

/** @returns {HTMLButtonElement} A button that shows an icon and is named by `label`. */
export function iconButton(name, label, properties = {}) {
  const fields = { type: 'button', title: label, ...properties };
  const button = h('button.icon-button', fields, icon(name));
  button.setAttribute('aria-label', label);
  return button;
}

/** Set the children of an element where they are others than those that it has. */
export function setChildren(element, children) {
  let next = element.firstChild;
  for (const node of children) {
    if (!node) continue;
    if (node === next) next = next.nextSibling;
    else element.insertBefore(node, next);
  }
  while (next) {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  }
}

/** Set an element's text where it is another. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Copy a text; over plain HTTP from another machine there is only the old way. */
export async function copyText(text) {
  if (navigator.clipboard) {
    return navigator.clipboard.writeText(text).then(() => true, () => false);
  }
  const focused = /** @type {?HTMLElement} */ (document.activeElement);
  const area = h('textarea.visually-hidden', { value: text });
  document.body.append(area);
  area.select();
  const done = document.execCommand('copy');
  area.remove();
  focused?.focus({ preventScroll: true });
  return done;
}

/** @returns {string} A duration for people: `340 ms`, `1.2 s`, `2 min 5 s`. */
export function durationOf(ms) {
  if (ms < 1) return '< 1 ms';
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`;
  return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}
