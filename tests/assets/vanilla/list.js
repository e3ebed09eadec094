// The list that the dashboard is measured beside: what one writes by hand, without a framework, when it has to be fast.
//
// One EventSource, a Map of what is registered, sorted arrays of keys, and as many row elements as fit the window, which
// are drawn at most once an animation frame, and of those only what changed.
'use strict';

const ROW_PX = 32;
const SPARE_ROWS = 4;
const RENEWAL_SLACK = 1.15;

const heading = document.querySelector('h1');
const count = document.querySelector('output');
const search = document.querySelector('input');
const box = document.querySelector('main');
const canvas = box.firstElementChild;

const named = location.pathname.match(/^\/services\/(.+)$/);
const service = named && decodeURIComponent(named[1]);
heading.textContent = service || 'Services';

/** What is registered: key to entry. */
const entries = new Map();
/** The keys of each service, sorted. */
const services = new Map();
/** The names of the services, sorted. */
let names = [];
/** What is known of each lease. */
const leases = new Map();
/** The revision of each source, and the records of a snapshot that has not come to its end. */
const revisions = new Map();
let staged = [];

/** The words that are searched. */
let words = [];
/** What is shown: keys, or names of services. Without a search it is one of the sorted arrays above. */
let shown = names;
let showsNames = !service;

// ---------------------------------------------------------------------------------------------------------- state

function entryOf(record) {
  const { instance } = record;
  const entry = {
    record,
    id: instance ? instance.id : record.key.slice(record.key.lastIndexOf('/') + 1),
    endpoints: '',
    version: '',
    metadata: record.malformed || record.warning || '',
    text: record.key,
  };
  if (instance) {
    const { endpoints } = instance;
    entry.endpoints = endpoints.length > 1 ? `${endpoints[0]} +${endpoints.length - 1}` : endpoints[0] || '';
    entry.version = instance.version;
    const pairs = [];
    for (const name in instance.metadata) pairs.push(`${name} ${instance.metadata[name]}`);
    entry.metadata = pairs.join('  ');
    entry.text = `${record.key} ${endpoints.join(' ')} ${entry.version} ${entry.metadata}`;
  }
  entry.text = entry.text.toLowerCase();
  return entry;
}

/** Where `key` stands in a sorted array, or the complement of where it would. */
function find(keys, key) {
  let low = 0;
  let high = keys.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (keys[middle] < key) low = middle + 1;
    else high = middle;
  }
  return keys[low] === key ? low : ~low;
}

function insert(keys, key) {
  const at = find(keys, key);
  if (at < 0) keys.splice(~at, 0, key);
  return at < 0;
}

function remove(keys, key) {
  const at = find(keys, key);
  if (at >= 0) keys.splice(at, 1);
  return at >= 0;
}

const matches = entry => words.every(word => entry.text.includes(word));

function put(record) {
  const { key } = record;
  const before = entries.get(key);
  const entry = entryOf(record);
  entries.set(key, entry);
  if (before && before.record.service !== record.service) forget(key, before);
  let keys = services.get(record.service);
  if (!keys) {
    services.set(record.service, (keys = []));
    if (insert(names, record.service) && showsNames) moved = true;
  }
  if (insert(keys, key)) {
    if (keys === shown) moved = true;
    if (showsNames) changed.add(record.service);
  }
  if (words.length && (!service || record.service === service)) {
    if (matches(entry)) moved = insert(shown, key) || moved;
    else moved = remove(shown, key) || moved;
  }
  if (drawn.has(key)) changed.add(key);
}

function forget(key, { record }) {
  const keys = services.get(record.service);
  if (remove(keys, key) && keys === shown) moved = true;
  if (showsNames) changed.add(record.service);
  if (!keys.length && keys !== shown) {
    services.delete(record.service);
    if (remove(names, record.service) && showsNames) moved = true;
  }
  if (words.length && remove(shown, key)) moved = true;
}

function take(key) {
  const entry = entries.get(key);
  if (!entry) return;
  entries.delete(key);
  forget(key, entry);
}

function replace(sources, records) {
  for (const [key, { record }] of entries) if (record.source in sources) entries.delete(key);
  for (const record of records) entries.set(record.key, entryOf(record));
  services.clear();
  for (const key of [...entries.keys()].sort()) {
    const name = entries.get(key).record.service;
    const keys = services.get(name);
    if (keys) keys.push(key);
    else services.set(name, [key]);
  }
  names = [...services.keys()].sort();
  filter();
}

function filter() {
  words = search.value.toLowerCase().split(/\s+/).filter(word => word);
  showsNames = !service && !words.length;
  if (service && !services.has(service)) services.set(service, []);
  if (showsNames) shown = names;
  else if (!words.length) shown = services.get(service);
  else {
    shown = [];
    for (const name of service ? [service] : names) {
      for (const key of services.get(name)) if (matches(entries.get(key))) shown.push(key);
    }
    if (!service) shown.sort();
  }
  for (const row of rows) row.key = undefined;
  drawn.clear();
  moved = true;
  ask();
}

// ---------------------------------------------------------------------------------------------------------- stream

const stream = new EventSource('/api/v1/events?ttl=1');

stream.onmessage = ({ data }) => {
  const message = JSON.parse(data);
  switch (message.type) {
    case 'snapshot':
      if (message.part === 0) staged = [];
      staged = staged.length ? staged.concat(message.records) : message.records;
      if (message.more) return;
      replace(message.revisions, staged);
      staged = [];
      for (const source in message.revisions) revisions.set(source, message.revisions[source]);
      break;
    case 'delta':
      if (message.revision <= (revisions.get(message.source) || 0)) return;
      for (const change of message.changes) {
        if (change.put) put(change.put);
        else take(change.delete.key);
      }
      revisions.set(message.source, message.revision);
      break;
    default:
      return;
  }
  if (moved || changed.size) ask();
};

stream.addEventListener('ttl', ({ data }) => {
  const now = performance.now();
  for (const { lease, granted_s, remaining_s, age_ms } of JSON.parse(data).leases) {
    const deadline = now + remaining_s * 1000;
    const unrenewed = granted_s - remaining_s - Math.floor((age_ms || 0) / 1000) - 1;
    const late = unrenewed > (granted_s / 3) * RENEWAL_SLACK;
    const known = leases.get(lease);
    if (known && known.granted === granted_s && known.late === late && Math.abs(known.deadline - deadline) < 2100) continue;
    leases.set(lease, { granted: granted_s, deadline, late });
    for (const row of rows) if (row.lease === lease) changed.add(row.key);
  }
  if (changed.size) ask();
});

// ---------------------------------------------------------------------------------------------------------- rows

/** The row elements, and which of them shows a key. */
const rows = [];
const drawn = new Map();
/** The keys whose rows have to be drawn anew, and whether any row may be another's now. */
const changed = new Set();
let moved = true;
let asked = false;

function ask() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(draw);
}

function rowOf() {
  const node = document.createElement('div');
  node.className = 'row';
  node.innerHTML =
    '<span></span><span class="mono"></span><span class="mono"></span><span class="mono"></span><span></span>' +
    '<span><span class="bar"><i></i></span><time data-testid="ttl"></time></span><span><button>Deregister</button></span>';
  const [state, id, endpoints, version, metadata, lease, action] = node.children;
  const texts = [state, id, endpoints, version, metadata].map(cell => cell.appendChild(document.createTextNode('')));
  canvas.append(node);
  return {
    node, texts, metadata, action,
    bar: lease.firstChild.firstChild, time: lease.lastChild.appendChild(document.createTextNode('')),
    key: undefined, top: -1, lease: undefined, deadline: 0, leased: lease, kind: '', state: '',
  };
}

function say(text, value) {
  if (text.data !== value) text.data = value;
}

function draw() {
  asked = false;
  const first = Math.max(0, Math.floor(box.scrollTop / ROW_PX) - SPARE_ROWS);
  const fits = Math.ceil(height / ROW_PX) + 2 * SPARE_ROWS;
  while (rows.length < fits) rows.push(rowOf());
  if (moved) {
    moved = false;
    const tall = `${shown.length * ROW_PX}px`;
    if (canvas.style.height !== tall) canvas.style.height = tall;
    const total = String(shown.length);
    if (count.textContent !== total) count.textContent = total;
    // A row element keeps its place modulo their number, so that scrolling by one draws one.
    for (let index = first; index < first + rows.length; index++) {
      const row = rows[index % rows.length];
      const key = index < shown.length ? shown[index] : null;
      if (row.key !== key) {
        if (drawn.get(row.key) === row) drawn.delete(row.key);
        row.key = key;
        row.node.hidden = key === null;
        if (key !== null) changed.add(key);
      }
      if (key !== null) {
        drawn.set(key, row);
        if (row.top !== index) {
          row.top = index;
          row.node.style.transform = `translateY(${index * ROW_PX}px)`;
        }
      }
    }
  }
  for (const key of changed) {
    const row = drawn.get(key);
    if (row) (showsNames ? drawName : drawInstance)(row, key);
  }
  changed.clear();
}

function drawName(row, name) {
  if (row.kind !== 'service') {
    row.kind = 'service';
    row.node.dataset.testid = 'service';
    delete row.node.dataset.key;
    delete row.node.dataset.state;
    row.leased.hidden = row.action.hidden = true;
    row.lease = undefined;
    row.state = '';
    for (const text of row.texts) say(text, '');
  }
  row.node.dataset.service = name;
  say(row.texts[0], String((services.get(name) || []).length));
  say(row.texts[1], name);
}

function drawInstance(row, key) {
  const entry = entries.get(key);
  if (!entry) return;
  const { record } = entry;
  if (row.kind !== 'instance') {
    row.kind = 'instance';
    row.node.dataset.testid = 'instance';
    delete row.node.dataset.service;
    row.action.hidden = false;
  }
  if (row.node.dataset.key !== key) row.node.dataset.key = key;
  const lease = record.lease && leases.get(record.lease);
  const state = lease && lease.late ? 'late' : 'live';
  if (row.state !== state) row.node.dataset.state = row.state = state;
  say(row.texts[0], record.malformed ? 'malformed' : state);
  say(row.texts[1], entry.id);
  say(row.texts[2], entry.endpoints);
  say(row.texts[3], entry.version);
  say(row.texts[4], entry.metadata);
  const odd = record.malformed ? 'malformed' : '';
  if (row.metadata.className !== odd) row.metadata.className = odd;
  row.leased.hidden = !lease;
  row.lease = record.lease;
  if (lease && row.deadline !== lease.deadline) {
    row.deadline = lease.deadline;
    const passed = lease.granted * 1000 - (lease.deadline - performance.now());
    row.bar.style.animationDuration = `${lease.granted}s`;
    row.bar.style.animationDelay = `${-Math.max(0, Math.round(passed))}ms`;
    tick(row, performance.now());
  }
}

function tick(row, now) {
  say(row.time, `${Math.max(0, Math.ceil((row.deadline - now) / 1000))} s`);
}

// ---------------------------------------------------------------------------------------------------------- window

let height = box.clientHeight;
addEventListener('resize', () => {
  height = box.clientHeight;
  moved = true;
  ask();
});
box.addEventListener('scroll', () => {
  moved = true;
  ask();
}, { passive: true });
search.addEventListener('input', () => {
  box.scrollTop = 0;
  filter();
});
canvas.addEventListener('click', async ({ target }) => {
  const node = target.closest('.row');
  if (target.tagName !== 'BUTTON') {
    if (node && node.dataset.service) location.href = `/services/${encodeURIComponent(node.dataset.service)}`;
    return;
  }
  const { record } = entries.get(node.dataset.key);
  if (!confirm(`Deregister ${record.key}?`)) return;
  const query = `key=${encodeURIComponent(record.key)}&mod_revision=${record.mod_revision}`;
  const answer = await fetch(`/api/v1/instances?${query}`, { method: 'DELETE' });
  if (!answer.ok) alert((await answer.json()).detail);
});

// One timer for the seconds of the rows in sight, none while nobody looks.
let timer = 0;
function watchClock() {
  clearInterval(timer);
  timer = 0;
  if (document.hidden) return;
  timer = setInterval(() => {
    const now = performance.now();
    for (const row of rows) if (row.key && row.kind === 'instance' && row.lease && leases.has(row.lease)) tick(row, now);
  }, 1000);
}
document.addEventListener('visibilitychange', watchClock);
watchClock();
