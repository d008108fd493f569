import assert from "node:assert/strict";
import { test } from "node:test";
import { blockOf } from "../../../dashboard/assets/js/why.js";

test("a layer is made by the block below it, a gradient by the block above it", () => {
  assert.equal(blockOf("variance", 3, 7), 2);
  assert.equal(blockOf("correlation", 6, 7), 5);
  assert.equal(blockOf("gradient", 3, 7), 3);
});

test("what no block makes belongs to the nearest", () => {
  assert.equal(blockOf("variance", 0, 7), 0);
  assert.equal(blockOf("gradient", 6, 7), 5);
});
