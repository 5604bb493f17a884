/**
 * The page: one client, the chats that are open, and what shows them.
 *
 * The address says which chat is shown: `#/<conversation_id>`, or `#/` for a new one. Chats that
 * were opened stay open, so that several answers can be made at a time.
 */

import { ParleyClient } from '../client.js';
import { randomId } from '../client/lane.js';
import { Agents } from './agents.js';
import { Chat } from './chat.js';
import { setClock } from './clock.js';
import { Composer } from './composer.js';
import { $, icon, setText } from './dom.js';
import { Frame, focusField, goOn, say, showTheme } from './frame.js';
import { choice, choose, forget, unsent } from './kept.js';
import { loadMarkdown } from './markdown.js';
import { Sidebar } from './sidebar.js';
import { callsOf, isUnderWay } from './thread.js';
import { ThreadView } from './thread-view.js';

const MOST_OPEN = 30;
const REFRESH = 15_000;
const ID = /^(?!\.{1,2}$)[A-Za-z0-9_.:-]{1,128}$/;

class Page {
  /** @type {Map<string, Chat>} */
  #chats = new Map();
  #tabs = 'BroadcastChannel' in globalThis ? new BroadcastChannel('parley') : null;
  #announced = new Map();
  /** @type {any} what `GET /health` says. */
  #health = null;
  #isAsking = false;
  /** @type {?Chat} whose agent was chosen last, by itself. */
  #agentOf = null;
  /** @type {any} the chat that is shown. */
  chat = null;

  /** @param {import('./markdown.js').Markdown} markdown */
  constructor(markdown) {
    this.client = new ParleyClient(new URL('.', document.baseURI).href);
    this.frame = new Frame(this.client);
    this.thread = new ThreadView(this.#threadActions(), markdown);
    this.composer = new Composer({
      send: (text) => this.#send(text),
      stop: () => this.#stop(),
      editLast: () => this.thread.editLast(),
    });
    this.sidebar = new Sidebar(this.client, {
      removed: (id) => this.#removed(id),
      renamed: (id) => this.#renamed(id),
      problem: this.frame.tell,
    });
    this.agents = new Agents(this.client, (name, isChoice) => this.#agentChosen(name, isChoice));
  }

  #threadActions() {
    return {
      edit: (entry, text) => this.#edit(entry, text),
      resend: (entry) => {
        this.chat.resend(entry, this.agents.name);
        goOn();
      },
      discard: (entry) => this.#takeBack(entry),
      regenerate: () => {
        this.chat.regenerate(this.agents.name);
        goOn();
      },
      cancelCall: (answer, id) => this.chat.cancelCall(answer, id).catch(this.frame.tell),
    };
  }

  /** Begin. */
  start() {
    this.agents.name = choice('agent', 'chat');
    this.client.addEventListener('statechange', (event) => {
      this.#connection(/** @type {CustomEvent} */ (event).detail);
    });
    this.#tabs?.addEventListener('message', ({ data }) => this.#heard(data));
    addEventListener('hashchange', () => this.#route());
    document.addEventListener('keydown', (event) => this.#key(event));
    addEventListener('focus', () => this.#refresh());
    document.addEventListener('visibilitychange', () => {
      if (document.visibilityState === 'visible') this.#refresh();
    });
    setInterval(() => document.visibilityState === 'visible' && this.#refresh(), REFRESH);
    $('new-chat').addEventListener('click', (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return; // another tab or window
      event.preventDefault(); // at once, and not when the browser says that the address is another
      if (location.hash !== '#/') history.pushState(null, '', '#/');
      this.#route();
    });
    this.#examples();
    this.#route();
    for (const id of unsent()) this.#chat(id); // which sends it, wherever one is now
    this.client.connect();
    this.#ask();
  }

  /** Ask what the service is and can do. */
  async #ask() {
    if (this.#isAsking) return;
    this.#isAsking = true;
    try {
      this.#health = await this.client.request('GET', '/health');
      await Promise.all([this.agents.refresh(this.#health), this.sidebar.refresh()]);
      this.#showHealth();
    } catch (problem) {
      this.#health = null; // asked again when the connection is there
      if (problem.code !== 'unreachable') this.frame.tell(problem);
    } finally {
      this.#isAsking = false;
    }
  }

  #showHealth() {
    const { service, max_message_chars: limit, time } = this.#health;
    setClock(time);
    setText($('brand'), service);
    this.composer.limit = limit;
    this.#titles();
    this.#agentChosen(this.agents.name, false);
  }

  #agentChosen(name, isChoice) {
    if (isChoice) choose('agent', name);
    if (this.#health) this.frame.showModel(this.agents.agent?.model ?? this.#health.model);
  }

  // Chats.

  #route() {
    this.frame.closeDrawer();
    const id = location.hash.replace(/^#\/?/, '');
    if (ID.test(id)) {
      this.#show(this.#chat(id));
    } else {
      if (id) {
        this.frame.tell({ message: 'There is no chat at this address.' });
        history.replaceState(null, '', '#/');
      }
      if (this.chat?.isNew !== true || this.chat.entries.length) this.#show(this.#made());
    }
  }

  #made() {
    const chat = new Chat(this.client, randomId('conv'), true);
    this.#keep(chat);
    return chat;
  }

  #chat(id) {
    let chat = this.#chats.get(id);
    if (!chat) {
      chat = new Chat(this.client, id);
      this.#keep(chat);
      chat.open();
    } else if (!chat.isNew) {
      chat.sync();
    }
    return chat;
  }

  #keep(chat) {
    chat.addEventListener('change', ({ detail }) => this.#changed(chat, detail));
    chat.addEventListener('started', () => {
      this.#tabs?.postMessage({ changed: chat.id });
      this.sidebar.refresh();
    });
    chat.addEventListener('ended', ({ detail }) => {
      this.#tabs?.postMessage({ changed: chat.id });
      this.sidebar.refresh();
      this.#announce(chat, detail);
    });
    this.#chats.set(chat.id, chat);
    for (const [id, each] of this.#chats) {
      if (this.#chats.size <= MOST_OPEN) break;
      if (each === chat || each === this.chat || each.underWay) continue;
      each.close();
      this.#chats.delete(id);
    }
  }

  #show(chat) {
    this.chat = chat;
    this.thread.show(chat);
    this.composer.show(chat.isNew ? 'new' : chat.id);
    this.sidebar.select(chat.id);
    this.#agentOf = null;
    if (chat.isNew) this.agents.select(choice('agent', 'chat'), false);
    this.#changed(chat, null);
    focusField();
  }

  #changed(chat, entry) {
    if (chat !== this.chat) return;
    this.thread.draw(entry);
    this.composer.isAnswering = chat.underWay !== null;
    this.#progress(entry);
    if (entry !== null) return;
    const isEmpty = chat.isLoaded && !chat.entries.length && !chat.problem;
    $('empty').hidden = !isEmpty;
    $('loading').hidden = chat.isLoaded;
    const isLost = chat.problem && !chat.entries.length;
    $('lost').hidden = !isLost;
    if (isLost) setText($('lost-text'), lostText(chat.problem));
    this.#titles();
    if (this.#agentOf !== chat && chat.info?.agent) {
      this.#agentOf = chat; // once, then the user's choice holds
      this.agents.select(chat.info.agent, false);
    }
  }

  #titles() {
    const { chat } = this;
    const name = this.#health?.service ?? 'Parley';
    const title = chat.info?.title ?? (chat.entries.length ? 'New chat' : '');
    setText($('title'), title || 'New chat');
    document.title = title ? `${title} · ${name}` : name;
    const origin = chat.info?.branched_from;
    $('origin').hidden = !origin;
    if (origin) $('origin').href = `#/${origin.conversation_id}`;
  }

  #send(text) {
    const { chat } = this;
    chat.send(text, this.agents.name);
    if (location.hash !== `#/${chat.id}`) history.pushState(null, '', `#/${chat.id}`);
    this.composer.show(chat.id);
    this.sidebar.select(chat.id);
  }

  async #edit(entry, text) {
    const branch = await this.chat.edit(entry, text, this.agents.name);
    location.hash = `#/${branch}`;
  }

  #takeBack(entry) {
    this.chat.discard(entry);
    this.composer.put(entry.text);
  }

  #stop() {
    const back = this.chat.waitingMessages();
    this.chat.stop().catch(this.frame.tell);
    if (back.length) this.composer.put([...back, $('message').value].join('\n\n').trim());
    else goOn();
  }

  #renamed(id) {
    this.#chats.get(id)?.sync();
    this.#tabs?.postMessage({ changed: id });
  }

  #removed(id) {
    forget(id);
    this.#tabs?.postMessage({ removed: id });
    this.#leave(id);
  }

  #leave(id) {
    this.#chats.get(id)?.close();
    this.#chats.delete(id);
    if (this.chat.id === id) location.hash = '#/';
  }

  // What others do.

  #heard(data) {
    const { changed, removed } = data ?? {};
    if (typeof changed === 'string') this.#chats.get(changed)?.sync();
    if (typeof removed === 'string') this.#leave(removed);
    this.sidebar.refresh();
  }

  #refresh() {
    if (this.client.state !== 'online') return;
    this.sidebar.refresh();
    if (!this.chat.isNew && !this.chat.underWay) this.chat.sync();
  }

  #connection(detail) {
    this.frame.showConnection(detail);
    if (detail.state !== 'online') return;
    this.#ask(); // it may be another service now: restarted, with a real model
    if (!this.chat.isNew) this.chat.sync();
  }

  // What a screen reader says: that an answer begins, which tools failed, that it is there.

  #progress(entry) {
    if (entry?.kind !== 'answer') return;
    const known = this.#announced.get(entry) ?? { state: null, failed: 0 };
    const failed = callsOf(entry).filter((call) => call.state === 'failed');
    if (known.state === null && isUnderWay(entry)) say('The answer is on its way.');
    if (failed.length > known.failed) say(`The tool ${failed.at(-1)?.name} failed.`);
    this.#announced.set(entry, { state: entry.state, failed: failed.length });
  }

  #announce(chat, answer) {
    this.#announced.delete(answer);
    if (chat !== this.chat) return;
    if (answer.state === 'failed') say(`The answer failed. ${answer.error.message}`);
    else say(answer.finishReason === 'cancelled' ? 'Stopped.' : 'The answer is complete.');
  }

  // The rest.

  #examples() {
    for (const button of document.querySelectorAll(/** @type {'button'} */ ('[data-example]'))) {
      button.addEventListener('click', () => {
        this.#send(button.dataset.example);
        focusField();
      });
    }
  }

  #key(event) {
    const isOurs = event.key === 'Escape' && !event.defaultPrevented && !event.isComposing;
    const isToClear = event.target === $('search') && $('search').value;
    if (!isOurs || isToClear || document.querySelector('dialog[open]')) return;
    if (this.frame.isDrawerOpen) this.frame.closeDrawer();
    else if (this.chat.underWay) this.#stop();
  }
}

function lostText(problem) {
  if (problem.status === 404) return 'This chat is not there. It may have been deleted.';
  if (problem.code !== 'unreachable') return problem.message;
  return 'The service cannot be reached. This chat is shown as soon as it can.';
}

function drawIcons() {
  for (const element of document.querySelectorAll(/** @type {'button'} */ ('[data-icon]'))) {
    element.prepend(icon(element.dataset.icon));
  }
}

showTheme();
drawIcons();
loadMarkdown().then((markdown) => new Page(markdown).start());
