// A program in a page, or in a worker of it: `page.html?worker=1#OPTIONS`. What it tells stands in `window.told`.
const options = JSON.parse(decodeURIComponent(location.hash.slice(1)));
window.told = [];
if (new URLSearchParams(location.search).has('worker')) {
  const worker = new Worker('worker.js', { type: 'module' });
  worker.onmessage = ({ data }) => window.told.push(data);
  worker.onerror = (event) => window.told.push({ failed: event.message ?? 'the worker did not start' });
  worker.postMessage(options);
  window.leave = () => worker.postMessage(null);
} else {
  const controller = new AbortController();
  window.leave = () => controller.abort();
  const [client, { run }] = await Promise.all([import('/npm/index.js'), import('./programs.js')]);
  await run(client, options, (told) => window.told.push(told), controller.signal);
}
