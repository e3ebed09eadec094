// The package in a page or a worker: its WebAssembly is fetched from beside this file.
import init from './rollcall_client.js';
import { connector } from './rollcall.js';

export { RollcallError, Registration, Rollcall } from './rollcall.js';
export const connect = connector(() => init({ module_or_path: new URL('rollcall_client_bg.wasm', import.meta.url) }));
