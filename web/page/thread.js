/**
 * A conversation as the page shows it: a list of entries, made of stored messages and of the events
 * of runs. Nothing here knows of a page or a connection.
 *
 * - A `user` entry is a message of the user, an `answer` entry all that one run said and did.
 * - An answer is made of parts in the order in which they came: text, reasoning, a group of calls
 *   (all of one turn), a hand-over, how far a run of several stages is.
 * - Events are applied in their order, each once; `reset` begins the answer from nothing.
 *
 * @typedef {{kind: string, id: string, [more: string]: any}} Part
 * @typedef {{kind: 'user', key: string, id: ?string, text: string, runId: ?string,
 *   state: 'sending'|'waiting'|'sent'|'refused', problem: ?Error, createdAt: ?string}} UserEntry
 * @typedef {{id: string, name: string, arguments: any, state: 'queued'|'running'|'done'|'failed',
 *   code: ?string, error: ?string, result: *, truncated: boolean, progress: ?object,
 *   startedAt: ?number, durationMs: ?number}} Call
 * @typedef {{kind: 'answer', key: string, runId: ?string, agent: string, model: string,
 *   state: 'waiting'|'running'|'done'|'failed', parts: Part[], finishReason: ?string,
 *   error: ?object, usage: ?object, ids: string[]}} AnswerEntry
 */

import { now } from './clock.js';

let made = 0;

/** @returns {UserEntry} A message of the user. */
export function userEntry(fields) {
  const entry = { kind: 'user', key: `user-${++made}`, id: null, text: '', runId: null };
  return Object.assign(entry, { state: 'sent', problem: null, createdAt: null }, fields);
}

/** @returns {AnswerEntry} An answer of which nothing is there yet. */
export function answerEntry(fields) {
  const entry = { kind: 'answer', key: `answer-${++made}`, runId: null, agent: '', model: '' };
  return Object.assign(entry, empty(), fields);
}

function empty() {
  return { state: 'waiting', parts: [], finishReason: null, error: null, usage: null, ids: [] };
}

/**
 * Make entries of stored messages (`GET /conversations/{id}`), oldest first.
 *
 * @param {any[]} messages
 * @returns {(UserEntry|AnswerEntry)[]}
 */
export function entriesOf(messages) {
  const entries = [];
  for (const message of messages) {
    if (message.role === 'user') {
      entries.push(userEntry({
        id: message.id, text: message.content, runId: message.run_id, createdAt: message.created_at,
      }));
    } else {
      addStored(answerFor(entries, message), message);
    }
  }
  return entries;
}

function answerFor(entries, message) {
  const last = entries.at(-1);
  if (last?.kind === 'answer' && last.runId === message.run_id) return last;
  const answer = answerEntry({ runId: message.run_id, state: 'done', finishReason: 'stop' });
  entries.push(answer);
  return answer;
}

function addStored(answer, message) {
  answer.ids.push(message.id);
  if (message.role === 'tool') {
    addResult(answer, message);
    return;
  }
  if (message.content) answer.parts.push({ kind: 'text', id: message.id, text: message.content });
  for (const call of message.tool_calls ?? []) {
    callOf(answer, message.id, { ...call, arguments: json(call.arguments) });
  }
}

function addResult(answer, message) {
  const call = findCall(answer, message.tool_call_id);
  if (!call) return;
  const started = message.started_at ? Date.parse(message.started_at) : null;
  call.startedAt = started;
  call.durationMs = started === null ? null : message.duration_ms;
  call.state = message.is_error ? 'failed' : 'done';
  if (message.is_error) call.error = message.content.replace(/^Error: /, '');
  else call.result = json(message.content);
}

/**
 * Take an event of an answer's run.
 *
 * @param {AnswerEntry} answer
 * @param {import('../client/lane.js').RunEvent} event
 */
export function apply(answer, event) {
  APPLY[event.event_type]?.(answer, event);
}

const APPLY = {
  reset: (answer) => Object.assign(answer, empty()),
  chat_start(answer, event) {
    answer.runId = event.run_id;
    answer.agent = event.agent;
    answer.model = event.model;
  },
  chat_chunk: (answer, event) => addText(answer, 'text', event),
  reasoning_chunk: (answer, event) => addText(answer, 'reasoning', event),
  tool_call_queued: (answer, event) => change(answer, event, () => ({ state: 'queued' })),
  tool_call_start: (answer, event) =>
    change(answer, event, (call) => ({ state: 'running', startedAt: startOf(call) ?? now() })),
  tool_call_progress(answer, event) {
    const { progress, total, message } = event.tool_call;
    change(answer, event, () => ({ progress: { progress, total, message } }));
  },
  tool_call_complete: (answer, event) =>
    change(answer, event, (call) => ({
      state: 'done', result: call.result, truncated: call.truncated, ...timesOf(call),
    })),
  tool_call_error: (answer, event) =>
    change(answer, event, (call) => ({
      state: 'failed', code: call.code, error: call.error, ...timesOf(call),
    })),
  agent_updated(answer, event) {
    answer.parts.push({
      kind: 'handoff', id: event.message_id, agent: event.agent, from: event.previous_agent,
    });
    answer.agent = event.agent;
  },
  run_progress(answer, event) {
    let part = answer.parts.find((each) => each.kind === 'progress');
    if (!part) {
      part = { kind: 'progress', id: 'progress', stages: [] };
      answer.parts.unshift(part);
    }
    const { stage, message, done, total } = event;
    const at = part.stages.findIndex((each) => each.stage === stage);
    part.stages.splice(at < 0 ? part.stages.length : at, at < 0 ? 0 : 1, {
      stage, message, done, total,
    });
  },
  chat_complete(answer, event) {
    Object.assign(answer, {
      state: 'done', finishReason: event.finish_reason, usage: event.usage,
    });
  },
  error(answer, event) {
    const { code, message, retryable } = event;
    Object.assign(answer, { state: 'failed', error: { code, message, retryable } });
  },
};

function addText(answer, kind, event) {
  answer.state = 'running';
  const isSame = (part) => part.kind === kind && part.id === event.message_id;
  // A message is one text, whatever came between its pieces; reasoning stands where it was thought.
  const found = kind === 'text' ? answer.parts.findLast(isSame) : answer.parts.at(-1);
  if (found && isSame(found)) found.text += event.content;
  else answer.parts.push({ kind, id: event.message_id, text: event.content });
}

function change(answer, event, changes) {
  answer.state = 'running';
  const call = callOf(answer, event.message_id, event.tool_call);
  Object.assign(call, changes(event.tool_call));
}

/** Return a call, which is added to the calls of its turn where it is new. */
function callOf(answer, messageId, { id, name, arguments: given }) {
  const found = findCall(answer, id);
  if (found) return found;
  const call = {
    id, name, arguments: given, state: 'running', code: null, error: null, result: undefined,
    truncated: false, progress: null, startedAt: null, durationMs: null,
  };
  let group = answer.parts.findLast((part) => part.kind === 'calls' && part.id === messageId);
  if (!group) {
    group = { kind: 'calls', id: messageId, calls: [] };
    answer.parts.push(group);
  }
  group.calls.push(call);
  return call;
}

function findCall(answer, id) {
  for (const part of answer.parts) {
    const call = part.kind === 'calls' && part.calls.find((each) => each.id === id);
    if (call) return call;
  }
  return null;
}

function startOf(call) {
  return call.started_at ? Date.parse(call.started_at) : null;
}

function timesOf(call) {
  const startedAt = startOf(call);
  return { startedAt, durationMs: startedAt === null ? null : call.duration_ms };
}

function json(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text; // results may be plain text
  }
}

/** @returns {boolean} Whether an answer is still being made. */
export function isUnderWay(answer) {
  return answer.state === 'waiting' || answer.state === 'running';
}

/** @returns {string} The text of an answer, as Markdown, without reasoning and calls. */
export function textOf(answer) {
  const texts = answer.parts.filter((part) => part.kind === 'text').map((part) => part.text);
  return texts.join('\n\n').trim();
}

/** @returns {Call[]} All calls of an answer. */
export function callsOf(answer) {
  return answer.parts.flatMap((part) => (part.kind === 'calls' ? part.calls : []));
}
