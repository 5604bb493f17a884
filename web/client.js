/**
 * The client of a Parley service, for a page and for Node: one module, no dependency.
 *
 *     import { ParleyClient } from './client.js';
 *     const client = new ParleyClient('http://127.0.0.1:8000');
 *     for await (const event of client.chat({ message: 'What is 15 + 27?' })) {
 *       if (event.event_type === 'chat_chunk') console.log(event.content);
 *     }
 *     client.close();
 *
 * What it promises: the events of a run come exactly once and in their order, whatever happens to
 * the connection, and a message is answered once, however often it had to be sent. So nothing
 * throws for want of a connection: what is to be sent waits, a run goes on behind its cursor.
 *
 * How it is made:
 * - A `Lane` is one run as its reader sees it: how it is asked for, how far it was told (its
 *   cursor), and a queue of events that nobody has taken yet. A lane outlives connections.
 * - A link is one connection: `SocketLink` one WebSocket for all lanes, `HttpLink` an event stream
 *   for each lane. A link that is lost is forgotten with all it knew; its lanes go to the next.
 * - The client makes links, and gives them the lanes and the commands that are on none.
 *
 * Each asking has a `request_id` of its own, so that nothing that comes late on an old one counts.
 */

/** Refusals that say that the service cannot take any work now: what was asked waits. */
const WAITS = new Set(['unavailable', 'shutting_down', 'run_elsewhere']);

/** What a proxy says while the service behind it is not there. */
const GATEWAY = new Set([502, 503, 504]);

const LAST = new Set(['chat_complete', 'error']);

/** Bytes of one message on the socket; larger ones go over HTTP, which takes more. */
const MAX_MESSAGE_BYTES = 65_536;

/** Characters that one frame of an event stream may have; the service's have far fewer. */
const MAX_FRAME_CHARS = 64 * 1024 * 1024;

/** What a timer can wait at most; with more it does not wait at all. */
const LONGEST_DELAY = 2 ** 31 - 1;

const DEFAULTS = {
  transport: 'auto',
  backoffMin: 500,
  backoffMax: 10_000,
  connectTimeout: 10_000,
  pingInterval: 20_000,
  pongTimeout: 10_000,
  checkTimeout: 5_000,
  silence: 40_000,
  requestTimeout: 30_000,
  sseFor: 60_000,
  maxRuns: 32,
  maxUnread: 1_024,
};

/**
 * A refusal or a failure that has a name.
 *
 * `code` is the service's, or the client's own: `unreachable` (no answer), `bad_answer` (one that
 * cannot be understood), `closed` (the client was closed), `cancelled` (before it was ever sent).
 */
export class ParleyError extends Error {
  /**
   * @param {string} message for a person.
   * @param {object} [fields]
   * @param {string} [fields.code] a stable name for programs.
   * @param {?number} [fields.status] the HTTP status, where there was one.
   * @param {boolean} [fields.retryable] whether the same request may succeed later.
   * @param {?number} [fields.retryAfter] in so many seconds, where that is known.
   * @param {{field: string, message: string}[]} [fields.errors] the faults of invalid values.
   * @param {*} [fields.cause]
   */
  constructor(message, fields = {}) {
    super(message, fields.cause === undefined ? undefined : { cause: fields.cause });
    this.name = 'ParleyError';
    this.code = fields.code ?? 'internal_error';
    this.status = fields.status ?? null;
    this.retryable = fields.retryable ?? false;
    this.retryAfter = fields.retryAfter ?? null;
    this.errors = fields.errors ?? [];
  }
}

/**
 * Server-sent events out of text that is cut anywhere. Lines end with CR, LF or CRLF, and with
 * nothing else; of the fields only `id` and `data` are read. A frame's `id` is its own.
 */
export class FrameDecoder {
  #line = '';
  #size = 0;
  #afterCr = false;
  #data = [];
  #id = null;

  /**
   * @param {string} text the next piece.
   * @returns {{id: ?string, data: string}[]} the frames that are complete now.
   * @throws {ParleyError} `bad_answer`: a frame has no end.
   */
  feed(text) {
    const frames = [];
    let from = this.#afterCr && text.startsWith('\n') ? 1 : 0;
    if (text !== '') this.#afterCr = text.endsWith('\r');
    const ends = /\r\n|\r|\n/g;
    ends.lastIndex = from;
    for (let end = ends.exec(text); end !== null; end = ends.exec(text)) {
      this.#take(this.#line + text.slice(from, end.index), frames);
      this.#line = '';
      from = ends.lastIndex;
    }
    this.#line += text.slice(from);
    this.#size += text.length;
    if (frames.length > 0) this.#size = 0;
    if (this.#size > MAX_FRAME_CHARS) {
      throw new ParleyError('A frame has no end.', { code: 'bad_answer' });
    }
    return frames;
  }

  #take(line, frames) {
    if (line === '') {
      if (this.#data.length > 0) frames.push({ id: this.#id, data: this.#data.join('\n') });
      this.#data = [];
      this.#id = null;
      return;
    }
    const [, field, value] = /^([^:]*)(?:: ?)?([^]*)$/.exec(line);
    if (field === 'data') this.#data.push(value);
    else if (field === 'id') this.#id = value;
  }
}

/** One run as its reader sees it. */
class Lane {
  id = null;
  conversationId = null;
  epoch = null;
  seq = 0;
  cursor = null;
  /** The link that it is on, or null. */
  link = null;
  /** Whether it was ever put on a link: the service may know of it. */
  sent = false;
  isStarted = false;
  isParked = false;
  isLeft = false;
  /** Whether only HTTP will do for it. */
  viaHttp = false;
  /** How often in a row it was put off, and the timer while it is. */
  delays = 0;
  timer = null;

  #events = [];
  #taken = 0;
  #waiting = [];
  #ended = false;
  #error = null;

  constructor(kind, data, key) {
    Object.assign(this, { kind, data, key });
    this.started = new Promise((resolve, reject) => {
      this.resolveStarted = resolve;
      this.rejectStarted = reject;
    });
    this.started.catch(() => {}); // who iterates learns of it there
  }

  /** Whether its run is to be gone on with, not asked for. */
  get isKnown() {
    return this.id !== null;
  }

  get unread() {
    return this.#events.length - this.#taken;
  }

  get hasEnded() {
    return this.#ended;
  }

  /** What has begun, wherever it is. */
  start() {
    this.isStarted = true;
    this.delays = 0;
    this.resolveStarted(this.id);
  }

  /**
   * Take an event that a link brings; one that was told before is dropped.
   *
   * @returns {boolean} whether it is the run's last.
   */
  take(event, id) {
    if (event.event_type === 'reset') {
      this.#moveTo(event.run_id, event.epoch, 0);
    } else {
      const [epoch, seq] = placeOf(id);
      if (epoch === this.epoch && seq <= this.seq) return LAST.has(event.event_type);
      this.#moveTo(event.run_id, epoch, seq);
    }
    if (event.event_type === 'chat_start') this.conversationId = event.conversation_id;
    if (!this.isStarted) this.start();
    if (!this.isLeft) this.#push(event);
    return LAST.has(event.event_type);
  }

  #moveTo(runId, epoch, seq) {
    Object.assign(this, { id: runId, epoch, seq, cursor: `${runId}:${epoch}:${seq}`, delays: 0 });
  }

  #push(event) {
    const waiting = this.#waiting.shift();
    if (waiting) waiting.resolve({ value: event, done: false });
    else this.#events.push(event);
  }

  /** Nothing more comes; `error` is thrown to whoever takes what is behind the events. */
  end(error = null) {
    if (this.#ended) return;
    this.#ended = true;
    this.#error = error;
    if (error) this.rejectStarted(error);
    while (this.#waiting.length > 0) this.#settle(this.#waiting.shift());
  }

  /** Forget what nobody has taken, and end. */
  leave() {
    this.isLeft = true;
    this.#events = [];
    this.#taken = 0;
    while (this.#waiting.length > 0) this.#waiting.shift().resolve(DONE);
  }

  /** Return a promise of the next event, as an iterator does. */
  next() {
    if (this.unread > 0) return Promise.resolve({ value: this.#shift(), done: false });
    return new Promise((resolve, reject) => {
      const waiting = { resolve, reject };
      if (this.#ended || this.isLeft) this.#settle(waiting);
      else this.#waiting.push(waiting);
    });
  }

  #shift() {
    const event = this.#events[this.#taken];
    this.#events[this.#taken++] = undefined;
    if (this.#taken === this.#events.length) {
      this.#events = [];
      this.#taken = 0;
    }
    return event;
  }

  #settle(waiting) {
    const error = this.isLeft ? null : this.#error;
    this.#error = null; // it is thrown once
    if (error) waiting.reject(error);
    else waiting.resolve(DONE);
  }
}

const DONE = Object.freeze({ value: undefined, done: true });

/**
 * A run that is followed; `ParleyClient` makes it. Iterating gives its events.
 *
 * There is one consumer: all loops over a run take from the same queue, so each event goes to one
 * of them, and a loop that was broken off is gone on with by the next. Who wants the events twice
 * follows the run twice. At most `maxUnread` events (and what one read of the connection brings)
 * wait to be taken: then the run is left alone, and gone on with from its cursor when they are
 * taken; adjacent pieces of text may come as one then.
 */
export class Run {
  #lane;
  #host;

  /** Made by `ParleyClient`. */
  constructor(lane, host) {
    this.#lane = lane;
    this.#host = host;
  }

  /** @returns {Promise<string>} The run's id, once the service has accepted it. */
  get started() {
    return this.#lane.started;
  }

  /** @returns {?string} The run's id; null before it has started. */
  get id() {
    return this.#lane.id;
  }

  /** @returns {?string} Its conversation; of an edit and of a run that is followed, once known. */
  get conversationId() {
    return this.#lane.conversationId;
  }

  /** @returns {?string} Behind the newest event that has come: `<run_id>:<epoch>:<seq>`. */
  get cursor() {
    return this.#lane.cursor;
  }

  /** @returns {AsyncIterator<object>} */
  [Symbol.asyncIterator]() {
    const next = async () => {
      const result = await this.#lane.next();
      if (this.#lane.unread === 0) this.#host.drained(this.#lane);
      return result;
    };
    return { next, return: async () => DONE };
  }

  /**
   * End the run, unless it has ended. Its last event comes like any other: a `chat_complete` with
   * the `finish_reason` `cancelled`. One that was never sent is not sent at all, and fails with the
   * code `cancelled`.
   *
   * @returns {Promise<void>} settled when the service has acknowledged it.
   * @throws {ParleyError} the run was refused, or the service knows it no longer.
   */
  async cancel() {
    if (this.#lane.hasEnded) return;
    if (!this.#lane.sent && !this.#lane.isKnown) {
      const text = 'The message was taken back before it was sent.';
      this.#host.fail(this.#lane, new ParleyError(text, { code: 'cancelled' }));
      return;
    }
    const id = this.id ?? (await this.started);
    await this.#host.command('cancel', { run_id: id }, `runs/${encodeURIComponent(id)}/cancel`);
  }

  /**
   * End one tool call; its siblings and the run go on.
   *
   * @param {string} toolCallId
   * @returns {Promise<void>} settled when the service has acknowledged it.
   * @throws {ParleyError} the call is not under way (`tool_call_not_found`).
   */
  async cancelTool(toolCallId) {
    const id = this.id ?? (await this.started);
    const data = { run_id: id, tool_call_id: toolCallId };
    const [run, call] = [id, toolCallId].map(encodeURIComponent);
    await this.#host.command('cancel_tool', data, `runs/${run}/tool_calls/${call}/cancel`);
  }

  /** Stop following; iterations end, and the run goes on. A message still waiting is sent. */
  leave() {
    this.#host.leave(this.#lane);
  }
}

/** One WebSocket that carries all lanes. */
class SocketLink {
  transport = 'websocket';
  /** Whether anything has come: a handshake may pass where nothing else does. */
  heard = false;
  #socket = null;
  #requests = new Map();
  #timers = new Set();
  #pings = 0;
  #options;
  #host;

  constructor(options, host) {
    this.#options = options;
    this.#host = host;
  }

  /** Connect; the host is told by `opened` or `lost`. */
  open() {
    this.#after(this.#options.connectTimeout, () => this.#socket?.readyState !== 1 && this.#lose());
    try {
      this.#socket = new this.#options.WebSocket(this.#options.socketUrl);
    } catch {
      queueMicrotask(() => this.#lose()); // the page may not connect there
      return;
    }
    this.#socket.onopen = () => {
      this.check(this.#options.pongTimeout);
      this.#host.opened(this);
    };
    this.#socket.onmessage = ({ data }) => this.#receive(data);
    this.#socket.onclose = ({ code }) => {
      if (code === 1009) this.#viaHttp();
      this.#lose();
    };
    this.#socket.onerror = () => {}; // a close follows
  }

  get isFull() {
    return this.#lanes().length >= this.#options.maxRuns;
  }

  /** Ask for a lane's run, or go on with it. */
  follow(lane) {
    const [type, data] = lane.isKnown
      ? ['subscribe', { run_id: lane.id, after: lane.cursor ?? lane.seq }]
      : [lane.kind, { ...lane.data, idempotency_key: lane.key }];
    const frame = this.#frame(type, data, { lane });
    if (byteLength(frame.json) > MAX_MESSAGE_BYTES) {
      this.#requests.delete(frame.id);
      lane.viaHttp = true;
      return;
    }
    Object.assign(lane, { link: this, sent: true });
    this.#socket.send(frame.json);
  }

  /** Stop reading a lane. The service knows runs, not lanes: another one of the run begins anew. */
  leave(lane) {
    const others = this.#lanes().filter((each) => each !== lane && each.id === lane.id);
    for (const [id, request] of this.#requests) {
      if (request.lane === lane || others.includes(request.lane)) this.#requests.delete(id);
    }
    lane.link = null;
    if (lane.isKnown) this.#send('unsubscribe', { run_id: lane.id });
    for (const other of others) this.follow(other);
  }

  command(command) {
    command.link = this;
    command.sends += 1;
    this.#send(command.type, command.data, { command });
  }

  /** Ask for a sign of life; without one in time the connection is lost. */
  check(timeout) {
    const ping = ++this.#pings;
    this.#send('ping');
    this.#after(timeout, () => this.#answered < ping && this.#lose());
  }

  #answered = 0;

  close() {
    const socket = this.#socket;
    this.#forget();
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    if (this.heard && socket.readyState === 1) socket.close(1000);
    else if (socket.terminate) socket.terminate(); // of Node's: there is nobody to say goodbye to
    else socket.close();
  }

  #lanes() {
    return [...this.#requests.values()].flatMap(({ lane }) => lane ?? []);
  }

  #forget() {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    this.#requests.clear();
    this.#socket = null;
  }

  #lose() {
    this.#host.lost(this);
  }

  #after(milliseconds, act) {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      act();
    }, milliseconds);
    this.#timers.add(timer);
  }

  #frame(type, data, request = null) {
    const id = randomId(type);
    const json = JSON.stringify({ type, request_id: id, data });
    if (request) this.#requests.set(id, { ...request, size: json.length });
    return { id, json };
  }

  #send(type, data, request = null) {
    this.#socket.send(this.#frame(type, data, request).json);
  }

  #receive(text) {
    this.heard = true;
    this.#answered = this.#pings; // whatever comes is a sign of life
    const message = parsed(text);
    if (typeof message?.type !== 'string') {
      this.#lose(); // this is no Parley service, or no more
      return;
    }
    const request = this.#requests.get(message.request_id);
    if (request?.command) this.#settle(message, request.command);
    else if (request) this.#deliver(message, request.lane);
    else if (isRefusal(message) && message.data.code === 'too_large') this.#viaHttp();
  }

  #settle(message, command) {
    this.#requests.delete(message.request_id);
    command.link = null;
    if (isRefusal(message)) this.#host.commandRefused(command, refusalOf(message.data));
    else this.#host.commandDone(command);
  }

  #deliver(message, lane) {
    if (message.type === 'ack') {
      if (!lane.isStarted) lane.start();
    } else if (isRefusal(message)) {
      this.#requests.delete(message.request_id);
      lane.link = null;
      this.#host.refused(lane, refusalOf(message.data));
    } else if (isEvent(message.data, message.id)) {
      const isLast = lane.take(message.data, message.id);
      if (isLast) {
        this.#requests.delete(message.request_id);
        lane.link = null;
      }
      this.#host.took(lane, isLast);
    }
  }

  /** A message was too large, and the service cannot say which: the largest that has no answer. */
  #viaHttp() {
    const open = [...this.#requests].filter(([, { lane }]) => lane && !lane.isStarted);
    const [largest] = open.sort(([, a], [, b]) => b.size - a.size);
    if (!largest) return;
    const [id, { lane }] = largest;
    this.#requests.delete(id);
    Object.assign(lane, { link: null, viaHttp: true });
    this.#host.waiting();
  }
}

/** An event stream for each lane, by fetch. */
class HttpLink {
  transport = 'sse';
  heard = false;
  #streams = new Map();
  #closed = new AbortController();
  #options;
  #host;

  constructor(options, host) {
    this.#options = options;
    this.#host = host;
  }

  open() {
    this.#probe(this.#options.connectTimeout, () => {
      this.heard = true;
      this.#host.opened(this);
    });
  }

  get isFull() {
    return this.#streams.size >= this.#options.maxStreams;
  }

  /** Ask for a lane's run, or go on with it. */
  async follow(lane) {
    const stream = new AbortController();
    this.#streams.set(lane, stream);
    Object.assign(lane, { link: this, sent: true });
    const isMine = () => this.#streams.get(lane) === stream;
    let outcome;
    try {
      outcome = await this.#read(lane, stream, isMine);
    } catch {
      outcome = 'lost'; // fetch does not say more than that
    } finally {
      stream.abort();
    }
    if (!isMine()) return;
    this.#streams.delete(lane);
    lane.link = null;
    if (outcome instanceof ParleyError) this.#host.refused(lane, outcome);
    else if (outcome === 'again') this.#host.waiting();
    else if (outcome === 'lost') this.#host.broken(this, lane);
    else this.#host.took(lane, true);
  }

  leave(lane) {
    this.#streams.get(lane)?.abort();
    this.#streams.delete(lane);
    lane.link = null;
    this.#host.waiting();
  }

  async command(command) {
    command.link = this;
    command.sends += 1;
    try {
      await this.#options.request('POST', command.path, undefined, this.#closed.signal);
    } catch (error) {
      if (command.link !== this) return;
      command.link = null;
      if (error.code === 'unreachable') this.#host.lost(this);
      else this.#host.commandRefused(command, error);
      return;
    }
    if (command.link === this) this.#host.commandDone(command);
  }

  check(timeout) {
    this.#probe(timeout, () => {});
  }

  close() {
    this.#closed.abort();
    for (const stream of this.#streams.values()) stream.abort();
    this.#streams.clear();
  }

  async #probe(timeout, then) {
    const answers = await this.#options.answers(timeout, this.#closed.signal);
    if (this.#closed.signal.aborted) return;
    if (answers) then();
    else this.#host.lost(this);
  }

  /**
   * Read a lane's stream to its end.
   *
   * @returns {Promise<string>} `ended`: with the run; `again`: it broke off, having told
   *   something; `lost`: without.
   */
  async #read(lane, stream, isMine) {
    const quiet = watch(this.#options.silence, () => stream.abort());
    try {
      const response = await this.#ask(lane, stream.signal);
      quiet.touch();
      if (!response.ok) return await this.#refusal(response);
      if (!isMine()) return 'lost';
      if (lane.isKnown && !lane.isStarted) lane.start();
      if (response.status === 204) return 'ended';
      return await this.#readAll(lane, response, quiet, isMine);
    } finally {
      quiet.stop();
    }
  }

  async #readAll(lane, response, quiet, isMine) {
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    const frames = new FrameDecoder();
    const before = lane.cursor;
    try {
      for (;;) {
        const { value, done } = await reader.read();
        quiet.touch();
        if (done || !isMine()) break;
        for (const frame of frames.feed(decoder.decode(value, { stream: true }))) {
          if (this.#take(lane, frame)) return 'ended';
          if (!isMine()) return 'lost';
        }
      }
    } catch {
      // broken off, as any other end before the run's, or what comes is no frame
    } finally {
      reader.cancel().catch(() => {}); // where it is over, that says so
    }
    return quiet.isOver || lane.cursor === before ? 'lost' : 'again';
  }

  #take(lane, frame) {
    const event = parsed(frame.data);
    if (!isEvent(event, frame.id)) return false;
    const isLast = lane.take(event, frame.id);
    if (!isLast) this.#host.took(lane, false);
    return isLast;
  }

  #ask(lane, signal) {
    const { url, fetch } = this.#options;
    if (lane.isKnown) {
      const after = encodeURIComponent(lane.cursor ?? lane.seq);
      const path = `runs/${encodeURIComponent(lane.id)}/events?protocol=events&after=${after}`;
      return fetch(url(path), { signal, cache: 'no-store' });
    }
    const { conversation_id: conversationId, ...rest } = lane.data;
    const isChat = lane.kind === 'chat';
    const place = `conversations/${encodeURIComponent(conversationId)}`;
    const path = isChat ? 'chat' : `${place}/${lane.kind}`;
    const headers = { 'Content-Type': 'application/json', 'Idempotency-Key': lane.key };
    const body = JSON.stringify(isChat ? lane.data : rest);
    return fetch(url(`${path}/stream?protocol=events`), { method: 'POST', headers, body, signal });
  }

  async #refusal(response) {
    const error = await problemOf(response);
    return error.code === 'unreachable' ? 'lost' : error;
  }
}

/**
 * A connection to a Parley service that restores itself.
 *
 * Fires `statechange` events; `detail` is `{state, transport, retryAt}`.
 *
 * One socket carries all runs, up to `maxRuns` at a time; the next ones wait for their place. Where
 * WebSockets are blocked and HTTP is not, the runs go on as event streams, up to `maxStreams` at a
 * time, because a browser keeps few connections to a host. A connection is tried again in growing
 * times that are drawn at random, at once when the browser comes online or its page is shown.
 */
export class ParleyClient extends EventTarget {
  #base;
  #options;
  #state = 'idle';
  #transport;
  #retryAt = null;
  #lanes = new Set();
  #commands = new Set();
  #link = null;
  #side;
  #host;
  #failures = 0;
  #onlineSince = 0;
  #timer = null;
  #pinger = null;
  #httpAnswered = false;
  #sseUntil = 0;
  #listening = new AbortController();

  /**
   * @param {string|URL} [baseUrl] the address of the service; that of the page where it is absent.
   * @param {object} [options] times in milliseconds.
   * @param {'auto'|'websocket'|'sse'} [options.transport='auto'] `auto`: a WebSocket, or
   *   server-sent events where there is no WebSocket or it is blocked.
   * @param {Function} [options.WebSocket] the class; that of the platform where it is absent.
   * @param {Function} [options.fetch] likewise.
   * @param {number} [options.backoffMin=500] before the first new attempt, at most.
   * @param {number} [options.backoffMax=10000] before any attempt, at most.
   * @param {number} [options.connectTimeout=10000] for a connection to be made.
   * @param {number} [options.pingInterval=20000] between two pings.
   * @param {number} [options.pongTimeout=10000] for the answer to one.
   * @param {number} [options.checkTimeout=5000] likewise, when the page is shown or the network
   *   has changed.
   * @param {number} [options.silence=40000] after which an event stream counts as lost.
   * @param {number} [options.requestTimeout=30000] for `request`.
   * @param {number} [options.sseFor=60000] how long a blocked WebSocket is not tried again.
   * @param {number} [options.maxRuns=32] on one socket at a time: not more than the service's
   *   `WEBSOCKET_MAX_CHATS`.
   * @param {number} [options.maxStreams] event streams at a time: 4 in a page, else `maxRuns`.
   * @param {number} [options.maxUnread=1024] events of a run that wait to be taken.
   * @throws {TypeError} there is no address, or an option's value is none.
   */
  constructor(baseUrl, options = {}) {
    super();
    this.#base = baseOf(baseUrl);
    this.#options = this.#complete(options);
    this.#transport = this.#options.transport === 'sse' ? 'sse' : 'websocket';
    this.#host = this.#makeHost();
    this.#side = new HttpLink(this.#options, this.#host);
    this.#listen();
  }

  /** @returns {'idle'|'connecting'|'online'|'offline'|'closed'} */
  get state() {
    return this.#state;
  }

  /** @returns {'websocket'|'sse'} What is used, or was last. */
  get transport() {
    return this.#transport;
  }

  /** Connect before anything is sent; `state` tells what becomes of it. */
  connect() {
    if (this.#state === 'idle') this.#attempt();
  }

  /** Try again now, where there is no connection; check the one that there is. */
  reconnect() {
    if (this.#state === 'online') {
      this.#link.check(this.#options.checkTimeout);
    } else if (this.#state === 'offline' || this.#state === 'idle') {
      this.#failures = 0;
      this.#attempt();
    }
  }

  /** End all; what is followed fails with the code `closed`. The runs themselves go on. */
  close() {
    if (this.#state === 'closed') return;
    this.#listening.abort();
    this.#dropLink();
    this.#side.close();
    clearTimeout(this.#timer);
    const error = closedError();
    for (const lane of this.#lanes) this.#fail(lane, error);
    for (const command of this.#commands) {
      this.#hurry(command);
      command.reject(error);
    }
    this.#commands.clear();
    this.#become('closed');
  }

  /**
   * Send a message.
   *
   * @param {object} message the fields of `POST /chat/stream`: `message`, and `conversation_id`,
   *   `agent`, `user_id`, `if_busy`, … where wanted. Without a `conversation_id` it begins a
   *   conversation of its own, whose id the run has at once.
   * @returns {Run}
   */
  chat(message) {
    const data = { ...message, conversation_id: message.conversation_id ?? randomId('conv') };
    return this.#ask('chat', data, data.conversation_id);
  }

  /**
   * Answer the last message of a conversation anew.
   *
   * @param {object} wish `conversation_id`, and `agent`, … where wanted.
   * @returns {Run}
   */
  regenerate(wish) {
    return this.#ask('regenerate', { ...wish }, wish.conversation_id);
  }

  /**
   * Put another message in the place of an earlier one, in a branch of the conversation.
   *
   * @param {object} change `conversation_id`, `message_id`, `message`; `agent`, … where wanted.
   * @returns {Run}
   */
  edit(change) {
    return this.#ask('edit', { ...change }, null);
  }

  /**
   * Follow a run, whoever began it.
   *
   * @param {string} runId
   * @param {number|string} [after=0] a `seq` or a whole cursor: what follows it. Behind the run's
   *   end nothing does.
   * @returns {Run}
   */
  follow(runId, after = 0) {
    const lane = new Lane('follow', null, null);
    lane.id = runId;
    if (typeof after === 'string' && after.includes(':')) {
      [lane.epoch, lane.seq] = placeOf(after);
      lane.cursor = after;
    } else {
      lane.seq = Number(after);
    }
    lane.viaHttp = lane.seq > 0; // only there the service says that nothing follows
    return this.#add(lane);
  }

  /**
   * Ask the service something over HTTP.
   *
   * @param {string} method
   * @param {string} path below the address of the service, with its query.
   * @param {*} [body] sent as JSON.
   * @returns {Promise<*>} the JSON of the answer; null where it has no body.
   * @throws {ParleyError} a refusal; `unreachable` where there is no answer in time.
   */
  async request(method, path, body) {
    return this.#request(method, path, body);
  }

  async #request(method, path, body, stop = this.#listening.signal) {
    const options = { method };
    if (body !== undefined) {
      options.headers = { 'Content-Type': 'application/json' };
      options.body = JSON.stringify(body);
    }
    const { response, text } = await this.#exchange(path, options, stop);
    if (!response.ok) throw problemIn(response, text);
    if (text === '') return null;
    const value = parsed(text);
    if (value === undefined) throw badAnswer(response.status);
    return value;
  }

  async #exchange(path, options, stop) {
    try {
      return await within(this.#options.requestTimeout, stop, async (signal) => {
        const response = await this.#options.fetch(this.#url(path), { ...options, signal });
        return { response, text: await response.text() };
      });
    } catch (cause) {
      throw unreachable(cause);
    }
  }

  #complete(given) {
    const options = { ...DEFAULTS, ...defined(given) };
    if (!['auto', 'websocket', 'sse'].includes(options.transport)) {
      throw new TypeError(`There is no transport ${options.transport}.`);
    }
    options.WebSocket ??= globalThis.WebSocket;
    if (!options.WebSocket) {
      if (options.transport === 'websocket') throw new TypeError('There is no WebSocket here.');
      options.transport = 'sse';
    }
    options.maxStreams ??= globalThis.document ? 4 : options.maxRuns;
    // Called as a method of anything else, a browser's fetch throws.
    const fetch = given.fetch ?? ((...parts) => globalThis.fetch(...parts));
    const url = (path) => this.#url(path);
    return {
      ...options,
      fetch: (...parts) => fetch(...parts),
      url,
      socketUrl: url('ws').replace(/^http/, 'ws'),
      request: (...parts) => this.#request(...parts),
      answers: (timeout, stop) => this.#answers(timeout, stop),
    };
  }

  #url(path) {
    return this.#base + path.replace(/^\/+/, '');
  }

  /** Tell whether the service answers over HTTP; a proxy without a service behind it does not. */
  async #answers(timeout, stop) {
    try {
      return await within(timeout, stop, async (signal) => {
        const options = { signal, cache: 'no-store' };
        const response = await this.#options.fetch(this.#url('health'), options);
        await response.text();
        return response.status < 500;
      });
    } catch {
      return false; // whatever the reason is
    }
  }

  /** What links and runs tell. */
  #makeHost() {
    return {
      opened: (link) => this.#opened(link),
      lost: (link) => this.#lost(link),
      broken: (link, lane) => (link === this.#link ? this.#lost(link) : this.#later(lane, null)),
      waiting: () => this.#pump(),
      took: (lane, isLast) => this.#took(lane, isLast),
      refused: (lane, error) => this.#refused(lane, error),
      commandDone: (command) => this.#commandDone(command),
      commandRefused: (command, error) => this.#commandRefused(command, error),
      drained: (lane) => this.#drained(lane),
      command: (type, data, path) => this.#command(type, data, path),
      leave: (lane) => this.#leave(lane),
      fail: (lane, error) => this.#fail(lane, error),
    };
  }

  // Connections

  #listen() {
    const options = { signal: this.#listening.signal };
    const check = () => this.#state !== 'idle' && this.reconnect();
    const { document } = globalThis;
    globalThis.addEventListener?.('online', check, options);
    globalThis.addEventListener?.('offline', check, options);
    const seen = () => document.visibilityState === 'visible' && check();
    document?.addEventListener('visibilitychange', seen, options);
  }

  #become(state, retryAt = null) {
    if (state === this.#state && retryAt === this.#retryAt) return;
    this.#state = state;
    this.#retryAt = retryAt;
    const detail = { state, transport: this.#transport, retryAt };
    this.dispatchEvent(new CustomEvent('statechange', { detail }));
  }

  #attempt() {
    clearTimeout(this.#timer);
    const isSse = this.#options.transport === 'sse' || Date.now() < this.#sseUntil;
    this.#link = new (isSse ? HttpLink : SocketLink)(this.#options, this.#host);
    this.#transport = this.#link.transport;
    this.#become('connecting');
    this.#link?.open();
  }

  #opened(link) {
    if (link !== this.#link) return;
    this.#onlineSince = Date.now();
    this.#pinger = setInterval(
      () => link.check(this.#options.pongTimeout), this.#options.pingInterval,
    );
    for (const each of [...this.#lanes, ...this.#commands]) this.#hurry(each);
    this.#become('online');
    this.#pump();
  }

  #lost(link) {
    if (link !== this.#link) return;
    const { heard } = link;
    this.#dropLink();
    if (heard) {
      const lasted = Date.now() - this.#onlineSince;
      if (lasted > this.#options.backoffMax) this.#failures = 0;
      this.#httpAnswered = false;
      this.#wait();
    } else if (link.transport === 'websocket' && this.#options.transport === 'auto') {
      this.#doubt();
    } else {
      this.#wait();
    }
  }

  /** The WebSocket was refused: is it blocked, or is the service not there? */
  async #doubt() {
    if (this.#httpAnswered) {
      this.#httpAnswered = false;
      this.#sseUntil = Date.now() + this.#options.sseFor;
      this.#attempt();
      return;
    }
    this.#become('connecting');
    const answers = await this.#answers(this.#options.connectTimeout, this.#listening.signal);
    if (this.#state !== 'connecting' || this.#link !== null) return;
    this.#httpAnswered = answers;
    if (answers) this.#attempt();
    else this.#wait();
  }

  #wait() {
    const delay = this.#delay(this.#failures++);
    this.#timer = setTimeout(() => this.#attempt(), delay);
    this.#become('offline', Date.now() + delay);
  }

  /** A time from nothing to a bound that doubles, so that many clients do not come together. */
  #delay(failures) {
    const { backoffMin, backoffMax } = this.#options;
    return Math.random() * Math.min(backoffMax, backoffMin * 2 ** failures);
  }

  #dropLink() {
    clearInterval(this.#pinger);
    const link = this.#link;
    this.#link = null;
    if (!link) return;
    for (const each of [...this.#lanes, ...this.#commands]) {
      if (each.link === link) each.link = null;
    }
    link.close();
  }

  // Runs

  #ask(kind, data, conversationId) {
    const lane = new Lane(kind, data, randomId('key'));
    lane.conversationId = conversationId;
    return this.#add(lane);
  }

  #add(lane) {
    if (this.#state === 'closed') {
      lane.end(closedError());
    } else {
      this.#lanes.add(lane);
      this.connect();
      this.#pump();
    }
    return new Run(lane, this.#host);
  }

  /** Put lanes and commands that are on no link on one, in their order, as far as there is room. */
  #pump() {
    if (this.#state !== 'online') return;
    for (const command of this.#commands) {
      if (command.link === null && command.timer === null) this.#link.command(command);
    }
    const busy = new Set(); // conversations in which a message is on its way that must be first
    for (const lane of this.#lanes) {
      this.#place(lane, busy);
      const mayOvertake = lane.isStarted || lane.link?.transport === 'websocket';
      if (!mayOvertake && lane.data) busy.add(lane.data.conversation_id);
      if (this.#state !== 'online') return;
    }
  }

  #place(lane, busy) {
    const waits = lane.link !== null || lane.timer !== null || lane.isParked;
    if (waits || (!lane.isKnown && busy.has(lane.data.conversation_id))) return;
    if (!lane.viaHttp && !this.#link.isFull) this.#link.follow(lane);
    if (!lane.viaHttp || lane.link !== null) return; // a link may find that only HTTP will do
    const http = this.#link.transport === 'sse' ? this.#link : this.#side;
    if (!http.isFull) http.follow(lane);
  }

  #took(lane, isLast) {
    if (isLast) {
      this.#remove(lane);
      lane.end();
    } else if (lane.isLeft) {
      this.#remove(lane);
    } else if (lane.unread >= this.#options.maxUnread) {
      lane.isParked = true;
      lane.link?.leave(lane);
    }
    if (isLast || lane.link === null) this.#pump();
  }

  #drained(lane) {
    if (!lane.isParked) return;
    lane.isParked = false;
    this.#pump();
  }

  #refused(lane, error) {
    const waits = lane.isKnown ? error.retryable : WAITS.has(error.code);
    if (waits) this.#later(lane, error.retryAfter);
    else this.#fail(lane, error);
    this.#pump();
  }

  /** Put a lane off; a new connection is reason enough to try it at once. */
  #later(lane, retryAfter) {
    this.#putOff(lane, Math.max((retryAfter ?? 0) * 1000, this.#delay(lane.delays++)));
  }

  #putOff(each, delay) {
    if (this.#state === 'closed') return; // an answer that comes too late must not keep a program
    each.timer = setTimeout(() => {
      each.timer = null;
      this.#pump();
    }, Math.min(delay, LONGEST_DELAY));
  }

  #hurry(each) {
    clearTimeout(each.timer);
    each.timer = null;
  }

  #fail(lane, error) {
    this.#remove(lane);
    lane.end(error);
  }

  #leave(lane) {
    lane.leave();
    if (lane.isStarted || lane.isKnown) this.#remove(lane);
    this.#pump();
  }

  #remove(lane) {
    this.#hurry(lane);
    this.#lanes.delete(lane);
    if (lane.hasEnded) return;
    lane.link?.leave(lane);
  }

  // Commands

  #command(type, data, path) {
    if (this.#state === 'closed') return Promise.reject(closedError());
    return new Promise((resolve, reject) => {
      const command = { type, data, path, resolve, reject, link: null, sends: 0, timer: null };
      this.#commands.add(command);
      this.connect();
      this.#pump();
    });
  }

  #commandDone(command) {
    this.#commands.delete(command);
    command.resolve();
  }

  #commandRefused(command, error) {
    // It may have been done the first time, and only the answer was lost.
    if (command.sends > 1 && error.code === 'tool_call_not_found') {
      this.#commandDone(command);
    } else if (error.retryable) {
      this.#putOff(command, this.#delay(command.sends));
    } else {
      this.#commands.delete(command);
      command.reject(error);
    }
  }
}

/** Call `act` after a time without `touch`, which costs no timer. */
function watch(milliseconds, act) {
  let last = Date.now();
  const check = () => {
    quiet.isOver = Date.now() - last >= milliseconds;
    if (quiet.isOver) act();
  };
  const timer = setInterval(check, milliseconds / 4);
  const touch = () => {
    last = Date.now();
  };
  const quiet = { isOver: false, touch, stop: () => clearInterval(timer) };
  return quiet;
}

/** Do what can be stopped, for a time at most, and only while `stop` allows. */
async function within(milliseconds, stop, act) {
  const both = new AbortController();
  const abort = () => both.abort();
  const timer = setTimeout(abort, milliseconds);
  stop.addEventListener('abort', abort);
  if (stop.aborted) abort();
  try {
    return await act(both.signal);
  } finally {
    clearTimeout(timer);
    stop.removeEventListener('abort', abort);
  }
}

function baseOf(given) {
  const page = globalThis.location?.href;
  if (given === undefined && page === undefined) {
    throw new TypeError('Outside a page the address of the service has to be given.');
  }
  const url = given === undefined ? new URL('.', page) : new URL(given, page);
  if (!/^https?:$/.test(url.protocol)) throw new TypeError('The address is of HTTP.');
  const path = url.pathname.replace(/\/*$/, '/');
  return url.origin + path;
}

/** The epoch and the seq of a cursor. */
function placeOf(cursor) {
  const [, epoch, seq] = /:(\d+):(\d+)$/.exec(cursor) ?? [];
  if (seq === undefined) throw new TypeError('A cursor is "<run_id>:<epoch>:<seq>".');
  return [Number(epoch), Number(seq)];
}

/** An id that nobody else has. `randomUUID` is not there in a page without TLS. */
function randomId(prefix) {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  const digits = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0'));
  return `${prefix}_${digits.join('')}`;
}

function byteLength(text) {
  return text.length > MAX_MESSAGE_BYTES / 3 ? new TextEncoder().encode(text).length : text.length;
}

/** Whether it is an event with its place; what follows a `reset` is behind that. */
function isEvent(data, id) {
  return data?.event_type === 'reset' || (data?.event_type !== undefined && /:\d+:\d+$/.test(id));
}

/** The value of a JSON text; undefined where it is none. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // who asked says what that means
  }
}

function defined(options) {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}

/** An `error` that is no event of a run. */
function isRefusal(message) {
  return message.type === 'error' && message.data?.run_id === undefined;
}

function refusalOf({ message, code, retryable, retry_after: retryAfter, errors }) {
  return new ParleyError(message, { code, retryable, retryAfter, errors });
}

async function problemOf(response) {
  return problemIn(response, await response.text());
}

function problemIn(response, text) {
  const { status } = response;
  const problem = parsed(text);
  const seconds = Number(response.headers.get('Retry-After') ?? NaN);
  const retryAfter = Number.isFinite(seconds) ? seconds : null;
  if (typeof problem?.code === 'string') {
    const { detail, title, code, retryable, errors } = problem;
    return new ParleyError(detail ?? title, { code, status, retryable, retryAfter, errors });
  }
  if (GATEWAY.has(status)) return unreachable(undefined, { status, retryAfter });
  return new ParleyError(`The answer was ${status}.`, { code: 'http_error', status, retryAfter });
}

function unreachable(cause, fields = {}) {
  const text = 'The service cannot be reached.';
  return new ParleyError(text, { code: 'unreachable', retryable: true, cause, ...fields });
}

function badAnswer(status) {
  return new ParleyError('The answer is not JSON.', { code: 'bad_answer', status });
}

function closedError() {
  return new ParleyError('The client was closed.', { code: 'closed' });
}
