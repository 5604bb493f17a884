/** Asking the user before something is deleted. */

import { $, h } from './dom.js';

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
  return new Promise((resolve) => {
    dialog.addEventListener('close', function closed() {
      if (dialog.open) return; // the close of an earlier question
      dialog.removeEventListener('close', closed);
      resolve(dialog.returnValue === 'yes');
    });
  });
}
