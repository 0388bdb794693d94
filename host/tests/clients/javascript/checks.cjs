// What the programs of the two JavaScript clients share; the Python programs have the same in checks.py.
//
// A program is given the gate before it in the environment variable GATE, as JSON: `url`, `keys` by what they are for, and
// `max_body` in bytes. It says `cancelled` on stdout once it has left a stream, and then waits for its stdin to end.
'use strict';

const assert = require('node:assert/strict');

const gate = JSON.parse(process.env.GATE);

/** Runs every check, and fails with all that went wrong. */
async function run(...checks) {
  let failed = 0;
  for (const check of checks) {
    try {
      await check();
      console.log(`ok ${check.name}`);
    } catch (error) {
      failed += 1;
      console.error(`\n== ${check.name}\n`, error);
    }
  }
  if (failed > 0) {
    console.error(`${failed} of ${checks.length} checks failed`);
    process.exitCode = 1;
  }
  // A client may keep connections open; nothing waits for them.
  process.exit();
}

/** The backend's words came whole. */
function simulated(text) {
  assert.match(text, /^This is a simulated answer from .*\.$/);
}

/** The error of exactly this class that a call must end in. */
async function raised(name, call) {
  let error;
  try {
    await call();
  } catch (thrown) {
    error = thrown;
  }
  assert.ok(error, `${name} was not raised`);
  assert.equal(error.constructor.name, name, error.stack);
  return error;
}

/** Retry-After tells a time within the minute that a limit is for, and the second by which it is rounded up. */
function waitTime(headers) {
  const seconds = Number(headers.get('retry-after'));
  assert.ok(seconds >= 1 && seconds <= 61, `retry-after: ${seconds}`);
  return seconds;
}

/** Everything that comes out of a stream. */
async function all(stream) {
  const pieces = [];
  for await (const piece of await stream) {
    pieces.push(piece);
  }
  return pieces;
}

/** The stream was left; this program stays, so that nothing but the leaving tells the backend. */
async function cancelled() {
  console.log('cancelled');
  for await (const _ of process.stdin);
}

module.exports = {
  run, simulated, raised, waitTime, all, cancelled,
  url: gate.url,
  keys: gate.keys,
  tooLarge: 'a'.repeat(gate.max_body + 1),
  // What the backends behind the gate have, and do when they are asked.
  model: 'llama3', // answers, with words that say so
  broken: 'broken', // breaks off within its first stream, and never ends its second
  gone: 'gone', // was there, and is down
  unknown: 'no-such-model',
  vector: [0.25, -0.5, 0.75],
};
