import assert from "node:assert/strict";
import { test } from "node:test";
import { LiveHistories, stackOf } from "../../../dashboard/assets/js/live-histories.js";
import { RunServer } from "./answers.js";

const RUN = { id: "run", stack: "decoder", stacks: { decoder: {}, encoder: {} } };

function opened() {
  const server = new RunServer();
  const calls = { grown: 0, replaced: 0 };
  const histories = new LiveHistories([RUN], "", {
    grown: () => {
      calls.grown += 1;
    },
    replaced: () => {
      calls.replaced += 1;
    },
  });
  return { server, histories, calls };
}

test("frames that arrive while the history is loading are taken afterwards", async () => {
  const { server, histories } = opened();
  server.steps = [0, 1];
  const loading = histories.load();
  histories.addFrame(0, server.frame(2));
  await loading;
  assert.deepEqual([...histories.steps], [0, 1]);

  await histories.open();

  assert.deepEqual([...histories.steps], [0, 1, 2]);
});

test("steps that passed between loading and listening are fetched", async () => {
  const { server, histories, calls } = opened();
  server.steps = [0, 1];
  await histories.load();
  server.steps = [0, 1, 2, 3];

  await histories.open();
  histories.addFrame(0, server.frame(4));

  assert.deepEqual([...histories.steps], [0, 1, 2, 3, 4]);
  assert.equal(calls.grown, 2);
});

test("a frame that stands for skipped ones makes the page catch up", async () => {
  const { server, histories } = opened();
  server.steps = [0];
  await histories.load();
  await histories.open();
  server.steps = [0, 1, 2, 3];

  histories.addFrame(0, server.frame(3, { skipped: 2 }));
  await histories.catchUp();
  while (histories.catchingUp) await new Promise(setImmediate);

  assert.deepEqual([...histories.steps], [0, 1, 2, 3]);
});

test("a job that went back to a checkpoint is read again", async () => {
  const { server, histories, calls } = opened();
  server.steps = [0, 1, 2, 3];
  await histories.load();
  await histories.open();
  server.steps = [0, 1, 2];

  await histories.reread();

  assert.deepEqual([...histories.steps], [0, 1, 2]);
  assert.equal(calls.replaced, 1);
});

test("a run that has not gone back is not replaced", async () => {
  const { server, histories, calls } = opened();
  server.steps = [0, 1];
  await histories.load();
  await histories.open();

  await histories.reread();

  assert.equal(calls.replaced, 0);
});

test("a page that is left takes nothing more", async () => {
  const { server, histories, calls } = opened();
  server.steps = [0];
  await histories.load();
  const opening = histories.open();
  histories.close();

  await opening;

  assert.equal(calls.grown, 0);
});

test("the steps of several runs are pooled in order", async () => {
  const server = new RunServer();
  const observer = { grown: () => {}, replaced: () => {} };
  const histories = new LiveHistories([RUN, RUN], "", observer);
  histories.list[0].addFrame(server.frame(10));
  histories.list[0].addFrame(server.frame(20));
  histories.list[1].addFrame(server.frame(9));
  histories.list[1].addFrame(server.frame(20));

  assert.deepEqual([...histories.steps], [9, 10, 20]);
});

test("a stack that a run lacks falls back to its own", () => {
  assert.equal(stackOf(RUN, "encoder"), "encoder");
  assert.equal(stackOf(RUN, "vision"), "decoder");
  assert.equal(stackOf(RUN, ""), "decoder");
});

test("scalars of steps that were not sampled are fetched from the first one on", async () => {
  const { server, histories, calls } = opened();
  server.steps = [0, 8];
  await histories.load();
  await histories.open();
  server.steps = [0, 1, 2, 3, 8];
  const grown = calls.grown;

  histories.announceScalars(0, 2);
  histories.announceScalars(0, 1);
  await histories.readScalars();

  assert.deepEqual(histories.list[0].scalars.losses().steps, [0, 1, 2, 3, 8]);
  assert.deepEqual([...histories.steps], [0, 8]);
  assert.ok(calls.grown > grown);
});
