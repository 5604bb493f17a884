/**
 * One conversation: loads what is stored, follows what is under way, sends what is typed.
 *
 * What is shown is, at any time, what is stored of the runs that have ended and the whole log of
 * those that have not; so nothing is there twice and nothing is missing, whenever one comes. When a
 * run has ended, what is shown is compared with what is stored, and stored wins.
 *
 * Events: `change`, with the entry that changed in `detail`, or null where the list of entries or
 * what is known of the conversation did.
 */

import { randomId } from '../client/lane.js';
import { acknowledge, outbox, post, refuse } from './kept.js';
import {
  dropAnswer, explain, isMessageOf, isOvertaken, kept, leftNothing, nameOf, placed,
} from './merging.js';
import { answerEntry, apply, entriesOf, isUnderWay, userEntry } from './thread.js';

const NEWEST = 50;
const OLDER = 40;
const MOST = 600;

/** @typedef {import('./thread.js').AnswerEntry} AnswerEntry */

export class Chat extends EventTarget {
  #client;
  /** @type {any[]} messages, oldest first */
  #stored = [];
  /** @type {Map<string, {answer: AnswerEntry, run: import('../client.js').Run}>} */
  #runs = new Map();
  /** @type {?Promise<void>} */
  #loading = null;
  /** @type {?Promise<void>} */
  #next = null;
  #asked = 0;
  #isClosed = false;
  /** @type {any[]} see thread.js */
  entries = [];
  /** @type {any} what `GET /conversations/{id}` says, but for its messages */
  info = null;
  hasMore = false;
  /** @type {?import('../client.js').ParleyError} */
  problem = null;

  /**
   * @param {import('../client.js').ParleyClient} client
   * @param {string} id
   * @param {boolean} isNew nothing was said in it yet
   */
  constructor(client, id, isNew = false) {
    super();
    this.#client = client;
    this.id = id;
    this.isNew = isNew;
    this.isLoaded = isNew;
  }

  /** The answer that is being made, if one is; the first of several. */
  get underWay() {
    return this.#allUnderWay[0] ?? null;
  }

  get #allUnderWay() {
    return this.entries.filter((each) => each.kind === 'answer' && isUnderWay(each));
  }

  /** Load the conversation, and go on with what is under way in it. */
  async open() {
    await this.sync();
    for (const { key, text, agent, problem } of outbox(this.id)) {
      if (problem) this.#showRefused(key, text, problem);
      else if (!this.#runs.has(key)) this.#submit(key, text, agent);
    }
  }

  #showRefused(key, text, problem) {
    if (this.entries.some((each) => each.outboxKey === key)) return;
    this.entries.push(userEntry({ text, state: 'refused', problem, outboxKey: key }));
    this.#changed(null);
  }

  /** Make what is shown what is stored and under way. */
  sync() {
    if (this.#loading) {
      // What is loading may be of before: who asks now waits for what comes after it.
      this.#next ??= this.#loading.then(() => {
        this.#next = null;
        return this.sync();
      });
      return this.#next;
    }
    return this.#during(this.#load());
  }

  #during(loading) {
    this.#loading = loading.finally(() => {
      this.#loading = null;
    });
    return this.#loading;
  }

  #ask(query) {
    return this.#client.request('GET', `/conversations/${encodeURIComponent(this.id)}?${query}`);
  }

  async #load() {
    const asked = this.#asked;
    try {
      const detail = await this.#ask(`limit=${NEWEST}`);
      // A run that was asked for meanwhile may be in it, under an id that is not known here yet.
      // When it is, all is loaded again.
      if (this.#isAsking || asked !== this.#asked) return;
      if (isOvertaken(this.entries, detail)) {
        this.sync();
        return;
      }
      this.#take(detail);
      this.problem = null;
      this.isNew = false;
    } catch (problem) {
      this.#missed(problem);
    }
    this.isLoaded = true;
    this.#changed(null);
  }

  #missed(problem) {
    const isGone = problem.status === 404;
    if (isGone && (outbox(this.id).length || this.#runs.size)) {
      this.isNew = true;
    } else if (!this.isNew) {
      this.problem = problem;
      if (isGone) Object.assign(this, { entries: [], info: null, hasMore: false });
    }
  }

  /** Whether a run was asked for whose id is not known yet. */
  get #isAsking() {
    return [...this.#runs.values()].some(({ answer }) => answer.runId === null);
  }

  #take({ messages, has_more: hasMore, last_run: lastRun, ...info }) {
    this.info = info;
    const at = this.#stored.findIndex((each) => each.id === messages[0]?.id);
    if (at < 0) this.hasMore = hasMore;
    this.#stored = [...this.#stored.slice(0, Math.max(at, 0)), ...messages];
    this.#merge();
    if (info.active_run_id) this.#join(info.active_run_id, null);
    for (const { run_id: runId, message } of info.waiting) this.#join(runId, message);
    const waiting = info.waiting.map((each) => each.run_id);
    this.entries.sort((one, other) => waiting.indexOf(one.runId) - waiting.indexOf(other.runId));
    if (!this.underWay) explain(this.entries, lastRun);
  }

  /** Make entries of what is stored, and keep those that know more than storage does. */
  #merge() {
    const shown = new Map(this.entries.map((each) => [nameOf(each), each]));
    const fresh = entriesOf(this.#settled());
    const entries = fresh.map((each) => kept(shown.get(nameOf(each)), each));
    const used = new Set(entries);
    const names = new Set(entries.map(nameOf));
    const last = this.entries.findLastIndex((each) => used.has(each));
    const isRegenerated = this.#isRegenerated;
    const rest = this.entries.filter((each, at) => {
      const isLeft = !isRegenerated && leftNothing(each, entries, at > last);
      return !names.has(nameOf(each)) && (this.#isPending(each) || isLeft);
    });
    this.entries = placed(entries, rest);
  }

  /** Return what is stored but the answers under way, and the one that such a run replaces. */
  #settled() {
    const active = this.info?.active_run_id ?? null;
    const isOpen = (runId) => runId !== null && (runId === active || this.#runs.has(runId));
    const settled = this.#stored.filter((each) => each.role === 'user' || !isOpen(each.run_id));
    if (this.#isRegenerated) dropAnswer(settled);
    return settled;
  }

  /** Whether the run under way has no message of its own. */
  get #isRegenerated() {
    const active = this.info?.active_run_id ?? null;
    if (active === null) return false;
    const isStored = this.#stored.some((each) => each.role === 'user' && each.run_id === active);
    return !isStored && !this.entries.some((each) => isMessageOf(each, active));
  }

  #isPending(entry) {
    const isRunning = entry.runId !== null && this.#runs.has(entry.runId);
    return isRunning || (entry.kind === 'user' ? entry.state !== 'sent' : isUnderWay(entry));
  }

  /** Follow a run that this page did not start, if it does not yet. */
  #join(runId, message) {
    // It may have ended here since the service was asked. What broke off is followed again.
    const there = this.entries.find((each) => each.kind === 'answer' && each.runId === runId);
    if (this.#runs.has(runId) || (there && !there.isBroken)) return;
    this.entries = this.entries.filter((each) => each !== there);
    if (message !== null) this.entries.push(userEntry({ text: message, runId }));
    const answer = answerEntry({ runId, agent: this.info?.agent ?? '' });
    this.entries = placed(this.entries, [answer]);
    this.#follow(answer, this.#client.follow(runId, 0), runId);
  }

  /** Show what was said before what is shown. */
  async older() {
    const before = this.#stored[0]?.id;
    if (!this.hasMore || !before || this.#loading) return;
    // What cannot be loaded now is loaded when one comes back to the beginning.
    await this.#during(this.#loadOlder(before).catch(() => {}));
  }

  async #loadOlder(before) {
    const detail = await this.#ask(`limit=${OLDER}&before=${before}`);
    this.#stored = [...detail.messages, ...this.#stored];
    this.hasMore = detail.has_more;
    this.#merge();
    this.#changed(null);
  }

  /** Show no more than what was said last, so that a long conversation is as quick as others. */
  trim() {
    if (this.#stored.length <= MOST || this.#loading) return;
    this.#stored = this.#stored.slice(-NEWEST);
    this.hasMore = true;
    this.#merge();
    this.#changed(null);
  }

  /** Send a message; it waits where an answer is under way. */
  send(text, agent) {
    const key = randomId('key');
    post({ key, chatId: this.id, text, agent });
    this.#submit(key, text, agent);
  }

  #submit(key, text, agent) {
    const entry = userEntry({ text, state: 'sending', outboxKey: key });
    const answer = answerEntry({ agent });
    this.entries.push(entry, answer);
    const run = this.#client.chat({
      message: text, conversation_id: this.id, agent, idempotency_key: key,
    });
    run.started.then(
      () => acknowledge(key),
      (problem) => {
        if (problem.code === 'cancelled') acknowledge(key); // it is not to be sent after all
        else if (problem.code !== 'closed') refuse(key, problem);
        Object.assign(entry, { state: 'refused', problem });
        this.#remove(answer);
      },
    );
    this.#follow(answer, run, key);
    this.#changed(null);
  }

  /** Send a message again that was refused. */
  resend(entry, agent) {
    this.discard(entry);
    this.send(entry.text, agent);
  }

  /** Forget a message that was refused. */
  discard(entry) {
    acknowledge(entry.outboxKey);
    this.#remove(entry);
  }

  /** Regenerate the last answer. */
  regenerate(agent) {
    const last = this.entries.at(-1);
    const answer = answerEntry({ agent });
    if (last?.kind === 'answer') this.entries.pop();
    this.entries.push(answer);
    const run = this.#client.regenerate({ conversation_id: this.id, agent });
    run.started.catch((problem) => {
      Object.assign(answer, { state: 'failed', error: asError(problem) });
    });
    this.#follow(answer, run, randomId('key'));
    this.#changed(null);
  }

  /**
   * Put another message in the place of an earlier one.
   *
   * @returns {Promise<string>} the branch, a conversation of its own, in which it is answered
   */
  async edit(entry, text, agent) {
    if (entry.id === null) await this.sync();
    if (entry.id === null) throw new Error('This message is not stored yet.');
    const fields = { conversation_id: this.id, message_id: entry.id, message: text, agent };
    const run = this.#client.edit(fields);
    await run.started;
    run.leave();
    return run.conversationId;
  }

  /** @returns {string[]} The messages that wait for the answer that is being made. */
  waitingMessages() {
    const [, ...waiting] = this.#allUnderWay;
    const asked = waiting.map((answer) => this.entries[this.entries.indexOf(answer) - 1]);
    return asked.filter((each) => each?.kind === 'user').map((each) => each.text);
  }

  /** End the answer that is being made, and take back what waits for it. */
  async stop() {
    const underWay = this.#allUnderWay;
    const runs = [...this.#runs.values()].filter(({ answer }) => underWay.includes(answer));
    await Promise.all(runs.reverse().map(({ run }) => run.cancel()));
  }

  /** End one call of an answer. */
  async cancelCall(answer, callId) {
    const found = [...this.#runs.values()].find((each) => each.answer === answer);
    if (found) await found.run.cancelTool(callId);
  }

  async #follow(answer, run, key) {
    this.#runs.set(key, { answer, run });
    if (answer.runId === null) this.#asked += 1;
    let isOurs = true;
    try {
      isOurs = await this.#read(answer, run, key);
    } catch (problem) {
      // It is not known how it went on; what is stored tells.
      const error = asError(problem);
      if (isUnderWay(answer)) Object.assign(answer, { state: 'failed', error, isBroken: true });
      this.#changed(answer);
    }
    for (const [name, each] of this.#runs) if (each.run === run) this.#runs.delete(name);
    if (!isOurs || this.#isClosed) return;
    this.dispatchEvent(new CustomEvent('ended', { detail: answer }));
    await this.sync();
  }

  /** Take the events of a run; returns whether it is followed here, and not by another answer. */
  async #read(answer, run, key) {
    let name = key;
    for await (const event of run) {
      const isNamed = event.event_type === 'chat_start' && name !== event.run_id;
      if (isNamed) {
        this.#runs.delete(name);
        if (!this.#name(answer, event.run_id)) {
          run.leave();
          return false;
        }
        name = event.run_id;
        this.#runs.set(name, { answer, run });
      }
      this.#tell(answer, event);
      if (isNamed) this.sync();
    }
    return true;
  }

  #tell(answer, event) {
    const isFirst = answer.state === 'waiting' && event.event_type !== 'chat_start';
    apply(answer, event);
    this.#changed(answer);
    if (event.event_type === 'chat_start') this.dispatchEvent(new Event('started'));
    // The message of a run that speaks is stored; where it is not known it was loaded too early.
    if (isFirst && !this.entries.some((each) => isMessageOf(each, answer.runId))) this.sync();
  }

  /**
   * Take notice of the id of a run that was asked for. A message that is sent again may have been
   * answered already, or be followed: then it is shown here once all the same.
   *
   * @returns {boolean} whether the run is to be followed
   */
  #name(answer, runId) {
    const before = this.entries[this.entries.indexOf(answer) - 1];
    const asked = before?.state === 'sending' ? before : null;
    const isFollowed = this.#runs.has(runId);
    this.entries = this.entries.filter((each) => {
      return each === answer || each === asked ? !isFollowed : isFollowed || each.runId !== runId;
    });
    if (asked) Object.assign(asked, { state: 'sent', runId });
    this.isNew = false;
    this.#changed(null);
    return !isFollowed;
  }

  #remove(entry) {
    this.entries = this.entries.filter((each) => each !== entry);
    this.#changed(null);
  }

  #changed(entry) {
    this.dispatchEvent(new CustomEvent('change', { detail: entry }));
  }

  /** Follow nothing any more; the runs go on. */
  close() {
    this.#isClosed = true;
    for (const { run } of this.#runs.values()) run.leave();
  }
}

const asError = ({ code = 'unreachable', message, retryable = false }) =>
  ({ code, message, retryable });
