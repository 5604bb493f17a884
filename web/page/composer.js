/**
 * Where one types. Enter sends, Shift+Enter begins a line, Escape stops the answer, ↑ in an empty
 * field edits the last message. What was typed and not sent is kept for each chat.
 */

import { draft, keepDraft } from './kept.js';
import { $, setText } from './dom.js';

export class Composer {
  #chatId = null;
  #limit = Infinity;
  #area = $('message');

  /** @param {{send(text: string): void, stop(): void, editLast(): void}} actions */
  constructor(actions) {
    this.actions = actions;
    $('composer').addEventListener('submit', (event) => {
      event.preventDefault();
      this.submit();
    });
    this.#area.addEventListener('input', () => this.#typed());
    this.#area.addEventListener('keydown', (event) => this.#key(event));
    $('stop').addEventListener('click', () => actions.stop());
  }

  /** Take what was typed in a chat, and show it. */
  show(chatId) {
    const isFirst = this.#chatId === null;
    this.#chatId = chatId;
    if (isFirst && this.#area.value) this.#typed(); // while the page was being loaded
    else this.#area.value = draft(chatId);
    this.#fit();
  }

  /** Show whether an answer is being made, which can then be stopped. */
  set isAnswering(isAnswering) {
    $('stop').hidden = !isAnswering;
  }

  /** The number of characters that a message may have. */
  set limit(limit) {
    this.#limit = limit;
    this.#fit();
  }

  /** Put a text into the field. */
  put(text) {
    this.#area.value = text;
    this.#typed();
    this.#area.focus();
  }

  /** Send what was typed. */
  submit() {
    const text = this.#area.value;
    if (!text.trim() || this.#tooLong) return;
    this.#area.value = '';
    this.#typed();
    this.actions.send(text);
  }

  get #tooLong() {
    return [...this.#area.value].length > this.#limit;
  }

  #typed() {
    keepDraft(this.#chatId, this.#area.value);
    this.#fit();
  }

  #key(event) {
    if (event.isComposing) return;
    if (event.key === 'Enter' && !event.shiftKey && !isTouch()) {
      event.preventDefault();
      this.submit();
    } else if (event.key === 'ArrowUp' && !this.#area.value) {
      event.preventDefault();
      this.actions.editLast();
    }
  }

  #fit() {
    $('send').disabled = !this.#area.value.trim() || this.#tooLong;
    this.#area.style.setProperty('height', 'auto');
    this.#area.style.setProperty('height', `${Math.min(this.#area.scrollHeight, 240)}px`);
    $('note').hidden = !this.#tooLong;
    const over = [...this.#area.value].length - this.#limit;
    setText($('note'), this.#tooLong ? `${over.toLocaleString()} characters too many.` : '');
  }
}

/** Whether Enter is on a screen, where it begins a line. */
function isTouch() {
  return matchMedia('(pointer: coarse)').matches && !matchMedia('(any-pointer: fine)').matches;
}
