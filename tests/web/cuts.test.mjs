/** Whatever is cut wherever, what a client was told is exactly the run's log. */

import { test } from 'node:test';
import { all, assert, clientOf, log, soon, stage } from './support.mjs';

const SCRIPT = [
  { calls: [['add', { a: 1, b: 2 }], ['add', { a: 3, b: 4 }]] },
  { text: ['Grüße', ' 😀', ' 你好', ' \u2028 ', 'end'] },
];

/** A reply for every second asking: calls, then text. */
function script(runs) {
  return Array.from({ length: runs }, () => SCRIPT).flat();
}

/** The runs that the stage has answered, each once: two askings of the model a run. */
async function exactly(there, runs) {
  const { asked } = await there.order('view');
  assert.equal(asked, 2 * runs, 'a message was answered twice');
}

async function cutEverywhere(transport, offsets, network) {
  const there = await stage({ script: script(offsets.length) });
  for (const offset of offsets) {
    await there.order('network', network(offset));
    const client = clientOf(there, { transport, backoffMin: 1, backoffMax: 5 });
    const run = client.chat({ message: 'Add.' });
    const told = await all(run);
    client.close();
    assert.deepEqual(told, await log(there, run.id), `cut at ${offset}`);
    assert.equal(told[0].event_type, 'chat_start');
    assert.equal(told.at(-1).event_type, 'chat_complete');
  }
  await exactly(there, offsets.length);
}

const every = (step, upTo, from = 0) =>
  Array.from({ length: Math.ceil((upTo - from) / step) }, (_, at) => from + at * step);

/** Three connections of a run break off, each some bytes later than the one before. */
const thrice = (at) => ({ cuts: [at, at + 7, at + 15] });

test('over a WebSocket, cut all over what the service says, three times in a run', async () => {
  await cutEverywhere('websocket', every(23, 2600), thrice);
});

test('over event streams, cut all over what the service says, three times in a run', async () => {
  await cutEverywhere('sse', every(23, 2600), thrice);
});

test('over a WebSocket, cut all over what the client sends first', async () => {
  await cutEverywhere('websocket', every(13, 320), (at) => ({ halves: [at] }));
});

test('over event streams, cut all over the request', async () => {
  await cutEverywhere('sse', every(17, 460), (at) => ({ halves: [at] }));
});

for (const transport of ['websocket', 'sse']) {
  test(`cut behind each event of an answer on its way (${transport})`, async () => {
    const pieces = Array.from({ length: 24 }, (_, at) => `${at} `);
    const there = await stage({ script: [{ text: pieces, paced: true }] });
    const run = clientOf(there, { transport }).chat({ message: 'Count.' });
    const told = [];
    const reading = (async () => {
      for await (const event of run) {
        told.push(event);
        await there.order('network', { cut: true });
        if (told.length === 1) await there.order('let', { count: 2 }); // the role, the first piece
        else if (told.length <= pieces.length) await there.order('let');
        else await there.order('open');
      }
    })();
    await soon(reading, 'the end');
    assert.deepEqual(told, await log(there, run.id));
    assert.ok((await there.order('view')).told > pieces.length, 'it was not cut');
  });
}
