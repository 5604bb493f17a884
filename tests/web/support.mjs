/** What the cases share: stages (see stage.py), clients that are in a hurry, and a run's log. */

import assert from 'node:assert/strict';
import { after } from 'node:test';
import WebSocket from 'ws';
import { ParleyClient } from '../../web/client.js';

/** Milliseconds after which a wait has failed. */
export const DEADLINE = Number(process.env.DEADLINE ?? 20_000);

const HURRY = { backoffMin: 5, backoffMax: 50 };

/** A stage: `view` is its state, `order` asks something of it. */
export async function stage(given = {}) {
  let view = await post('/stages', given);
  const { stage: number } = view;
  const order = async (verb, fields = {}) => {
    view = { ...view, ...(await post(`/stages/${number}/${verb}`, fields)) };
    return view;
  };
  const clients = [];
  const own = {
    clients,
    get view() {
      return view;
    },
    order,
  };
  after(() => {
    for (const client of clients) client.close();
    return order('end');
  });
  return own;
}

async function post(path, body) {
  const response = await fetch(process.env.STAGES + path, {
    method: 'POST', body: JSON.stringify(body),
  });
  assert.equal(response.status, 200, path);
  return response.json();
}

/** A client over the stage's bad network; it is closed after the case. */
export function clientOf(there, options = {}) {
  const client = new ParleyClient(there.view.url, { WebSocket, ...HURRY, ...options });
  there.clients.push(client);
  return client;
}

/** What a promise gives, in time. */
export function soon(promise, what = 'it') {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not come`)), DEADLINE);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** All events of a run. */
export async function all(run) {
  const events = [];
  await soon((async () => {
    for await (const event of run) events.push(event);
  })(), 'the end of the run');
  return events;
}

/** The events up to the first of a type. */
export async function until(iterator, type) {
  const events = [];
  while (events.at(-1)?.event_type !== type) {
    const { value, done } = await soon(iterator.next(), type);
    assert.ok(!done, `ended before ${type}: ${JSON.stringify(events)}`);
    events.push(value);
  }
  return events;
}

/** The state that a client comes to. */
export function state(client, wanted) {
  if (client.state === wanted) return Promise.resolve();
  return soon(new Promise((/** @type {(value?: any) => void} */ resolve) => {
    client.addEventListener('statechange', function look({ detail }) {
      if (detail.state !== wanted) return;
      client.removeEventListener('statechange', look);
      resolve();
    });
  }), wanted);
}

/** The next change of a client's state. */
export function next(client) {
  return soon(new Promise((resolve) => {
    client.addEventListener('statechange', resolve, { once: true });
  }), 'another state');
}

/** A run's log, read from the service itself by other means than the client's. */
export async function log(there, runId) {
  const response = await fetch(`${there.view.direct}/runs/${runId}/events`);
  assert.equal(response.status, 200);
  const lines = (await response.text()).split('\n').filter((line) => line.startsWith('data: '));
  return lines.map((line) => JSON.parse(line.slice('data: '.length)));
}

export function said(events) {
  const pieces = events.filter(({ event_type: type }) => type === 'chat_chunk');
  return pieces.map(({ content }) => content).join('');
}

export { assert };
