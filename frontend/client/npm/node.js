// The package in Node: its WebAssembly is read from beside this file.
import { readFile } from 'node:fs/promises';
import init from './rollcall_client.js';
import { connector } from './rollcall.js';

export { RollcallError, Registration, Rollcall } from './rollcall.js';
export const connect = connector(async () =>
  init({ module_or_path: await readFile(new URL('rollcall_client_bg.wasm', import.meta.url)) }));
