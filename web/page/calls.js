/**
 * The calls of one turn: a card each, with a timeline that shows which ran side by side.
 *
 * While a call runs its clock and its bar go on; one timer serves all groups.
 */

import { now } from './clock.js';
import { durationOf, h, icon, iconButton, setChildren, setText } from './dom.js';

const STATES = {
  queued: { icon: 'clock', text: 'waiting' },
  running: { icon: null, text: 'running' },
  done: { icon: 'check', text: 'done' },
  failed: { icon: 'cross', text: 'failed' },
};

const FAULTS = {
  cancelled: 'cancelled',
  timeout: 'timed out',
  invalid_arguments: 'bad arguments',
  unknown_tool: 'unknown tool',
  interrupted: 'interrupted',
  limit: 'not run',
};

const SHOWN_CHARS = 20_000;

/** Shows one group of calls. */
export class CallsView {
  #cards = new Map();
  #head = h('div.calls-head');
  #list = h('ul.calls-list');

  /** @param {(call: import('./thread.js').Call) => void} cancel ends one call */
  constructor(cancel) {
    this.cancel = cancel;
    this.element = h('div.calls', {}, this.#head, this.#list);
  }

  /** Show the calls as they are now; `isLive`: their run is under way. */
  update(part, isLive) {
    this.part = part;
    const { calls } = part;
    for (const call of calls) {
      if (!this.#cards.has(call.id)) this.#cards.set(call.id, new Card(() => this.cancel(call)));
    }
    setText(this.#head, headOf(calls));
    setChildren(this.#list, calls.map((call) => this.#cards.get(call.id).element));
    this.isRunning = isLive && calls.some((call) => call.state === 'running');
    for (const call of calls) this.#cards.get(call.id).update(call, isLive);
    this.tick();
  }

  /** Move clocks and bars on to the present time. */
  tick() {
    const span = spanOf(this.part.calls);
    // A call that came since the last frame has no card yet.
    for (const call of this.part.calls) this.#cards.get(call.id)?.tick(call, span);
  }
}

function headOf(calls) {
  const done = calls.filter((call) => call.state === 'done').length;
  const failed = calls.filter((call) => call.state === 'failed').length;
  const open = calls.length - done - failed;
  const noun = calls.length === 1 ? 'tool call' : 'tool calls';
  const rest = [open && `${open} under way`, failed && `${failed} failed`].filter(Boolean);
  return [`${calls.length} ${noun}`, ...rest].join(' · ');
}

/** Return when the first of some calls began and the last one ended, in ms. */
function spanOf(calls) {
  const begun = calls.filter((call) => call.startedAt !== null);
  if (!begun.length) return null;
  const from = Math.min(...begun.map((call) => call.startedAt));
  const to = Math.max(...begun.map((call) => call.startedAt + tookSoFar(call)));
  return { from, length: Math.max(to - from, 1) };
}

function tookSoFar(call) {
  return call.durationMs ?? Math.max(0, now() - call.startedAt);
}

class Card {
  #mark = h('span.call-mark');
  #name = h('span.call-name', { dir: 'auto' });
  #brief = h('span.call-brief', { dir: 'auto' });
  #time = h('span.call-time');
  #bar = h('span.call-bar');
  #note = h('div.call-note', { hidden: true, dir: 'auto' });
  #progress = h('progress.call-progress', { hidden: true });
  #body = h('div.call-body');
  #shown = '';

  constructor(cancel) {
    this.cancelButton = iconButton('cross', 'Cancel this call', { onclick: cancel });
    this.cancelButton.classList.add('call-cancel');
    this.summary = h('summary.call-head', {},
      this.#mark, this.#name, this.#brief,
      h('span.call-track', { 'aria-hidden': 'true' }, this.#bar), this.#time, icon('chevron'));
    this.details = h('details.call', {}, this.summary, this.#body);
    this.details.addEventListener('toggle', () => this.#fill());
    this.element = h('li.call-item', {},
      this.details, this.cancelButton, this.#progress, this.#note);
  }

  update(call, isLive) {
    this.call = call;
    const isOpen = call.state === 'queued' || call.state === 'running';
    const state = isOpen && !isLive ? 'failed' : call.state;
    this.element.dataset.state = state;
    this.element.dataset.tool = call.name;
    setText(this.#name, call.name);
    setText(this.#brief, briefOf(call.arguments));
    if (this.#mark.dataset.state !== state) {
      this.#mark.dataset.state = state;
      const name = STATES[state].icon;
      this.#mark.replaceChildren(name ? icon(name) : h('span.spinner'),
        h('span.visually-hidden', {}, `${STATES[state].text}: `));
    }
    const canEnd = isOpen && isLive;
    if (!canEnd && document.activeElement === this.cancelButton) this.summary.focus();
    this.cancelButton.hidden = !canEnd;
    this.cancelButton.setAttribute('aria-label', `Cancel ${call.name} ${briefOf(call.arguments)}`);
    this.#say(call, isOpen && isLive);
    this.#fill();
  }

  /** Show why a call failed, or how far it is, without unfolding it. */
  #say(call, isOpen) {
    const { progress } = call;
    const text = call.state === 'failed' ? call.error : isOpen && progress?.message;
    this.#note.hidden = !text;
    this.#note.classList.toggle('fault', call.state === 'failed');
    setText(this.#note, text || '');
    this.#progress.hidden = !(isOpen && progress);
    if (!isOpen || !progress) return;
    this.#progress.setAttribute('aria-label', `Progress of ${call.name}`);
    if (progress.total === null) this.#progress.removeAttribute('value');
    else Object.assign(this.#progress, { max: progress.total, value: progress.progress });
  }

  /** Write what is folded, once it is unfolded. */
  #fill() {
    if (!this.details.open) return;
    const { call } = this;
    const shown = JSON.stringify([call.arguments, call.result, call.error, call.truncated]);
    if (shown === this.#shown) return;
    this.#shown = shown;
    const parts = [block('Arguments', call.arguments)];
    if (call.state === 'done') {
      parts.push(block(call.truncated ? 'Result, cut short' : 'Result', call.result));
    } else if (call.error) {
      parts.push(block('Error', call.error));
    }
    this.#body.replaceChildren(...parts);
  }

  tick(call, span) {
    setText(this.#time, timeOf(call));
    const isPlaced = span !== null && call.startedAt !== null;
    this.#bar.hidden = !isPlaced;
    if (!isPlaced) return;
    const left = (100 * (call.startedAt - span.from)) / span.length;
    const width = Math.max((100 * tookSoFar(call)) / span.length, 2);
    this.#bar.style.setProperty('--left', `${Math.min(left, 98)}%`);
    this.#bar.style.setProperty('--width', `${Math.min(width, 100)}%`);
  }
}

function timeOf(call) {
  if (call.state === 'queued') return 'waiting';
  if (call.state === 'failed' && FAULTS[call.code]) return FAULTS[call.code];
  if (call.startedAt === null) return '';
  return durationOf(tookSoFar(call));
}

function briefOf(value) {
  if (value === null || typeof value !== 'object') return String(value ?? '').slice(0, 200);
  const parts = Object.values(value).map((each) => {
    return typeof each === 'string' ? each : JSON.stringify(each);
  });
  return parts.join(', ').slice(0, 200);
}

function block(title, value) {
  const text = typeof value === 'string' ? value : JSON.stringify(value, null, 2) ?? '';
  const cut = text.length > SHOWN_CHARS;
  const shown = cut ? `${text.slice(0, SHOWN_CHARS)}\n…` : text;
  return h('div.call-block', {},
    h('div.call-title', {}, title),
    h('pre', { dir: 'auto', tabIndex: 0, role: 'region', ariaLabel: title }, shown));
}
