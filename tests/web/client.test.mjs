/** What a client does besides not losing anything: for that see cuts and restarts.test.mjs. */

import { test } from 'node:test';
import { ParleyClient, ParleyError } from '../../web/client.js';
import { all, assert, clientOf, DEADLINE, log, next, said, soon, stage, state, until }
  from './support.mjs';

const HELD = [{ text: ['Good', ' day'], held: true }];
const HANG = [{ calls: [['hang', {}], ['add', { a: 1, b: 2 }]] }, { text: ['Done.'] }];

const isRefused = (code) => (error) => error instanceof ParleyError && error.code === code;

for (const transport of ['websocket', 'sse']) {
  test(`a message is answered (${transport})`, async () => {
    const there = await stage();
    const client = clientOf(there, { transport });
    const run = client.chat({ message: 'Hello.' });
    assert.match(String(run.conversationId), /^conv_[0-9a-f]{24}$/);
    const events = await all(run);
    assert.equal(said(events), 'Good day');
    assert.equal(await run.started, run.id);
    assert.deepEqual(events, await log(there, run.id));
    assert.equal(run.cursor, `${run.id}:1:${events.length}`);
    assert.equal(events[0].conversation_id, run.conversationId);
    assert.deepEqual([client.transport, client.state], [transport, 'online']);
  });

  test(`an answer is regenerated, and a message edited in a branch (${transport})`, async () => {
    const there = await stage();
    const client = clientOf(there, { transport });
    const first = client.chat({ message: 'Hello.' });
    await all(first);
    const { conversationId } = first;
    const again = client.regenerate({ conversation_id: conversationId });
    assert.equal(again.conversationId, conversationId);
    assert.equal(said(await all(again)), 'Good day');
    const stored = await client.request('GET', `/conversations/${conversationId}`);
    const branch = client.edit({
      conversation_id: conversationId, message_id: stored.messages[0].id, message: 'Ho.',
    });
    assert.equal(branch.conversationId, null);
    await all(branch);
    assert.notEqual(branch.conversationId, conversationId);
    const { messages } = await client.request('GET', `conversations/${branch.conversationId}`);
    assert.equal(messages[0].content, 'Ho.');
  });

  test(`several runs go on at the same time (${transport})`, async () => {
    const there = await stage({ script: HELD });
    const client = clientOf(there, { transport });
    const runs = Array.from({ length: 12 }, (_, at) => client.chat({ message: `${at}` }));
    await there.order('asked', { count: 12 });
    await there.order('open');
    const told = await Promise.all(runs.map(all));
    for (const [at, run] of runs.entries()) {
      assert.deepEqual(told[at], await log(there, run.id));
    }
    assert.equal(new Set(runs.map((run) => run.conversationId)).size, 12);
    if (transport === 'websocket') assert.equal((await there.order('view')).told, 1);
  });

  test(`messages of one conversation are answered in the order of sending (${transport})`,
    async () => {
      const there = await stage();
      const client = clientOf(there, { transport });
      const texts = ['one', 'two', 'three', 'four', 'five', 'six'];
      const runs = texts.map((message) => client.chat({ message, conversation_id: 'c' }));
      await Promise.all(runs.map(all));
      const { messages } = await client.request('GET', '/conversations/c');
      const sent = messages.filter(({ role }) => role === 'user').map(({ content }) => content);
      assert.deepEqual(sent, texts);
    });

  test(`more runs than there are places wait for theirs (${transport})`, async () => {
    const there = await stage({ settings: { websocket_max_chats: 3 } });
    const client = clientOf(there, { transport, maxRuns: 3, maxStreams: 3 });
    const runs = Array.from({ length: 20 }, () => client.chat({ message: 'Hello.' }));
    const told = await Promise.all(runs.map(all));
    assert.ok(told.every((events) => said(events) === 'Good day'));
  });

  test(`a run is cancelled, at once or before it has started (${transport})`, async () => {
    const there = await stage({ script: HELD });
    const client = clientOf(there, { transport });
    const run = client.chat({ message: 'Hello.' });
    await state(client, 'online');
    await run.cancel();
    assert.equal((await all(run)).at(-1).finish_reason, 'cancelled');
    await run.cancel(); // it has ended, and stays as it is
    const other = client.chat({ message: 'Hello.' });
    await other.started;
    await other.cancel();
    assert.equal((await all(other)).at(-1).finish_reason, 'cancelled');
  });

  test(`one call is cancelled, and its sibling and the run go on (${transport})`, async () => {
    const there = await stage({ script: HANG });
    const client = clientOf(there, { transport });
    const run = client.chat({ message: 'Hang.' });
    const events = run[Symbol.asyncIterator]();
    const begun = await until(events, 'tool_call_complete');
    const { tool_call: hanging } = begun.find(({ tool_call: call }) => call?.name === 'hang');
    await run.cancelTool(hanging.id);
    const rest = await until(events, 'chat_complete');
    assert.equal(rest[0].tool_call.code, 'cancelled');
    assert.equal(rest.at(-1).final_response, 'Done.');
    await assert.rejects(run.cancelTool(hanging.id), isRefused('tool_call_not_found'));
  });

  test(`a cancel whose connection is cut is done all the same (${transport})`, async () => {
    const there = await stage({ script: HELD });
    const client = clientOf(there, { transport });
    const run = client.chat({ message: 'Hello.' });
    await run.started;
    await there.order('network', { is_down: true, cut: true });
    const cancelled = run.cancel();
    await there.order('network', { is_down: false });
    await soon(cancelled);
    assert.equal((await all(run)).at(-1).finish_reason, 'cancelled');
  });

  test(`what is refused is thrown where it is looked for, and nowhere else (${transport})`,
    async () => {
      const there = await stage();
      const client = clientOf(there, { transport });
      const unheard = client.chat({ message: '' }); // strict mode: an unhandled rejection kills us
      const run = client.chat({ message: '' });
      await assert.rejects(all(run), (/** @type {any} */ error) => {
        assert.equal(error.code, 'invalid_value');
        assert.deepEqual(error.errors.map(({ field }) => field), ['message']);
        return !error.retryable;
      });
      await assert.rejects(run.started, isRefused('invalid_value'));
      await assert.rejects(all(unheard), isRefused('invalid_value'));
      const lost = client.regenerate({ conversation_id: 'none' });
      await assert.rejects(all(lost), (/** @type {any} */ error) => /not_found/.test(error.code));
      assert.equal(client.state, 'online');
    });

  test(`a run that the service does not know cannot be followed (${transport})`, async () => {
    const there = await stage();
    const client = clientOf(there, { transport });
    for (const after of [0, 4]) {
      const run = client.follow('run_none', after);
      await assert.rejects(all(run), isRefused('run_not_found'));
      await assert.rejects(run.started, isRefused('run_not_found'));
    }
  });

  test(`a run is followed from its start, a number, a cursor and its end (${transport})`,
    async () => {
      const there = await stage();
      const client = clientOf(there, { transport });
      const run = client.chat({ message: 'Hello.' });
      const events = await all(run);
      const last = events.length;
      const id = await run.started;
      const cursor = String(run.cursor);
      /** @type {[number|string, number][]} */
      const places = [[0, 0], [2, 2], [`${id}:1:2`, 2], [last, last], [cursor, last]];
      for (const [after, seq] of places) {
        const followed = client.follow(id, after);
        assert.equal(await soon(followed.started), id);
        assert.deepEqual(await all(followed), events.slice(seq), `after ${after}`);
      }
    });

  test(`a run whose log has expired is read again from a reset (${transport})`, async () => {
    const there = await stage({ script: HELD });
    const client = clientOf(there, { transport, backoffMin: 60_000, backoffMax: 60_000 });
    const run = client.chat({ message: 'Hello.' });
    const events = run[Symbol.asyncIterator]();
    await until(events, 'chat_start');
    await there.order('network', { is_down: true, cut: true });
    await state(client, 'offline');
    await there.order('network', { is_down: false });
    await there.order('open');
    const other = clientOf(there).follow(await run.started);
    await all(other);
    await there.order('expire', { run: run.id });
    client.reconnect();
    const rest = await until(events, 'chat_complete');
    assert.deepEqual(rest.map(({ event_type: type }) => type),
      ['reset', 'chat_start', 'chat_chunk', 'chat_complete']);
    assert.equal(rest[0].reason, 'log_expired');
    assert.equal(said(rest), 'Good day');
  });

  test(`a connection that has gone silent is noticed and replaced (${transport})`, async () => {
    const there = await stage({ script: HELD });
    const quick = { pingInterval: 100, pongTimeout: 100, silence: 200, connectTimeout: 200 };
    const client = clientOf(there, { transport, ...quick });
    const run = client.chat({ message: 'Hello.' });
    await run.started;
    await there.order('network', { is_silent: true });
    await state(client, 'offline');
    await there.order('open');
    await there.order('network', { is_silent: false });
    assert.deepEqual(await all(run), await log(there, run.id));
  });

  test(`who leaves a run hears no more of it, and the run goes on (${transport})`, async () => {
    const there = await stage({ script: HELD });
    const client = clientOf(there, { transport });
    const [left, kept] = [client.chat({ message: 'Hello.' }), client.chat({ message: 'Ho.' })];
    await Promise.all([left.started, kept.started]);
    const second = client.follow(await left.started);
    await second.started;
    left.leave();
    assert.deepEqual(await all(left), []);
    await there.order('open');
    assert.deepEqual(await all(second), await log(there, left.id));
    assert.deepEqual(await all(kept), await log(there, kept.id));
  });

  test(`a message that is left before it was acknowledged is answered (${transport})`, async () => {
    const there = await stage();
    const client = clientOf(there, { transport });
    const run = client.chat({ message: 'Hello.', conversation_id: 'c' });
    run.leave();
    const id = await soon(run.started);
    assert.equal((await log(there, id)).at(-1).event_type, 'chat_complete');
  });

  test(`a reader that takes nothing is told the rest when it does (${transport})`, async () => {
    const pieces = Array.from({ length: 600 }, (_, at) => `${at} `);
    const there = await stage({ script: [{ text: pieces, held: true }] });
    const client = clientOf(there, { transport, maxUnread: 16 });
    const run = client.chat({ message: 'Count.' });
    const twin = client.follow(await soon(run.started)); // parking one is not to stop the other
    const reading = all(twin);
    await there.order('open');
    await reading;
    assert.ok(Number(String(run.cursor).split(':')[2]) < 600, 'it was read on');
    const events = await all(run);
    assert.equal(said(events), pieces.join(''));
    assert.equal(events.at(-1).final_response, pieces.join(''));
  });

  test(`a closed client ends what is followed and takes nothing more (${transport})`, async () => {
    const there = await stage({ script: HELD });
    const client = clientOf(there, { transport });
    const run = client.chat({ message: 'Hello.' });
    await run.started;
    const waiting = all(run);
    client.close();
    await assert.rejects(waiting, isRefused('closed'));
    await assert.rejects(all(client.chat({ message: 'x' })), isRefused('closed'));
    await assert.rejects(run.cancelTool('x'), isRefused('closed'));
    assert.equal(client.state, 'closed');
    client.connect();
    client.reconnect();
    assert.equal(client.state, 'closed');
  });
}

for (const blocked of ['refused', 'swallowed', 'mute']) {
  test(`where WebSockets are blocked (${blocked}) it goes on over event streams`, async () => {
    const there = await stage();
    await there.order('network', { blocked });
    const client = clientOf(there, { connectTimeout: 100, pongTimeout: 100 });
    const run = client.chat({ message: 'Hello.' });
    const events = await all(run);
    assert.equal(client.transport, 'sse');
    assert.deepEqual(events, await log(there, run.id));
    assert.equal((await there.order('view')).asked, 1);
  });
}

test('a run under way goes on over an event stream where the WebSocket is blocked meanwhile, '
  + 'and over a WebSocket when that may be tried again', async () => {
  const there = await stage({ script: [{ text: ['a', 'b', 'c', 'd'], paced: true }] });
  const client = clientOf(there, { sseFor: 300 });
  const run = client.chat({ message: 'Hello.' });
  const iterator = run[Symbol.asyncIterator]();
  await there.order('let', { count: 2 });
  const events = await until(iterator, 'chat_chunk');
  await there.order('network', { blocked: 'refused', cut: true });
  await there.order('let');
  events.push(...(await until(iterator, 'chat_chunk')));
  assert.equal(String(client.transport), 'sse');
  await there.order('network', { blocked: null });
  const tried = Date.now();
  do {
    assert.ok(Date.now() - tried < DEADLINE, 'the WebSocket is not tried again');
    await there.order('network', { is_down: true, cut: true });
    await state(client, 'offline');
    await there.order('network', { is_down: false });
    await state(client, 'online');
  } while (client.transport !== 'websocket');
  await there.order('open');
  events.push(...(await until(iterator, 'chat_complete')));
  assert.deepEqual(events, await log(there, run.id));
});

test('a service that is down is not taken for a blocked WebSocket', async () => {
  const there = await stage();
  const client = clientOf(there);
  await there.order('network', { is_down: true });
  const run = client.chat({ message: 'Hello.' });
  const seen = [];
  client.addEventListener('statechange', (/** @type {any} */ { detail }) => seen.push(detail));
  const lost = () => seen.filter(({ state: at }) => at === 'offline').length;
  while (lost() < 5) await next(client);
  await there.order('network', { is_down: false });
  await all(run);
  assert.deepEqual(new Set(seen.map(({ transport }) => transport)), new Set(['websocket']));
  assert.ok(seen.every(({ state: at, retryAt }) => (at === 'offline') === (retryAt !== null)));
  assert.equal(seen.at(-1).state, 'online');
});

test('without a WebSocket it uses event streams', async () => {
  const there = await stage();
  const client = clientOf(there, { WebSocket: undefined });
  assert.equal(client.transport, globalThis.WebSocket ? 'websocket' : 'sse');
  assert.equal(said(await all(client.chat({ message: 'Hello.' }))), 'Good day');
});

test('a message that is too large for the socket goes over HTTP', async () => {
  const settings = { max_message_chars: 100_000, websocket_max_bytes: 4096 };
  const there = await stage({ settings });
  const client = clientOf(there, { transport: 'websocket' });
  // Larger than any socket takes, than this one's answer to it, than it reads at all.
  for (const message of ['你'.repeat(30_000), 'x'.repeat(6000), 'x'.repeat(20_000)]) {
    const [large, small] = [client.chat({ message }), client.chat({ message: 'Hello.' })];
    assert.equal(said(await all(large)), 'Good day');
    assert.equal(said(await all(small)), 'Good day');
  }
  assert.equal(client.transport, 'websocket');
});

test('a message that was taken back before it was sent is not sent', async () => {
  const there = await stage();
  const client = clientOf(there);
  await there.order('network', { is_down: true });
  const run = client.chat({ message: 'Never mind.' });
  await run.cancel();
  await assert.rejects(all(run), isRefused('cancelled'));
  await there.order('network', { is_down: false });
  await all(client.chat({ message: 'Hello.' }));
  assert.equal((await there.order('view')).asked, 1);
});

test('a loop that was broken off is gone on with by the next', async () => {
  const there = await stage();
  const run = clientOf(there).chat({ message: 'Hello.' });
  const events = [];
  for await (const event of run) {
    events.push(event);
    break;
  }
  events.push(...(await all(run)));
  assert.deepEqual(events, await log(there, run.id));
  assert.deepEqual(await all(run), []);
});

test('requests give what the service says, and its refusals', async () => {
  const there = await stage();
  const client = clientOf(there);
  const { conversations } = await client.request('GET', '/conversations?limit=5');
  assert.deepEqual(conversations, []);
  const agent = { instructions: 'Add.' };
  assert.equal((await client.request('POST', '/agents/sums', agent)).name, 'sums');
  assert.equal(await client.request('DELETE', '/agents/sums'), null);
  await assert.rejects(client.request('GET', '/runs/none'), (/** @type {any} */ error) => {
    assert.deepEqual([error.code, error.status, error.retryable], ['run_not_found', 404, false]);
    return error.message === 'There is no run of this id.';
  });
  const faulty = client.request('POST', '/chat', {});
  await assert.rejects(faulty, (/** @type {any} */ error) => error.errors.length === 1);
  assert.equal(client.state, 'idle', 'a request needs no connection');
  await there.order('network', { is_down: true, cut: true });
  await assert.rejects(client.request('GET', '/health'), (/** @type {any} */ error) =>
    error.code === 'unreachable' && error.retryable && error.status === null);
});

test('addresses keep the prefix under which the service is', async () => {
  const asked = [];
  const fetch = async (url) => {
    asked.push(url);
    return new Response('{}');
  };
  class Socket {
    constructor(url) {
      asked.push(url);
    }

    close() {}
  }
  for (const base of ['https://example.org/parley', 'https://example.org/parley/?x#y']) {
    const client = new ParleyClient(base, { fetch, WebSocket: Socket });
    await client.request('GET', '/conversations?limit=1');
    client.connect();
    client.close();
  }
  const each = ['https://example.org/parley/conversations?limit=1', 'wss://example.org/parley/ws'];
  assert.deepEqual(asked, [...each, ...each]);
  assert.throws(() => new ParleyClient(), TypeError);
  assert.throws(() => new ParleyClient('ftp://example.org'), TypeError);
  const pigeon = /** @type {any} */ ({ transport: 'pigeon' });
  assert.throws(() => new ParleyClient('http://x', pigeon), TypeError);
});

test('an address that a proxy answers for an absent service is waited for', async () => {
  let answers = 0;
  const fetch = async (url, options) => {
    answers += 1;
    if (answers < 6) return new Response('<h1>Bad gateway</h1>', { status: 502 });
    return globalThis.fetch(url, options);
  };
  const there = await stage();
  const client = clientOf(there, { transport: 'sse', fetch });
  assert.equal(said(await all(client.chat({ message: 'Hello.' }))), 'Good day');
  assert.ok(answers > 6);
});
