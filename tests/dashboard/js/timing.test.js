import assert from "node:assert/strict";
import { test } from "node:test";
import { onceAFrame, rationed, throttled } from "../../../dashboard/assets/js/timing.js";

test("once a frame, work gets the latest argument", () => {
  const frames = [];
  globalThis.requestAnimationFrame = (callback) => frames.push(callback);
  const shown = [];
  const show = onceAFrame((step) => shown.push(step));

  show(1);
  show(2);
  for (const frame of frames.splice(0)) frame();
  show(3);
  for (const frame of frames.splice(0)) frame();

  assert.deepEqual(shown, [2, 3]);
});

test("throttled work is done at once and once more after the last call", async () => {
  let finished;
  const done = new Promise((resolve) => {
    finished = resolve;
  });
  let calls = 0;
  const work = throttled(() => {
    calls += 1;
    if (calls === 2) finished();
  }, 5);

  work();
  work();
  assert.equal(calls, 1);
  await done;

  assert.equal(calls, 2);
});

test("rationed work beyond the ration goes through a throttle", () => {
  let calls = 0;
  const work = rationed(
    () => {
      calls += 1;
    },
    3,
    60_000,
  );

  for (let i = 0; i < 4; i++) work();
  assert.equal(calls, 4); // the first late call is done at once
  work();

  assert.equal(calls, 4);
});
