/** What a conversation is made of, out of stored messages and out of events. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  answerEntry, apply, callsOf, entriesOf, isUnderWay, textOf,
} from '../../web/page/thread.js';

const NOON = '2026-01-02T12:00:00.250Z';
const call = { id: 'c1', name: 'add', arguments: { a: 1, b: 2 } };
const stored = (fields) => ({ run_id: 'r1', created_at: NOON, ...fields });
const MESSAGES = [
  stored({ id: 's1', role: 'user', content: 'Add.' }),
  stored({
    id: 's2', role: 'assistant', content: 'I add.',
    tool_calls: [
      { id: 'c1', name: 'add', arguments: '{"a":1,"b":2}' },
      { id: 'c2', name: 'add', arguments: '{' },
      { id: 'c3', name: 'add', arguments: '{}' },
    ],
  }),
  stored({
    id: 's3', role: 'tool', tool_call_id: 'c1', name: 'add', content: '3',
    started_at: NOON, duration_ms: 2,
  }),
  stored({
    id: 's4', role: 'tool', tool_call_id: 'c2', name: 'add',
    content: 'Error: No JSON.', is_error: true,
  }),
  stored({ id: 's5', role: 'tool', tool_call_id: 'c3', name: 'add', content: 'plain text' }),
  stored({ id: 's6', role: 'assistant', content: 'It is 3.' }),
  stored({ id: 's7', role: 'user', content: 'Thanks.', run_id: 'r2' }),
];

/** @type {any[]} */
const EVENTS = [
  { event_type: 'chat_start', run_id: 'r1', agent: 'chat', model: 'm' },
  { event_type: 'chat_chunk', message_id: 'm1', content: 'I ' },
  { event_type: 'chat_chunk', message_id: 'm1', content: 'add.' },
  { event_type: 'tool_call_queued', message_id: 'm1', tool_call: call },
  { event_type: 'tool_call_start', message_id: 'm1', tool_call: { ...call, started_at: NOON } },
  {
    event_type: 'tool_call_progress', message_id: 'm1',
    tool_call: { id: 'c1', name: 'add', progress: 1, total: null, message: 'half' },
  },
  {
    event_type: 'tool_call_complete', message_id: 'm1',
    tool_call: { ...call, result: 3, duration_ms: 2, truncated: false, started_at: NOON },
  },
  { event_type: 'chat_chunk', message_id: 'm2', content: 'It is 3.' },
  { event_type: 'chat_complete', finish_reason: 'stop', usage: null, final_response: 'It is 3.' },
];

function applied(...events) {
  const answer = answerEntry({});
  for (const event of events) apply(answer, event);
  return answer;
}

test('stored messages become messages of the user and one answer of each run', () => {
  const [asked, answer, next] = /** @type {any[]} */ (entriesOf(MESSAGES));
  assert.deepEqual([asked.text, asked.id, asked.state], ['Add.', 's1', 'sent']);
  assert.deepEqual(answer.parts.map((part) => part.kind), ['text', 'calls', 'text']);
  assert.equal(textOf(answer), 'I add.\n\nIt is 3.');
  assert.equal(isUnderWay(answer), false);
  assert.deepEqual(answer.ids, ['s2', 's3', 's4', 's5', 's6']);
  assert.equal(next.runId, 'r2');
});

test('stored calls have their results, their faults and the times that they took', () => {
  const [, answer] = entriesOf(MESSAGES);
  const [done, failed, plain] = callsOf(answer);
  assert.deepEqual([done.state, done.arguments, done.result], ['done', { a: 1, b: 2 }, 3]);
  assert.deepEqual([done.startedAt, done.durationMs], [Date.parse(NOON), 2]);
  assert.deepEqual([failed.state, failed.arguments, failed.error], ['failed', '{', 'No JSON.']);
  assert.deepEqual([failed.startedAt, failed.durationMs], [null, null]);
  assert.deepEqual([plain.state, plain.result], ['done', 'plain text']);
});

test('a result whose call is not loaded is left out', () => {
  const [answer] = entriesOf([MESSAGES[2], MESSAGES[5]]);
  assert.equal(textOf(answer), 'It is 3.');
  assert.deepEqual(callsOf(answer), []);
});

test('what was followed says the same as what was stored', () => {
  const [, kept] = entriesOf(MESSAGES.filter(({ id }) => !['s4', 's5'].includes(id)));
  const told = applied(...EVENTS);
  assert.equal(textOf(told), textOf(kept));
  const view = ({ id, state, result, startedAt, durationMs }) => {
    return { id, state, result, startedAt, durationMs };
  };
  assert.deepEqual(callsOf(told).map(view), callsOf(kept).slice(0, 1).map(view));
});

test('a call goes through its states, and its clock is that of the service', () => {
  const answer = answerEntry({});
  const states = EVENTS.map((event) => {
    apply(answer, event);
    return callsOf(answer)[0]?.state;
  });
  assert.deepEqual(states.slice(3, 7), ['queued', 'running', 'running', 'done']);
  assert.equal(callsOf(answer)[0].startedAt, Date.parse(NOON));
  assert.deepEqual(callsOf(answer)[0].progress, { progress: 1, total: null, message: 'half' });
});

test('a call that was never executed has no times', () => {
  const error = { ...call, code: 'limit', error: 'Too many.', duration_ms: 0, started_at: null };
  const answer = applied({ event_type: 'tool_call_error', message_id: 'm1', tool_call: error });
  const [failed] = callsOf(answer);
  assert.deepEqual([failed.state, failed.code, failed.startedAt, failed.durationMs],
    ['failed', 'limit', null, null]);
});

test('a text is one, whatever came between its pieces', () => {
  const answer = applied(
    { event_type: 'chat_chunk', message_id: 'm1', content: 'Hel' },
    { event_type: 'reasoning_chunk', message_id: 'm1', content: 'So' },
    { event_type: 'chat_chunk', message_id: 'm1', content: 'lo' },
  );
  assert.equal(textOf(answer), 'Hello');
});

test('a run of several stages shows the newest state of each, ahead of what it says', () => {
  const stage = (name, done) => {
    return { event_type: 'run_progress', stage: name, message: name, done, total: 2 };
  };
  const answer = applied(EVENTS[1], stage('plan', 1), stage('search', 0), stage('search', 2));
  const [progress, said] = answer.parts;
  assert.deepEqual(progress.stages.map(({ stage: name, done }) => [name, done]),
    [['plan', 1], ['search', 2]]);
  assert.equal(said.text, 'I ');
});

test('who takes over is shown, and answers from then on', () => {
  const change = { event_type: 'agent_updated', message_id: 'm1', agent: 'b', previous_agent: 'a' };
  const answer = applied(change);
  assert.equal(answer.agent, 'b');
  assert.deepEqual(answer.parts, [{ kind: 'handoff', id: 'm1', agent: 'b', from: 'a' }]);
});

test('a run that fails keeps what it said, and why', () => {
  const error = { event_type: 'error', code: 'upstream_error', message: 'No.', retryable: true };
  const answer = applied(...EVENTS.slice(0, 3), error);
  assert.equal(textOf(answer), 'I add.');
  assert.equal(answer.state, 'failed');
  assert.deepEqual(answer.error, { code: 'upstream_error', message: 'No.', retryable: true });
});

test('an event of a type that is not known changes nothing', () => {
  const { key, ...before } = answerEntry({});
  const { key: other, ...after } = applied({ event_type: 'of_the_future' });
  assert.deepEqual(after, before);
  assert.notEqual(key, other);
});
