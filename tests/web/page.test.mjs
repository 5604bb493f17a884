/** What a browser tells a page, told to a client in Node. */

import { after, beforeEach, test } from 'node:test';
import { all, assert, clientOf, log, said, stage, state } from './support.mjs';

const SLOW = { backoffMin: 3_600_000, backoffMax: 3_600_000 };

let network;
const globals = /** @type {any} */ (globalThis);

beforeEach(() => {
  network = new EventTarget();
  globals.addEventListener = (...parts) => network.addEventListener(...parts);
  globals.document = Object.assign(new EventTarget(), { visibilityState: 'hidden' });
});

after(() => {
  delete globals.addEventListener;
  delete globals.document;
});

const comesOnline = () => network.dispatchEvent(new Event('online'));

const isShown = () => {
  globals.document.visibilityState = 'visible';
  globals.document.dispatchEvent(new Event('visibilitychange'));
};

for (const [name, happens] of Object.entries({
  'comes online': comesOnline, 'is shown again': isShown,
})) {
  test(`a page that ${name} connects at once, and its runs go on`, async () => {
    const there = await stage({ script: [{ text: ['Good', ' day'], held: true }] });
    const client = clientOf(there, SLOW);
    const run = client.chat({ message: 'Hello.' });
    await run.started;
    await there.order('network', { is_down: true, cut: true });
    await state(client, 'offline');
    await there.order('open');
    await there.order('network', { is_down: false });
    happens();
    assert.deepEqual(await all(run), await log(there, run.id));
  });

  test(`a page that ${name} finds out that its connection is dead`, async () => {
    const there = await stage();
    const client = clientOf(there, { ...SLOW, checkTimeout: 100 });
    assert.equal(said(await all(client.chat({ message: 'Hello.' }))), 'Good day');
    await there.order('network', { is_silent: true });
    happens();
    await state(client, 'offline');
  });
}

test('a hidden page and an idle client are left alone', async () => {
  const there = await stage();
  const client = clientOf(there, SLOW);
  comesOnline();
  assert.equal(client.state, 'idle');
  client.connect();
  await state(client, 'online');
  await there.order('network', { is_down: true, cut: true });
  await state(client, 'offline');
  globals.document.dispatchEvent(new Event('visibilitychange'));
  assert.equal(client.state, 'offline');
});

test('a closed client listens to nothing', async () => {
  const there = await stage();
  const client = clientOf(there, SLOW);
  client.connect();
  client.close();
  comesOnline();
  isShown();
  assert.equal(client.state, 'closed');
});

test('in a page no more event streams are open than a browser has connections for', async () => {
  const there = await stage({ script: [{ text: ['Good', ' day'], held: true }] });
  const client = clientOf(there, { transport: 'sse' });
  const runs = Array.from({ length: 6 }, () => client.chat({ message: 'Hello.' }));
  await Promise.all(runs.slice(0, 4).map((run) => run.started));
  await client.request('GET', '/health');
  assert.equal((await there.order('view')).told, 4);
  await there.order('open');
  const told = await Promise.all(runs.map(all));
  assert.ok(told.every((events) => said(events) === 'Good day'));
});
