/** One conversation as a page shows it, whatever order things happen in. */

import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import { Chat } from '../../web/page/chat.js';
import { outbox, post } from '../../web/page/kept.js';
import { isUnderWay, textOf } from '../../web/page/thread.js';
import { FakeClient, FakeService, settled } from './fake-service.mjs';

let service;

beforeEach(() => {
  service = new FakeService();
  const kept = new Map();
  const storage = {
    getItem: (name) => kept.get(name) ?? null,
    setItem: (name, value) => kept.set(name, value),
    removeItem: (name) => kept.delete(name),
  };
  globalThis.localStorage = /** @type {any} */ (storage);
});

/** A page that shows the conversation; nothing may ever be there twice in it. */
async function page({ isLoaded = true } = {}) {
  const client = new FakeClient(service);
  const chat = new Chat(/** @type {any} */ (client), 'c');
  chat.addEventListener('change', () => {
    const names = chat.entries.filter((each) => each.runId).map((each) => each.kind + each.runId);
    assert.deepEqual(names, [...new Set(names)], 'shown twice');
  });
  const opened = chat.open();
  if (isLoaded) {
    await client.answer();
    await opened;
  }
  return { client, chat };
}

/** What is shown, for a comparison: `U:` a message, `A:` an answer, `…` that it goes on. */
function shown({ entries }) {
  return entries.map((each) => {
    if (each.kind === 'user') {
      return `U:${each.text}${each.state === 'sent' ? '' : ` (${each.state})`}`;
    }
    const dots = isUnderWay(each) ? '…' : '';
    return `A:${textOf(each)}${each.state === 'failed' ? '!' : dots}`;
  });
}

function answered(message, text) {
  service.accept(message);
  service.begin();
  service.say(text);
  service.end();
}

test('a message is shown at once, and its answer as it comes', async () => {
  const { client, chat } = await page();
  chat.send('Hello.', 'chat');
  assert.deepEqual(shown(chat), ['U:Hello. (sending)', 'A:…']);
  await client.deliver();
  assert.deepEqual(shown(chat), ['U:Hello.', 'A:…']);
  service.begin();
  service.say('Good');
  await client.deliver();
  await client.answer();
  assert.deepEqual(shown(chat), ['U:Hello.', 'A:Good…']);
  service.say(' day');
  service.end();
  await client.deliver();
  await client.answer();
  assert.deepEqual(shown(chat), ['U:Hello.', 'A:Good day']);
  assert.equal(chat.entries[0].id, service.messages[0].id);
});

test('a message that is accepted and not named yet is not shown as somebody else’s', async () => {
  answered('One?', 'One.');
  const { client, chat } = await page();
  chat.send('Two?', 'chat');
  const [run] = client.runs;
  run.running = run.ask();
  service.begin();
  chat.sync();
  await client.answer();
  assert.deepEqual(shown(chat), ['U:One?', 'A:One.', 'U:Two? (sending)', 'A:…']);
  await client.deliver(run);
  await client.answer();
  assert.deepEqual(shown(chat), ['U:One?', 'A:One.', 'U:Two?', 'A:…']);
});

test('what was loaded before an answer is made anew does not bring the old one back', async () => {
  answered('One?', 'Old.');
  const { client, chat } = await page();
  chat.sync();
  await client.step();
  await client.step();
  chat.regenerate('chat');
  await client.deliver();
  await client.answer();
  assert.deepEqual(shown(chat), ['U:One?', 'A:…']);
  service.begin();
  service.say('New.');
  service.end();
  await client.deliver();
  await client.answer();
  assert.deepEqual(shown(chat), ['U:One?', 'A:New.']);
});

test('an answer that another page makes anew takes the place of the old one', async () => {
  answered('One?', 'Old.');
  const { client, chat } = await page();
  service.accept(null);
  chat.sync();
  await client.answer();
  assert.deepEqual(shown(chat), ['U:One?', 'A:…']);
  service.begin();
  service.say('New.');
  service.end();
  await client.deliver();
  await client.answer();
  assert.deepEqual(shown(chat), ['U:One?', 'A:New.']);
});

test('an attempt to answer anew that fails takes nothing away', async () => {
  answered('One?', 'Old.');
  const { client, chat } = await page();
  chat.regenerate('chat');
  await client.deliver();
  service.begin();
  service.fail();
  await client.deliver();
  await client.answer();
  assert.deepEqual(shown(chat), ['U:One?', 'A:Old.', 'A:!']);
});

test('a message that is found on its way is not there twice when it is sent again', async () => {
  post({ key: 'k1', chatId: 'c', text: 'Hello.', agent: 'chat' });
  service.accept('Hello.', 'k1');
  service.begin();
  const { client, chat } = await page();
  const [joined, again] = client.runs;
  await client.deliver(again);
  assert.deepEqual(shown(chat), ['U:Hello.', 'A:…']);
  assert.ok(again.isLeft);
  assert.deepEqual(outbox('c'), []);
  service.say('Hi.');
  service.end();
  await client.deliver(joined);
  await client.answer();
  assert.deepEqual(shown(chat), ['U:Hello.', 'A:Hi.']);
});

test('a message that was answered is not there twice when it is sent again', async () => {
  post({ key: 'k1', chatId: 'c', text: 'Hello.', agent: 'chat' });
  service.accept('Hello.', 'k1');
  service.begin();
  service.say('Hi.');
  service.end();
  const { client, chat } = await page();
  await client.deliver();
  await client.answer();
  assert.deepEqual(shown(chat), ['U:Hello.', 'A:Hi.']);
  assert.equal(service.messages.length, 2);
});

test('who asks for what is stored gets what came after he asked', async () => {
  const { client, chat } = await page();
  chat.sync();
  await client.step();
  let isDone = false;
  const second = chat.sync().then(() => { isDone = true; });
  answered('One?', 'One.');
  await client.step();
  await client.step();
  await settled();
  assert.equal(isDone, false);
  await client.answer();
  await second;
  assert.deepEqual(shown(chat), ['U:One?', 'A:One.']);
});

test('a run that is found before its message is stored loses nothing', async () => {
  answered('One?', 'One.');
  service.accept('Two?');
  const { client, chat } = await page();
  await client.deliver();
  service.begin();
  service.say('Two');
  await client.deliver();
  await client.answer();
  assert.deepEqual(shown(chat), ['U:One?', 'A:One.', 'U:Two?', 'A:Two…']);
});

test('messages that wait are shown in the order in which they will be answered', async () => {
  const { client, chat } = await page();
  service.accept('One?');
  service.begin();
  service.accept('Two?');
  chat.send('Three?', 'chat');
  await client.deliver();
  await client.answer();
  const all = ['U:One?', 'A:…', 'U:Two?', 'A:…', 'U:Three?', 'A:…'];
  assert.deepEqual(shown(chat), all);
  const other = await page();
  assert.deepEqual(shown(other.chat), all);
});

test('an answer whose end has not come yet stands behind its own message', async () => {
  const { client, chat } = await page();
  service.accept('One?');
  service.begin();
  service.say('One.');
  service.accept('Two?');
  chat.sync();
  await client.answer();
  await client.deliver(client.runs[0]);
  service.end();
  service.begin();
  chat.sync();
  await client.answer();
  assert.deepEqual(shown(chat), ['U:One?', 'A:One.…', 'U:Two?', 'A:…']);
});

test('what cannot be followed to its end is shown as it is stored', async () => {
  const { client, chat } = await page();
  service.accept('One?');
  service.begin();
  service.say('Half');
  chat.sync();
  await client.answer();
  const [run] = client.runs;
  await client.deliver(run);
  service.say(' and half');
  service.end();
  run.refuse(Object.assign(new Error('No such run.'), { code: 'run_not_found', status: 404 }));
  await client.answer();
  assert.deepEqual(shown(chat), ['U:One?', 'A:Half and half']);
});

test('an answer that an error cut keeps its text and says why', async () => {
  const { client, chat } = await page();
  chat.send('One?', 'chat');
  await client.deliver();
  service.begin();
  service.say('Half');
  service.fail();
  await client.deliver();
  await client.answer();
  assert.deepEqual(shown(chat), ['U:One?', 'A:Half!']);
  assert.equal(chat.entries[1].error.message, 'It broke.');
});

test('an answer that failed gives way to the one that another page asks for', async () => {
  const { client, chat } = await page();
  chat.send('One?', 'chat');
  await client.deliver();
  service.begin();
  service.fail();
  await client.deliver();
  await client.answer();
  service.accept(null);
  chat.sync();
  await client.answer();
  assert.deepEqual(shown(chat), ['U:One?', 'A:…']);
});

test('an error before the first word stays until something follows', async () => {
  const { client, chat } = await page();
  chat.send('One?', 'chat');
  await client.deliver();
  service.begin();
  service.fail();
  await client.deliver();
  await client.answer();
  assert.deepEqual(shown(chat), ['U:One?', 'A:!']);
});

test('a message that was stopped before its turn leaves nothing behind', async () => {
  const { client, chat } = await page();
  service.accept('One?');
  service.begin();
  chat.send('Two?', 'chat');
  await client.deliver();
  await client.answer();
  assert.deepEqual(shown(chat), ['U:One?', 'A:…', 'U:Two?', 'A:…']);
  const [joined, own] = [client.runs.at(-1), client.runs[0]];
  service.end();
  service.cancel();
  for (const run of [joined, own]) await client.deliver(run);
  await client.answer();
  assert.deepEqual(shown(chat), ['U:One?', 'A:']);
});

test('a refused message is kept until it is taken back, and can be sent again', async () => {
  const { client, chat } = await page();
  chat.send('Hello.', 'chat');
  client.runs.pop().refuse(Object.assign(new Error('Too long.'), { code: 'invalid_value' }));
  await client.answer();
  assert.deepEqual(shown(chat), ['U:Hello. (refused)']);
  assert.equal(outbox('c').length, 1);
  chat.resend(chat.entries[0], 'chat');
  await client.deliver();
  assert.deepEqual(shown(chat), ['U:Hello.', 'A:…']);
  assert.deepEqual(outbox('c'), []);
});

test('a message that was stopped before it was sent is not sent by the next visit', async () => {
  const { client, chat } = await page();
  chat.send('Hello.', 'chat');
  client.runs.pop().refuse(Object.assign(new Error('Taken back.'), { code: 'cancelled' }));
  await client.answer();
  assert.deepEqual(shown(chat), ['U:Hello. (refused)']);
  assert.deepEqual(outbox('c'), []);
});

test('a conversation that was deleted is not shown any more', async () => {
  answered('One?', 'One.');
  const { client, chat } = await page();
  service.isGone = true;
  chat.sync();
  await client.answer();
  assert.deepEqual(shown(chat), []);
  assert.equal(chat.problem?.status, 404);
});

test('what cannot be loaded of before can be loaded later', async () => {
  answered('One?', 'One.');
  const { client, chat } = await page();
  chat.hasMore = true;
  const older = chat.older();
  client.requests.pop().reject(new Error('unreachable'));
  await older;
  assert.equal(chat.hasMore, true);
  assert.deepEqual(shown(chat), ['U:One?', 'A:One.']);
});

test('who leaves a conversation follows none of its runs', async () => {
  service.accept('One?');
  service.accept('Two?');
  const { client, chat } = await page();
  chat.close();
  assert.deepEqual(client.runs.map((run) => run.isLeft), [true, true]);
});

/** Numbers from 0 to 1 that look like chance and are always the same. */
function chanceOf(seed) {
  let state = seed * 2654435761;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** What the service may do next. */
function moves() {
  const [run] = service.queue;
  if (!run) return [];
  if (!run.isBegun) return [() => service.begin()];
  return [() => service.say(`${run.id} `), () => service.end(), () => service.say('more '),
    ...(run.text ? [() => service.cancel()] : [])];
}

/** What the user of a page may do next. */
function wishes({ chat }, number) {
  const last = chat.entries.at(-1);
  const mayAnswerAnew = last?.kind === 'answer' && !isUnderWay(last) && last.state === 'done';
  return [
    () => chat.send(`message ${number}`, 'chat'),
    () => void chat.sync(),
    ...(mayAnswerAnew ? [() => chat.regenerate('chat')] : []),
  ];
}

const pick = (chance, list) => list[Math.floor(chance() * list.length)];

async function history(seed) {
  const chance = chanceOf(seed);
  const pages = [await page(), await page()];
  for (let step = 0; step < 60; step += 1) {
    const all = [moves(), ...pages.map(({ client }) => client.possible())];
    const possible = all.filter((some) => some.length);
    if (step < 45 && chance() < 0.15) possible.unshift(wishes(pick(chance, pages), step));
    if (possible.length) await pick(chance, pick(chance, possible))();
    await settled();
  }
  return pages;
}

async function quiet(pages) {
  for (;;) {
    const possible = pages.flatMap(({ client }) => client.possible());
    const next = possible[0] ?? moves()[1] ?? moves()[0];
    if (!next) return;
    await next();
    await settled();
  }
}

test('two pages come to show what a third one finds, in whatever order things happen', async () => {
  for (let seed = 1; seed <= 150; seed += 1) {
    service = new FakeService();
    const pages = await history(seed);
    await quiet(pages);
    for (const { chat } of pages) chat.sync();
    await quiet(pages);
    const fresh = await page();
    // Of an answer without a word nothing is stored, so a page that saw it shows more.
    const words = ({ chat }) => shown(chat).filter((each) => each !== 'A:');
    for (const each of pages) assert.deepEqual(words(each), words(fresh), `seed ${seed}`);
  }
});
