import assert from "node:assert/strict";
import { test } from "node:test";
import { deviation } from "../../../dashboard/assets/js/heatmap.js";
import { curveAt, predictionsOf } from "../../../dashboard/assets/js/predictions.js";
import { describeStep } from "../../../dashboard/assets/js/references.js";
import { extentOf } from "../../../dashboard/assets/js/timeline.js";
import { packed } from "./answers.js";

function curve(value) {
  const edges = (name) => [
    [`${name}_f32`, packed([value, value])],
    [`${name}_low_f32`, packed([value - 1, value - 1])],
    [`${name}_high_f32`, packed([value + 1, value + 1])],
  ];
  return Object.fromEntries([...edges("variance"), ...edges("correlation")]);
}

function revision(value, state = "ready", step = value) {
  const stacks = { decoder: { stream: curve(value), stream_gradient: curve(10 * value) } };
  return { step, state, reason: "", missing: [], stacks };
}

test("the first revision is the prediction and each later one holds from its step on", () => {
  const predictions = predictionsOf([revision(2), revision(3), revision(4)], "decoder");

  assert.deepEqual([...predictions.variance.predicted], [2, 2]);
  assert.deepEqual([...predictions.variance.low], [1, 1]);
  const { today } = predictions.variance;
  assert.equal(curveAt(today, 2).length, 0);
  assert.deepEqual([...curveAt(today, 3)], [3, 3]);
  assert.deepEqual([...curveAt(today, 99)], [4, 4]);
  assert.deepEqual([...predictions.gradient.predicted], [20, 20]);
  assert.equal(predictions.correlation.missing, "");
});

test("a prediction that is not ready has a reason and no curve", () => {
  const { variance } = predictionsOf([revision(2, "pending")], "decoder");

  assert.equal(variance.predicted.length, 0);
  assert.equal(variance.missing, "the prediction is being computed");
});

test("a run that nobody has described yet has no prediction", () => {
  assert.match(predictionsOf([], "decoder").gradient.missing, /not described yet/);
});

test("a deviation is a power of two, and for correlations a difference", () => {
  assert.equal(deviation(8, 2, "variance"), 2);
  assert.equal(deviation(0.75, 0.5, "correlation"), 0.25);
  assert.ok(Number.isNaN(deviation(1, undefined, "variance")));
});

test("a live run's axis has room and rests until that is used up", () => {
  const history = (last, scalars = { last }) => {
    return { length: last + 1, steps: [0, last], last, scalars };
  };
  const extent = extentOf([history(10)], true, null);

  assert.deepEqual(extent, [0, 12]);
  assert.equal(extentOf([history(12)], true, extent), extent);
  assert.notEqual(extentOf([history(13)], true, extent), extent);
  assert.deepEqual(extentOf([history(99)], false, extent), [0, 99.99]);
  assert.equal(extentOf([history(9, { last: 99 })], true, null)[1], 111);
});

test("an axis without steps begins at 0", () => {
  assert.deepEqual(
    extentOf([{ length: 0, steps: [], last: -1, scalars: { last: -1 } }], true, null),
    [0, 2],
  );
});

test("a compared run says which step it shows", () => {
  assert.equal(describeStep(5, null, -1, true), "has no step yet here");
  assert.equal(describeStep(5, 5, 9, true), "step 5");
  assert.equal(describeStep(5000, 4000, 4000, true), "at step 4,000");
  assert.equal(describeStep(5000, 4000, 4000, false), "ends at step 4,000");
  assert.equal(describeStep(5, 4, 9, false), "no step 5; shows 4");
});
