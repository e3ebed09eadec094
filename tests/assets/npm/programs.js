// What tests/client_js.rs runs on the npm package: the same in Node, in a page and in a worker.
//
// Each program tells what it sees by `tell`, and ends, or leaves in good order, when `signal` says so.

/** One after the other of all that can be asked for; throws where an answer is not what it should be. */
const verbs = async ({ rollcall, connect, RollcallError, options, tell, signal }) => {
  const { label, nowhere, token } = options;
  const same = (what, saw, wanted) => {
    if (JSON.stringify(saw) !== JSON.stringify(wanted)) {
      throw new Error(`${what}: ${JSON.stringify(saw)} is not ${JSON.stringify(wanted)}`);
    }
  };
  const holds = (what, is, saw) => {
    if (!is) throw new Error(`${what}: ${JSON.stringify(saw)}`);
    tell({ holds: what });
  };
  const refused = async (what, work) => {
    let answer;
    try {
      answer = await work();
    } catch (error) {
      if (!(error instanceof RollcallError && error instanceof Error && error.message)) throw error;
      tell({ holds: what });
      return error;
    }
    throw new Error(`${what}: it was not refused but gave ${JSON.stringify(answer)}`);
  };

  const name = `verbs-${label}`;
  const metadata = { zone: 'a', '支付': '<b>"\\', empty: '' };
  const instance = { id: 'one', name, version: 'v1', metadata, endpoints: ['http://10.0.0.1:80', 'grpc://10.0.0.1:90'] };
  const sorted = { ...instance, metadata: Object.fromEntries(Object.entries(metadata).sort()) };
  const registration = await rollcall.register({ instance, ttl_s: 60 });
  const { record, lease } = registration;
  same('what was registered', record.instance, sorted);
  holds('a record says what was registered', registration.key === `/microservices/${name}/one` && /^[0-9a-f]{16}$/.test(lease), record);

  const permanent = await rollcall.register({ instance: { name, endpoints: ['http://10.0.0.2:80'] }, ttl_s: null });
  holds('a permanent key has no lease, and an id of its own',
    permanent.lease === null && /^[0-9a-f-]{36}$/.test(permanent.record.instance.id), permanent.record);
  const served = await rollcall.register({
    layout: 'go-micro', instance: { name, endpoints: ['10.0.0.3:80'] }, ttl_s: 60, keep_alive: 'server',
  });
  holds('another layout is another key', served.key.startsWith('/micro/registry/') && served.lease !== null, served.record);

  // What is written is seen by the next read of any stream; the answers are those of the same server.
  const seen = async (count) => {
    for await (const instances of rollcall.watch(name, { signal })) if (instances.length === count) return;
  };
  await seen(3);
  const all = (await rollcall.service(name)).records;
  same('the records of a service', all.map((record) => record.key), [served.key, ...[registration.key, permanent.key].sort()]);
  const { services } = await rollcall.services();
  same('a service in short', services.find((service) => service.name === name),
    { name, instances: 3, malformed: 0, layouts: ['go-micro', 'kratos'], versions: ['v1'] });
  holds('services are listed', true);
  const watching = rollcall.watch([name, `${name}-none`]);
  const several = (await watching.next()).value;
  await watching.return();
  same('several services', Object.entries(several).map(([name, { length }]) => [name, length]), [[name, 3], [`${name}-none`, 0]]);
  same('as they stand', several[name], all.map((record) => record.instance));
  holds('several services are watched by one line', true);
  const first = await rollcall.instances({ service: name, limit: 2 });
  const second = await rollcall.instances({ service: [name], limit: 2, continue: first.continue });
  same('page by page', [...first.records, ...second.records], all);
  same('one layout alone', (await rollcall.instances({ service: name, layout: 'go-micro' })).records, all.slice(0, 1));
  holds('instances come in pages', first.records.length === 2 && second.continue === undefined, second);
  const value = JSON.parse(new TextDecoder().decode(await rollcall.raw(registration.key)));
  same('the bytes that stand there', value, sorted);
  same('the keys of a lease', (await rollcall.lease(lease)).keys, [registration.key]);
  const renewed = await rollcall.keepAlive(lease);
  holds('a lease is renewed', renewed.lease === lease && renewed.granted_ttl_s === 60 && renewed.remaining_ttl_s > 50, renewed);

  const taken = await refused('a key that stands is refused', () => rollcall.register({ instance, ttl_s: 60 }));
  same('who holds the key', [taken.kind, taken.status, taken.problem.record.key, taken.problem.record.lease], ['problem', 409, registration.key, lease]);
  const gone = await refused('a lease that is none is refused', () => rollcall.keepAlive('7b'));
  same('no such lease', [gone.kind, gone.status], ['problem', 404]);
  const none = await refused('a service that is none is refused', () => rollcall.service(`${name}-none`));
  same('no such service', [none.kind, none.status, none.problem.status], ['problem', 404, 404]);
  const stale = await refused('a record that is not so is not deleted', () => rollcall.deregister(registration.key, record.mod_revision - 1));
  same('how it is', [stale.status, stale.problem.record.mod_revision], [409, record.mod_revision]);
  const far = await refused('a server that is none is an error', async () => (await connect(nowhere)).services());
  same('nobody there', [far.kind, far.status], ['unreachable', undefined]);
  await refused('so it is for events that are not to wait', async () => {
    const nobody = await connect(nowhere);
    for await (const event of nobody.events({ retry: false })) if (event.state !== 'connecting') return event;
  });
  await refused('so it is for a watch that is not to wait', async () => (await connect(nowhere)).watch(name, { retry: false }).next());
  const other = await refused('a page is no registry', async () => (await connect(new URL('/npm', options.base))).services());
  same('not a registry', ['problem', 'unreadable'].includes(other.kind), true);

  const endpoints = ['http://10.0.0.1:80'];
  for (const [field, request] of [
    ['/request', null],
    ['/instance', {}],
    ['/instance/name', { instance: { endpoints } }],
    ['/instance/name', { instance: { name: '', endpoints } }],
    ['/instance/name', { instance: { name: 'a/b', endpoints } }],
    ['/instance/name', { instance: { name: 'a'.repeat(256), endpoints } }],
    ['/instance/id', { instance: { id: '', name, endpoints } }],
    ['/instance/id', { instance: { id: 'a\nb', name, endpoints } }],
    ['/instance/version', { instance: { name, version: 1, endpoints } }],
    ['/instance/version', { layout: 'kitex', instance: { name, version: 'v1', endpoints: ['10.0.0.1:80'] } }],
    ['/instance/metadata', { instance: { name, metadata: [], endpoints } }],
    ['/instance/metadata/a', { instance: { name, metadata: { a: 1 }, endpoints } }],
    ['/instance/endpoints', { instance: { name } }],
    ['/instance/endpoints', { instance: { name, endpoints: [] } }],
    ['/instance/endpoints', { instance: { name, endpoints: 'http://10.0.0.1:80' } }],
    ['/instance/endpoints/1', { instance: { name, endpoints: ['http://10.0.0.1:80', '10.0.0.1:80'] } }],
    ['/instance', { instance: { name, metadata: { a: 'a'.repeat(70_000) }, endpoints } }],
    ['/layout', { layout: 'eureka', instance: { name, endpoints } }],
    ['/ttl_s', { instance: { name, endpoints }, ttl_s: 1 }],
    ['/ttl_s', { instance: { name, endpoints }, ttl_s: 2.5 }],
    ['/ttl_s', { instance: { name, endpoints }, ttl_s: '15' }],
    ['/keep_alive', { instance: { name, endpoints }, ttl_s: null, keep_alive: 'server' }],
    ['/keep_alive', { instance: { name, endpoints }, keep_alive: 'me' }],
  ]) {
    const error = await refused(`${field} is refused here`, () => rollcall.register(request));
    same('what is wrong', [error.kind, error.errors[0].pointer], ['argument', field]);
    if (!error.message.includes(field.slice(1).replaceAll('/', '.'))) throw new Error(`${field}: ${error.message}`);
  }
  for (const [field, work] of [
    ['/base', () => connect('http://[')],
    ['/base', () => connect('ftp://127.0.0.1')],
    ['/base', () => connect('http://me:secret@127.0.0.1')],
    ['/options/token', () => connect(options.base, { token: '' })],
    ['/lease', () => rollcall.keepAlive('xyz')],
    ['/lease', () => rollcall.lease(12)],
    ['/keys', () => rollcall.revoke(lease, -1)],
    ['/name', async () => rollcall.watch('')],
    ['/names', async () => rollcall.watch([])],
    ['/names', async () => rollcall.watch({})],
    ['/names/1', async () => rollcall.watch(['a', ''])],
    ['/services/0', async () => rollcall.events({ services: [1] })],
    ['/services', async () => rollcall.events({ services: [] })],
    ['/service', () => rollcall.instances({ service: [] })],
    ['/options/timeoutMs', () => rollcall.services({ timeoutMs: 0 })],
    ['/options/timeoutMs', () => rollcall.keepAlive(lease, { timeoutMs: '1' })],
    ['/options/timeoutMs', () => rollcall.register({ instance }, { timeoutMs: 2 ** 31 })],
    ['/limit', () => rollcall.instances({ limit: '1' })],
    ['/modRevision', () => rollcall.deregister(registration.key)],
    ['/record/mod_revision', () => rollcall.deregister({ key: 'a' })],
  ]) {
    const error = await refused(`${field} is refused here`, work);
    same('what is wrong', [error.kind, error.errors[0].pointer], ['argument', field]);
  }

  const { undo, deleted } = await rollcall.deregister(record);
  same('what was deleted', deleted, record);
  await seen(2);
  const back = await rollcall.undo(undo);
  same('what was put back', [back.record.instance, back.lease], [record.instance, lease]);
  await seen(3);
  holds('what was deregistered is put back', true);
  // Its revision is another one by now, and it is its own all the same.
  const states = registration.states();
  await registration.deregister();
  await registration.deregister();
  await seen(2);
  holds('a registration is over once', registration.state === 'ended');
  const last = [];
  for await (const { state } of states) last.push(state);
  same('who asked before the end and listens after it', last, ['ended']);
  holds('states that ended before anybody listened end', true);
  same('what is revoked', (await rollcall.revoke(served.lease, 1)).deleted, [served.key]);
  await permanent[Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')]();
  await seen(0);
  holds('nothing is left', true);

  // Timers that wait for longer than 2^31 ms end at once.
  const asked = [];
  const counted = await connect(options.base, { token, fetch: (address, how) => {
    asked.push(`${how.method} ${new URL(address).pathname}`);
    return fetch(address, how);
  } });
  const long = await counted.register({ instance: { name, endpoints }, ttl_s: 1_000_000_000 });
  for (let times = 0; times < 30; times += 1) await counted.lease(long.lease);
  same('what was asked', asked.filter((asked) => asked.startsWith('POST')), ['POST /api/v1/instances']);
  holds('a long TTL is not renewed all the time', true);
  await long.deregister();
  await seen(0);

  const deaf = await connect(options.base, { fetch: () => new Promise(() => {}) });
  const mute = await refused('a fetch that heeds no signal is not waited for', () => deaf.services({ timeoutMs: 20 }));
  same('it took too long', [mute.kind, mute.message.includes('does not answer within 0.02 s')], ['unreachable', true]);

  let say;
  const renewing = new Promise((resolve) => (say = resolve));
  const stuck = await connect(options.base, { token, fetch: (address, how) => {
    if (!address.endsWith('/keepalive')) return fetch(address, how);
    say(how.signal);
    return new Promise(() => {});
  } });
  const short = await stuck.register({ instance: { name, endpoints }, ttl_s: 3 });
  const renewal = await renewing;
  await short.deregister();
  same('why its renewal ended', renewal.reason?.name, 'AbortError');
  await seen(0);
  holds('leaving waits for no renewal', true);

  const unanswered = await connect(options.base, { token, fetch: async (address, how) => {
    const answer = await fetch(address, { ...how, signal: undefined });
    return how.method === 'POST' ? new Promise(() => {}) : answer;
  } });
  const enough = new AbortController();
  const never = unanswered.register({ instance: { name, endpoints }, ttl_s: null }, { signal: enough.signal });
  await seen(1);
  enough.abort(new Error('enough'));
  same('why', await never.then(() => 'registered', (error) => error.message), 'enough');
  await seen(0);
  holds('what nobody waits for any more is taken back', true);

  const reason = new Error('enough');
  const controller = new AbortController();
  const watch = rollcall.watch(name, { signal: controller.signal });
  await watch.next();
  const pending = watch.next();
  controller.abort(reason);
  for (const [what, work] of [
    ['a watch under way', () => pending],
    ['a request', () => rollcall.services({ signal: controller.signal })],
    ['a stream', () => rollcall.events({ signal: controller.signal }).next()],
    ['a registration', () => rollcall.register({ instance }, { signal: controller.signal })],
  ]) {
    const saw = await work().then((value) => value, (error) => error);
    holds(`${what} ends with the signal's own reason`, saw === reason, String(saw));
  }
  same('it is over', await watch.next(), { done: true });
  const left = rollcall.watch(name);
  await left.next();
  const waiting = left.next();
  same('left', await left.return(), { done: true });
  same('what waited', await waiting, { done: true });
  for await (const event of rollcall.events({ ttl: true })) if (event.type === 'snapshot') break;
  holds('a stream that is left ends', true);
  tell({ done: true });
  await new Promise((resolve) => signal.addEventListener('abort', resolve));
};

const follow = async ({ rollcall, options, tell, signal }) => {
  const { services, since, pause_ms } = options;
  let pause = pause_ms;
  for await (const event of rollcall.events({ services, since, signal })) {
    tell(event);
    if (event.type === 'snapshot' && pause) {
      await new Promise((resolve) => setTimeout(resolve, pause));
      pause = 0;
    }
  }
};

const watch = async ({ rollcall, options, tell, signal }) => {
  let say;
  const broken = new Promise((resolve) => (say = resolve));
  const onConnection = ({ state, error }) => {
    tell({ connection: state, why: error?.message });
    if (state === 'reconnecting') say();
  };
  for await (const instances of rollcall.watch(options.name, { signal, onConnection })) {
    tell({ instances });
    if (options.is_slow) await broken;
  }
};

const registered = async ({ rollcall, options, tell, signal }) => {
  const registration = await rollcall.register(options.request, { signal, retry: true });
  tell({ key: registration.key });
  const leave = async () => {
    for (;;) {
      try {
        return await registration.deregister();
      } catch (error) {
        if (!options.insists) return tell({ failed: error.message });
        tell({ refused: error.kind, status: error.status });
        await new Promise((resolve) => setTimeout(resolve, 200));
      }
    }
  };
  let left;
  signal.addEventListener('abort', () => (left = leave()));
  for await (const { state, lease, error } of registration.states()) tell({ state, lease, why: error?.message });
  await left;
  tell({ left: true });
};

const programs = { verbs, follow, watch, registered };

/** Runs the program that `options` name. */
export const run = async ({ connect, RollcallError }, options, tell, signal) => {
  try {
    const rollcall = await connect(options.base, options.token === undefined ? {} : { token: options.token });
    await programs[options.program]({ rollcall, connect, RollcallError, options, tell, signal });
  } catch (error) {
    if (error !== signal.reason) tell({ failed: error?.stack ?? String(error) });
  }
};
