// The registry for JavaScript: requests, streams and registrations, as promises and async iterators.
//
// Owns: fetch, timers, signals and errors. Must not know: addresses, the format of the stream, cursors, how events fold
// or what may be registered; that is WebAssembly, the same code that the server and the dashboard run.
import { Addresses, Draft, silenceMs } from './rollcall_client.js';

/** How long an answer may take, in milliseconds. */
const ANSWER_MS_MAX = 10_000;

/** The first and the longest wait before a registration is tried again, in milliseconds. */
const BACKOFF_MS_MIN = 250;
const BACKOFF_MS_MAX = 4_000;

/** The longest time between two renewals, however long the TTL is: a lost lease is noticed within it. Longer timers end at once. */
const RENEWAL_MS_MAX = 3_600_000;

/** How many states of a registration wait for who asked for them. */
const STATES_MAX = 64;

/** What is registered where nothing else is asked for: what go-kratos would write. */
const LAYOUT = 'kratos';
const TTL_S = 15;

const ASYNC_DISPOSE = Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose');

/** Everything that goes wrong, but for a signal's own reason. */
export class RollcallError extends Error {
  /** @param {'argument' | 'problem' | 'unreachable' | 'unreadable'} kind */
  constructor(kind, message, { status, problem, errors, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'RollcallError';
    this.kind = kind;
    this.status = status;
    this.problem = problem;
    this.errors = errors ?? problem?.errors ?? [];
  }
}

const wrong = (pointer, detail) => {
  const errors = Array.isArray(pointer) ? pointer : [{ pointer, detail }];
  const named = ({ pointer, detail }) => `${pointer.slice(1).replaceAll('/', '.')}: ${detail}`;
  return new RollcallError('argument', errors.map(named).join('; '), { errors });
};

const is = (type, value, pointer) => {
  if (typeof value !== type) throw wrong(pointer, `${type === 'object' ? 'an' : 'a'} ${type} is wanted here, not ${value === null ? 'null' : typeof value}`);
  return value;
};
const text = (value, pointer) => {
  if (is('string', value, pointer) === '') throw wrong(pointer, 'it must not be empty');
  return value;
};
const whole = (value, pointer) => {
  if (!Number.isSafeInteger(value) || value < 0) throw wrong(pointer, 'a whole number is wanted here');
  return value;
};
const object = (value, pointer) => {
  if (value === null || Array.isArray(value)) throw wrong(pointer, 'an object is wanted here');
  return is('object', value, pointer);
};
const texts = (value, pointer) => {
  if (!Array.isArray(value)) throw wrong(pointer, 'a list is wanted here');
  return value.map((each, index) => is('string', each, `${pointer}/${index}`));
};
const list = (value, pointer) => (value === undefined ? [] : texts(typeof value === 'string' ? [value] : value, pointer));

/** Runs `work` with a signal that ends it after `ms`, or as soon as `signal` does. */
const within = async (ms, signal, what, work) => {
  signal?.throwIfAborted();
  const controller = new AbortController();
  const stop = () => controller.abort(signal.reason);
  signal?.addEventListener('abort', stop);
  let late;
  const timer = setTimeout(() => {
    late = new RollcallError('unreachable', `${what} does not answer within ${ms / 1000} s`);
    controller.abort(late);
  }, ms);
  try {
    return await work(controller.signal);
  } catch (error) {
    signal?.throwIfAborted();
    throw late ?? error;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', stop);
  }
};

const sleep = (ms, signal) => new Promise((resolve, reject) => {
  if (signal?.aborted) return reject(signal.reason);
  const stop = () => (clearTimeout(timer), reject(signal.reason));
  const timer = setTimeout(() => (signal?.removeEventListener('abort', stop), resolve()), ms);
  signal?.addEventListener('abort', stop, { once: true });
});

const unreachable = (address, error) => {
  if (error instanceof RollcallError) return error;
  const why = error?.cause?.message || error?.cause?.code || error?.message || error;
  return new RollcallError('unreachable', `${new URL(address).origin} cannot be reached: ${why}`, { cause: error });
};

/** The error of an answer that is not 2xx. */
const refusal = (status, body) => {
  try {
    const problem = JSON.parse(body);
    if (typeof problem.detail === 'string') return new RollcallError('problem', problem.detail, { status, problem });
  } catch {}
  return new RollcallError('unreadable', `the server answered ${status} without saying why`, { status });
};

/** Whether asking again as before could bring something else. */
const isPassing = ({ kind, status }) =>
  kind === 'unreachable' || status >= 500 || status === 408 || status === 425 || status === 429;

/** What `connect` is, once it is known where the WebAssembly comes from. */
export const connector = (load) => {
  let loaded;
  return async (base, options = {}) => {
    const address = root(base);
    const { token, headers = {} } = object(options, '/options');
    const sent = new Headers(headers);
    if (token !== undefined) sent.set('Authorization', `Bearer ${text(token, '/options/token')}`);
    loaded ??= load().catch((error) => {
      loaded = undefined;
      throw error;
    });
    await loaded;
    return new Rollcall(address, sent, options.fetch ?? ((...args) => globalThis.fetch(...args)));
  };
};

const root = (base) => {
  let url;
  try {
    url = new URL(base, globalThis.location?.href);
  } catch {
    throw wrong('/base', 'the address of a server is wanted here, such as http://127.0.0.1:8420');
  }
  if (!/^https?:$/.test(url.protocol)) throw wrong('/base', 'it begins with http:// or https://');
  if (url.username || url.password) throw wrong('/base', 'it holds no user: give the token as an option');
  if (url.search || url.hash) throw wrong('/base', 'it ends with the path');
  return url.origin + url.pathname;
};

/** An async iterator that ends at once when it is left. */
class Stream {
  #told;
  #controller;

  constructor(tell, signal) {
    this.#controller = new AbortController();
    this.#told = tell(this.#controller.signal, signal);
  }

  next() {
    return this.#told.next();
  }

  async return(value) {
    this.#controller.abort(LEFT);
    await this.#told.return();
    return { done: true, value };
  }

  async throw(error) {
    await this.return();
    throw error;
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  [ASYNC_DISPOSE]() {
    return this.return();
  }
}

/** Why a stream ended that was left. */
const LEFT = Symbol('left');

/** The registry, as one server shows it. */
export class Rollcall {
  #at;
  #headers;
  #fetch;

  constructor(base, headers, fetch) {
    this.#at = new Addresses(base);
    this.#headers = headers;
    this.#fetch = fetch;
  }

  async services({ signal } = {}) {
    return this.#json('GET', this.#at.services(), { signal });
  }

  async service(name, { signal } = {}) {
    return this.#json('GET', this.#at.service(text(name, '/name')), { signal });
  }

  async instances(query = {}, { signal } = {}) {
    const { service, layout, limit, continue: token } = object(query, '/query');
    const pairs = [];
    for (const name of list(service, '/service')) pairs.push('service', name);
    for (const name of list(layout, '/layout')) pairs.push('layout', name);
    if (limit !== undefined) pairs.push('limit', String(whole(limit, '/limit')));
    if (token !== undefined) pairs.push('continue', text(token, '/continue'));
    return this.#json('GET', this.#at.instances(pairs), { signal });
  }

  async raw(key, { signal } = {}) {
    const read = async (response) => new Uint8Array(await response.arrayBuffer());
    return this.#ask('GET', this.#at.raw(text(key, '/key')), { signal, read });
  }

  async lease(lease, { signal } = {}) {
    return this.#json('GET', at('/lease', () => this.#at.lease(is('string', lease, '/lease'), [])), { signal });
  }

  async keepAlive(lease, { signal, timeoutMs } = {}) {
    return this.#json('POST', at('/lease', () => this.#at.keepAlive(is('string', lease, '/lease'))), { signal, timeoutMs });
  }

  async revoke(lease, keys, { signal } = {}) {
    const query = ['keys', String(whole(keys, '/keys'))];
    return this.#json('DELETE', at('/lease', () => this.#at.lease(is('string', lease, '/lease'), query)), { signal });
  }

  async deregister(record, modRevision, { signal } = {}) {
    const [key, revision] = typeof record === 'string'
      ? [record, whole(modRevision, '/modRevision')]
      : [object(record, '/record').key, whole(record.mod_revision, '/record/mod_revision')];
    const pairs = ['key', text(key, '/key'), 'mod_revision', String(revision)];
    return this.#json('DELETE', this.#at.instances(pairs), { signal });
  }

  async undo(token, { signal } = {}) {
    return this.#json('POST', this.#at.undo(text(token, '/token')), { signal });
  }

  /** Registers, and stays registered. */
  async register(request, { signal, retry = false } = {}) {
    const { ttl_s, keep_alive, body, instance } = draft(request);
    const put = (signal) => this.#json('POST', this.#at.instances([]), { signal, body });
    const registration = new Registration(this, { put, ttl_s, renews: keep_alive === 'caller', instance });
    await registration[START](signal, retry);
    return registration;
  }

  events({ services, since, ttl = false, signal, retry = true } = {}) {
    const names = list(services, '/services');
    const cursor = since === undefined ? undefined : text(since, '/since');
    const line = () => this.#at.events(names, cursor, Boolean(ttl));
    const tell = ([kind, data, cursor]) => {
      const event = JSON.parse(data);
      if (kind !== 'message') event.type = kind;
      if (cursor !== undefined) event.cursor = cursor;
      return event;
    };
    return new Stream((left, signal) => this.#follow(line, tell, (connection) => connection, { left, signal, retry }), signal);
  }

  watch(name, { signal, retry = true, onConnection } = {}) {
    const isOne = typeof name === 'string';
    const names = isOne ? [text(name, '/name')] : texts(name, '/names').map((each, index) => text(each, `/names/${index}`));
    if (names.length === 0) throw wrong('/names', 'it must not be empty');
    const line = () => this.#at.watch(names, isOne);
    const connection = (connection) => {
      try {
        onConnection?.(connection);
      } catch (error) {
        // It is nobody's here, as that of an event's listener.
        queueMicrotask(() => {
          throw error;
        });
      }
    };
    return new Stream((left, signal) => this.#follow(line, JSON.parse, connection, { left, signal, retry }), signal);
  }

  /** Tells what comes by a line, through all its connections; `connection` says what is told of these. */
  async *#follow(begin, tell, connection, { left, signal, retry }) {
    const ended = new AbortController();
    const end = () => ended.abort(left.aborted ? left.reason : signal.reason);
    if (left.aborted || signal?.aborted) end();
    left.addEventListener('abort', end);
    signal?.addEventListener('abort', end);
    const line = begin();
    let hasStood = false;
    try {
      ended.signal.throwIfAborted();
      yield* some(connection({ type: 'connection', state: 'connecting' }));
      for (;;) {
        const address = line.connect();
        const { origin } = new URL(address);
        const attempt = new AbortController();
        const stop = () => attempt.abort(ended.signal.reason);
        ended.signal.addEventListener('abort', stop);
        let broken;
        try {
          const heard = (work) => within(silenceMs(), ended.signal, origin, (silence) => {
            silence.addEventListener('abort', () => attempt.abort(silence.reason));
            return work();
          });
          const response = await heard(() => this.#fetch(address, {
            headers: this.#sent('text/event-stream'), cache: 'no-store', signal: attempt.signal,
          }));
          if (!response.ok) throw refusal(response.status, await heard(() => response.text()));
          if (!response.headers.get('content-type')?.startsWith('text/event-stream')) {
            throw new RollcallError('unreadable', `${address} answers with something else than events`, { status: response.status });
          }
          hasStood = true;
          yield* some(connection({ type: 'connection', state: 'open' }));
          const reader = response.body.getReader();
          for (;;) {
            const { done, value } = await heard(() => reader.read());
            if (done) break;
            try {
              line.push(value);
            } catch (why) {
              broken = new RollcallError('unreadable', String(why));
            }
            for (let told; (told = line.next()) !== undefined;) {
              ended.signal.throwIfAborted();
              yield tell(told);
            }
            if (broken) break;
          }
          broken ??= new RollcallError('unreachable', `${origin} ended the stream`);
        } catch (error) {
          ended.signal.throwIfAborted();
          broken = unreachable(address, error);
          if (!hasStood && !(retry && isPassing(broken))) throw broken;
        } finally {
          ended.signal.removeEventListener('abort', stop);
          attempt.abort(LEFT);
        }
        yield* some(connection({ type: 'connection', state: 'reconnecting', error: broken }));
        await sleep(line.waitMs(), ended.signal);
      }
    } catch (error) {
      if (error !== LEFT) throw error;
    } finally {
      line.free();
      left.removeEventListener('abort', end);
      signal?.removeEventListener('abort', end);
    }
  }

  #sent(accept) {
    const headers = new Headers(this.#headers);
    headers.set('Accept', accept);
    return headers;
  }

  #json(method, address, how) {
    return this.#ask(method, address, {
      ...how,
      read: async (response) => {
        const { status } = response;
        try {
          const answer = JSON.parse(await response.text());
          if (answer !== null && typeof answer === 'object') return answer;
        } catch (error) {
          if (!(error instanceof SyntaxError)) throw error;
        }
        throw new RollcallError('unreadable', `${address} does not answer (${status}) as a Rollcall server does`, { status });
      },
    });
  }

  async #ask(method, address, { signal, timeoutMs = ANSWER_MS_MAX, body, read }) {
    const headers = this.#sent('application/json');
    if (body !== undefined) headers.set('Content-Type', 'application/json');
    return within(timeoutMs, signal, new URL(address).origin, async (signal) => {
      try {
        const response = await this.#fetch(address, { method, headers, body, signal, cache: 'no-store' });
        if (!response.ok) throw refusal(response.status, await response.text());
        return await read(response);
      } catch (error) {
        throw unreachable(address, error);
      }
    });
  }
}

const at = (pointer, work) => {
  try {
    return work();
  } catch (why) {
    throw why instanceof RollcallError ? why : wrong(pointer, String(why));
  }
};

const some = (value) => (value === undefined ? [] : [value]);

/** Checks what is to be registered, and writes it. */
const draft = (request) => {
  const { layout = LAYOUT, instance, ttl_s = TTL_S, keep_alive = ttl_s === null ? undefined : 'caller' } = object(request, '/request');
  const { id, name, version = '', metadata = {}, endpoints } = object(instance, '/instance');
  if (ttl_s !== null) whole(ttl_s, '/ttl_s');
  if (keep_alive !== undefined && keep_alive !== 'caller' && keep_alive !== 'server') {
    throw wrong('/keep_alive', '`caller` or `server` is wanted here');
  }
  const said = Object.entries(object(metadata, '/instance/metadata'));
  for (const [name, value] of said) is('string', value, `/instance/metadata/${name}`);
  const made = at('/layout', () => new Draft(
    is('string', layout, '/layout'),
    id === undefined ? '' : text(id, '/instance/id'),
    is('string', name, '/instance/name'),
    is('string', version, '/instance/version'),
    texts(endpoints, '/instance/endpoints'),
    ttl_s ?? NaN,
    keep_alive ?? '',
  ));
  try {
    for (const [name, value] of said) made.say(name, value);
    const errors = made.check(fresh());
    if (errors) throw wrong(JSON.parse(errors));
    const body = made.body();
    return { ttl_s, keep_alive, body, instance: JSON.parse(body).instance };
  } finally {
    made.free();
  }
};

/** A random UUID; a page without TLS has no `crypto.randomUUID`. */
const fresh = () => {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 15) | 64;
  bytes[8] = (bytes[8] & 63) | 128;
  const digits = [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
};

const START = Symbol('start');

/** An instance that stays registered until it is deregistered: a lost lease is followed by a new one, for ever. */
export class Registration {
  #client;
  #asked;
  #state = 'registering';
  #error;
  #record;
  #lease;
  #ttl;
  /** Until when the lease lives for certain, by a clock that never jumps, in milliseconds. */
  #livesUntil = 0;
  /** Whether a request that registers was sent and not answered: it may have been heeded. */
  #isUncertain = false;
  #ending = new AbortController();
  #kept = Promise.resolve();
  #changed = [];

  constructor(client, asked) {
    this.#client = client;
    this.#asked = asked;
    this.#ttl = asked.ttl_s;
  }

  get state() {
    return this.#state;
  }

  get error() {
    return this.#error;
  }

  get record() {
    return this.#record;
  }

  get key() {
    return this.#record.key;
  }

  get lease() {
    return this.#lease;
  }

  /** The state now, and every later one; ends after `ended`. */
  states({ signal } = {}) {
    const now = () => ({ state: this.#state, lease: this.#lease, ...(this.#error && { error: this.#error }) });
    const changed = this.#changed;
    return new Stream(async function* (left, signal) {
      // From the first question on: what changes before it is in what it answers.
      const queue = [now()];
      let wake;
      const add = (state) => {
        // Who does not listen gets the last of them.
        if (queue.push(state) > STATES_MAX) queue.shift();
        wake?.();
      };
      const end = () => wake?.();
      if (queue[0].state !== 'ended') changed.push(add);
      left.addEventListener('abort', end);
      signal?.addEventListener('abort', end);
      try {
        for (;;) {
          if (left.aborted) return;
          signal?.throwIfAborted();
          const state = queue.shift();
          if (state) yield state;
          if (state?.state === 'ended') return;
          if (!state) await new Promise((resolve) => (wake = resolve));
        }
      } finally {
        const place = changed.indexOf(add);
        if (place >= 0) changed.splice(place, 1);
        left.removeEventListener('abort', end);
        signal?.removeEventListener('abort', end);
      }
    }, signal);
  }

  #become(state, error) {
    const isNews = state !== this.#state || error?.message !== this.#error?.message;
    this.#state = state;
    this.#error = error;
    const now = { state, lease: this.#lease, ...(error && { error }) };
    if (isNews) for (const tell of [...this.#changed]) tell(now);
  }

  async [START](signal, retry) {
    for (let failures = 0; ; failures += 1) {
      try {
        await this.#put(signal);
        break;
      } catch (error) {
        signal?.throwIfAborted();
        if (!retry || !isPassing(error)) throw error;
        await sleep(backoff(failures), signal);
      }
    }
    if (this.#asked.renews) this.#kept = this.#keep();
  }

  /** Registers once. */
  async #put(signal) {
    const start = performance.now();
    let answer;
    try {
      answer = await this.#asked.put(signal);
    } catch (error) {
      const standing = error?.problem?.record;
      if (error?.status === 409 && this.#isUncertain && this.#is(standing)) {
        // The request before this one was heeded, and its answer was lost.
        answer = { record: standing, lease: standing.lease };
      } else {
        this.#isUncertain ||= error?.status === undefined || error.status >= 500;
        throw error;
      }
    }
    this.#isUncertain = false;
    this.#record = answer.record;
    this.#lease = answer.lease;
    this.#livesUntil = start + this.#asked.ttl_s * 1000;
    this.#become('alive');
  }

  /** Whether a record is what was asked for. */
  #is(record) {
    const flat = ({ id, name, version, metadata, endpoints }) =>
      JSON.stringify([id, name, version, Object.entries(metadata).sort(), endpoints]);
    const { instance, ttl_s } = this.#asked;
    return record?.instance && (record.lease === null) === (ttl_s === null) && flat(record.instance) === flat(instance);
  }

  /** Renews every third of the TTL, and registers anew where the lease is lost. */
  async #keep() {
    const ending = this.#ending.signal;
    let failures = 0;
    for (;;) {
      const third = Math.min((this.#ttl * 1000) / 3, RENEWAL_MS_MAX);
      try {
        const wait = failures === 0 ? third : backoff(failures - 1);
        await sleep(this.#lease === null ? wait : Math.min(third, wait), ending);
      } catch {
        return;
      }
      try {
        if (this.#state === 'lost' && this.#lease === null) {
          await this.#put();
        } else {
          const start = performance.now();
          const timeoutMs = Math.min(Math.max(third, 1000), ANSWER_MS_MAX);
          const left = await this.#client.keepAlive(this.#lease, { timeoutMs });
          this.#ttl = left.granted_ttl_s;
          this.#livesUntil = start + left.remaining_ttl_s * 1000;
          this.#become('alive');
        }
        failures = 0;
      } catch (error) {
        failures += 1;
        // In the server's own words: a proxy's 404 says nothing of a lease.
        if (error.status === 404 && error.problem && this.#lease !== null) {
          // It is put back at once; should that fail, after a while and from then on.
          this.#lease = null;
          this.#become('lost', error);
          try {
            await this.#put();
            failures = 0;
          } catch (error) {
            this.#become('lost', error);
          }
        } else {
          const isLost = this.#lease === null || performance.now() > this.#livesUntil;
          this.#become(isLost ? 'lost' : 'retrying', error);
        }
      }
      if (ending.aborted) return;
    }
  }

  /** Stops renewing and takes the instance out. */
  async deregister({ signal } = {}) {
    this.#ending.abort();
    await this.#kept;
    try {
      let { key, mod_revision: revision } = this.#record;
      for (;;) {
        try {
          await this.#client.deregister(key, revision, { signal });
          break;
        } catch (error) {
          const standing = error.problem?.record;
          // Somebody edited it: it is ours all the same.
          if (error.status === 409 && standing && this.#holds(standing)) revision = standing.mod_revision;
          // Gone already, or another's by now.
          else if (error.status === 404 || error.status === 409) break;
          else throw error;
        }
      }
    } finally {
      this.#become('ended');
    }
  }

  /** Whether a record stands under this registration's lease, or permanently where it has none. */
  #holds({ lease }) {
    return lease === this.#lease && (lease !== null || this.#asked.ttl_s === null);
  }

  [ASYNC_DISPOSE]() {
    return this.deregister();
  }
}

const backoff = (failures) =>
  Math.min(BACKOFF_MS_MIN * 2 ** Math.min(failures, 10), BACKOFF_MS_MAX) * (0.5 + Math.random() / 2);
