/**
 * The page: one client, the chats that are open, and what shows them.
 *
 * The address says which chat is shown: `#/<conversation_id>`, or `#/` for a new one. Chats that
 * were opened stay open behind it, so that several answers can be made at a time.
 */

import { ParleyClient } from '../client.js';
import { Agents } from './agents.js';
import { Chat } from './chat.js';
import { setClock } from './clock.js';
import { Composer } from './composer.js';
import { h, icon, setText } from './dom.js';
import { choice, choose, forget, newId, unsent } from './kept.js';
import { loadMarkdown } from './markdown.js';
import { Sidebar } from './sidebar.js';
import { callsOf, isUnderWay } from './thread.js';
import { ThreadView } from './thread-view.js';

const MOST_OPEN = 30;
const REFRESH = 15_000;
const ID = /^(?!\.{1,2}$)[A-Za-z0-9_.:-]{1,128}$/;

const NARROW = matchMedia('(max-width: 52rem)');

const $ = (id) => document.getElementById(id);

class Page {
  #chats = new Map();
  #tabs = 'BroadcastChannel' in globalThis ? new BroadcastChannel('parley') : null;
  #announced = new Map();
  #health = null;

  constructor(markdown) {
    this.client = new ParleyClient(new URL('.', document.baseURI).href);
    this.thread = new ThreadView(
      { scroller: $('scroller'), list: $('thread'), down: $('down') },
      {
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
        cancelCall: (answer, id) => this.chat.cancelCall(answer, id).catch(this.tell),
      },
      markdown,
    );
    this.composer = new Composer(
      {
        form: $('composer'),
        area: $('message'),
        send: $('send'),
        stop: $('stop'),
        note: $('note'),
      },
      {
        send: (text) => this.#send(text),
        stop: () => this.#stop(),
        editLast: () => this.thread.editLast(),
      },
    );
    this.sidebar = new Sidebar(
      { list: $('chats'), search: $('search'), found: $('found'), panel: $('chats-panel') },
      this.client,
      {
        removed: (id) => this.#removed(id),
        renamed: (id) => this.#renamed(id),
        confirm: (title, text) => confirmed(title, text),
        problem: this.tell,
      },
    );
    this.agents = new Agents(
      {
        picker: $('agent'),
        edit: $('agent-edit'),
        add: $('agent-new'),
        dialog: $('agent-dialog'),
      },
      this.client,
      {
        chosen: (name, isChoice) => this.#agentChosen(name, isChoice),
        confirm: (title, text) => confirmed(title, text),
      },
    );
  }

  /** Begin. */
  start() {
    this.agents.name = choice('agent', 'chat');
    this.client.addEventListener('statechange', ({ detail }) => this.#connection(detail));
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
      event.preventDefault(); // at once, and not when the browser has told of another address
      if (location.hash !== '#/') history.pushState(null, '', '#/');
      this.#route();
    });
    $('menu').addEventListener('click', () => this.#openSidebar());
    $('menu-close').addEventListener('click', () => this.#closeSidebar());
    $('veil').addEventListener('click', () => this.#closeSidebar());
    NARROW.addEventListener('change', () => this.#closeSidebar());
    $('skip').addEventListener('click', (event) => {
      event.preventDefault(); // the address is that of a chat
      $('message').focus();
    });
    $('theme').addEventListener('click', () => nextTheme());
    $('try-now').addEventListener('click', () => this.client.reconnect());
    $('banner-close').addEventListener('click', () => {
      choose('banner', 'closed');
      $('banner').hidden = true;
      goOn();
    });
    this.#examples();
    this.#route();
    for (const id of unsent()) this.#chat(id); // which sends it, wherever one is now
    this.client.connect();
    this.#ask();
  }

  /** Say what went wrong, where it concerns nothing that is shown. */
  tell = (problem) => {
    setText($('toast-text'), problem.message);
    $('toast').hidden = false;
    clearTimeout(this.toastTimer);
    this.toastTimer = setTimeout(() => { $('toast').hidden = true; }, 8000);
  };

  /** Ask what the service is and can do. */
  async #ask() {
    if (this.isAsking) return;
    this.isAsking = true;
    try {
      this.#health = await this.client.request('GET', '/health');
      await Promise.all([this.agents.refresh(this.#health), this.sidebar.refresh()]);
      this.#showHealth();
    } catch (problem) {
      this.#health = null; // asked again when the connection is there
      if (problem.code !== 'unreachable') this.tell(problem);
    } finally {
      this.isAsking = false;
    }
  }

  #showHealth() {
    const { service, max_message_chars: limit, time } = this.#health;
    setClock(time);
    setText($('brand'), service);
    this.composer.limit = limit;
    this.#titles();
    this.#agentChosen(this.agents.name);
  }

  #agentChosen(name, isChoice) {
    if (isChoice) choose('agent', name);
    if (!this.#health) return;
    const model = this.agents.agent?.model ?? this.#health.model;
    $('banner').hidden = model !== 'demo' || choice('banner') === 'closed';
    setText($('answering'), model === 'demo' ? 'Demo model' : model);
  }

  // Chats.

  #route() {
    this.#closeSidebar();
    const id = location.hash.replace(/^#\/?/, '');
    if (ID.test(id)) {
      this.#show(this.#chat(id));
    } else {
      if (id) {
        this.tell({ message: 'There is no chat at this address.' });
        history.replaceState(null, '', '#/');
      }
      if (this.chat?.isNew !== true || this.chat.entries.length) this.#show(this.#made());
    }
  }

  #made() {
    const chat = new Chat(this.client, newId('conv'), true);
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
    this.agentOf = null;
    if (chat.isNew) this.agents.show(choice('agent', 'chat'));
    this.#changed(chat, null);
    focusField();
  }

  #changed(chat, entry) {
    if (chat !== this.chat) return;
    this.thread.draw(entry);
    this.composer.isAnswering = chat.underWay !== null;
    this.#progress(chat, entry);
    if (entry !== null) return;
    const isEmpty = chat.isLoaded && !chat.entries.length && !chat.problem;
    $('empty').hidden = !isEmpty;
    $('loading').hidden = chat.isLoaded;
    const isLost = chat.problem && !chat.entries.length;
    $('lost').hidden = !isLost;
    if (isLost) setText($('lost-text'), lostText(chat.problem));
    this.#titles();
    if (this.agentOf !== chat && chat.info?.agent) {
      this.agentOf = chat; // once, then the user's choice holds
      this.agents.show(chat.info.agent);
    }
  }

  #titles() {
    const { chat } = this;
    const name = this.#health?.service ?? 'Parley';
    const title = chat.title ?? (chat.entries.length ? 'New chat' : '');
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
    const back = this.chat.messagesBehind();
    this.chat.stop().catch(this.tell);
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

  #connection({ state, transport, retryAt }) {
    document.body.dataset.connection = state;
    clearInterval(this.countdown);
    if (state !== 'offline' && document.activeElement === $('try-now')) goOn();
    $('try-now').hidden = state !== 'offline';
    this.#tellConnection(state);
    setText($('connection-text'), connectionText(state, transport, retryAt));
    if (state === 'offline' && retryAt) {
      this.countdown = setInterval(() => {
        setText($('connection-text'), connectionText(state, transport, retryAt));
      }, 1000);
    }
    if (state !== 'online') return;
    this.#ask(); // it may be another service now: restarted, with a real model
    if (!this.chat.isNew) this.chat.sync();
  }

  #tellConnection(state) {
    if (state === 'connecting' || this.isCut === (state === 'offline')) return;
    if (state === 'offline') say('The connection is lost.');
    else if (this.isCut) say('The connection is back.');
    this.isCut = state === 'offline';
  }

  // What a screen reader is told: that an answer begins, which tools failed, that it is there.

  #progress(chat, entry) {
    if (entry?.kind !== 'answer') return;
    const told = this.#announced.get(entry) ?? { state: null, failed: 0 };
    const failed = callsOf(entry).filter((call) => call.state === 'failed');
    if (told.state === null && isUnderWay(entry)) say('The answer is on its way.');
    if (failed.length > told.failed) say(`The tool ${failed.at(-1).name} failed.`);
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
    for (const button of document.querySelectorAll('[data-example]')) {
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
    if ($('app').classList.contains('sidebar-open')) this.#closeSidebar();
    else if (this.chat.underWay) this.#stop();
  }

  #openSidebar() {
    $('app').classList.add('sidebar-open');
    $('menu').setAttribute('aria-expanded', 'true');
    $('main').inert = true;
    $('new-chat').focus();
  }

  #closeSidebar() {
    if (!$('main').inert) return;
    $('app').classList.remove('sidebar-open');
    $('menu').setAttribute('aria-expanded', 'false');
    $('main').inert = false;
    $('menu').focus();
  }
}

function connectionText(state, transport, retryAt) {
  const way = transport === 'sse' ? ' (without WebSocket)' : '';
  if (state === 'online') return `Connected${way}`;
  if (state !== 'offline') return 'Connecting…';
  const seconds = retryAt ? Math.ceil((retryAt - Date.now()) / 1000) : 0;
  return seconds > 0 ? `Offline. Trying again in ${seconds} s` : 'Offline. Trying again…';
}

/** Let the user type; not on a phone, where a keyboard would cover what he reads. */
function focusField() {
  if (!matchMedia('(pointer: coarse)').matches) $('message').focus({ preventScroll: true });
}

/** Put the focus where one goes on, when what had it goes away. */
function goOn() {
  $('scroller').focus({ preventScroll: true });
  focusField();
}

function lostText(problem) {
  if (problem.status === 404) return 'This chat is not there. It may have been deleted.';
  if (problem.code !== 'unreachable') return problem.message;
  return 'The service cannot be reached. This chat is shown as soon as it can.';
}

function say(text) {
  setText($('announcer'), text);
}

/** Ask the user; resolves to whether he agrees. */
function confirmed(title, text) {
  const dialog = $('confirm');
  const yes = h('button.primary.danger', { value: 'yes' }, 'Delete');
  dialog.replaceChildren(h('form', { method: 'dialog' },
    h('h2', { id: 'confirm-title' }, title), h('p', {}, ...[text].flat()),
    h('div.dialog-bar', {}, h('span.grow'),
      h('button.plain', { value: 'no', autofocus: true }, 'Cancel'),
      yes)));
  dialog.returnValue = 'no';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', function closed() {
      if (dialog.open) return; // it was asked before, and is told of only now
      dialog.removeEventListener('close', closed);
      resolve(dialog.returnValue === 'yes');
    });
  });
}

const THEMES = { auto: ['half', 'light'], light: ['sun', 'dark'], dark: ['moon', 'auto'] };

function nextTheme() {
  const [, next] = THEMES[theme()];
  choose('theme', next);
  showTheme();
}

/** Return the theme that was chosen. */
function theme() {
  const chosen = choice('theme', 'auto');
  return Object.hasOwn(THEMES, chosen) ? chosen : 'auto';
}

function showTheme() {
  const chosen = theme();
  document.documentElement.dataset.theme = chosen;
  const button = $('theme');
  button.replaceChildren(icon(THEMES[chosen][0]));
  button.setAttribute('aria-label', `Colours: ${chosen}`);
  button.title = `Colours: ${chosen}`;
}

function drawIcons() {
  for (const element of document.querySelectorAll('[data-icon]')) {
    element.prepend(icon(element.dataset.icon));
  }
}

showTheme();
drawIcons();
loadMarkdown().then((markdown) => new Page(markdown).start());
