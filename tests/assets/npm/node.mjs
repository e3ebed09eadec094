// A program in Node: `node node.mjs OPTIONS`. SIGTERM tells it to leave.
import * as client from 'rollcall-client';
import { run } from './programs.js';

const controller = new AbortController();
process.on('SIGTERM', () => controller.abort());
// While it waits for nothing but a signal.
const awake = setInterval(() => {}, 1000);
await run(client, JSON.parse(process.argv[2]), (told) => console.log(JSON.stringify(told)), controller.signal);
clearInterval(awake);
