/** The list of chats: the newest first, what is found by words, renaming and deleting. */

import { confirmed } from './confirm.js';
import { $, h, iconButton, setChildren, setText } from './dom.js';

const PAGE = 40;
const PAUSE = 200;

export class Sidebar {
  #chats = [];
  #next = null;
  #items = new Map();
  #pause;
  #list = $('chats');
  #search = $('search');
  #loading = false;

  /**
   * @param {import('../client.js').ParleyClient} client
   * @param {object} actions
   * @param {(id: string) => void} actions.removed
   * @param {(id: string) => void} actions.renamed
   * @param {(problem: Error) => void} actions.problem
   */
  constructor(client, actions) {
    this.client = client;
    this.actions = actions;
    this.current = null;
    this.more = h('li.chats-more', { 'aria-hidden': 'true' });
    this.empty = h('li.chats-empty', {}, 'No chats yet.');
    this.#search.addEventListener('input', () => this.#typed());
    new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) this.#loadMore();
    }, { root: $('chats-panel') }).observe(this.more);
  }

  /** Load the newest chats again. */
  async refresh() {
    if (this.#search.value.trim()) return;
    const page = await this.#page('');
    if (!page) return;
    const fresh = new Set(page.conversations.map((each) => each.conversation_id));
    const older = page.next ? this.#chats.filter((each) => !fresh.has(each.conversation_id)) : [];
    const isMore = this.#chats.length > PAGE && older.length > 0;
    this.#chats = [...page.conversations, ...(isMore ? older : [])];
    if (!isMore) this.#next = page.next;
    this.draw();
  }

  /** Mark the chat that is open. */
  select(id) {
    this.current = id;
    this.draw();
  }

  async #loadMore() {
    if (!this.#next || this.#loading || this.#search.value.trim()) return;
    this.#loading = true;
    const page = await this.#page(`&before=${encodeURIComponent(this.#next)}`);
    this.#loading = false;
    if (!page) return;
    const there = new Set(this.#chats.map((each) => each.conversation_id));
    this.#chats.push(...page.conversations.filter((each) => !there.has(each.conversation_id)));
    this.#next = page.next;
    this.draw();
  }

  async #page(query) {
    try {
      return await this.client.request('GET', `/conversations?limit=${PAGE}${query}`);
    } catch (problem) {
      if (problem.code !== 'unreachable') this.actions.problem(problem);
      return null; // the connection's state is shown, and the list loaded when it is back
    }
  }

  /** Show the list as it is now. */
  draw() {
    // The field would lose the focus, and half a title be saved.
    if (this.#list.querySelector('.chat-rename')) return;
    if (this.#search.value.trim()) return; // what was found stays until the words are gone
    const items = this.#chats.map((chat) => {
      const id = chat.conversation_id;
      if (!this.#items.has(id)) this.#items.set(id, new Item(id, this));
      const item = this.#items.get(id);
      item.update(chat, id === this.current);
      return item.element;
    });
    const isEmpty = !items.length;
    setChildren(this.#list, [isEmpty && this.empty, ...items, this.#next && this.more]);
  }

  #typed() {
    clearTimeout(this.#pause);
    this.#pause = setTimeout(() => this.#find(this.#search.value.trim()), PAUSE);
  }

  async #find(words) {
    if (!words) {
      setText($('found'), '');
      this.draw();
      await this.refresh();
      return;
    }
    try {
      const path = `/search?limit=50&q=${encodeURIComponent(words)}`;
      const { hits } = await this.client.request('GET', path);
      if (words === this.#search.value.trim()) this.#showHits(hits);
    } catch (problem) {
      this.actions.problem(problem);
    }
  }

  #showHits(hits) {
    const first = new Map();
    for (const hit of hits) {
      if (!first.has(hit.conversation_id)) first.set(hit.conversation_id, hit);
    }
    setText($('found'), first.size ? `${first.size} found` : 'Nothing found');
    this.#list.replaceChildren(...[...first.values()].map((hit) => {
      return h('li.chat-item', {}, h('a.chat-link', { href: `#/${hit.conversation_id}` },
        h('span.chat-title', { dir: 'auto' }, hit.title ?? 'Untitled'),
        h('span.chat-snippet', { dir: 'auto' }, hit.snippet)));
    }));
  }

  /** Give a chat another title. */
  async rename(id, title) {
    await this.client.request('PATCH', `/conversations/${encodeURIComponent(id)}`, { title });
    await this.refresh();
    this.actions.renamed(id);
  }

  /** Delete a chat, when the user confirms it. */
  async remove(id, title) {
    const text = ['“', h('bdi', {}, title), '” and all that was said in it is deleted for good.'];
    if (!(await confirmed('Delete this chat?', text))) return;
    try {
      await this.client.request('DELETE', `/conversations/${encodeURIComponent(id)}`);
    } catch (problem) {
      if (problem.status !== 404) {
        this.actions.problem(problem);
        return;
      }
    }
    const at = this.#chats.findIndex((each) => each.conversation_id === id);
    this.#chats = this.#chats.filter((each) => each.conversation_id !== id);
    this.draw();
    const next = this.#chats[at] ?? this.#chats.at(-1);
    (next ? this.#items.get(next.conversation_id).link : $('chats-panel')).focus();
    this.actions.removed(id);
  }
}

class Item {
  #title = h('span.chat-title', { dir: 'auto' });
  #busy = h('span.chat-busy', { hidden: true, title: 'An answer is on its way' });

  constructor(id, sidebar) {
    this.id = id;
    this.sidebar = sidebar;
    this.link = h('a.chat-link', { href: `#/${id}` }, this.#title, this.#busy);
    this.tools = h('span.chat-tools', {},
      iconButton('pencil', 'Rename', { onclick: () => this.#rename() }),
      iconButton('bin', 'Delete', { onclick: () => sidebar.remove(id, this.title) }));
    this.element = h('li.chat-item', {}, this.link, this.tools);
  }

  update(chat, isCurrent) {
    this.title = chat.title ?? 'New chat';
    setText(this.#title, this.title);
    for (const [button, verb] of [[0, 'Rename'], [1, 'Delete']]) {
      this.tools.children[button].setAttribute('aria-label', `${verb} “${this.title}”`);
    }
    this.#busy.hidden = !chat.active_run_id;
    if (isCurrent) this.link.setAttribute('aria-current', 'page');
    else this.link.removeAttribute('aria-current');
  }

  #rename() {
    const field = h('input.chat-rename', { value: this.title, maxLength: 200, dir: 'auto' });
    field.setAttribute('aria-label', 'Title of the chat');
    let isOver = false;
    const close = async (keep) => {
      if (isOver) return;
      isOver = true;
      const title = field.value.trim();
      this.element.replaceChildren(this.link, this.tools);
      this.sidebar.draw();
      if (!keep || !title || title === this.title) return;
      await this.sidebar.rename(this.id, title).catch(this.sidebar.actions.problem);
    };
    field.addEventListener('keydown', async (event) => {
      if (event.isComposing || (event.key !== 'Enter' && event.key !== 'Escape')) return;
      event.preventDefault();
      event.stopPropagation();
      await close(event.key === 'Enter');
      this.link.focus();
    });
    field.addEventListener('blur', () => close(true));
    this.element.replaceChildren(field);
    field.select();
  }
}
