/** The entries of a conversation as elements: a message of the user, an answer. */

import { CallsView } from './calls.js';
import { copyText, h, icon, iconButton, setChildren, setText } from './dom.js';
import { isUnderWay, textOf } from './thread.js';

/** Parts that go on while their answer does, also when others follow. */
const LIVE = new Set(['calls', 'progress']);

const ENDINGS = {
  cancelled: 'You stopped this answer.',
  length: 'The answer was cut short: it reached the bound on its length.',
  content_filter: 'The provider’s filter ended this answer.',
  max_turns: 'The agent stopped: it reached its bound on turns.',
  max_tool_calls: 'The agent stopped: it reached its bound on tool calls.',
  repeated_tool_calls: 'The agent stopped: it kept making the same calls.',
};

/** Shows a message of the user. `actions`: `edit(entry, text)`, `resend(entry)`, `discard(entry)` */
export class UserView {
  #text = h('div.bubble', { dir: 'auto' });
  #state = h('div.user-state', { hidden: true });

  /** @type {?HTMLFormElement} */
  editor = null;

  constructor(entry, actions) {
    this.entry = entry;
    this.actions = actions;
    this.editButton = iconButton('pencil', 'Edit this message', { onclick: () => this.edit() });
    this.bar = h('div.entry-bar', {}, copyButton(() => entry.text), this.editButton);
    this.element = h('li.entry.user', {},
      h('h2.visually-hidden', {}, 'You'), this.#text, this.#state, this.bar);
  }

  /** Show the message as it is now. */
  update() {
    const { entry } = this;
    setText(this.#text, entry.text);
    this.element.dataset.state = entry.state;
    this.editButton.hidden = entry.state !== 'sent';
    this.#state.hidden = entry.state === 'sent';
    if (entry.state === 'sending') setText(this.#state, 'Sending…');
    if (entry.state === 'refused') this.#refused(entry);
  }

  #refused(entry) {
    this.#state.replaceChildren(
      icon('warning'), h('span', { dir: 'auto' }, `Not sent. ${entry.problem.message}`),
      h('button.link', { type: 'button', onclick: () => this.actions.resend(entry) }, 'Try again'),
      h('button.link', { type: 'button', onclick: () => this.actions.discard(entry) }, 'Take back'),
    );
  }

  /** Let the user edit the message. */
  edit() {
    if (this.editor || this.entry.state !== 'sent') return;
    const { entry } = this;
    const area = h('textarea', { value: entry.draft ?? entry.text, rows: 3, dir: 'auto' });
    area.addEventListener('input', () => {
      entry.draft = area.value; // it stays while another chat is looked at
    });
    area.setAttribute('aria-label', 'Edit your message');
    const save = h('button.primary', { type: 'submit' }, 'Send in a new branch');
    const cancel = h('button.plain', { type: 'button', onclick: () => this.#close() }, 'Cancel');
    const problem = h('p.fault', { hidden: true, role: 'alert' });
    this.editor = h('form.editor', {
      onsubmit: (event) => this.#send(event, area, save, problem),
      onkeydown: (event) => this.#key(event),
    }, area, problem, h('div.editor-bar', {},
      h('span.muted', {}, 'What follows stays in the chat that you leave.'), cancel, save));
    this.#text.hidden = true;
    this.bar.hidden = true;
    this.element.append(this.editor);
    area.style.setProperty('height', `${Math.min(area.scrollHeight + 4, 400)}px`);
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }

  #key(event) {
    if (event.key === 'Escape') {
      event.stopPropagation();
      this.#close();
    } else if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.editor?.requestSubmit();
    }
  }

  async #send(event, area, save, problem) {
    event.preventDefault();
    const text = area.value;
    if (!text.trim()) return;
    save.disabled = true;
    try {
      await this.actions.edit(this.entry, text);
      this.#close();
    } catch (error) {
      setText(problem, error.message);
      problem.hidden = false;
      save.disabled = false;
    }
  }

  #close() {
    this.editor?.remove();
    this.editor = null;
    delete this.entry.draft;
    this.#text.hidden = false;
    this.bar.hidden = false;
    this.editButton.focus();
  }
}

/** Shows an answer. `actions`: `regenerate()`, `cancelCall(answer, id)`. */
export class AnswerView {
  #parts = new Map();
  #who = h('span.who');
  #body = h('div.answer-body');
  #waitText = h('span.thinking-text');
  #wait = h('div.thinking', {}, h('span.dots', { 'aria-hidden': 'true' }), this.#waitText);
  #end = h('div.answer-end', { hidden: true });

  constructor(entry, actions, markdown) {
    this.entry = entry;
    this.actions = actions;
    this.markdown = markdown;
    this.again = iconButton('again', 'Answer again', { onclick: () => actions.regenerate() });
    this.copy = copyButton(() => textOf(this.entry));
    this.bar = h('div.entry-bar', {}, this.copy, this.again);
    this.element = h('li.entry.answer', {},
      h('h2.answer-head', {}, this.#who), this.#body, this.#wait, this.#end, this.bar);
  }

  /** Show the answer as it is now. */
  update({ isLast, waitsFor }) {
    const { entry } = this;
    const isLive = isUnderWay(entry);
    setText(this.#who, entry.agent || 'Assistant');
    this.element.dataset.state = entry.state;
    this.element.setAttribute('aria-busy', String(isLive));
    setChildren(this.#body, entry.parts.map((part) => this.#part(part, isLive)));
    this.#wait.hidden = !isLive || isTelling(entry);
    const waits = waitsFor ? 'Waits for the answer before' : 'Thinking';
    setText(this.#waitText, entry.runId === null ? 'Waits to be sent' : waits);
    this.bar.hidden = isLive;
    this.copy.hidden = !textOf(entry);
    this.again.hidden = !isLast || isLive || entry.state === 'failed'; // which has its own
    this.#ending(entry, isLast);
  }

  /** Move clocks on. */
  tick() {
    for (const { view } of this.#parts.values()) view.tick?.();
  }

  /** Whether a clock is running. */
  get isRunning() {
    return [...this.#parts.values()].some(({ view }) => view.isRunning);
  }

  #part(part, isLive) {
    let found = this.#parts.get(part);
    if (!found) {
      found = { view: this.#made(part), shown: null };
      this.#parts.set(part, found);
    }
    const isOpen = isLive && part === this.entry.parts.at(-1);
    const { text } = part;
    if (text === undefined || found.shown !== `${isOpen}${text}`) {
      found.shown = `${isOpen}${text}`;
      found.view.update(part, LIVE.has(part.kind) ? isLive : isOpen);
    }
    return found.view.element;
  }

  #made(part) {
    switch (part.kind) {
      case 'text':
        return textView(this.markdown);
      case 'reasoning':
        return reasoningView(this.markdown);
      case 'calls':
        return new CallsView((call) => this.actions.cancelCall(this.entry, call.id));
      case 'progress':
        return progressView();
      default:
        return handoffView();
    }
  }

  #ending(entry, isLast) {
    const text = entry.state === 'failed' ? entry.error.message : ENDINGS[entry.finishReason];
    this.#end.hidden = !text;
    this.#end.classList.toggle('fault', entry.state === 'failed');
    if (!text || this.#end.dataset.text === text + isLast) return;
    this.#end.dataset.text = text + isLast;
    const again = h('button.link', { type: 'button', onclick: () => this.actions.regenerate() },
      'Try again');
    this.#end.replaceChildren(...[
      entry.state === 'failed' && icon('warning'), h('span', { dir: 'auto' }, text),
      isLast && entry.state === 'failed' && again,
    ].filter(Boolean));
  }
}

/** Whether an answer shows by itself that it goes on. */
function isTelling(entry) {
  const last = entry.parts.at(-1);
  const stage = entry.parts.find((part) => part.kind === 'progress')?.stages.at(-1);
  if (stage && stage.done < stage.total) return true;
  if (last?.kind === 'calls') return last.calls.some((call) => call.state === 'running');
  return last?.kind === 'text' || last?.kind === 'reasoning';
}

function textView(markdown) {
  const element = h('div.markdown');
  return {
    element,
    update(part, isOpen) {
      element.classList.toggle('streaming', isOpen);
      markdown.render(element, part.text, { streaming: isOpen });
    },
  };
}

function reasoningView(markdown) {
  const text = h('div.markdown');
  const summary = h('summary', {}, icon('chevron'), h('span', {}, 'Reasoning'));
  const element = h('details.reasoning', {}, summary, text);
  return {
    element,
    update(part, isOpen) {
      element.classList.toggle('streaming', isOpen);
      setText(summary.lastChild, isOpen ? 'Reasoning…' : 'Reasoning');
      markdown.render(text, part.text, { streaming: isOpen });
    },
  };
}

function handoffView() {
  const element = h('p.handoff');
  return {
    element,
    update: (part) => element.replaceChildren(icon('branch'),
      h('span', {}, `${part.from} handed over to ${part.agent}`)),
  };
}

function progressView() {
  const element = h('ol.stages');
  return {
    element,
    update(part, isLive) {
      const last = part.stages.at(-1);
      element.replaceChildren(...part.stages.map((stage) => {
        const isRunning = isLive && stage === last && stage.done < stage.total;
        const mark = icon(stage.done < stage.total ? 'cross' : 'check');
        return h('li.stage', {}, isRunning ? h('span.spinner') : mark,
          h('b', {}, stage.stage), h('span.grow', { dir: 'auto' }, stage.message),
          stage.total > 1 && h('span.muted', {}, `${stage.done} of ${stage.total}`));
      }));
    },
  };
}

/** Return a button that copies a text. */
function copyButton(text) {
  const button = iconButton('copy', 'Copy', {
    async onclick() {
      const done = await copyText(text());
      button.replaceChildren(icon(done ? 'check' : 'cross'));
      setTimeout(() => button.replaceChildren(icon('copy')), 1500);
    },
  });
  return button;
}
