// Counts what runs by the clock or by the frame while the page is hidden.
(() => {
  'use strict';
  const ran = {};
  window.ran = ran;
  window.hidden_ms = 0;
  let since = 0;
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) since = performance.now();
    else window.hidden_ms += performance.now() - since;
  }, { capture: true });
  for (const name of ['setTimeout', 'setInterval', 'requestAnimationFrame', 'requestIdleCallback']) {
    const original = window[name];
    if (!original) continue;
    window[name] = (callback, ...rest) => original.call(window, (...args) => {
      if (document.hidden) ran[name] = (ran[name] || 0) + 1;
      return typeof callback === 'function' ? callback(...args) : undefined;
    }, ...rest);
  }
})();
