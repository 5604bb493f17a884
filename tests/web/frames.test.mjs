/** Event streams that are cut anywhere. */

import { test } from 'node:test';
import { FrameDecoder, ParleyClient } from '../../web/client.js';
import { assert } from './support.mjs';

const STREAM = [
  ': a comment\n\n',
  'id: r:1:1\ndata: {"a":1}\n\n',
  'id: r:1:2\r\ndata: {"content":"Grüße 😀 你好\u2028\u0085\u000b\u000c"}\r\n\r\n',
  'id: r:1:3\rdata: one\rdata:two\r\r',
  'event: other\nid\ndata\ndata:  two spaces\n\n',
  'id: r:1:9\n\n',
  'data: without an id\n\n',
  'data: never ended',
].join('');

const FRAMES = [
  { id: 'r:1:1', data: '{"a":1}' },
  { id: 'r:1:2', data: '{"content":"Grüße 😀 你好\u2028\u0085\u000b\u000c"}' },
  { id: 'r:1:3', data: 'one\ntwo' },
  { id: '', data: '\n two spaces' },
  { id: null, data: 'without an id' },
];

function decoded(pieces) {
  const [text, frames] = [new TextDecoder(), new FrameDecoder()];
  return pieces.flatMap((piece) => frames.feed(text.decode(piece, { stream: true })));
}

test('a stream that is cut at any byte gives the same frames', () => {
  const bytes = new TextEncoder().encode(STREAM);
  for (let at = 0; at <= bytes.length; at += 1) {
    assert.deepEqual(decoded([bytes.subarray(0, at), bytes.subarray(at)]), FRAMES, `cut at ${at}`);
  }
});

test('a stream that comes byte by byte gives the same frames', () => {
  const bytes = new TextEncoder().encode(STREAM);
  assert.deepEqual(decoded(Array.from(bytes, (_, at) => bytes.subarray(at, at + 1))), FRAMES);
});

test('a byte order mark at the beginning is not of the first field', () => {
  const bytes = new TextEncoder().encode('\ufeffdata: x\n\n');
  assert.deepEqual(decoded([bytes]), [{ id: null, data: 'x' }]);
});

test('a line of a million pieces takes no time that grows with its square', () => {
  const frames = new FrameDecoder();
  frames.feed('data: ');
  for (let at = 0; at < 1_000_000; at += 1) frames.feed('x');
  const [frame] = frames.feed('\n\n');
  assert.equal(frame.data.length, 1_000_000);
});

test('a frame that has no end is not kept for ever', () => {
  const frames = new FrameDecoder();
  const piece = 'x'.repeat(2 ** 20);
  assert.throws(() => {
    for (let at = 0; at < 80; at += 1) frames.feed(piece);
  }, { code: 'bad_answer' });
});

test('many frames of any length in all are no frame without an end', () => {
  const frames = new FrameDecoder();
  const piece = `data: ${'x'.repeat(2 ** 20)}\n\n`;
  for (let at = 0; at < 80; at += 1) assert.equal(frames.feed(piece).length, 1);
});

test('however long a service says to wait, it is not asked again and again', async () => {
  let asked = 0;
  const problem = { code: 'unavailable', detail: 'Not now.', retryable: true };
  const headers = { 'Content-Type': 'application/problem+json', 'Retry-After': '3000000' };
  async function fetch() {
    asked += 1;
    return new Response(JSON.stringify(problem), { status: 503, headers });
  }
  const client = new ParleyClient('http://127.0.0.1:1', { transport: 'sse', fetch });
  client.chat({ message: 'Hello.' });
  await new Promise((resolve) => { setTimeout(resolve, 200); });
  client.close();
  assert.ok(asked >= 1 && asked <= 3, `${asked} times`); // a new connection is asked at once
});

test('an event that comes twice is given once', async () => {
  const frame = (seq, event) =>
    `id: run_1:1:${seq}\ndata: ${JSON.stringify({ run_id: 'run_1', seq, ...event })}\n\n`;
  const first = frame(1, { event_type: 'chat_start', conversation_id: 'c' });
  const last = frame(2, { event_type: 'chat_complete' });
  const fetch = async (url) => new Response(/health$/.test(url) ? '{}' : first + first + last);
  const client = new ParleyClient('http://127.0.0.1:1', { transport: 'sse', fetch });
  const seen = [];
  for await (const event of client.chat({ message: 'Hello.' })) seen.push(event.seq);
  client.close();
  assert.deepEqual(seen, [1, 2]);
});
