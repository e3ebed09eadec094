/// <reference lib="esnext.disposable" />

/**
 * A client of the server whose root, or base path, is at `base`, such as `http://127.0.0.1:8420`; in a page it may be
 * relative. Loads the WebAssembly once and asks the server nothing yet.
 */
export function connect(base: string | URL, options?: ConnectOptions): Promise<Rollcall>;

export interface ConnectOptions {
  /** The token that the server asks for, where it asks for one. */
  token?: string;
  /** Headers that go along with every request. */
  headers?: Record<string, string> | Headers | [string, string][];
  /** Another `fetch` than the global one. */
  fetch?: typeof fetch;
}

export interface Cancel {
  /** Ends what is under way: it throws the signal's reason. */
  signal?: AbortSignal | undefined;
}

export interface RequestOptions extends Cancel {
  /** How long the whole answer may take, in milliseconds: 10,000 unless said otherwise, 2,147,483,647 at most. */
  timeoutMs?: number;
}

/** How a framework writes an instance into etcd. */
export type Layout = "kratos" | "go-micro" | "go-kit" | "grpc" | "go-zero" | "kitex" | "hertz" | "plain";

/** One running copy of a service. */
export interface ServiceInstance {
  id: string;
  name: string;
  version: string;
  metadata: Record<string, string>;
  /** As the layout writes them: URLs, or `host:port` where it knows no scheme. */
  endpoints: string[];
}

interface RecordBase {
  key: string;
  /** The watched prefix below which it stands. */
  source: string;
  layout: Layout;
  service: string;
  /** Sixteen hexadecimal digits; `null` for a permanent key. */
  lease: string | null;
  create_revision: number;
  mod_revision: number;
  /** What is odd about the value, such as that it disagrees with its key. */
  warning?: string;
}

/** A key whose value decodes. */
export interface DecodedRecord extends RecordBase {
  instance: ServiceInstance;
}

/** A key whose value does not. */
export interface MalformedRecord extends RecordBase {
  instance: null;
  malformed: string;
  raw?: string;
  raw_base64?: string;
}

/** One key of the registry. */
export type RegistryRecord = DecodedRecord | MalformedRecord;

/** The revision of each source, by its prefix. */
export type Revisions = Record<string, number>;

interface Answer {
  /** Where `events({ since })` goes on from what this shows. */
  cursor: string;
  revisions: Revisions;
  /** How long etcd has been away, in seconds, where it is. */
  stale_for_s?: number;
}

export interface ServicesAnswer extends Answer {
  services: ServiceSummary[];
}

export interface ServiceSummary {
  name: string;
  /** How many values decode. */
  instances: number;
  /** How many do not. */
  malformed: number;
  layouts: Layout[];
  versions: string[];
}

export interface RecordsAnswer extends Answer {
  records: RegistryRecord[];
  /** Ask with this for what follows; absent where nothing does. */
  continue?: string;
}

export interface InstancesQuery {
  /** One at the least, as of `layout`; all where it is left out. */
  service?: string | readonly string[];
  layout?: Layout | readonly Layout[];
  limit?: number;
  continue?: string;
}

export interface LeaseAnswer {
  lease: string;
  granted_ttl_s: number;
  remaining_ttl_s: number;
  /** Its keys inside the sources; `lease` alone says them. */
  keys?: string[];
}

export interface RegisterRequest {
  /** `kratos` unless said otherwise. */
  layout?: Layout;
  instance: {
    /** Left out, it gets a random one, or the one that its layout wants. */
    id?: string;
    name: string;
    version?: string;
    metadata?: Record<string, string>;
    endpoints: readonly string[];
  };
  /** In seconds, 15 unless said otherwise; `null` for a permanent key. */
  ttl_s?: number | null;
  /**
   * Who renews the lease: this client unless said otherwise, or the server until it ends. Then this client looks every
   * third of the TTL, but at least every 20 s, whether it still lives, and registers anew where it does not.
   */
  keep_alive?: "caller" | "server";
}

export interface RegisterAnswer {
  record: RegistryRecord;
  lease: string | null;
}

export interface DeregisterAnswer {
  deleted: RegistryRecord;
  /** What `undo` takes, for 60 s, at this server. */
  undo: string;
}

export interface RevokeAnswer {
  revoked: string;
  deleted: string[];
}

/** What is wrong with one part of a request: an RFC 6901 pointer, and words. */
export interface FieldError {
  pointer: string;
  detail: string;
}

/** RFC 9457. */
export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  /** For 422. */
  errors?: FieldError[];
  /** For 409: the record as it stands now. */
  record?: RegistryRecord;
}

/** Everything that goes wrong, but for a signal's own reason. */
export class RollcallError extends Error {
  readonly name: "RollcallError";
  /**
   * `argument`: refused before anything was asked; `problem`: the server refused; `unreachable`: it could not be asked, or
   * did not answer in time; `unreadable`: it answered as no Rollcall server does.
   */
  readonly kind: "argument" | "problem" | "unreachable" | "unreadable";
  /** The HTTP status, where there was an answer. */
  readonly status?: number;
  /** What the server answered, where it is a `problem`. */
  readonly problem?: Problem;
  /** Which fields are wrong, of an `argument` and of a 422. */
  readonly errors: readonly FieldError[];
}

interface Covering {
  /** Where `events({ since })` goes on after this event. */
  cursor?: string;
}

export interface SnapshotEvent extends Covering {
  type: "snapshot";
  reason: "connected" | "compacted" | "restored" | "lagged" | "unknown_cursor";
  /** It replaces all that was known of these sources. */
  revisions: Revisions;
  records: RegistryRecord[];
  part: number;
  /** Whether more parts follow, with nothing between them. */
  more: boolean;
}

export type Change = { put: RegistryRecord } | { delete: { key: string; service: string; last: RegistryRecord } };

export interface DeltaEvent extends Covering {
  type: "delta";
  source: string;
  after: number;
  revision: number;
  changes: Change[];
}

export interface ProgressEvent extends Covering {
  type: "progress";
  revisions: Revisions;
}

export interface CauseEvent {
  type: "cause";
  key: string;
  revision: number;
  cause: "deregistered" | "expired" | "revoked" | "unknown";
  evidence: string;
}

/** How it is with etcd: at once, on every change, and at least every 10 s. */
export interface StatusEvent {
  type: "status";
  etcd: "live" | "stale" | "unreachable";
  for_s: number;
}

export interface TtlEvent {
  type: "ttl";
  at_ms: number;
  leases: { lease: string; granted_s: number; remaining_s: number; age_ms?: number }[];
}

/** How it is with the line to the server. */
export type ConnectionEvent =
  | { type: "connection"; state: "connecting" | "open" }
  | { type: "connection"; state: "reconnecting"; error: RollcallError };

/** What comes out of `events`. The first four are the registry's, in order; the others tell how things are. */
export type RegistryEvent =
  | SnapshotEvent
  | DeltaEvent
  | ProgressEvent
  | CauseEvent
  | StatusEvent
  | TtlEvent
  | ConnectionEvent;

/** Leaving it, by `break` or `return()`, closes its line at once. */
export interface Stream<T> extends AsyncIterableIterator<T> {
  next(): Promise<IteratorResult<T, undefined>>;
  return(value?: unknown): Promise<IteratorResult<T, undefined>>;
  throw(error?: unknown): Promise<IteratorResult<T, undefined>>;
  [Symbol.asyncIterator](): Stream<T>;
  [Symbol.asyncDispose](): Promise<void>;
}

export interface LineOptions extends Cancel {
  /** Whether a server that cannot be reached the first time is waited for: yes, unless this is `false`. */
  retry?: boolean;
}

export interface EventsOptions extends LineOptions {
  /** These services' alone, one at the least; of all where it is left out. */
  services?: string | readonly string[];
  /** Go on from this cursor instead of beginning with a snapshot. */
  since?: string;
  /** Also tell what is left of the leases. */
  ttl?: boolean;
}

export interface WatchOptions extends LineOptions {
  /** Told how it is with the line. */
  onConnection?: (event: ConnectionEvent) => void;
}

export interface RegisterOptions extends RequestOptions {
  /** Try until it is registered where the server, or its etcd, cannot be reached. */
  retry?: boolean;
}

/** The registry, as one server shows it. */
export class Rollcall {
  private constructor();
  /** Every service in short, sorted by name. */
  services(options?: RequestOptions): Promise<ServicesAnswer>;
  /** The records of one service; throws a 404 where it has none. */
  service(name: string, options?: RequestOptions): Promise<RecordsAnswer>;
  /** Records, sorted by key, page by page. */
  instances(query?: InstancesQuery, options?: RequestOptions): Promise<RecordsAnswer>;
  /** The bytes of a value, as they stand in etcd. */
  raw(key: string, options?: RequestOptions): Promise<Uint8Array>;
  /** What is left of a lease, and which keys hang on it. */
  lease(lease: string, options?: RequestOptions): Promise<LeaseAnswer>;
  /**
   * Registers an instance and keeps it registered. Where this ends without an answer, by its signal or in time, the server
   * may have heeded it all the same: with a random id it is looked for during some seconds, and taken out again. With an
   * id of your own it is left alone, since it could have stood there before: a TTL takes it out unless the server renews
   * it, and registering it again throws a 409 that shows it.
   */
  register(request: RegisterRequest, options?: RegisterOptions): Promise<Registration>;
  /** Renews a lease once. A `Registration` renews its own. */
  keepAlive(lease: string, options?: RequestOptions): Promise<LeaseAnswer>;
  /** Deletes a record as it was seen; throws a 409 with the one that stands where it was changed since. */
  deregister(record: Pick<RegistryRecord, "key" | "mod_revision">, _?: undefined, options?: RequestOptions): Promise<DeregisterAnswer>;
  deregister(key: string, modRevision: number, options?: RequestOptions): Promise<DeregisterAnswer>;
  /** Ends a lease and with it all its keys, provided that they number `keys`. */
  revoke(lease: string, keys: number, options?: RequestOptions): Promise<RevokeAnswer>;
  /** Puts back what was deregistered. */
  undo(token: string, options?: RequestOptions): Promise<RegisterAnswer>;
  /**
   * Everything that happens, each event once and in order, whatever becomes of the line. A 4xx to the first connection is
   * thrown; afterwards the line comes back for ever, from its cursor.
   */
  events(options?: EventsOptions): Stream<RegistryEvent>;
  /**
   * All instances of a service, sorted by key: first as they stand, then at every change. Between two that are asked for
   * it goes on listening, and keeps the newest list alone. While the server or etcd is away the last list stays good.
   */
  watch(name: string, options?: WatchOptions): Stream<ServiceInstance[]>;
  /** The same of several services, by name, over one line. */
  watch(names: readonly string[], options?: WatchOptions): Stream<Record<string, ServiceInstance[]>>;
}

export type RegistrationState = "registering" | "alive" | "retrying" | "lost" | "ended";

export interface RegistrationChange {
  state: RegistrationState;
  lease: string | null;
  /** Why it is not `alive`. */
  error?: RollcallError;
}

/** An instance that stays registered until it is deregistered: a lost lease is followed by a new one, for ever. */
export class Registration {
  private constructor();
  /**
   * `retrying`: a renewal failed, or the server that renews could not be asked, and as far as is known the lease lives;
   * `lost`: it does not, and it is being registered anew; `ended`: nothing is done for it any more, since `deregister` was
   * called, or since an operator took out what the server renewed.
   */
  readonly state: RegistrationState;
  readonly error: RollcallError | undefined;
  /** The record as it was registered last. */
  readonly record: RegistryRecord;
  readonly key: string;
  readonly lease: string | null;
  /** The state now and every later one; ends after `ended`. */
  states(options?: Cancel): Stream<RegistrationChange>;
  /**
   * Stops renewing and takes the instance out. What fails is thrown, and can be called again; else its lease takes it out
   * by itself, unless it has none or the server renews it.
   */
  deregister(options?: RequestOptions): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}
