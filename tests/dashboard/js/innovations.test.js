import assert from "node:assert/strict";
import { test } from "node:test";
import { chosenCurves, rolesOf } from "../../../dashboard/assets/js/curves.js";
import { aheadOf, Innovations } from "../../../dashboard/assets/js/innovations.js";
import { packed } from "./answers.js";

const row = (...values) => Float32Array.from(values);

/** A server whose innovations are 1 in every block, twice half their band. */
function serve(steps) {
  const requests = [];
  globalThis.fetch = async (url) => {
    requests.push(url);
    const { searchParams } = new URL(url, "http://server");
    const from = Number(searchParams.get("from"));
    const to = Number(searchParams.get("to") ?? Number.POSITIVE_INFINITY);
    const answered = steps.filter((step) => step >= from && step <= to);
    const body = {
      steps: answered,
      values_f32: packed(answered.flatMap(() => [1, 1])),
      ratio_f32: packed(answered.flatMap(() => [2, 2])),
    };
    return { ok: true, status: 200, json: async () => body };
  };
  return requests;
}

test("a layer one block ahead is the measured one without its block's innovation", () => {
  const step = { innovation: row(1, -1), reach: row(1, 2) };

  const { ahead, low, high } = aheadOf("variance", row(3, 8, 2), step);

  assert.deepEqual([...ahead], [3, 4, 4]);
  assert.deepEqual([...low], [3, 2, 1]);
  assert.deepEqual([...high], [3, 8, 16]);
});

test("backward the top layer is the measurement and each block explains the layer in front", () => {
  const { ahead } = aheadOf("gradient", row(8, 2, 1), { innovation: row(2, -1), reach: row(1, 1) });

  assert.deepEqual([...ahead], [2, 4, 1]);
});

test("a correlation's innovation is a difference", () => {
  const step = { innovation: row(0.25), reach: row(0.5) };

  const { ahead, high } = aheadOf("correlation", row(0.5, 0.75), step);

  assert.deepEqual([...ahead], [0.5, 0.5]);
  assert.deepEqual([...high], [0.5, 1]);
});

test("innovations of another depth draw no curve", () => {
  const step = { innovation: row(1), reach: row(1) };

  assert.equal(aheadOf("variance", row(1, 2, 3), step).ahead.length, 0);
});

test("a step that a thinned history lacks is asked for by itself, once", async () => {
  const requests = serve([0, 10, 20]);
  const innovations = new Innovations("r", "decoder");
  await innovations.load();
  const before = requests.length;

  assert.equal(await innovations.complete(10), false);
  assert.equal(requests.length, before);

  await innovations.complete(15);
  await innovations.complete(15);
  assert.equal(requests.length, before + 3);
  assert.ok(requests.at(-1).includes("&from=15&to=15"));
});

test("a new step brings what lies past the last one", async () => {
  const steps = [0, 10];
  const requests = serve(steps);
  const innovations = new Innovations("r", "decoder");
  await innovations.load();
  steps.push(20, 30);

  assert.equal(await innovations.complete(30), true);
  assert.ok(requests.at(-1).includes("&from=11"));
  assert.deepEqual([...innovations.at("variance", 20, row(4, 8, 16)).ahead], [4, 4, 8]);
});

test("a heatmap compares no layer with itself", async () => {
  serve([0]);
  const innovations = new Innovations("r", "decoder");
  await innovations.load();

  const forward = innovations.reference("variance", 5, row(4, 8, 16));
  const backward = innovations.reference("gradient", 5, row(4, 8, 16));

  assert.deepEqual([...forward], [Number.NaN, 4, 8]);
  assert.deepEqual([...backward], [2, 4, Number.NaN]);
});

test("a run without innovations leaves the curve out and asks no more", async () => {
  let requests = 0;
  globalThis.fetch = async () => {
    requests += 1;
    return { ok: false, status: 404, json: async () => ({}) };
  };
  const innovations = new Innovations("r", "decoder");
  await innovations.load();
  const before = requests;

  assert.equal(await innovations.complete(7), false);
  assert.equal(requests, before);
  assert.equal(innovations.at("variance", 7, row(1, 2, 3)).ahead.length, 0);
});

test("the address names the curves, and without it the usual ones are on", () => {
  assert.deepEqual([...chosenCurves(null)], ["ahead", "predicted"]);
  assert.deepEqual([...chosenCurves("today,nonsense")], ["today"]);
  assert.deepEqual([...chosenCurves("none")], []);
  assert.deepEqual([...rolesOf(new Set(["band"]))], ["low", "high"]);
});
