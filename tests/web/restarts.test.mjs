/** A service that stops, or is killed, and comes back loses nothing, whatever the transport. */

import { test } from 'node:test';
import { ParleyError } from '../../web/client.js';
import { all, assert, clientOf, log, said, stage, state, until } from './support.mjs';

const HELD = { text: ['Good', ' day'], held: true };
const CALCULATE = { calls: [['calculate', { expression: '1+2' }]] };

/** A client of each transport. */
const both = (there) => ['websocket', 'sse'].map((transport) => clientOf(there, { transport }));

/** A run's iterator, once an event of a type has come. */
async function begun(run, type) {
  const events = run[Symbol.asyncIterator]();
  await until(events, type);
  return { run, events };
}

test('a run that a crash interrupted goes on in a new epoch', async () => {
  const there = await stage({ script: [CALCULATE, HELD, CALCULATE, HELD], process: true });
  const runs = [];
  for (const [at, client] of both(there).entries()) {
    runs.push(await begun(client.chat({ message: 'Add.' }), 'tool_call_complete'));
    await there.order('asked', { count: 2 * at + 2 });
  }
  await there.order('stop');
  await there.order('start');
  await there.order('open');
  for (const { run, events } of runs) {
    const rest = await until(events, 'chat_complete');
    assert.equal(rest[0].event_type, 'reset');
    assert.equal(rest[0].reason, 'epoch_changed');
    assert.deepEqual(rest.slice(1), await log(there, run.id));
    assert.equal(rest.at(-1).final_response, 'Good day');
    assert.match(String(run.cursor), /:2:\d+$/);
  }
});

test('a run that a stop interrupted goes on after it', async () => {
  const there = await stage({ script: [HELD] });
  const clients = both(there);
  const chats = clients.map((client) => begun(client.chat({ message: 'Hello.' }), 'chat_start'));
  const runs = await Promise.all(chats);
  await there.order('asked', { count: 2 });
  await there.order('stop');
  await there.order('start');
  await there.order('open');
  for (const { run, events } of runs) {
    const [reset, ...rest] = await until(events, 'chat_complete');
    assert.equal(reset.event_type, 'reset');
    assert.deepEqual(rest, await log(there, run.id));
    assert.equal(said(rest), 'Good day');
  }
});

test('what is sent while the service restarts is answered when it is back', async () => {
  const there = await stage();
  const clients = both(there);
  await Promise.all(clients.map((client) => all(client.chat({ message: 'Hello.' }))));
  await there.order('stop');
  const runs = clients.map((client) => client.chat({ message: 'Are you there?' }));
  await Promise.all(clients.map((client) => state(client, 'offline')));
  await there.order('start');
  for (const run of runs) assert.equal(said(await all(run)), 'Good day');
  assert.equal((await there.order('view')).asked, 4);
});

test('a refusal of a service that stops is waited out', async () => {
  const there = await stage();
  const clients = both(there);
  await Promise.all(clients.map((client) => all(client.chat({ message: 'Hello.' }))));
  await there.order('drain');
  const runs = clients.map((client) => client.chat({ message: 'Hello again.' }));
  let settled = 0;
  for (const { started } of runs) {
    started.finally(() => {
      settled += 1;
    });
  }
  const other = clients[0].request('POST', '/chat', { message: 'x' });
  await assert.rejects(other, (error) => {
    return error instanceof ParleyError && error.code === 'unavailable';
  });
  assert.equal(settled, 0);
  await there.order('stop');
  await there.order('start');
  for (const run of runs) assert.equal(said(await all(run)), 'Good day');
});
