/** What is around the conversation: the drawer of chats, the connection, colours, and notices. */

import { $, icon, setText } from './dom.js';
import { choice, choose } from './kept.js';

const NOTICE = 8000; // ms for which a notice is shown

/**
 * The icon of each theme, and the one that follows it.
 *
 * @type {Record<string, [string, string]>}
 */
const THEMES = { auto: ['half', 'light'], light: ['sun', 'dark'], dark: ['moon', 'auto'] };

/** Let the user type; not on a phone, where a keyboard would cover what he reads. */
export function focusField() {
  if (!matchMedia('(pointer: coarse)').matches) $('message').focus({ preventScroll: true });
}

/** Put the focus where one goes on, when what had it goes away. */
export function goOn() {
  $('scroller').focus({ preventScroll: true });
  focusField();
}

/** Tell a screen reader something. */
export function say(text) {
  setText($('announcer'), text);
}

export class Frame {
  #notice;
  #countdown;
  #isCut = false;

  /** @param {import('../client.js').ParleyClient} client */
  constructor(client) {
    const closeDrawer = () => this.closeDrawer();
    $('menu').addEventListener('click', () => this.#openDrawer());
    $('menu-close').addEventListener('click', closeDrawer);
    $('veil').addEventListener('click', closeDrawer);
    matchMedia('(max-width: 52rem)').addEventListener('change', closeDrawer);
    $('skip').addEventListener('click', (event) => {
      event.preventDefault(); // the address is that of a chat
      $('message').focus();
    });
    $('theme').addEventListener('click', () => {
      choose('theme', THEMES[theme()][1]);
      showTheme();
    });
    $('try-now').addEventListener('click', () => client.reconnect());
    $('banner-close').addEventListener('click', () => {
      choose('banner', 'closed');
      $('banner').hidden = true;
      goOn();
    });
  }

  /** Say what went wrong, where it concerns nothing that is shown. */
  tell = (problem) => {
    setText($('toast-text'), problem.message);
    $('toast').hidden = false;
    clearTimeout(this.#notice);
    this.#notice = setTimeout(() => { $('toast').hidden = true; }, NOTICE);
  };

  /** Show which model answers; the demo model has a banner, until it is closed. */
  showModel(model) {
    $('banner').hidden = model !== 'demo' || choice('banner') === 'closed';
    setText($('answering'), model === 'demo' ? 'Demo model' : model);
  }

  /** Show the state of the connection. */
  showConnection(detail) {
    const { state, retryAt } = detail;
    const isOffline = state === 'offline';
    document.body.dataset.connection = state;
    clearInterval(this.#countdown);
    if (!isOffline && document.activeElement === $('try-now')) goOn();
    $('try-now').hidden = !isOffline;
    const show = () => setText($('connection-text'), connectionText(detail));
    show();
    if (isOffline && retryAt) this.#countdown = setInterval(show, 1000);
    if (state === 'connecting' || this.#isCut === isOffline) return;
    this.#isCut = isOffline;
    say(isOffline ? 'The connection is lost.' : 'The connection is back.');
  }

  get isDrawerOpen() {
    return $('app').classList.contains('sidebar-open');
  }

  #openDrawer() {
    this.#setDrawer(true);
    $('new-chat').focus();
  }

  closeDrawer() {
    if (!this.isDrawerOpen) return;
    this.#setDrawer(false);
    $('menu').focus();
  }

  #setDrawer(isOpen) {
    $('app').classList.toggle('sidebar-open', isOpen);
    $('menu').setAttribute('aria-expanded', String(isOpen));
    $('main').inert = isOpen;
  }
}

function connectionText({ state, transport, retryAt }) {
  if (state === 'online') return `Connected${transport === 'sse' ? ' (without WebSocket)' : ''}`;
  if (state !== 'offline') return 'Connecting…';
  const seconds = retryAt ? Math.ceil((retryAt - Date.now()) / 1000) : 0;
  return seconds > 0 ? `Offline. Trying again in ${seconds} s` : 'Offline. Trying again…';
}

/** The theme that was chosen. */
function theme() {
  const chosen = choice('theme', 'auto');
  return Object.hasOwn(THEMES, chosen) ? chosen : 'auto';
}

/** Give the page its colours. */
export function showTheme() {
  const chosen = theme();
  const label = `Colours: ${chosen}`;
  document.documentElement.dataset.theme = chosen;
  $('theme').replaceChildren(icon(THEMES[chosen][0]));
  $('theme').setAttribute('aria-label', label);
  $('theme').title = label;
}
