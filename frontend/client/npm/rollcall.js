// The registry for JavaScript: requests, streams and registrations, as promises and async iterators.
//
// Owns: fetch, timers, signals and errors. Must not know: addresses, the format of the stream, cursors, how events fold
// or what may be registered; that is WebAssembly, the same code that the server and the dashboard run.
import { Addresses, Draft, silenceMs } from './rollcall_client.js';

/** How long an answer may take, in milliseconds, where nothing else is asked for. */
const ANSWER_MS_MAX = 10_000;

/** The longest that a timer can wait, in milliseconds: a longer one ends at once. */
const TIMER_MS_MAX = 2 ** 31 - 1;

/** The first and the longest wait before a registration is tried again, in milliseconds. */
const BACKOFF_MS_MIN = 250;
const BACKOFF_MS_MAX = 4_000;

/** The longest time between two renewals, however long the TTL is: a lost lease is noticed within it. */
const RENEWAL_MS_MAX = 3_600_000;

/**
 * The longest time between two looks at a lease that the server renews: a minute after its key was taken out the server
 * ends it, and until then a look tells that from a lease that was lost.
 */
const LOOK_MS_MAX = 20_000;

/** How often is looked for what was registered by a request that nobody waits for any more. */
const LOOKS_MAX = 5;

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
const some = (values, pointer) => {
  // What comes of a filter that nothing passes must not stand for everything.
  if (values.length === 0) throw wrong(pointer, 'it must not be empty');
  return values;
};
const list = (value, pointer) =>
  (value === undefined ? [] : some(texts(typeof value === 'string' ? [value] : value, pointer), pointer));

/** What ends a request, besides its answer. */
const limits = ({ signal, timeoutMs = ANSWER_MS_MAX } = {}) => {
  if (!(is('number', timeoutMs, '/options/timeoutMs') > 0 && timeoutMs <= TIMER_MS_MAX)) {
    throw wrong('/options/timeoutMs', `from above 0 to ${TIMER_MS_MAX} ms are wanted here`);
  }
  return { signal, timeoutMs };
};

/** Runs `work` with a signal that ends it after `ms`, or as soon as `signal` does, and waits no longer even if it goes on. */
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
    const ended = new Promise((_, reject) => {
      controller.signal.addEventListener('abort', () => reject(controller.signal.reason));
    });
    return await Promise.race([work(controller.signal), ended]);
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
    // Others, too, answer in JSON with a `detail`.
    if (typeof problem.detail === 'string' && problem.status === status) return new RollcallError('problem', problem.detail, { status, problem });
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

  async services(how) {
    return this.#json('GET', this.#at.services(), limits(how));
  }

  async service(name, how) {
    return this.#json('GET', this.#at.service(text(name, '/name')), limits(how));
  }

  async instances(query = {}, how) {
    const { service, layout, limit, continue: token } = object(query, '/query');
    const pairs = [];
    for (const name of list(service, '/service')) pairs.push('service', name);
    for (const name of list(layout, '/layout')) pairs.push('layout', name);
    if (limit !== undefined) pairs.push('limit', String(whole(limit, '/limit')));
    if (token !== undefined) pairs.push('continue', text(token, '/continue'));
    return this.#json('GET', this.#at.instances(pairs), limits(how));
  }

  async raw(key, how) {
    const read = async (response) => new Uint8Array(await response.arrayBuffer());
    return this.#ask('GET', this.#at.raw(text(key, '/key')), { ...limits(how), read });
  }

  async lease(lease, how) {
    return this.#json('GET', at('/lease', () => this.#at.lease(is('string', lease, '/lease'), [])), limits(how));
  }

  async keepAlive(lease, how) {
    return this.#json('POST', at('/lease', () => this.#at.keepAlive(is('string', lease, '/lease'))), limits(how));
  }

  async revoke(lease, keys, how) {
    const query = ['keys', String(whole(keys, '/keys'))];
    return this.#json('DELETE', at('/lease', () => this.#at.lease(is('string', lease, '/lease'), query)), limits(how));
  }

  async deregister(record, modRevision, how) {
    const [key, revision] = typeof record === 'string'
      ? [record, whole(modRevision, '/modRevision')]
      : [object(record, '/record').key, whole(record.mod_revision, '/record/mod_revision')];
    const pairs = ['key', text(key, '/key'), 'mod_revision', String(revision)];
    return this.#json('DELETE', this.#at.instances(pairs), limits(how));
  }

  async undo(token, how) {
    return this.#json('POST', this.#at.undo(text(token, '/token')), limits(how));
  }

  /** Registers, and stays registered. */
  async register(request, { signal, timeoutMs, retry = false } = {}) {
    const { ttl_s, keep_alive, body, instance, isFresh } = draft(request);
    const how = limits({ timeoutMs });
    const put = (signal) => this.#json('POST', this.#at.instances([]), { ...how, signal, body });
    const registration = new Registration(this, { put, ttl_s, renews: keep_alive === 'caller', instance, isFresh });
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
    const names = isOne
      ? [text(name, '/name')]
      : some(texts(name, '/names'), '/names').map((each, index) => text(each, `/names/${index}`));
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
    const follow = (left, signal) => this.#follow(line, (list) => list, connection, { left, signal, retry });
    return new Stream((left, signal) => newest(follow(left, signal)), signal);
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
      yield* given(connection({ type: 'connection', state: 'connecting' }));
      for (;;) {
        const address = line.connect();
        const { origin } = new URL(address);
        const attempt = new AbortController();
        const stop = () => attempt.abort(ended.signal.reason);
        ended.signal.addEventListener('abort', stop);
        let broken;
        let reader;
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
          yield* given(connection({ type: 'connection', state: 'open' }));
          reader = response.body.getReader();
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
          // For a `fetch` that heeds no signal.
          reader?.cancel().catch(() => {});
        }
        yield* given(connection({ type: 'connection', state: 'reconnecting', error: broken }));
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

const given = (value) => (value === undefined ? [] : [value]);

/** Of the lists that `told` tells, each as JSON, the newest one whenever it is asked for one that is another. */
async function* newest(told) {
  let list;
  let ended;
  let wake;
  const ear = (async () => {
    try {
      for await (list of told) wake?.();
      ended = {};
    } catch (error) {
      ended = { error };
    }
    wake?.();
  })();
  try {
    for (let last; ;) {
      if (ended) {
        if ('error' in ended) throw ended.error;
        return;
      }
      if (list === last) await new Promise((resolve) => (wake = resolve));
      else yield JSON.parse((last = list));
    }
  } finally {
    // Who leaves has ended it before.
    await ear;
  }
}

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
    const random = fresh();
    const errors = made.check(random);
    if (errors) throw wrong(JSON.parse(errors));
    const body = made.body();
    const { instance } = JSON.parse(body);
    return { ttl_s, keep_alive, body, instance, isFresh: instance.id === random };
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
    if (this.#state === 'ended') return;
    const isNews = state !== this.#state || error?.message !== this.#error?.message;
    this.#state = state;
    this.#error = error;
    const now = { state, lease: this.#lease, ...(error && { error }) };
    if (isNews) for (const tell of [...this.#changed]) tell(now);
  }

  async [START](signal, retry) {
    try {
      for (let failures = 0; ; failures += 1) {
        signal?.throwIfAborted();
        try {
          await this.#put(signal);
          break;
        } catch (error) {
          signal?.throwIfAborted();
          if (!retry || !isPassing(error)) throw error;
          await sleep(backoff(failures), signal);
        }
      }
    } catch (error) {
      if (this.#isUncertain && this.#asked.isFresh) this.#takeBack();
      throw error;
    }
    if (this.#asked.ttl_s !== null) this.#kept = this.#keep();
  }

  /**
   * Takes out what may have been registered without an answer. Under a random id it is nobody else's; under one that
   * the caller chose it could be what stood there before.
   */
  async #takeBack() {
    for (let looks = 0; looks < LOOKS_MAX; looks += 1) {
      await sleep(backoff(looks));
      try {
        const { records } = await this.#client.instances({ service: this.#asked.instance.name });
        const record = records.find((record) => this.#is(record));
        if (record) {
          await this.#client.deregister(record);
          return;
        }
      } catch {
        // It is looked for again.
      }
    }
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

  /** Renews every third of the TTL, or looks whether the server still does, and registers anew where the lease is lost. */
  async #keep() {
    const ending = this.#ending.signal;
    const { renews } = this.#asked;
    let isTakenOut = false;
    let failures = 0;
    for (;;) {
      const third = Math.min((this.#ttl * 1000) / 3, renews ? RENEWAL_MS_MAX : LOOK_MS_MAX);
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
          const how = { timeoutMs, signal: ending };
          const left = await (renews ? this.#client.keepAlive(this.#lease, how) : this.#client.lease(this.#lease, how));
          isTakenOut = !renews && left.keys?.includes(this.key) === false;
          this.#ttl = left.granted_ttl_s;
          this.#livesUntil = start + left.remaining_ttl_s * 1000;
          this.#become('alive');
        }
        failures = 0;
      } catch (error) {
        if (ending.aborted) return;
        failures += 1;
        // In the server's own words: a proxy's 404 says nothing of a lease.
        if (error.status === 404 && error.problem && this.#lease !== null) {
          // What an operator takes out stays out.
          if (isTakenOut) return this.#become('ended');
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
          // Who cannot be asked may renew it all the same.
          const isLost = this.#lease === null || (renews && performance.now() > this.#livesUntil);
          this.#become(isLost ? 'lost' : 'retrying', error);
        }
      }
      if (ending.aborted) return;
    }
  }

  /** Stops renewing and takes the instance out. */
  async deregister(how) {
    const { signal, timeoutMs } = limits(how);
    this.#ending.abort();
    try {
      // It may be registering anew.
      await within(timeoutMs, signal, 'the server', () => this.#kept);
      let { key, mod_revision: revision } = this.#record;
      for (;;) {
        try {
          await this.#client.deregister(key, revision, { signal, timeoutMs });
          break;
        } catch (error) {
          const { status, problem } = error ?? {};
          // In the server's own words, as above: gone already, or another's by now.
          if (!problem || (status !== 404 && status !== 409)) throw error;
          if (status === 404 || !problem.record || !this.#holds(problem.record)) break;
          // Somebody edited it: it is ours all the same.
          revision = problem.record.mod_revision;
        }
      }
    } finally {
      this.#become('ended');
    }
  }

  /** Whether a record is what this registration put there, whoever edited it since. */
  #holds(record) {
    if (this.#lease !== null && record.lease === this.#lease) return true;
    // A permanent one may have been taken out and put back; of one with a lease the answer may have been lost.
    if (this.#asked.ttl_s === null && record.create_revision === this.#record.create_revision) return record.lease === null;
    return (this.#asked.ttl_s === null || this.#isUncertain) && this.#is(record);
  }

  [ASYNC_DISPOSE]() {
    return this.deregister();
  }
}

const backoff = (failures) =>
  Math.min(BACKOFF_MS_MIN * 2 ** Math.min(failures, 10), BACKOFF_MS_MAX) * (0.5 + Math.random() / 2);
