// A program in a worker: the first message names it, the second tells it to leave.
const controller = new AbortController();
const loaded = Promise.all([import('/npm/index.js'), import('./programs.js')]);
self.onmessage = async ({ data }) => {
  if (data === null) return controller.abort();
  const [client, { run }] = await loaded;
  await run(client, data, (told) => self.postMessage(told), controller.signal);
};
