// What a typed program writes: the compiler takes all of it, and refuses every line below an `@ts-expect-error`.
import {
  connect, Registration, Rollcall, RollcallError,
  type Change, type RegistryEvent, type RegistryRecord, type ServiceInstance, type ServicesAnswer, type Stream,
} from 'rollcall-client';

const rollcall: Rollcall = await connect('http://127.0.0.1:8420', { token: 't', headers: { a: 'b' } });
const answer: ServicesAnswer = await rollcall.services({ signal: AbortSignal.timeout(1) });
const names: string[] = answer.services.map((service) => `${service.name} ${service.instances + service.malformed}`);
const records: RegistryRecord[] = (await rollcall.instances({ service: names, layout: 'kratos', limit: 1 })).records;

const shown = (record: RegistryRecord): string =>
  record.instance === null ? record.malformed : record.instance.endpoints.join(record.instance.metadata['zone'] ?? '');

const registration: Registration = await rollcall.register({ instance: { name: 'a', endpoints: ['http://a:1'] }, ttl_s: null });
for await (const { state, lease, error } of registration.states()) {
  if (state === 'lost') console.log(lease?.length, error?.kind === 'problem' && error.problem?.detail);
}
await registration.deregister();
{
  await using kept: Registration = await rollcall.register(
    { instance: { name: 'a', endpoints: ['http://a:1'] }, keep_alive: 'server' }, { timeoutMs: 1, retry: true },
  );
  await using states = kept.states();
  console.log((await states.next()).value?.state, await rollcall.keepAlive(kept.lease ?? '7b', { timeoutMs: 1 }));
}
const { undo } = await rollcall.deregister(records[0]!);
await rollcall.deregister('key', 12);
const put: RegistryRecord = (await rollcall.undo(undo)).record;

const change = (change: Change): string => ('put' in change ? change.put.key : change.delete.last.key);
const told = (event: RegistryEvent): string => {
  switch (event.type) {
    case 'snapshot': return `${event.reason} ${event.records.map(shown)} ${event.cursor?.length}`;
    case 'delta': return event.changes.map(change).join();
    case 'progress': return Object.entries(event.revisions).map(([source, revision]) => source + revision.toFixed()).join();
    case 'cause': return `${event.cause}: ${event.evidence}`;
    case 'status': return event.etcd;
    case 'ttl': return event.leases.map((lease) => lease.remaining_s - (lease.age_ms ?? 0) / 1000).join();
    case 'connection': return event.state === 'reconnecting' ? event.error.message : event.state;
    default: {
      const never: never = event;
      return never;
    }
  }
};
const events: Stream<RegistryEvent> = rollcall.events({ services: ['a'], since: answer.cursor, ttl: true });
for await (const event of events) console.log(told(event));
const watched: AsyncIterable<ServiceInstance[]> = rollcall.watch('a', { onConnection: ({ state }) => console.log(state) });
for await (const instances of watched) instances.forEach(({ id, version }) => console.log(id, version));
for await (const { a = [], b = [] } of rollcall.watch(['a', 'b'])) console.log(a.length + b.length);
const kinds = (error: unknown) => (error instanceof RollcallError ? error.errors.map(({ pointer }) => pointer) : []);
console.log(put, kinds(null), await rollcall.raw('a') satisfies Uint8Array);

// @ts-expect-error
await connect();
// @ts-expect-error
new Rollcall();
// @ts-expect-error
await rollcall.register({ instance: { name: 'a' } });
// @ts-expect-error
await rollcall.register({ layout: 'eureka', instance: { name: 'a', endpoints: [] } });
// @ts-expect-error
await rollcall.register({ instance: { name: 'a', endpoints: [] }, ttl_s: '15' });
// @ts-expect-error
await rollcall.deregister('key');
// @ts-expect-error
await rollcall.services({ timeoutMs: '1' });
// @ts-expect-error
rollcall.watch();
// @ts-expect-error
rollcall.watch([1]);
// @ts-expect-error
const wrong: string = (await rollcall.lease('7b')).remaining_ttl_s;
