// What the benchmark of the page looks through: runs in every page measured, before anything of the page does.
// It only notes; what it costs itself is the same everywhere, and is measured on an empty page.
(() => {
  'use strict';
  const frame = window.requestAnimationFrame.bind(window);
  const row = location.pathname.includes('/services/') ? '[data-testid=instance]' : '[data-testid=service]';
  const probe = { first: null, frames: [], memories: [], keys: 0, right: 0, wanted: null };
  window.probe = probe;

  // When the first row stands in the document: milliseconds since the navigation began, and since 1970.
  const first = new MutationObserver(() => {
    if (!document.querySelector(row)) return;
    first.disconnect();
    probe.first = [performance.now(), Date.now()];
  });
  first.observe(document, { childList: true, subtree: true, attributes: true, attributeFilter: ['data-testid'] });

  // WebAssembly's memories: they are no part of the JavaScript heap.
  for (const name of ['instantiate', 'instantiateStreaming']) {
    const original = WebAssembly[name];
    WebAssembly[name] = async (...args) => {
      const made = await original.apply(WebAssembly, args);
      for (const thing of Object.values((made.instance || made).exports || {})) {
        if (thing instanceof WebAssembly.Memory) probe.memories.push(thing);
      }
      return made;
    };
  }
  probe.wasm = () => probe.memories.reduce((sum, memory) => sum + memory.buffer.byteLength, 0);

  // The time of every frame, from now until `stop`.
  let noting = false;
  probe.start = () => {
    probe.frames = [];
    noting = true;
    const note = at => {
      probe.frames.push(at);
      check();
      if (noting) frame(note);
    };
    frame(note);
  };
  probe.stop = () => {
    noting = false;
    return probe.frames;
  };

  // Typing: a mark at each key, and one once what it finds is drawn: `{text, key}`, where every row's key has to hold
  // the text and one row has to be that key's.
  addEventListener('keydown', () => performance.mark(`key ${++probe.keys}`), { capture: true });
  let seen = 0;
  const check = () => {
    const { wanted } = probe;
    if (!wanted || probe.right === wanted.number) return;
    const input = document.querySelector('input[type=search]');
    const rows = [...document.querySelectorAll('[data-testid=instance]')].filter(row => !row.hidden);
    const right = input.value === wanted.text
      && rows.some(row => row.dataset.key === wanted.key)
      && rows.every(row => row.dataset.key.includes(wanted.text));
    seen = right ? seen + 1 : 0;
    // A frame later it is certain that this was not merely about to change.
    if (seen < 2) return;
    seen = 0;
    probe.right = wanted.number;
    performance.mark(`right ${wanted.number}`);
  };

  // Coming back: how long until the row of that key shows that text.
  probe.back = null;
  probe.expect = (key, text) => {
    const shows = () => {
      const found = document.querySelector(`[data-key="${CSS.escape(key)}"]`);
      return Boolean(found && found.textContent.includes(text));
    };
    document.addEventListener('visibilitychange', () => {
      if (document.hidden) return;
      const since = performance.now();
      const look = () => {
        if (shows()) probe.back = performance.now() - since;
        else frame(look);
      };
      look();
    });
  };
})();
