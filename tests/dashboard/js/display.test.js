import assert from "node:assert/strict";
import { test } from "node:test";
import { argument, CASES, shown } from "./cases.js";

/** Equal in texts, and in numbers but for rounding. */
function assertClose(result, expected) {
  if (Array.isArray(expected)) {
    assert.equal(result.length, expected.length);
    for (const [i, item] of expected.entries()) assertClose(result[i], item);
  } else if (typeof expected === "number") {
    assert.ok(
      Math.abs(result - expected) <= 1e-12 * Math.abs(expected),
      `${result} is not ${expected}`,
    );
  } else {
    assert.equal(result, expected);
  }
}

for (const [name, cases] of Object.entries(CASES)) {
  for (const [args, expected] of cases) {
    test(`${name}(${JSON.stringify(args)}) is shown as Python shows it`, () => {
      assertClose(shown(name)(...args.map(argument)), expected);
    });
  }
}
