/** Asking the user before something is deleted. */

import { $, h } from './dom.js';

/** @type {(agrees: boolean) => void} */
let pending = () => {};

/**
 * @param {string} title
 * @param {string | (string|Node)[]} text
 * @returns {Promise<boolean>} Whether the user agrees.
 */
export function confirmed(title, text) {
  const dialog = $('confirm');
  dialog.replaceChildren(h('form', { method: 'dialog' },
    h('h2', { id: 'confirm-title' }, title), h('p', {}, ...[text].flat()),
    h('div.dialog-bar', {}, h('span.grow'),
      h('button.plain', { value: 'no', autofocus: true }, 'Cancel'),
      h('button.primary.danger', { value: 'yes' }, 'Delete'))));
  dialog.returnValue = 'no';
  dialog.showModal();
  pending(false); // it was left, and the event that says so is still to come
  return new Promise((resolve) => {
    pending = resolve;
    dialog.onclose = () => {
      if (!dialog.open) resolve(dialog.returnValue === 'yes'); // else it is of an earlier question
    };
  });
}
