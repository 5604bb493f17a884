/**
 * A service and its clients that live in one object, for cases about one conversation: nothing goes
 * on by itself, so a case, or chance, says in which order things happen.
 *
 * A request for the conversation is answered in three steps, as the service does it: the messages
 * are read, then what is under way is looked at, then the answer arrives.
 */

/** Let everything happen that can happen now. */
export const settled = () => new Promise((resolve) => setImmediate(resolve));

function completed(reason) {
  const rest = { final_response: '', usage: null };
  return { event_type: 'chat_complete', finish_reason: reason, ...rest };
}

/** A run as the service has it. */
class Running {
  events = [];
  text = '';
  isBegun = false;
  isOver = false;

  constructor(id, text) {
    this.id = id;
    this.message = text;
    this.tell({ event_type: 'chat_start', conversation_id: 'c', agent: 'chat', model: 'm' });
  }

  tell(event) {
    const place = { run_id: this.id, seq: this.events.length + 1, message_id: `m-${this.id}` };
    this.events.push({ ...place, ...event });
  }
}

export class FakeService {
  messages = [];
  queue = [];
  runs = new Map();
  keys = new Map();
  isGone = false;
  #made = 0;

  /** Take a message, or (null) the wish to regenerate the last answer. */
  accept(text, key = null) {
    if (key !== null && this.keys.has(key)) return this.keys.get(key);
    const run = new Running(`r${++this.#made}`, text);
    if (key !== null) this.keys.set(key, run);
    this.runs.set(run.id, run);
    this.queue.push(run);
    return run;
  }

  /** The first run has its turn: its message is stored. */
  begin(run = this.queue[0]) {
    run.isBegun = true;
    if (run.message !== null) this.#store('user', run.message, run.id);
  }

  say(text, run = this.queue[0]) {
    run.text += text;
    run.tell({ event_type: 'chat_chunk', content: text });
  }

  /** End the first run; what it said is stored first. */
  end(/** @type {any} */ event = completed('stop')) {
    const run = this.queue[0];
    if (run.text) {
      const isKept = run.message !== null || event.event_type !== 'error';
      if (isKept) {
        if (run.message === null) this.#dropAnswer();
        this.#store('assistant', run.text, run.id);
      }
    }
    run.tell(event);
    run.isOver = true;
    this.queue.shift();
  }

  fail() {
    const message = 'It broke.';
    this.end({ event_type: 'error', code: 'upstream_error', message, retryable: true });
  }

  cancel() {
    this.end(completed('cancelled'));
  }

  /** What is asked of a conversation: the messages now, and (called later) the whole answer. */
  read() {
    const messages = structuredClone(this.messages);
    return () => ({
      ...{ conversation_id: 'c', title: null, agent: 'chat', branched_from: null },
      ...{ has_more: false, messages },
      active_run_id: this.queue[0]?.id ?? null,
      waiting: this.queue.slice(1).map((run) => ({ run_id: run.id, message: run.message })),
    });
  }

  #store(role, content, runId) {
    this.messages.push({
      id: `s${this.messages.length + 1}-${runId}`, role, content, run_id: runId, created_at: null,
    });
  }

  #dropAnswer() {
    while (this.messages.length && this.messages.at(-1).role !== 'user') this.messages.pop();
  }
}

/** A run as a page has it: `came` events of the service's have come. */
class FakeRun {
  came = 0;
  isLeft = false;
  #queue = [];
  /** @type {null | ((value?: any) => void)} */
  #waiting = null;

  constructor(ask) {
    this.ask = ask;
    /** @type {any} */
    this.running = null;
    this.started = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
    this.started.catch(() => {});
  }

  /** Let the next event come; returns whether it was the last. */
  deliver() {
    const event = this.running.events[this.came++];
    this.resolve(this.running.id);
    this.#push({ value: event, done: false });
    const isLast = this.running.isOver && this.came === this.running.events.length;
    if (isLast) this.#push({ done: true });
    return isLast;
  }

  refuse(problem) {
    this.reject(problem);
    this.#push({ problem });
  }

  leave() {
    this.isLeft = true;
    this.#push({ done: true });
  }

  #push(result) {
    this.#queue.push(result);
    this.#waiting?.();
  }

  [Symbol.asyncIterator]() {
    return {
      next: async () => {
        while (!this.#queue.length) await new Promise((resolve) => { this.#waiting = resolve; });
        const { problem, ...result } = this.#queue.shift();
        if (problem) throw problem;
        return result;
      },
      return: async () => ({ done: true }),
    };
  }
}

/** What a page has of the service. `requests` and `runs` wait to be gone on with. */
export class FakeClient {
  requests = [];
  runs = [];

  constructor(service) {
    this.service = service;
  }

  request() {
    return new Promise((resolve, reject) => {
      this.requests.push({ resolve, reject, read: null, detail: null });
    });
  }

  chat({ message, idempotency_key: key }) {
    return this.#run(() => this.service.accept(message, key));
  }

  regenerate() {
    return this.#run(() => this.service.accept(null));
  }

  follow(runId) {
    return this.#run(() => this.service.runs.get(runId));
  }

  #run(ask) {
    const run = new FakeRun(ask);
    this.runs.push(run);
    return run;
  }

  /** Go on with a request by one step; see above. */
  async step(request = this.requests[0]) {
    if (this.service.isGone) {
      this.requests.splice(this.requests.indexOf(request), 1);
      request.reject(Object.assign(new Error('Gone.'), { status: 404 }));
    } else if (!request.read) {
      request.read = this.service.read();
    } else if (!request.detail) {
      request.detail = request.read();
    } else {
      this.requests.splice(this.requests.indexOf(request), 1);
      request.resolve(request.detail);
    }
    await settled();
  }

  /** Answer all requests that there are and that follow from the answers. */
  async answer() {
    await settled();
    while (this.requests.length) await this.step();
  }

  /** Let everything of a run come that there is; the newest one, where none is named. */
  async deliver(run = this.runs.at(-1), most = Infinity) {
    run.running ??= run.ask();
    for (let count = 0; count < most && run.came < run.running.events.length; count += 1) {
      this.#deliverOne(run);
      await settled();
    }
  }

  #deliverOne(run) {
    if (run.deliver()) this.runs.splice(this.runs.indexOf(run), 1);
  }

  /** What may happen next in this page: functions, for chance to choose from. */
  possible() {
    const runs = this.runs.filter((run) => !run.isLeft);
    return [
      ...this.requests.map((request) => () => this.step(request)),
      ...runs.filter((run) => !run.running).map((run) => () => { run.running = run.ask(); }),
      ...runs.filter((run) => run.came < (run.running?.events.length ?? 0))
        .map((run) => () => this.deliver(run, 1)),
    ];
  }
}
