// One stream for all tabs; its address is this worker's name. It relays and folds nothing.
//
// A tab says: a cursor, from where to begin; a number, how much it took in; null, that it leaves.
// It hears: [kind, data, cursor], an event; ["at", state, cursor], that from there on all is relayed.
"use strict";
const KINDS = ["open", "error", "message", "status", "ttl", "bye"];
const SILENCE_MS_MAX = 20000; // the server speaks at least every 10 s
const BACKOFF_MAX_MS = 10000;
const UNREAD_MAX = 1 << 22; // characters that a tab may leave unread
const MESSAGE_SIZE = 64; // what a message counts beside its characters

const tabs = new Set();
let source, timer, heardAt, cursor = "", state = "", failures = 0, inParts = false;

function connect() {
  disconnect();
  heardAt = Date.now();
  source = new EventSource(name + "&since=" + encodeURIComponent(cursor));
  for (const kind of KINDS) source.addEventListener(kind, hear);
}

function disconnect() {
  clearTimeout(timer);
  source?.close();
  source = undefined;
}

function hear({ type, data = "", lastEventId, target }) {
  if (target !== source) return;
  heardAt = Date.now();
  let id = "";
  if (type === "message") {
    inParts = data.endsWith('"more":true}');
    if (lastEventId && lastEventId !== cursor) id = cursor = lastEventId;
  } else if (type === "open") {
    failures = 0;
    inParts = false;
  }
  tell(type, data, id);
  if (type === "error" && source.readyState === EventSource.CLOSED) retry();
}

// The browser gives up after any answer but 200.
function retry() {
  const wait = Math.min(BACKOFF_MAX_MS, 500 * 2 ** failures++) * (0.5 + Math.random() / 2);
  clearTimeout(timer);
  timer = setTimeout(connect, wait);
}

function tell(kind, data, id) {
  if (kind === "open" || kind === "error") state = kind;
  const size = MESSAGE_SIZE + data.length;
  for (const tab of tabs) {
    if (!tab.hears) continue;
    // What a frozen tab misses it gets from the server, not out of this memory.
    tab.hears = tab.unread + size <= UNREAD_MAX;
    if (tab.hears) {
      tab.unread += size;
      tab.port.postMessage([kind, data, id]);
    }
  }
  tabs.forEach(begin);
}

// Where the relay begins for a tab: never between the parts of a snapshot.
function begin(tab) {
  if (tab.hears || !cursor || inParts || tab.unread > UNREAD_MAX / 2) return;
  tab.hears = true;
  tab.port.postMessage(["at", state, cursor]);
}

function leave(tab) {
  tab.port.close();
  tabs.delete(tab);
  if (tabs.size) return;
  disconnect();
  cursor = state = "";
}

onconnect = ({ ports: [port] }) => {
  const tab = { port, hears: false, unread: 0 };
  tabs.add(tab);
  port.onmessage = ({ data }) => {
    if (data === null) return leave(tab);
    if (typeof data === "number") tab.unread -= data;
    else if (!cursor) {
      cursor = data;
      connect();
      tabs.forEach(begin);
    }
    begin(tab);
  };
  port.onclose = () => leave(tab); // where the browser tells of tabs that crash
  begin(tab);
};

setInterval(() => {
  if (!source || Date.now() - heardAt < SILENCE_MS_MAX) return;
  tell("error", "", "");
  connect();
}, SILENCE_MS_MAX / 5);
