import assert from "node:assert/strict";
import { test } from "node:test";
import { apartText } from "../../../dashboard/assets/js/apart.js";

const row = (...values) => Float32Array.from(values);

test("the layer farthest from initialisation is named with its factor or difference", () => {
  assert.equal(
    apartText(row(1, 8, 2), row(1, 2, 32), true),
    "×0.0625 of initialisation at layer 2",
  );
  assert.equal(apartText(row(0, 1), row(0, 0.25), false), "+0.75 from initialisation at layer 1");
});

test("layers that cannot be compared are passed over", () => {
  assert.equal(apartText(row(Number.NaN, 2), row(1, 1), true), "×2 of initialisation at layer 1");
  assert.equal(apartText(row(1, 2), row(), true), "");
});
