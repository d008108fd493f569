import assert from "node:assert/strict";
import { test } from "node:test";
import { decode, number } from "../../../dashboard/assets/js/codec.js";
import { packed } from "./answers.js";

test("a vector arrives as it was packed, NaN and infinities included", () => {
  const values = [1.5, -0, Number.NaN, Infinity, -Infinity];

  assert.deepEqual(decode(packed(values)), Float32Array.from(values));
});

test("nothing decodes to an empty vector", () => {
  assert.equal(decode("").length, 0);
  assert.equal(decode(undefined).length, 0);
});

test("a number is read from what JSON writes for it", () => {
  assert.deepEqual([2, "NaN", "-Infinity", null].map(number), [
    2,
    Number.NaN,
    -Infinity,
    Number.NaN,
  ]);
});
