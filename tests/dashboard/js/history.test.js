import assert from "node:assert/strict";
import { test } from "node:test";
import { MAX_STEPS } from "../../../dashboard/assets/js/api.js";
import { floorIndex, RunHistory } from "../../../dashboard/assets/js/history.js";
import { RunServer } from "./answers.js";

const stepsOf = (history) => [...history.steps.subarray(0, history.length)];

test("the floor index is the last step that is not past the one asked for", () => {
  const steps = [2, 4, 8];

  assert.deepEqual(
    [1, 2, 7, 8, 99].map((step) => floorIndex(steps, step)),
    [-1, 0, 1, 2, 2],
  );
  assert.equal(floorIndex([], 1), -1);
});

test("a history is loaded once and then from its last step on", async () => {
  const server = new RunServer();
  const history = new RunHistory("run", "decoder");
  server.steps = [0, 1, 2];
  await history.load();
  server.steps = [0, 1, 2, 3];

  await history.load();

  assert.deepEqual(stepsOf(history), [0, 1, 2, 3]);
  assert.ok(server.requests.at(-1).includes("from=3"));
  assert.deepEqual([...history.row("variance", 3)], [3, 3, 3]);
});

test("gradients are relative to the top layer", async () => {
  const server = new RunServer();
  server.steps = [7];
  const history = new RunHistory("run", "decoder");

  await history.load();

  assert.deepEqual([...history.row("gradient", 0)], [1, 1, 1]);
});

test("a series that was not measured is NaN at every step", async () => {
  const server = new RunServer({ gradient: false });
  server.steps = [1, 2];
  const history = new RunHistory("run", "decoder");

  await history.load();
  history.addFrame(server.frame(3));

  assert.equal(history.length, 3);
  assert.ok(history.row("gradient", 2).every(Number.isNaN));
  assert.deepEqual([...history.row("correlation", 2)], [3, 3, 3]);
});

test("a failure of the server is no unmeasured series", async () => {
  globalThis.fetch = async () => ({ ok: false, status: 500, json: async () => ({}) });

  await assert.rejects(new RunHistory("run", "decoder").load(), /answered 500/);
});

test("a step that is not past the last, or of another depth, is not added", () => {
  const server = new RunServer();
  const history = new RunHistory("run", "decoder");
  history.addFrame(server.frame(5));

  assert.equal(history.addFrame(server.frame(5)), false);
  assert.equal(history.addFrame(new RunServer({ width: 9 }).frame(6)), false);
  assert.deepEqual(stepsOf(history), [5]);
});

test("a long history drops every second step and keeps the last", () => {
  const server = new RunServer();
  const history = new RunHistory("run", "decoder");
  for (let step = 0; step <= 2 * MAX_STEPS + 1; step++) history.addFrame(server.frame(step));

  assert.ok(history.length <= MAX_STEPS + 2);
  assert.equal(history.last, 2 * MAX_STEPS + 1);
  assert.equal(history.scalars.last, history.last);
  for (const index of [0, 700, history.length - 1]) {
    assert.equal(history.row("variance", index)[2], history.steps[index]);
    assert.equal(history.scalars.loss[index], history.scalars.steps[index]);
  }
});

test("only a history that was thinned is refined", async () => {
  const server = new RunServer();
  const history = new RunHistory("run", "decoder");
  server.steps = [1, 2, 3];
  await history.load(250);
  assert.equal(await history.refined(), null);

  for (let step = 4; step < 300; step++) history.addFrame(server.frame(step));
  server.steps = Array.from({ length: 400 }, (_, step) => step);

  assert.equal((await history.refined()).length, 400);
});

test("a loss that a step was not given is no point, and a loss of NaN is one", async () => {
  const server = new RunServer();
  const history = new RunHistory("run", "decoder");
  const bits = Uint32Array.from([0x40000000, 0x7fc0ab5e, 0x7fc00000]); // 2, absent, NaN
  server.steps = [0, 1, 2];
  server.losses = Buffer.from(bits.buffer).toString("base64");
  await history.load();
  const frame = server.frame(3);
  delete frame.scalars.loss;
  history.addFrame(frame);

  const losses = history.scalars.losses();

  assert.deepEqual(losses.steps, [0, 2]);
  assert.deepEqual(losses.values, [2, Number.NaN]);
  assert.equal(history.scalars.last, 3);
});

test("scalars of steps between two samples find their place", async () => {
  const server = new RunServer();
  const history = new RunHistory("run", "decoder");
  server.steps = [0];
  await history.load();
  history.addFrame(server.frame(4));
  server.steps = [0, 1, 2, 3, 4, 5];

  await history.loadScalars(1);

  assert.deepEqual(history.scalars.losses(), {
    steps: [0, 1, 2, 3, 4, 5],
    values: [0, 1, 2, 3, 4, 5],
  });
  assert.deepEqual([...history.steps.subarray(0, history.length)], [0, 4]);
  assert.equal(history.scalars.last, 5);
});
