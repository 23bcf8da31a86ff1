// Sends a request to the gateway, waits, and prints the outcome: node send.mjs CUSTOMER_ID
// GATEWAY_URL is the gateway's address, such as http://127.0.0.1:8080; GATEWAY_TOKEN a token of one of its clients.
// Exit code: 0 unlocked, 3 taken but its outcome is not known yet, 1 anything else. No packages, Node 18 or later.
import { randomUUID } from 'node:crypto';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';

const ATTEMPTS = 8;
const WAIT = 30; // seconds that the gateway waits for the outcome, at most

/** Sends one request, and repeats it with the same key until it is clear whether it was taken. */
async function send(body, key) {
  const headers = { 'content-type': 'application/json', 'idempotency-key': `"${key}"`, prefer: `wait=${WAIT}` };
  if (process.env.GATEWAY_TOKEN) headers.authorization = `Bearer ${process.env.GATEWAY_TOKEN}`;
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    let delay = (0.5 + Math.random() / 2) * Math.min(2 ** (attempt - 1), 30);
    try {
      const response = await fetch(new URL('/v1/unlocks', process.env.GATEWAY_URL), {
        method: 'POST',
        headers,
        body: JSON.stringify(body),
        signal: AbortSignal.timeout((WAIT + 10) * 1000),
      });
      const text = await response.text();
      // Anything else but these will not change by itself: 400, 401, 413, 415, 422, …
      if (![408, 429].includes(response.status) && response.status < 500) return { status: response.status, text };
      console.error(`answered ${response.status}: ${text}`);
      // The gateway writes seconds. A proxy in front of it may write a date.
      const seconds = response.headers.get('retry-after') ?? '';
      if (/^\d+$/.test(seconds)) delay = Number(seconds);
    } catch (error) {
      console.error(`no answer: ${error.cause ?? error}`); // the request may have been taken
    }
    if (attempt < ATTEMPTS) await sleep(delay * 1000);
  }
  throw new Error(`not sent in ${ATTEMPTS} attempts; later, repeat it with the same key`);
}

// Store the key with the reason for the request, before you send it.
const key = randomUUID();
console.error(`key ${key}`);
const { status, text } = await send({ customer_id: process.argv[2] }, key);
if (status === 200) {
  console.log(text);
  process.exitCode = JSON.parse(text).status === 'unlocked' ? 0 : 1;
} else if (status === 202) {
  console.log(text);
  console.error('taken; its outcome is not known yet');
  process.exitCode = 3;
} else {
  console.error(`answered ${status}: ${text}`);
  process.exitCode = 1;
}
