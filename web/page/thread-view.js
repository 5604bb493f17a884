/**
 * The entries of the open conversation, and where one stands in it.
 *
 * - It is drawn once a frame at most, and only what changed.
 * - While the end is in sight it stays in sight; who scrolled up is left where he is.
 * - What was said before is loaded when the beginning comes into sight, and nothing moves then.
 */

import { AnswerView, UserView } from './entries.js';
import { $, h, setChildren } from './dom.js';
import { isUnderWay } from './thread.js';

const NEAR = 96;
const TICK = 100;
const TAIL = 20;

export class ThreadView {
  #views = new Map();
  #dirty = new Set();
  /** @type {?number} */
  #frame = null;
  #follows = true;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #timer;
  #scroller = $('scroller');
  #list = $('thread');
  #down = $('down');
  #top = h('li.thread-top', { 'aria-hidden': 'true' });

  /**
   * @param {Record<string, any>} actions see `entries.js`
   * @param {import('./markdown.js').Markdown} markdown
   */
  constructor(actions, markdown) {
    this.actions = actions;
    this.markdown = markdown;
    /** @type {any} */
    this.chat = null;
    const scroller = this.#scroller;
    scroller.addEventListener('scroll', () => this.#scrolled(), { passive: true });
    this.#down.addEventListener('click', () => {
      this.toEnd();
      scroller.focus({ preventScroll: true }); // the button goes
    });
    this.#list.addEventListener('click', ({ target }) => {
      if (target.closest('summary')) this.#follows = false; // what is unfolded stays where it is
    });
    new ResizeObserver(() => this.#keepEnd()).observe(this.#list);
    new ResizeObserver(() => this.#keepEnd()).observe(scroller);
    const seen = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) this.#older();
    }, { root: scroller, rootMargin: '1500px 0px 0px 0px' });
    seen.observe(this.#top);
  }

  /** Show another conversation. */
  show(chat) {
    this.chat = chat;
    this.#views.clear();
    this.#follows = true;
    this.#list.replaceChildren();
    this.#scroller.scrollTop = 0;
    this.draw(null);
  }

  /** Draw an entry again, or the list (null), with the next frame. */
  draw(entry) {
    this.#dirty.add(entry);
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = null;
      this.#draw();
    });
    // A page that is not seen has no frames; it is then drawn when it is.
  }

  /** Go to the end and stay there. */
  toEnd() {
    this.#follows = true;
    this.chat.trim();
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#down.hidden = true;
  }

  /** Let the user edit the last message. */
  editLast() {
    const entry = this.chat.entries.findLast((each) => {
      return each.kind === 'user' && each.state === 'sent';
    });
    if (entry) this.#views.get(entry)?.edit();
  }

  #draw() {
    const { entries, hasMore } = this.chat;
    const all = this.#dirty.has(null);
    const fresh = entries.filter((each) => !this.#views.has(each));
    // What else is drawn depends on where in the list it stands.
    const around = all ? [...entries.slice(-TAIL), ...fresh] : [];
    const changed = new Set([...around, ...entries.filter((each) => this.#dirty.has(each))]);
    this.#dirty.clear();
    if (all) this.#forget(entries);
    const first = entries.find((each) => each.kind === 'answer' && isUnderWay(each));
    for (const entry of changed) this.#update(entry, first, entries.at(-1));
    if (all) {
      setChildren(this.#list, [
        hasMore && this.#top, ...entries.map((each) => this.#views.get(each).element),
      ]);
    }
    if (fresh.some((each) => each.kind === 'user' && each.state === 'sending')) this.toEnd();
    this.#keepEnd();
    this.#run();
  }

  #update(entry, first, last) {
    let view = this.#views.get(entry);
    if (!view) {
      view = entry.kind === 'user'
        ? new UserView(entry, this.actions)
        : new AnswerView(entry, this.actions, this.markdown);
      this.#views.set(entry, view);
    }
    view.update({ isLast: entry === last, waitsFor: first !== undefined && first !== entry });
  }

  #forget(entries) {
    const there = new Set(entries);
    for (const entry of this.#views.keys()) if (!there.has(entry)) this.#views.delete(entry);
  }

  #keepEnd() {
    if (this.#isEmpty) this.#down.hidden = true;
    else if (this.#follows) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    else this.#down.hidden = this.#isAtEnd;
  }

  #scrolled() {
    this.#follows = this.#isAtEnd;
    this.#down.hidden = this.#follows || this.#isEmpty;
  }

  /** Whether examples are shown, which are read from their beginning. */
  get #isEmpty() {
    return !this.chat?.entries.length;
  }

  get #isAtEnd() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    return scrollHeight - scrollTop - clientHeight < NEAR;
  }

  async #older() {
    const { chat } = this;
    const scroller = this.#scroller;
    if (!chat?.hasMore) return;
    await chat.older();
    if (chat !== this.chat) return;
    const below = scroller.scrollHeight - scroller.scrollTop; // one may have scrolled on meanwhile
    this.#draw();
    if (!this.#follows) scroller.scrollTop = scroller.scrollHeight - below;
  }

  /** Let clocks run while there are any. */
  #run() {
    const isRunning = [...this.#views.values()].some((view) => view.isRunning);
    if (!isRunning) {
      clearInterval(this.#timer);
      this.#timer = undefined;
    } else {
      this.#timer ??= setInterval(() => {
        for (const view of this.#views.values()) if (view.isRunning) view.tick();
      }, TICK);
    }
  }
}
