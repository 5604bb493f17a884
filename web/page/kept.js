/**
 * What the browser keeps: what was typed and not sent, what was sent and not acknowledged, and how
 * the page looks. Where it keeps nothing (private windows, a full disk) the page works without.
 */

const PREFIX = 'parley.';
const FIELDS = ['key', 'chatId', 'text', 'agent'];

/** Each tab has a new chat of its own; all else is the same in all tabs. */
const keeper = (name) => (name === 'draft.new' ? sessionStorage : localStorage);

function read(name, otherwise) {
  try {
    return JSON.parse(keeper(name).getItem(PREFIX + name) ?? 'null') ?? otherwise;
  } catch {
    return otherwise; // not allowed, or written by something else
  }
}

function readText(name, otherwise) {
  const value = read(name, otherwise);
  return typeof value === 'string' ? value : otherwise;
}

function readOutbox() {
  const all = read('outbox', []);
  const isMessage = (each) => FIELDS.every((name) => typeof each?.[name] === 'string');
  return Array.isArray(all) ? all.filter(isMessage) : [];
}

function write(name, value) {
  try {
    if (value === null) keeper(name).removeItem(PREFIX + name);
    else keeper(name).setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // Not allowed or full: it is then kept for as long as the page is open.
  }
}

/** @returns {string} A choice of the user: `theme`, `agent`. */
export const choice = (name, otherwise = '') => readText(`choice.${name}`, otherwise);

/** Keep a choice of the user. */
export const choose = (name, value) => write(`choice.${name}`, value);

/** @returns {string} What was typed in a chat and not sent. */
export const draft = (chatId) => readText(`draft.${chatId}`, '');

/** Keep what was typed in a chat. */
export const keepDraft = (chatId, text) => write(`draft.${chatId}`, text || null);

/**
 * What was sent and is not acknowledged, oldest first.
 *
 * @returns {{key: string, chatId: string, text: string, agent: string, problem?: object}[]}
 */
export function outbox(chatId) {
  return readOutbox().filter((each) => each.chatId === chatId);
}

/** @returns {string[]} The chats in which something was sent that is not acknowledged. */
export function unsent() {
  return [...new Set(readOutbox().map((each) => each.chatId))];
}

/** Keep a message until it is acknowledged. */
export function post(message) {
  write('outbox', [...readOutbox(), message].slice(-50));
}

/** Keep a message no longer. */
export function acknowledge(key) {
  const left = readOutbox().filter((each) => each.key !== key);
  write('outbox', left.length ? left : null);
}

/** Keep a message that was refused: it is shown again, and sent only when the user says so. */
export function refuse(key, { code, message }) {
  write('outbox', readOutbox().map((each) => {
    return each.key === key ? { ...each, problem: { code, message } } : each;
  }));
}

/** Keep nothing more of a chat. */
export function forget(chatId) {
  keepDraft(chatId, '');
  for (const { key } of outbox(chatId)) acknowledge(key);
}
